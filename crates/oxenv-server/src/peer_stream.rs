//! The bytes of a connection: a socket in two halves, of which the writing one notices the end of the
//! other side.
//!
//! Invariant: whether the other side has ended is known without reading, so the reader's bytes are not
//! consumed.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(target_os = "linux")]
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// A socket that was accepted.
pub(crate) trait SplitSocket {
    type Read: AsyncRead + Send + Unpin + 'static;

    fn halves(self) -> (Self::Read, WriteHalf);
}

impl SplitSocket for TcpStream {
    type Read = tcp::OwnedReadHalf;

    fn halves(self) -> (Self::Read, WriteHalf) {
        let (read, write) = self.into_split();
        (read, WriteHalf::Tcp(write))
    }
}

impl SplitSocket for UnixStream {
    type Read = unix::OwnedReadHalf;

    fn halves(self) -> (Self::Read, WriteHalf) {
        let (read, write) = self.into_split();
        (read, WriteHalf::Unix(write))
    }
}

/// The writing half of a socket, which also notices that the other side has ended.
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Waits for the end of the other side. An event without any interest in bytes: those are the reader's.
    #[cfg(target_os = "linux")]
    pub(crate) async fn lost(&self) {
        let ready = match self {
            WriteHalf::Tcp(socket) => socket.ready(Interest::PRIORITY).await,
            WriteHalf::Unix(socket) => socket.ready(Interest::PRIORITY).await,
        };
        if !ready.is_ok_and(Ready::is_read_closed) {
            // Urgent bytes, which say nothing.
            pending::<()>().await;
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) async fn lost(&self) {
        pending::<()>().await;
    }

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            WriteHalf::Tcp(socket) => socket.as_ref().poll_write_ready(context),
            WriteHalf::Unix(socket) => socket.as_ref().poll_write_ready(context),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(socket) => socket.try_write(bytes),
            WriteHalf::Unix(socket) => socket.try_write(bytes),
        }
    }

    fn try_write_vectored(&self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(socket) => socket.try_write_vectored(parts),
            WriteHalf::Unix(socket) => socket.try_write_vectored(parts),
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        match self {
            WriteHalf::Tcp(socket) => SockRef::from(socket.as_ref()).shutdown(std::net::Shutdown::Write),
            WriteHalf::Unix(socket) => SockRef::from(socket.as_ref()).shutdown(std::net::Shutdown::Write),
        }
    }

    fn poll(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&Self) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_ready(context))?;
            match write(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                wrote => return Poll::Ready(wrote),
            }
        }
    }
}

/// The two halves of a socket, of which the peer has the writing one as well.
pub(crate) struct PeerStream<R> {
    read: R,
    write: Arc<WriteHalf>,
}

impl<R> PeerStream<R> {
    pub(crate) fn new(read: R, write: Arc<WriteHalf>) -> Self {
        PeerStream { read, write }
    }

    /// Writes what the peer takes at once.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let _ = self.write.try_write(bytes);
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for PeerStream<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl<R: Unpin> AsyncWrite for PeerStream<R> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write.poll(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write.poll(context, |socket| socket.try_write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.write.shutdown())
    }
}
