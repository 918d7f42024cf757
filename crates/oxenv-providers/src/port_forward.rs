//! A port of the loopback address that forwards to a Unix socket, for clients that only speak TCP.
//!
//! Invariant: dropping a [`PortForward`] closes the port and everything that goes over it.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// A port that leads to a socket.
pub(crate) struct PortForward {
    port: u16,
    task: JoinHandle<()>,
}

impl PortForward {
    /// Opens a free port. The socket need not be there yet.
    pub(crate) async fn open(socket: PathBuf) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(PortForward { port, task: tokio::spawn(accept(listener, socket)) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for PortForward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, socket: PathBuf) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => drop(open.spawn(forward(stream, socket.clone()))),
            // Out of descriptors: it may pass.
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn forward(mut stream: TcpStream, socket: PathBuf) {
    let _ = stream.set_nodelay(true);
    // A caller sees a closed connection if nothing listens behind it.
    if let Ok(mut behind) = UnixStream::connect(socket).await {
        let _ = copy_bidirectional(&mut stream, &mut behind).await;
    }
}
