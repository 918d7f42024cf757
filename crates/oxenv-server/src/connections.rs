//! How many connections there may be, and which has to go for another.
//!
//! Invariant: connections leave a part of the process's descriptors to sessions: their records, workspaces
//! and children. For a new connection an idle one ends; where none is idle, the new one is refused.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oxenv_core::{descriptor_limit, open_descriptors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::peer::{Peer, PeerPlace, Peers};

/// Minimum number of descriptors kept for sessions, where the limit is at least twice that.
const MIN_RESERVED_DESCRIPTORS: usize = 24;
/// Maximum number of descriptors kept for sessions, beside those that sessions have already.
const MAX_RESERVED_DESCRIPTORS: usize = 1024;
/// Maximum age of a count of descriptors.
const MAX_COUNT_AGE: Duration = Duration::from_secs(1);
/// How long an idle connection may take to end.
const END_TIMEOUT: Duration = Duration::from_millis(50);
/// Connections that are accepted as long as the process has descriptors at all, so that an operator can see
/// how the server does and close sessions.
const MIN_CONNECTIONS: usize = 4;
/// Descriptors that such a connection leaves free: one for a file that answering may open, and one more.
const MIN_FREE_DESCRIPTORS: usize = 2;
/// Minimum time between two warnings that connections are refused.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of idle connections that are asked to end for one new one.
const MAX_TRIES: usize = 4;

/// The connections of a server.
pub(crate) struct Connections {
    /// Descriptors that connections leave room for; none where they cannot be counted.
    limit: Option<usize>,
    /// Descriptors that there may be at all.
    hard_limit: usize,
    warned: Mutex<Option<Instant>>,
    count: Mutex<Option<DescriptorCount>>,
    peers: Arc<Peers>,
    refused: AtomicU64,
    ended: AtomicU64,
}

/// Descriptors, when they were counted last.
#[derive(Clone, Copy)]
struct DescriptorCount {
    used: usize,
    at: Instant,
    /// Connections that came after.
    since: usize,
}

/// Raises the soft limit of this process's descriptors to the hard one.
///
/// ```
/// // Before the server is bound: it counts by the limit that it finds.
/// oxenv_server::raise_descriptor_limit();
/// ```
pub fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit, or already at the maximum: nothing to raise.
    if current.is_some()
        && current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of descriptors could not be raised");
    }
}

impl Connections {
    pub(crate) fn new() -> Self {
        let limit = descriptor_limit();
        let reserve = |limit: usize| {
            (limit / 4).clamp(MIN_RESERVED_DESCRIPTORS, MAX_RESERVED_DESCRIPTORS).min(limit / 2)
        };
        Connections {
            limit: limit.map(|limit| limit - reserve(limit)),
            hard_limit: limit.unwrap_or(usize::MAX),
            warned: Mutex::default(),
            count: Mutex::default(),
            peers: Arc::default(),
            refused: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// A place for a connection that was accepted, if it need not be refused.
    pub(crate) async fn enter(&self) -> Option<PeerPlace> {
        let mut tries = MAX_TRIES;
        while !self.has_room() {
            if tries == 0 || !self.make_room().await {
                self.refused.fetch_add(1, Ordering::Relaxed);
                self.warn();
                return None;
            }
            tries -= 1;
        }
        Some(self.peers.place())
    }

    /// Keeps a peer in its place.
    pub(crate) fn add(&self, peer: &Peer) {
        self.peers.enter(peer);
    }

    /// Ends the connection that is missed least: the oldest that never asked for anything, or else the oldest
    /// that asks for nothing now. False if there is none. Gives it a moment to end.
    pub(crate) async fn make_room(&self) -> bool {
        let Some(idle) = self.least_missed() else { return false };
        let mut left = pin!(self.peers.left());
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
        for peer in self.peers.all() {
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
        let mut last = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = &mut *last {
            count.since += 1;
            let room = limit.saturating_sub(count.used);
            // Others have opened some meanwhile: the fewer are left, the sooner they are counted again.
            if count.since <= room / 8 && count.at.elapsed() < MAX_COUNT_AGE {
                return true;
            }
        }
        let Some(used) = open_descriptors() else { return true };
        *last = Some(DescriptorCount { used, at: Instant::now(), since: 0 });
        let few = self.peers.len() < MIN_CONNECTIONS;
        used <= limit || (few && used + MIN_FREE_DESCRIPTORS <= self.hard_limit)
    }

    fn warn(&self) {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL) {
            *warned = Some(now);
            let (limit, refused) = (self.hard_limit, self.refused());
            tracing::warn!(
                limit,
                refused,
                "connections are refused for want of descriptors; raise the limit"
            );
        }
    }
}
