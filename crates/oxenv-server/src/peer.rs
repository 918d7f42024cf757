//! What is known of a connection beside its bytes: whether it was heard, is busy, has lost its other side.
//!
//! Invariant: a peer that ended its side is known to have done so although bytes of it are still unread,
//! which nobody reads while a request is being answered.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
#[cfg(target_os = "linux")]
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::sync::Notify;

use crate::connections::ConnectionPlace;

/// One connection, for all who have to do with it.
#[derive(Clone, Default)]
pub(crate) struct Peer(Arc<PeerState>);

#[derive(Default)]
struct PeerState {
    socket: Option<Arc<WriteHalf>>,
    heard: AtomicBool,
    /// Whether it has ever asked for something.
    asked: AtomicBool,
    /// How much is done for it.
    busy: AtomicUsize,
    /// Whether what is done for it is of no use to anybody: a socket without a session.
    useless: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Whether it was told to end, and has not said that it stays.
    told: AtomicBool,
    end: Notify,
    /// Behind the socket, which is closed first.
    _place: Option<ConnectionPlace>,
}

impl Peer {
    /// The peer behind a socket that was accepted, and the stream of its bytes.
    pub(crate) fn of<S: SplitSocket>(
        socket: S,
        place: Option<ConnectionPlace>,
    ) -> (Self, PeerStream<S::Read>) {
        let (read, write) = socket.halves();
        let write = Arc::new(write);
        let peer = Peer(Arc::new(PeerState {
            socket: Some(Arc::clone(&write)),
            _place: place,
            ..PeerState::default()
        }));
        (peer, PeerStream { read, write })
    }

    pub(crate) fn is_heard(&self) {
        self.0.heard.store(true, Ordering::Relaxed);
    }

    /// Whether bytes came since the last time somebody asked: a long message on its way is a sign of life
    /// before it is whole.
    pub(crate) fn take_heard(&self) -> bool {
        self.0.heard.swap(false, Ordering::Relaxed)
    }

    /// Something is done for it, until the guard goes.
    pub(crate) fn busy(&self) -> BusyGuard {
        self.0.asked.store(true, Ordering::Relaxed);
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        BusyGuard(self.clone())
    }

    /// Whether something is done for it.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }

    /// Says when what is done for it is of no use.
    pub(crate) fn useless_when(&self, useless: impl Fn() -> bool + Send + Sync + 'static) {
        // One socket says it, once.
        let _ = self.0.useless.set(Box::new(useless));
    }

    /// Whether it may be told to end.
    pub(crate) fn may_end(&self) -> bool {
        !self.0.told.load(Ordering::Relaxed) && self.is_idle()
    }

    /// Whether nothing is done for it that is of use.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy() || self.0.useless.get().is_some_and(|useless| useless())
    }

    /// Whether it has ever asked for something.
    pub(crate) fn has_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Asks the connection to end, if it is still idle when it hears of that.
    pub(crate) fn end(&self) {
        self.0.told.store(true, Ordering::Relaxed);
        self.0.end.notify_one();
    }

    /// Says that it does not end, because it was asked for something meanwhile.
    pub(crate) fn stays(&self) {
        self.0.told.store(false, Ordering::Relaxed);
    }

    /// Waits for [`Peer::end`].
    pub(crate) async fn told_to_end(self) {
        self.0.end.notified().await;
    }

    /// Waits until the other side has ended the connection or its own half of it, whatever is still to be
    /// read.
    pub(crate) async fn lost(self) {
        match &self.0.socket {
            Some(socket) => socket.lost().await,
            None => pending().await,
        }
    }

    pub(crate) fn weak(&self) -> WeakPeer {
        WeakPeer(Arc::downgrade(&self.0))
    }
}

/// A peer whose connection may be closed already.
pub(crate) struct WeakPeer(std::sync::Weak<PeerState>);

impl WeakPeer {
    pub(crate) fn get(&self) -> Option<Peer> {
        self.0.upgrade().map(Peer)
    }
}

/// Something that is done for a peer.
pub(crate) struct BusyGuard(Peer);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response; its peer is busy until it was handed over.
pub(crate) struct CountedBody {
    body: Body,
    _busy: BusyGuard,
}

impl CountedBody {
    pub(crate) fn new(body: Body, busy: BusyGuard) -> Self {
        CountedBody { body, _busy: busy }
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

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

/// The writing half of a socket, which tells of the reading one as well.
pub(crate) enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl WriteHalf {
    /// Waits for the end of the other side. An event without any interest in bytes: those are the reader's.
    #[cfg(target_os = "linux")]
    async fn lost(&self) {
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
    async fn lost(&self) {
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
