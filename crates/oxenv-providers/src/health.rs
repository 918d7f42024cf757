//! Waiting until an instance answers.
//!
//! Invariant: healthy is `GET /health` with status 200 and nothing less.

use oxenv_wire::after;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

/// The pause after the first probe; each later one is half as long again.
const INITIAL_INTERVAL: Duration = Duration::from_millis(5);
/// The longest pause between two probes.
const MAX_INTERVAL: Duration = Duration::from_millis(100);
/// How long one answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where a server is asked.
#[derive(Debug, Clone)]
pub(crate) enum LocalAddress {
    /// A port of the loopback address.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
}

/// Waits until the server there is healthy; otherwise returns its last answer or error.
pub(crate) async fn wait_until_healthy(address: &LocalAddress, limit: Duration) -> Result<(), String> {
    let deadline = after(Instant::now(), limit);
    let mut last = "it was never asked".to_owned();
    let mut pause = INITIAL_INTERVAL;
    loop {
        match timeout_at(deadline.min(after(Instant::now(), RESPONSE_TIMEOUT)), probe(address)).await {
            Ok(Ok(StatusCode::OK)) => return Ok(()),
            Ok(Ok(status)) => last = format!("GET /health answers {status}"),
            Ok(Err(problem)) => last = problem,
            // The reason of an earlier check explains more than a timeout.
            Err(_) if Instant::now() < deadline => "GET /health gets no answer".clone_into(&mut last),
            Err(_) => {}
        }
        if after(Instant::now(), pause) >= deadline {
            return Err(last);
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(MAX_INTERVAL);
    }
}

async fn probe(address: &LocalAddress) -> Result<StatusCode, String> {
    match address {
        LocalAddress::Port(port) => {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))
                .await
                .map_err(|error| format!("nobody listens on port {port} ({error})"))?;
            get_health(stream).await
        }
        LocalAddress::Socket(path) => {
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| format!("nobody listens on the socket {} ({error})", path.display()))?;
            get_health(stream).await
        }
    }
}

async fn get_health(stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<StatusCode, String> {
    let broken = |error: hyper::Error| format!("GET /health gets no answer ({error})");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get("/health").header(HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let mut connection = std::pin::pin!(connection);
    let mut reply = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        reply = &mut reply => Ok(reply.map_err(broken)?.status()),
        ended = &mut connection => {
            // The answer may have come with the end.
            ended.map_err(broken)?;
            Ok(reply.await.map_err(broken)?.status())
        }
    }
}
