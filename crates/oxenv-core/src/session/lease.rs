//! Leases: how long a session lives without callers.
//!
//! Invariant: a lease runs only while no socket is attached and nothing is in flight: no step or call, no
//! list, no fork and no snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Session;

/// A session's lease.
pub(crate) struct Lease {
    started: Instant,
    limit: Option<Duration>,
    last_ms: AtomicU64,
    in_flight: AtomicU32,
    socket: Mutex<Option<CancellationToken>>,
}

impl Lease {
    /// A lease of that length; `None` never runs out.
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Lease {
            started: Instant::now(),
            limit,
            last_ms: AtomicU64::new(0),
            in_flight: AtomicU32::new(0),
            socket: Mutex::new(None),
        }
    }

    /// How long ago the session last did something.
    pub(crate) fn idle(&self) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    pub(crate) fn is_attached(&self) -> bool {
        self.socket.lock().is_some()
    }

    pub(crate) fn expired(&self) -> bool {
        let Some(limit) = self.limit else { return false };
        self.in_flight.load(Ordering::Acquire) == 0 && !self.is_attached() && self.idle() >= limit
    }

    /// Marks something in flight until the guard is dropped.
    pub(super) fn busy(&self) -> LeaseHold<'_> {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        LeaseHold(self)
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }
}

/// Something that is done with a session. Its lease does not run meanwhile, and begins anew when this is
/// dropped.
pub(crate) struct LeaseHold<'a>(&'a Lease);

impl Drop for LeaseHold<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A socket's hold on a session. Dropping it lets the lease run.
pub struct Attachment {
    session: Arc<Session>,
    token: CancellationToken,
}

impl Attachment {
    pub(super) fn new(session: &Arc<Session>) -> Self {
        let token = CancellationToken::new();
        if let Some(other) = session.lease.socket.lock().replace(token.clone()) {
            other.cancel();
        }
        Attachment { session: Arc::clone(session), token }
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether another socket has taken the session.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until another socket has taken the session.
    pub fn superseded(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.session.lease.touch();
        let mut socket = self.session.lease.socket.lock();
        // Looked at under the lock: another socket may attach at this very moment.
        if self.token.is_cancelled() {
            return;
        }
        *socket = None;
        drop(socket);
        self.session.detached();
    }
}
