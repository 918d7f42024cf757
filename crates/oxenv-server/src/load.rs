//! How much is being worked on for one peer.
//!
//! Invariant: a part counts from its making until its drop, wherever the work goes in between.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests that may be worked on at once for one peer.
pub(crate) const MAX_REQUESTS: usize = 1024;
/// Bytes of those requests; a single request may be longer.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// The requests of one peer that are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Load {
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

/// A part of a load, until it is dropped.
#[derive(Debug)]
pub(crate) struct LoadPart<L: Deref<Target = Load>> {
    load: L,
    requests: usize,
    bytes: usize,
}

/// A part that goes along with its request through rmcp.
#[derive(Debug, Clone)]
pub(crate) struct SharedLoadPart(
    #[expect(dead_code, reason = "it is held for its drop")] Arc<LoadPart<Arc<Load>>>,
);

impl Load {
    /// Whether another request may be begun.
    pub(crate) fn has_room(&self) -> bool {
        self.requests.load(Ordering::Relaxed) < MAX_REQUESTS && self.bytes.load(Ordering::Relaxed) < MAX_BYTES
    }

    /// Whether nothing is being worked on.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn add(&self, requests: usize, bytes: usize) -> LoadPart<&Load> {
        self.grow(requests, bytes);
        LoadPart { load: self, requests, bytes }
    }

    /// Adds a request that outlives the caller's borrow.
    pub(crate) fn add_shared(self: &Arc<Self>, bytes: usize) -> SharedLoadPart {
        self.grow(1, bytes);
        SharedLoadPart(Arc::new(LoadPart { load: Arc::clone(self), requests: 1, bytes }))
    }

    fn grow(&self, requests: usize, bytes: usize) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<L: Deref<Target = Load>> Drop for LoadPart<L> {
    fn drop(&mut self) {
        self.load.requests.fetch_sub(self.requests, Ordering::Relaxed);
        self.load.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
