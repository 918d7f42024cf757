//! Slots for sessions, and the fair queue of requests that wait for some.
//!
//! Invariant: a slot is counted from the moment its [`Permit`] is made to the drop of that permit. A request
//! has all the slots that it asks for at once, or none. Owners take turns, and within one owner first come,
//! first served. A request for more slots than are free is overtaken by requests for fewer, until those have
//! had as many slots as it asks for; from then on free slots are kept for it.

mod memory;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::after;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use memory::{DescriptorGauge, DescriptorUse, MemoryGauge, MemoryUse};

/// Maximum number of waiting requests; any further request is refused at once.
const MAX_QUEUE: usize = 16_384;
/// How often free memory is checked while a request waits for it.
const MEMORY_INTERVAL: Duration = Duration::from_millis(100);

/// The owner that asks for a slot; without a name, no owner in particular.
pub(crate) type SlotOwner = Option<Arc<str>>;

/// The slots of one store.
pub(crate) struct Slots {
    max: usize,
    max_per_owner: usize,
    memory: Option<MemoryGauge>,
    descriptors: DescriptorGauge,
    state: Mutex<QueueState>,
}

/// What the slots of a store are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotCounts {
    /// Slots that are taken.
    pub(crate) active: usize,
    /// Requests that wait for some.
    pub(crate) waiting: usize,
}

#[derive(Default)]
struct QueueState {
    active: usize,
    waiting: usize,
    closed: bool,
    owners: HashMap<SlotOwner, Share>,
    /// Owners with waiting requests, in the order of their turns.
    turns: VecDeque<SlotOwner>,
    /// Requests that have waited so far.
    numbers: u64,
}

/// An owner's part of the slots and of the queue.
#[derive(Default)]
struct Share {
    active: usize,
    waiting: VecDeque<ReplyReceiver>,
}

/// A request that waits.
struct ReplyReceiver {
    number: u64,
    count: usize,
    /// Slots that were given past it.
    overtaken: usize,
    sender: oneshot::Sender<Permit>,
}

/// The slots of one request. Dropping it gives them to the request that waits longest.
pub(crate) struct Permit {
    slots: Arc<Slots>,
    owner: SlotOwner,
    count: usize,
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSlot {
    /// That number of slots is not free.
    Full {
        /// Slots that are taken.
        active: usize,
        /// Whether it is the owner's own cap.
        capped: bool,
    },
    /// There will never be that number of free slots.
    TooMany {
        /// How many there may be.
        most: usize,
        /// Whether it is the owner's own cap.
        capped: bool,
    },
    /// The process has few descriptors left.
    Descriptors(DescriptorUse),
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

/// The immediate answer to a request.
enum Entered {
    Had(Permit),
    Waits(QueuePlace, oneshot::Receiver<Permit>),
}

/// The place of a request in the queue.
#[derive(Clone, Copy)]
struct QueuePosition {
    /// The owner's turn.
    turn: usize,
    /// The place among the owner's own.
    place: usize,
}

/// The request whose turn it is.
struct Next {
    spot: QueuePosition,
    /// The requests that are overtaken by it.
    passed: Vec<QueuePosition>,
}

impl Slots {
    pub(crate) fn new(max: usize, max_per_owner: Option<usize>, memory: Option<u64>) -> Arc<Self> {
        Arc::new(Slots {
            max,
            max_per_owner: max_per_owner.unwrap_or(usize::MAX),
            memory: memory.map(MemoryGauge::new),
            descriptors: DescriptorGauge::default(),
            state: Mutex::default(),
        })
    }

    /// Slots that are taken, and requests that wait for some.
    pub(crate) fn counts(&self) -> SlotCounts {
        let state = self.state.lock();
        SlotCounts { active: state.active, waiting: state.waiting }
    }

    /// Gives no slots any more; waiting requests are refused at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting = 0;
        state.turns.clear();
        let waiting: Vec<_> = state.owners.values_mut().flat_map(|share| share.waiting.drain(..)).collect();
        drop(state);
        drop(waiting);
    }

    /// Refuses a request that can never be met: more slots than there are, except one that stays taken,
    /// whose owner is `beside`.
    pub(crate) fn refuse_too_many(
        &self,
        owner: &SlotOwner,
        count: usize,
        beside: Option<&SlotOwner>,
    ) -> Result<(), NoSlot> {
        let most = self.max.saturating_sub(usize::from(beside.is_some()));
        let most_own = self.max_per_owner.saturating_sub(usize::from(beside == Some(owner)));
        match count > most.min(most_own) {
            true => Err(NoSlot::TooMany { most: most.min(most_own), capped: most_own < most }),
            false => Ok(()),
        }
    }

    /// Waits until that time for the given number of slots; absent: does not wait. Dropping the future
    /// leaves the queue.
    pub(crate) async fn take(
        self: &Arc<Self>,
        owner: &SlotOwner,
        count: usize,
        until: Option<Instant>,
    ) -> Result<Permit, NoSlot> {
        // It is not waited for: a waiting request holds a descriptor too.
        if let Some(used) = self.descriptors.exceeded(count) {
            return Err(NoSlot::Descriptors(used));
        }
        while let Some(MemoryUse { used, budget }) = self.memory.as_ref().and_then(MemoryGauge::exceeded) {
            match until.filter(|until| Instant::now() < *until) {
                Some(until) => {
                    tokio::time::sleep_until(until.min(after(Instant::now(), MEMORY_INTERVAL))).await;
                }
                None => return Err(NoSlot::Memory { used, budget }),
            }
        }
        let (_place, mut receiver) = match self.enter(owner, count)? {
            Entered::Had(permit) => return Ok(permit),
            Entered::Waits(place, receiver) => (place, receiver),
        };
        // Some may be free, though others wait: for more, or for their own cap.
        self.grant_slots();
        let had = match until {
            Some(until) => tokio::time::timeout_at(until, receiver).await.ok(),
            None => receiver.try_recv().ok().map(Ok),
        };
        match had {
            Some(Ok(permit)) => Ok(permit),
            Some(Err(_)) => Err(NoSlot::Closed),
            None => Err(self.state.lock().full(owner, count, self)),
        }
    }

    /// Slots, or a place in the queue.
    fn enter(self: &Arc<Self>, owner: &SlotOwner, count: usize) -> Result<Entered, NoSlot> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(NoSlot::Closed);
        }
        let own = state.owners.get(owner).map_or(0, |share| share.active);
        if state.turns.is_empty() && state.active + count <= self.max && own + count <= self.max_per_owner {
            state.active += count;
            state.owners.entry(owner.clone()).or_default().active += count;
            return Ok(Entered::Had(Permit { slots: Arc::clone(self), owner: owner.clone(), count }));
        }
        if state.waiting >= MAX_QUEUE {
            return Err(state.full(owner, count, self));
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting += 1;
        state.numbers += 1;
        let number = state.numbers;
        let share = state.owners.entry(owner.clone()).or_default();
        share.waiting.push_back(ReplyReceiver { number, count, overtaken: 0, sender });
        if share.waiting.len() == 1 {
            state.turns.push_back(owner.clone());
        }
        let place = QueuePlace { slots: Arc::clone(self), owner: owner.clone(), number };
        Ok(Entered::Waits(place, receiver))
    }

    /// Gives free slots to the requests whose turn it is.
    fn grant_slots(self: &Arc<Self>) {
        let mut left = Vec::new();
        let mut state = self.state.lock();
        while let Some(next) = state.next(self) {
            let Some((owner, waiting)) = state.give(next) else { break };
            let permit = Permit { slots: Arc::clone(self), owner, count: waiting.count };
            left.extend(waiting.sender.send(permit).err());
        }
        drop(state);
        // A request that has just left gives the slots back, outside the lock.
        drop(left);
    }
}

impl QueueState {
    fn full(&self, owner: &SlotOwner, count: usize, slots: &Slots) -> NoSlot {
        let own = self.owners.get(owner).map_or(0, |share| share.active);
        let capped = self.active + count <= slots.max && own + count > slots.max_per_owner;
        NoSlot::Full { active: self.active, capped }
    }

    /// The first request that can be met without overtaking another one too often.
    fn next(&self, slots: &Slots) -> Option<Next> {
        let mut allowed = slots.max.saturating_sub(self.active);
        if allowed == 0 {
            return None;
        }
        let mut passed = Vec::new();
        for (turn, owner) in self.turns.iter().enumerate() {
            let share = self.owners.get(owner)?;
            // A request that waits for its owner's cap can be overtaken only by that owner's other
            // requests.
            let mut own_allowed = slots.max_per_owner.saturating_sub(share.active);
            let mut own_passed = Vec::new();
            for (place, waiting) in share.waiting.iter().enumerate() {
                if own_allowed == 0 {
                    break;
                }
                let spot = QueuePosition { turn, place };
                if waiting.count <= allowed.min(own_allowed) {
                    passed.append(&mut own_passed);
                    return Some(Next { spot, passed });
                }
                let left = waiting.count.saturating_sub(waiting.overtaken);
                if waiting.count > own_allowed {
                    own_allowed = own_allowed.min(left);
                    own_passed.push(spot);
                } else {
                    allowed = allowed.min(left);
                    passed.push(spot);
                }
                if allowed == 0 {
                    return None;
                }
            }
        }
        None
    }

    /// Takes the next one out of the queue and counts its slots.
    fn give(&mut self, next: Next) -> Option<(SlotOwner, ReplyReceiver)> {
        let QueuePosition { turn, place } = next.spot;
        let owner = self.turns.remove(turn)?;
        let share = self.owners.get_mut(&owner)?;
        let given = share.waiting.remove(place)?;
        share.active += given.count;
        self.active += given.count;
        self.waiting -= 1;
        for QueuePosition { turn: other, place } in next.passed {
            let owner = if other == turn { Some(&owner) } else { self.turns.get(other) };
            let share = owner.and_then(|owner| self.owners.get_mut(owner));
            if let Some(waiting) = share.and_then(|share| share.waiting.get_mut(place)) {
                waiting.overtaken += given.count;
            }
        }
        if !self.owners[&owner].waiting.is_empty() {
            self.turns.push_back(owner.clone());
        }
        Some((owner, given))
    }

    /// An owner without slots and without waiting requests is forgotten.
    fn forget(&mut self, owner: &SlotOwner) {
        if self.owners.get(owner).is_some_and(|share| share.waiting.is_empty()) {
            self.turns.retain(|turn| turn != owner);
            if self.owners[owner].active == 0 {
                self.owners.remove(owner);
            }
        }
    }
}

/// A place in the queue. Dropping it leaves the queue, and lets requests behind it go on.
struct QueuePlace {
    slots: Arc<Slots>,
    owner: SlotOwner,
    number: u64,
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        let share = state.owners.get_mut(&self.owner);
        let left = share.and_then(|share| {
            let place = share.waiting.iter().position(|waiting| waiting.number == self.number)?;
            share.waiting.remove(place)
        });
        if left.is_none() {
            return;
        }
        state.waiting -= 1;
        state.forget(&self.owner);
        drop(state);
        self.slots.grant_slots();
    }
}

impl Permit {
    /// The owner of the slots.
    pub(crate) fn owner(&self) -> &SlotOwner {
        &self.owner
    }

    /// Splits the slots into single ones.
    pub(crate) fn singly(mut self) -> impl Iterator<Item = Permit> {
        std::iter::from_fn(move || {
            self.count = self.count.checked_sub(1)?;
            Some(Permit { slots: Arc::clone(&self.slots), owner: self.owner.clone(), count: 1 })
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        {
            let mut state = self.slots.state.lock();
            state.active -= self.count;
            if let Some(share) = state.owners.get_mut(&self.owner) {
                share.active -= self.count;
            }
            state.forget(&self.owner);
        }
        self.slots.grant_slots();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 6;

    /// What happens to the queue.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Asks { owner: usize, count: usize, waits: bool },
        Leaves(usize),
        GivesBack(usize),
    }

    fn event(owners: usize, most: usize) -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..owners, 1..=most, prop::bool::weighted(0.9))
                .prop_map(|(owner, count, waits)| Event::Asks { owner, count, waits }),
            1 => any::<usize>().prop_map(Event::Leaves),
            4 => any::<usize>().prop_map(Event::GivesBack),
        ]
    }

    type Taking = Pin<Box<dyn Future<Output = Result<Permit, NoSlot>>>>;

    /// A waiting request, in the order of arrival.
    struct Asker {
        owner: usize,
        count: usize,
        /// Slots that went to later requests.
        overtaken: usize,
        taking: Taking,
    }

    struct Model {
        slots: Arc<Slots>,
        cap: Option<usize>,
        waiting: Vec<Asker>,
        had: Vec<(usize, Permit)>,
    }

    impl Model {
        fn new(cap: Option<usize>) -> Self {
            Model { slots: Slots::new(MAX, cap, None), cap, waiting: Vec::new(), had: Vec::new() }
        }

        fn happens(&mut self, event: Event) {
            match event {
                Event::Asks { owner, count, waits } => {
                    let slots = Arc::clone(&self.slots);
                    let until = waits.then(|| after(Instant::now(), Duration::from_secs(1000)));
                    let name: SlotOwner = Some(owner.to_string().into());
                    let taking: Taking = Box::pin(async move { slots.take(&name, count, until).await });
                    self.waiting.push(Asker { owner, count, overtaken: 0, taking });
                }
                Event::Leaves(at) if !self.waiting.is_empty() => {
                    drop(self.waiting.remove(at % self.waiting.len()));
                }
                Event::GivesBack(at) if !self.had.is_empty() => {
                    drop(self.had.swap_remove(at % self.had.len()));
                }
                Event::Leaves(_) | Event::GivesBack(_) => {}
            }
            self.poll();
            self.check();
        }

        /// Until nothing changes: one request that is met may let another go on.
        fn poll(&mut self) {
            while self.poll_each() {}
        }

        fn poll_each(&mut self) -> bool {
            let (before, mut at) = (self.waiting.len(), 0);
            while at < self.waiting.len() {
                let asker = &mut self.waiting[at];
                match asker.taking.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => at += 1,
                    Poll::Ready(outcome) => {
                        let asker = self.waiting.remove(at);
                        let Ok(permit) = outcome else { continue };
                        assert_eq!(permit.count, asker.count);
                        for earlier in &mut self.waiting[..at] {
                            earlier.overtaken += asker.count;
                        }
                        self.had.push((asker.owner, permit));
                    }
                }
            }
            self.waiting.len() < before
        }

        /// None is lost and none too many; a waiting request is counted and has nothing.
        fn check(&self) {
            let taken: usize = self.had.iter().map(|(_, permit)| permit.count).sum();
            assert!(taken <= MAX);
            assert_eq!(self.slots.counts(), SlotCounts { active: taken, waiting: self.waiting.len() });
            for owner in 0..3 {
                let own = self.had.iter().filter(|(other, _)| *other == owner);
                assert!(own.map(|(_, permit)| permit.count).sum::<usize>() <= self.cap.unwrap_or(MAX));
            }
        }

        /// No request is overtaken too often, and a slot is kept free only for one that was overtaken
        /// often enough.
        fn check_fairness(&self) {
            let free = MAX - self.slots.counts().active;
            for (place, asker) in self.waiting.iter().enumerate() {
                assert!(asker.overtaken <= asker.count, "{} by {}", asker.count, asker.overtaken);
                let kept_from = asker.count <= free;
                let mut earlier = self.waiting[..place].iter();
                assert!(
                    !kept_from || earlier.any(|other| other.overtaken + asker.count > other.count),
                    "{} waits, and {free} are free",
                    asker.count
                );
            }
        }

        /// Every request is met as long as slots are given back.
        fn ends(mut self) {
            while !self.waiting.is_empty() {
                assert!(!self.had.is_empty(), "{} are left waiting", self.waiting.len());
                self.happens(Event::GivesBack(0));
            }
            self.had.clear();
            assert_eq!(self.slots.counts(), SlotCounts { active: 0, waiting: 0 });
            assert!(self.slots.state.lock().owners.is_empty());
        }
    }

    fn under_a_clock(test: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(async { test() });
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 2000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn one_owner_is_served_in_order_but_for_a_bounded_overtaking(
            events in prop::collection::vec(event(1, MAX), 0..120),
        ) {
            under_a_clock(|| {
                let mut model = Model::new(None);
                for event in events {
                    model.happens(event);
                    model.check_fairness();
                }
                model.ends();
            });
        }

        #[test]
        fn many_owners_with_caps_lose_no_slot_and_are_all_served(
            events in prop::collection::vec(event(3, 4), 0..120),
        ) {
            under_a_clock(|| {
                let mut model = Model::new(Some(4));
                events.into_iter().for_each(|event| model.happens(event));
                model.ends();
            });
        }
    }
}
