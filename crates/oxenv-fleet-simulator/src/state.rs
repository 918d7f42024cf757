//! What the simulated Fleet knows: its instances, who made them, and the time.
//!
//! Invariant: an instance is counted from the moment its create was accepted until it is ended, whether or not anybody
//! heard of it; its listener ends with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::fault::{Effect, Fault, FaultBook};
use crate::instance::Instance;
use crate::log::Log;
use crate::options::SimulatorOptions;
use crate::simulator::{InstanceView, Status};

/// Instances that are known, those that have stopped among them.
const MAX_INSTANCES: usize = 10_000;

/// What the control plane and the instances share.
pub(crate) struct World {
    pub(crate) options: SimulatorOptions,
    pub(crate) clock: Clock,
    pub(crate) faults: FaultBook,
    pub(crate) log: Log,
    state: Mutex<State>,
    ended: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    instances: Vec<Arc<Instance>>,
    /// Which instance a team's request id made.
    claims: HashMap<(String, String), String>,
    made: u64,
}

impl State {
    /// Forgets the instance that stopped first, and its request, once too many are known.
    fn forget_oldest(&mut self, now: Duration) {
        if self.instances.len() <= MAX_INSTANCES {
            return;
        }
        if let Some(oldest) = self.instances.iter().position(|one| one.status(now) == Status::Stopped) {
            let forgotten = self.instances.remove(oldest);
            self.claims.retain(|_, id| *id != forgotten.id);
        }
    }
}

/// What became of a create.
pub(crate) enum Claim {
    /// An instance was made.
    Made(Arc<Instance>),
    /// That request made one before: this.
    Duplicate(String),
    /// The team has that many already.
    Full(usize),
}

impl World {
    /// With a task that ends instances whose time is over.
    pub(crate) fn new(options: SimulatorOptions) -> Arc<Self> {
        let world = Arc::new(World {
            clock: Clock::new(),
            faults: FaultBook::default(),
            log: Log::default(),
            state: Mutex::default(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            options,
        });
        for fault in &world.options.faults {
            world.faults.add(fault.clone());
        }
        let reaped = Arc::clone(&world);
        world.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = reaped.ended.cancelled() => return,
                    () = reaped.clock.sleep_until(|| reaped.reap()) => {}
                }
            }
        });
        world
    }

    /// Makes an instance, unless the request made one before or the team has too many. `make` is given the id.
    pub(crate) fn claim(
        &self,
        team: &str,
        request_id: Option<&str>,
        make: impl FnOnce(String) -> io::Result<Arc<Instance>>,
    ) -> io::Result<Claim> {
        let mut state = self.state.lock();
        // What is made from here on would not be ended.
        if self.ended.is_cancelled() {
            return Err(io::Error::other("the simulator has ended"));
        }
        let key = request_id.map(|id| (team.to_owned(), id.to_owned()));
        if let Some(made) = key.as_ref().and_then(|key| state.claims.get(key)) {
            return Ok(Claim::Duplicate(made.clone()));
        }
        let now = self.clock.now();
        let held =
            state.instances.iter().filter(|one| one.team == team && one.status(now) != Status::Stopped);
        let held = held.count();
        if held >= self.options.instance_limit {
            return Ok(Claim::Full(held));
        }
        let id = id_of(self.options.seed, state.made);
        state.made += 1;
        let instance = make(id)?;
        if let Some(key) = key {
            state.claims.insert(key, instance.id.clone());
        }
        state.instances.push(Arc::clone(&instance));
        state.forget_oldest(now);
        // The reaper must know when its time will be over.
        self.clock.touch();
        Ok(Claim::Made(instance))
    }

    /// A team's instance.
    pub(crate) fn instance(&self, team: &str, id: &str) -> Option<Arc<Instance>> {
        self.state.lock().instances.iter().find(|one| one.team == team && one.id == id).cloned()
    }

    /// A team's instances, oldest first.
    pub(crate) fn of_team(&self, team: &str) -> Vec<Arc<Instance>> {
        self.state.lock().instances.iter().filter(|one| one.team == team).cloned().collect()
    }

    pub(crate) fn views(&self) -> Vec<InstanceView> {
        let now = self.clock.now();
        self.all().iter().map(|instance| instance.view(now)).collect()
    }

    pub(crate) fn inject(&self, fault: Fault) {
        let refuse = *fault.effect() == Effect::Refuse;
        self.faults.add(fault);
        let listening = |one: &&Arc<Instance>| one.listens();
        for instance in self.all().iter().filter(listening) {
            if refuse && self.faults.refuses() {
                instance.refuse();
            }
        }
    }

    pub(crate) fn expire(&self, id: &str) -> bool {
        let found = self.all().into_iter().find(|one| one.id == id);
        found.is_some_and(|instance| instance.end(self.clock.now()))
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.clock.advance(time);
        self.reap();
    }

    /// Ends everything and waits for that.
    pub(crate) async fn close(&self) {
        self.abort();
        for instance in self.all() {
            instance.closed().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends everything.
    pub(crate) fn abort(&self) {
        self.ended.cancel();
        let now = self.clock.now();
        for instance in self.all() {
            instance.end(now);
        }
    }

    fn all(&self) -> Vec<Arc<Instance>> {
        self.state.lock().instances.clone()
    }

    /// Ends those whose time is over; gives when the next one's will be.
    fn reap(&self) -> Option<Duration> {
        let now = self.clock.now();
        let mut next = None;
        for instance in self.all() {
            match instance.deadline() {
                Some(deadline) if deadline <= now => _ = instance.end(now),
                Some(deadline) => next = Some(next.map_or(deadline, |next: Duration| next.min(deadline))),
                None => {}
            }
        }
        next
    }
}

/// Twelve hexadecimal digits: a bijection of the count (SplitMix64's mixing), so no two are alike but by rare chance.
fn id_of(seed: u64, count: u64) -> String {
    let mut mixed = seed.wrapping_add(count.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:012x}", (mixed ^ (mixed >> 31)) >> 16)
}
