//! What is known of a connection besides its bytes: whether bytes came, it is busy, or its other side is
//! lost.
//!
//! Invariant: a peer that ended its side is known to have done so although bytes of it are still unread,
//! which are not read while a request is being answered.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::peer_stream::{PeerStream, SplitSocket, WriteHalf};

/// One connection, shared by all that read, write, watch or end it.
#[derive(Clone, Default)]
pub(crate) struct Peer(Arc<PeerState>);

#[derive(Default)]
struct PeerState {
    socket: Option<Arc<WriteHalf>>,
    heard: AtomicBool,
    /// Whether it has ever sent a request.
    asked: AtomicBool,
    /// How much is done for it.
    busy: AtomicUsize,
    /// Whether its work is of no use to any caller: a socket without a session.
    useless: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
    /// Whether it was asked to end, and has not answered that it stays.
    asked_to_end: AtomicBool,
    end: Notify,
    /// After the socket in this list, so that it is dropped when the socket is closed.
    place: Option<PeerPlace>,
}

impl Peer {
    /// The peer behind a socket that was accepted, and the stream of its bytes.
    pub(crate) fn of<S: SplitSocket>(socket: S, place: Option<PeerPlace>) -> (Self, PeerStream<S::Read>) {
        let (read, write) = socket.halves();
        let write = Arc::new(write);
        let peer =
            Peer(Arc::new(PeerState { socket: Some(Arc::clone(&write)), place, ..PeerState::default() }));
        (peer, PeerStream::new(read, write))
    }

    pub(crate) fn is_heard(&self) {
        self.0.heard.store(true, Ordering::Relaxed);
    }

    /// Whether bytes came since the last check: a long message on its way is a sign of life before it is
    /// whole.
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

    /// Marks whether its work is of no use.
    pub(crate) fn useless_when(&self, useless: impl Fn() -> bool + Send + Sync + 'static) {
        // One socket marks it, once.
        let _ = self.0.useless.set(Box::new(useless));
    }

    /// Whether it may be asked to end.
    pub(crate) fn may_end(&self) -> bool {
        !self.0.asked_to_end.load(Ordering::Relaxed) && self.is_idle()
    }

    /// Whether nothing is done for it that is of use.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_busy() || self.0.useless.get().is_some_and(|useless| useless())
    }

    /// Whether it has ever sent a request.
    pub(crate) fn has_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed)
    }

    /// Asks the connection to end, which it does if it is still idle by then.
    pub(crate) fn end(&self) {
        self.0.asked_to_end.store(true, Ordering::Relaxed);
        self.0.end.notify_one();
    }

    /// Reports that it does not end, because it got a request meanwhile.
    pub(crate) fn stays(&self) {
        self.0.asked_to_end.store(false, Ordering::Relaxed);
    }

    /// Waits for [`Peer::end`].
    pub(crate) async fn end_requested(self) {
        self.0.end.notified().await;
    }

    /// Waits until the other side has ended the connection or its own half of it, even if bytes are still
    /// unread.
    pub(crate) async fn lost(self) {
        match &self.0.socket {
            Some(socket) => socket.lost().await,
            None => pending().await,
        }
    }
}

/// The peers of a server whose connections are open.
#[derive(Default)]
pub(crate) struct Peers {
    table: Mutex<PeerTable>,
    left: Notify,
}

#[derive(Default)]
struct PeerTable {
    /// The number of the last place that was given.
    last: u64,
    /// In the order in which they came.
    peers: BTreeMap<u64, Weak<PeerState>>,
}

/// A peer's place among the others, until its connection is closed.
pub(crate) struct PeerPlace {
    peers: Weak<Peers>,
    number: u64,
}

impl Peers {
    /// A place for a peer that has come.
    pub(crate) fn place(self: &Arc<Self>) -> PeerPlace {
        let mut table = self.lock();
        table.last += 1;
        PeerPlace { peers: Arc::downgrade(self), number: table.last }
    }

    /// Enters a peer that has a place here.
    pub(crate) fn enter(&self, peer: &Peer) {
        if let Some(place) = &peer.0.place {
            self.lock().peers.insert(place.number, Arc::downgrade(&peer.0));
        }
    }

    /// All of them, in the order in which they came. They outlive the lock: the last peer of a connection
    /// takes it when it is dropped.
    pub(crate) fn all(&self) -> Vec<Peer> {
        self.lock().peers.values().filter_map(Weak::upgrade).map(Peer).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().peers.len()
    }

    /// Waits until one has left.
    pub(crate) fn left(&self) -> Notified<'_> {
        self.left.notified()
    }

    fn lock(&self) -> MutexGuard<'_, PeerTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PeerPlace {
    fn drop(&mut self) {
        if let Some(peers) = self.peers.upgrade() {
            peers.lock().peers.remove(&self.number);
            peers.left.notify_waiters();
        }
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
