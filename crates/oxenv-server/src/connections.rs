//! How many connections there may be, and which has to go for another.
//!
//! Invariant: connections leave a part of the process's descriptors to sessions: their records, workspaces
//! and children. For a new connection an idle one ends; where none is idle, the new one is refused.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use oxenv_core::{descriptor_limit, open_descriptors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;

use crate::peer::{Peer, WeakPeer};

/// What sessions keep at the least, where the limit is not smaller than twice that.
const MIN_RESERVE: usize = 24;
/// What they keep at the most. Descriptors that sessions have already count by themselves.
const MAX_RESERVE: usize = 1024;
/// How long a count of descriptors holds at the most.
const MAX_COUNT_AGE: Duration = Duration::from_secs(1);
/// How long an idle connection may take to end.
const END_TIMEOUT: Duration = Duration::from_millis(50);
/// Connections that are accepted as long as the process has descriptors at all, so that somebody can see how
/// the server does and close sessions.
const MIN_CONNECTIONS: usize = 4;
/// Descriptors that such a connection leaves free: one for a file that answering may open, and one more.
const LAST_DESCRIPTORS: usize = 2;
/// How often the log says that connections are refused, at the most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// Idle connections that are told to end for one new one, at the most.
const MAX_TRIES: usize = 4;

/// The connections of a server.
pub(crate) struct Connections {
    /// Descriptors that connections leave room for; none where they cannot be counted.
    limit: Option<usize>,
    /// Descriptors that there may be at all.
    hard_limit: usize,
    complained: Mutex<Option<Instant>>,
    open: Mutex<OpenConnections>,
    left: Notify,
    refused: AtomicU64,
    ended: AtomicU64,
}

struct OpenConnections {
    next: u64,
    /// In the order in which they came.
    peers: BTreeMap<u64, WeakPeer>,
    count: Option<DescriptorCount>,
}

/// Descriptors, when they were counted last.
#[derive(Clone, Copy)]
struct DescriptorCount {
    used: usize,
    at: Instant,
    /// Connections that came after.
    since: usize,
}

/// A connection's place among the others, until it is closed.
pub(crate) struct ConnectionPlace {
    connections: Weak<Connections>,
    number: u64,
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        if let Some(connections) = self.connections.upgrade() {
            connections.lock().peers.remove(&self.number);
            connections.left.notify_waiters();
        }
    }
}

/// Raises the soft limit of this process's descriptors to the hard one.
pub fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit, or one that is reached: nothing is to be raised.
    if current.is_some()
        && current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of descriptors could not be raised");
    }
}

impl Connections {
    pub(crate) fn new() -> Arc<Self> {
        let limit = descriptor_limit();
        let reserve = |limit: usize| (limit / 4).clamp(MIN_RESERVE, MAX_RESERVE).min(limit / 2);
        Arc::new(Connections {
            limit: limit.map(|limit| limit - reserve(limit)),
            hard_limit: limit.unwrap_or(usize::MAX),
            complained: Mutex::default(),
            open: Mutex::new(OpenConnections { next: 0, peers: BTreeMap::new(), count: None }),
            left: Notify::new(),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        })
    }

    /// A place for a connection that was accepted, if it need not be refused.
    pub(crate) async fn enter(self: &Arc<Self>) -> Option<ConnectionPlace> {
        let mut tries = MAX_TRIES;
        while !self.has_room() {
            if tries == 0 || !self.make_room().await {
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.complain();
                return None;
            }
            tries -= 1;
        }
        let mut open = self.lock();
        open.next += 1;
        Some(ConnectionPlace { connections: Arc::downgrade(self), number: open.next })
    }

    /// Keeps a peer in its place.
    pub(crate) fn add(&self, number: u64, peer: &Peer) {
        self.lock().peers.insert(number, peer.weak());
    }

    /// Ends the connection that is missed least: the oldest that never asked for anything, or else the oldest
    /// that asks for nothing now. False if there is none. Gives it a moment to end.
    pub(crate) async fn make_room(&self) -> bool {
        let Some(idle) = self.least_missed() else { return false };
        let mut left = pin!(self.left.notified());
        left.as_mut().enable();
        idle.end();
        drop(idle);
        // One that is asked for something meanwhile stays.
        let _ = tokio::time::timeout(END_TIMEOUT, left).await;
        true
    }

    /// Counts an idle connection that ends for another.
    pub(crate) fn ends(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Idle connections that were ended for others.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    fn least_missed(&self) -> Option<Peer> {
        let mut oldest = None;
        // Outside the lock: a peer that is the last one of its connection takes it at its end.
        let peers: Vec<Peer> = self.lock().peers.values().filter_map(WeakPeer::get).collect();
        for peer in peers {
            if peer.may_end() {
                if !peer.has_asked() {
                    return Some(peer);
                }
                oldest.get_or_insert(peer);
            }
        }
        oldest
    }

    /// Whether enough descriptors are left, the one of a connection that was just accepted included.
    fn has_room(&self) -> bool {
        let Some(limit) = self.limit else { return true };
        let mut open = self.lock();
        if let Some(count) = &mut open.count {
            count.since += 1;
            let room = limit.saturating_sub(count.used);
            // Others have opened some meanwhile: the fewer are left, the sooner they are counted again.
            if count.since <= room / 8 && count.at.elapsed() < MAX_COUNT_AGE {
                return true;
            }
        }
        let Some(used) = open_descriptors() else { return true };
        open.count = Some(DescriptorCount { used, at: Instant::now(), since: 0 });
        let few = open.peers.len() < MIN_CONNECTIONS;
        used <= limit || (few && used + LAST_DESCRIPTORS <= self.hard_limit)
    }

    fn complain(&self) {
        let now = Instant::now();
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|last| now.duration_since(last) >= COMPLAINT_INTERVAL) {
            *complained = Some(now);
            let (limit, refused) = (self.hard_limit, self.refused());
            tracing::warn!(
                limit,
                refused,
                "connections are refused for want of descriptors; raise the limit"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPlace {
    /// Its number among all connections.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}
