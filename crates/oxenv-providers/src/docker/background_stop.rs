//! Ending a container without waiting, and without a runtime: the caller's may be about to end.
//!
//! Invariant: when [`stop_in_background`] returns, the daemon has been asked to end the container, unless it
//! accepts nothing for a second; so a process may exit right after it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long to wait until the request is sent.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the daemon may take for it, beyond the grace.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Where the daemon listens.
#[derive(Debug, Clone)]
pub(super) enum DaemonAddress {
    Unix(PathBuf),
    /// A host and a port.
    Tcp(String),
}

/// Asks for a container's end: with a grace of whole seconds, or at once. A thread then removes it.
pub(super) fn stop_in_background(endpoint: &DaemonAddress, id: &str, grace: Option<u64>) {
    let (endpoint, id) = (endpoint.clone(), id.to_owned());
    let (sent, is_sent) = mpsc::sync_channel(1);
    let ends = move || {
        let limit = RESPONSE_TIMEOUT.saturating_add(Duration::from_secs(grace.unwrap_or(0)));
        if let Some(grace) = grace {
            let stop = format!("POST /containers/{id}/stop?t={grace}");
            let _ = exchange(&endpoint, &stop, limit, &sent);
        }
        exchange(&endpoint, &format!("DELETE /containers/{id}?force=true&v=true"), limit, &sent)
    };
    let ends = move || {
        if let Err(error) = ends() {
            tracing::warn!(%error, "a container could not be ended; the next start or `oxenv down` does it");
        }
    };
    if thread::Builder::new().name("oxenv-docker-end".to_owned()).spawn(ends).is_ok() {
        let _ = is_sent.recv_timeout(SEND_TIMEOUT);
    }
}

/// Sends a request without a body, signals on `sent`, and waits until the daemon has done it.
fn exchange(
    endpoint: &DaemonAddress,
    request: &str,
    limit: Duration,
    sent: &mpsc::SyncSender<()>,
) -> io::Result<()> {
    let request =
        format!("{request} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    match endpoint {
        DaemonAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(limit))?;
            send_request(stream, &request, sent)
        }
        DaemonAddress::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(limit))?;
            send_request(stream, &request, sent)
        }
    }
}

fn send_request(mut stream: impl Read + Write, request: &str, sent: &mpsc::SyncSender<()>) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    // The caller may no longer wait.
    let _ = sent.try_send(());
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

impl fmt::Display for DaemonAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DaemonAddress::Unix(path) => write!(f, "unix://{}", path.display()),
            DaemonAddress::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
