//! Slots for sessions, and the fair queue of who waits for one.
//!
//! Invariant: a slot is counted from the moment its [`Permit`] is made to the drop of that permit,
//! and nobody who waits is passed over: owners take turns, and within one owner first come, first
//! served.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::memory::MemoryGauge;
use crate::clock::after;

/// Those who wait, at the most; whoever comes then is refused at once.
const LONGEST_QUEUE: usize = 16_384;
/// How often memory is looked at while somebody waits for it.
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// Who asks for a slot; nobody in particular has no name.
pub(super) type Owner = Option<Arc<str>>;

/// The slots of one store.
pub(super) struct Slots {
    max: usize,
    max_per_owner: usize,
    memory: Option<MemoryGauge>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: usize,
    waiting: usize,
    closed: bool,
    owners: HashMap<Owner, Share>,
    /// Owners with somebody waiting, in the order of their turns.
    turns: VecDeque<Owner>,
}

/// An owner's part of the slots and of the queue.
#[derive(Default)]
struct Share {
    active: usize,
    waiting: VecDeque<oneshot::Sender<Permit>>,
}

/// One slot. Dropping it gives the slot to who waits longest.
pub(super) struct Permit {
    slots: Arc<Slots>,
    owner: Owner,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// All are taken, or the owner has all that it may have.
    Full {
        /// Slots that are taken.
        active: usize,
        /// Whether it is the owner's own cap.
        capped: bool,
    },
    /// The process uses as much memory as it may.
    Memory {
        /// Bytes in use.
        used: u64,
        /// Bytes that may be used.
        budget: u64,
    },
    /// No slots are given any more.
    Closed,
}

impl Slots {
    pub(super) fn new(max: usize, max_per_owner: Option<usize>, memory: Option<u64>) -> Arc<Self> {
        Arc::new(Slots {
            max,
            max_per_owner: max_per_owner.unwrap_or(usize::MAX),
            memory: memory.map(MemoryGauge::new),
            state: Mutex::default(),
        })
    }

    /// Slots that are taken, and those who wait for one.
    pub(super) fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.active, state.waiting)
    }

    /// Gives no slots any more; those who wait are told at once.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting = 0;
        state.turns.clear();
        let told: Vec<_> = state.owners.values_mut().flat_map(|share| share.waiting.drain(..)).collect();
        drop(state);
        drop(told);
    }

    /// Waits for a slot for that long. Dropping the future leaves the queue.
    pub(super) async fn take(self: &Arc<Self>, owner: Owner, patience: Duration) -> Result<Permit, NoSlot> {
        let deadline = after(Instant::now(), patience);
        while let Some((used, budget)) = self.memory.as_ref().and_then(MemoryGauge::exceeded) {
            if Instant::now() >= deadline {
                return Err(NoSlot::Memory { used, budget });
            }
            tokio::time::sleep_until(deadline.min(after(Instant::now(), MEMORY_EVERY))).await;
        }
        let receiver = match self.now_or_queue(owner.clone(), !patience.is_zero()) {
            Ok(permit) => return Ok(permit),
            Err(Ok(receiver)) => receiver,
            Err(Err(refusal)) => return Err(refusal),
        };
        let _place = Place { slots: self, owner: owner.clone() };
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(NoSlot::Closed),
            Err(_) => Err(self.state.lock().full(&owner, self.max)),
        }
    }

    /// A slot, or a place in the queue, or neither.
    fn now_or_queue(
        self: &Arc<Self>,
        owner: Owner,
        may_wait: bool,
    ) -> Result<Permit, Result<oneshot::Receiver<Permit>, NoSlot>> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Err(NoSlot::Closed));
        }
        let share = state.owners.get(&owner);
        let capped = share.is_some_and(|share| share.active >= self.max_per_owner);
        let first = share.is_none_or(|share| share.waiting.is_empty());
        // With a free slot nobody waits who could have it, apart from this owner's own.
        if state.active < self.max && !capped && first {
            state.active += 1;
            state.owners.entry(owner.clone()).or_default().active += 1;
            return Ok(Permit { slots: Arc::clone(self), owner });
        }
        if !may_wait || state.waiting >= LONGEST_QUEUE {
            return Err(Err(state.full(&owner, self.max)));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting += 1;
        let share = state.owners.entry(owner.clone()).or_default();
        share.waiting.push_back(sender);
        if share.waiting.len() == 1 {
            state.turns.push_back(owner);
        }
        Err(Ok(receiver))
    }

    /// Gives free slots to those whose turn it is.
    fn hand_out(self: &Arc<Self>) {
        let mut given = Vec::new();
        {
            let mut state = self.state.lock();
            let mut passed = 0;
            while state.active < self.max && passed < state.turns.len() {
                let Some(owner) = state.turns.pop_front() else { break };
                let Some(share) = state.owners.get_mut(&owner) else { continue };
                if share.active >= self.max_per_owner {
                    state.turns.push_back(owner);
                    passed += 1;
                    continue;
                }
                let Some(sender) = share.waiting.pop_front() else { continue };
                if sender.is_closed() {
                    if !share.waiting.is_empty() {
                        state.turns.push_front(owner);
                    }
                    continue;
                }
                share.active += 1;
                if !share.waiting.is_empty() {
                    state.turns.push_back(owner.clone());
                }
                state.active += 1;
                passed = 0;
                given.push((sender, Permit { slots: Arc::clone(self), owner }));
            }
        }
        // One who has just left gives the permit back by its drop, outside the lock.
        for (sender, permit) in given {
            drop(sender.send(permit));
        }
    }
}

impl State {
    fn full(&self, owner: &Owner, max: usize) -> NoSlot {
        NoSlot::Full { active: self.active, capped: self.active < max && self.owners.contains_key(owner) }
    }
}

/// A place in the queue; its drop counts one less who waits.
struct Place<'a> {
    slots: &'a Arc<Slots>,
    owner: Owner,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        state.waiting = state.waiting.saturating_sub(1);
        if let Some(share) = state.owners.get_mut(&self.owner) {
            share.waiting.retain(|sender| !sender.is_closed());
            state.forget(&self.owner);
        }
    }
}

impl State {
    /// An owner without slots and without anybody waiting is nobody.
    fn forget(&mut self, owner: &Owner) {
        if self.owners.get(owner).is_some_and(|share| share.waiting.is_empty()) {
            self.turns.retain(|turn| turn != owner);
            if self.owners[owner].active == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.slots.state.lock();
            state.active -= 1;
            if let Some(share) = state.owners.get_mut(&self.owner) {
                share.active -= 1;
            }
            state.forget(&self.owner);
        }
        self.slots.hand_out();
    }
}
