//! The subscribers to changed lists.
//!
//! Invariant: an upstream keeps no session in memory: it knows handles weakly, and forgets those that are
//! gone.

use std::sync::{Arc, Weak};

use oxenv_core::ChangeCounter;
use parking_lot::Mutex;

/// The counters that watch one handle.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<ChangeCounter>>);

/// The handles of one upstream.
#[derive(Default)]
pub(super) struct WatchedHandles(Mutex<Vec<Weak<Watchers>>>);

impl Watchers {
    pub(super) fn add(&self, changes: &ChangeCounter) {
        self.0.lock().push(changes.clone());
    }

    pub(super) fn bump(&self) {
        self.0.lock().iter().for_each(ChangeCounter::bump);
    }
}

impl WatchedHandles {
    /// Adds a handle.
    pub(super) fn add(&self, watchers: &Arc<Watchers>) {
        let mut handles = self.0.lock();
        // Looked through only when the room is used up, so that adding stays cheap.
        if handles.len() == handles.capacity() {
            handles.retain(|handle| handle.strong_count() > 0);
        }
        handles.push(Arc::downgrade(watchers));
    }

    pub(super) fn bump(&self) {
        let handles: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        handles.iter().for_each(|watchers| watchers.bump());
    }
}
