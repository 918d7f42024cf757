//! [`Registry`]: what is found by its id, and why what is gone has ended. [`Slot`]: the place of one in it.
//!
//! Invariant: whatever is found has a slot, and is found no more once that slot is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::end_reason::EndReason;
use crate::slots::{Permit, SlotOwner};

/// How many that have ended are remembered, so that their callers learn why.
const MAX_TOMBSTONES: usize = 1024;

/// The sessions of a store, by their ids.
pub(crate) struct Registry<T> {
    live: Mutex<HashMap<String, Arc<T>>>,
    ended: Mutex<VecDeque<(String, EndReason)>>,
}

/// One taken slot. Dropping it frees the slot and forgets the session.
pub(crate) struct Slot<T> {
    registry: Arc<Registry<T>>,
    id: String,
    /// The default session has none.
    permit: Option<Permit>,
    waited: Duration,
    reason: Option<EndReason>,
}

impl<T> Registry<T> {
    /// Lets it be found by that id.
    pub(crate) fn insert(&self, id: &str, live: Arc<T>) {
        self.live.lock().insert(id.to_owned(), live);
    }

    /// What lives under that id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<T>> {
        self.live.lock().get(id).map(Arc::clone)
    }

    /// All that live, in no order.
    pub(crate) fn list(&self) -> Vec<Arc<T>> {
        self.live.lock().values().cloned().collect()
    }

    /// Why what had that id ended, if that is remembered.
    pub(crate) fn end_reason(&self, id: &str) -> Option<EndReason> {
        let ended = self.ended.lock();
        ended.iter().rev().find(|(other, _)| other == id).map(|(_, reason)| reason.clone())
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry { live: Mutex::default(), ended: Mutex::default() }
    }
}

impl<T> Slot<T> {
    /// A slot under a new id; `waited` is how long its permit was waited for.
    pub(crate) fn new(registry: Arc<Registry<T>>, permit: Option<Permit>, waited: Duration) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        Slot { registry, id, permit, waited, reason: None }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How long it was waited for.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// The owner of its slot; absent for the default session, which takes none.
    pub(crate) fn owner(&self) -> Option<SlotOwner> {
        self.permit.as_ref().map(|permit| permit.owner().clone())
    }

    /// Records why, for later callers.
    pub(crate) fn retire(&mut self, reason: EndReason) {
        self.reason = Some(reason);
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let removed = self.registry.live.lock().remove(&self.id);
        drop(self.permit.take());
        if let Some(reason) = self.reason.take() {
            let mut ended = self.registry.ended.lock();
            if ended.len() >= MAX_TOMBSTONES {
                ended.pop_front();
            }
            ended.push_back((std::mem::take(&mut self.id), reason));
        }
        // Outside the locks: this may be the last reference and drop the environment.
        drop(removed);
    }
}
