//! The state of the simulated Fleet: its instances, their create requests, and the clock.
//!
//! Invariant: an instance is counted from the moment its create was accepted until it is ended, whether or
//! not its client received it; its listener ends with it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::SimulatedClock;
use crate::fault::{Effect, Fault, FaultRegistry};
use crate::instance::SimulatedInstance;
use crate::log::RequestLog;
use crate::options::SimulatorOptions;
use crate::view::{InstanceStatus, InstanceView};

/// Instances that are known, those that have stopped among them.
const MAX_INSTANCES: usize = 10_000;

/// The state that the control plane and the instances share.
pub(crate) struct SimulatorState {
    pub(crate) options: SimulatorOptions,
    pub(crate) clock: SimulatedClock,
    pub(crate) faults: FaultRegistry,
    pub(crate) log: RequestLog,
    table: Mutex<InstanceTable>,
    ended: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Default)]
struct InstanceTable {
    instances: Vec<Arc<SimulatedInstance>>,
    /// Which instance a team's request id made.
    requests: HashMap<(String, String), String>,
    created: u64,
}

impl InstanceTable {
    /// Forgets the instance that stopped first, and its request, once too many are known.
    fn forget_oldest(&mut self, now: Duration) {
        if self.instances.len() <= MAX_INSTANCES {
            return;
        }
        if let Some(oldest) = self.instances.iter().position(|one| one.status(now) == InstanceStatus::Stopped)
        {
            let forgotten = self.instances.remove(oldest);
            self.requests.retain(|_, id| *id != forgotten.id);
        }
    }
}

/// The result of a create request.
pub(crate) enum CreateOutcome {
    /// An instance was made.
    Created(Arc<SimulatedInstance>),
    /// That request made one before: this.
    Duplicate(String),
    /// The team has that many already.
    LimitReached(usize),
}

impl SimulatorState {
    /// With a task that ends expired instances.
    pub(crate) fn new(options: SimulatorOptions) -> Arc<Self> {
        let simulator = Arc::new(SimulatorState {
            clock: SimulatedClock::new(),
            faults: FaultRegistry::default(),
            log: RequestLog::default(),
            table: Mutex::default(),
            ended: CancellationToken::new(),
            tasks: TaskTracker::new(),
            options,
        });
        for fault in &simulator.options.faults {
            simulator.faults.add(fault.clone());
        }
        let reaped = Arc::clone(&simulator);
        simulator.tasks.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = reaped.ended.cancelled() => return,
                    () = reaped.clock.sleep_until(|| reaped.end_expired()) => {}
                }
            }
        });
        simulator
    }

    /// Makes an instance, unless the request made one before or the team has too many. `make` is given the
    /// id.
    pub(crate) fn create(
        &self,
        team: &str,
        request_id: Option<&str>,
        make: impl FnOnce(String) -> io::Result<Arc<SimulatedInstance>>,
    ) -> io::Result<CreateOutcome> {
        let mut table = self.table.lock();
        // Anything made from here on would not be ended.
        if self.ended.is_cancelled() {
            return Err(io::Error::other("the simulator has ended"));
        }
        let key = request_id.map(|id| (team.to_owned(), id.to_owned()));
        if let Some(made) = key.as_ref().and_then(|key| table.requests.get(key)) {
            return Ok(CreateOutcome::Duplicate(made.clone()));
        }
        let now = self.clock.now();
        let held = table
            .instances
            .iter()
            .filter(|one| one.team == team && one.status(now) != InstanceStatus::Stopped);
        let held = held.count();
        if held >= self.options.instance_limit {
            return Ok(CreateOutcome::LimitReached(held));
        }
        let id = instance_id(self.options.seed, table.created);
        table.created += 1;
        let instance = make(id)?;
        if let Some(key) = key {
            table.requests.insert(key, instance.id.clone());
        }
        table.instances.push(Arc::clone(&instance));
        table.forget_oldest(now);
        // The reaper must know when its time will be over.
        self.clock.wake_sleepers();
        Ok(CreateOutcome::Created(instance))
    }

    /// A team's instance.
    pub(crate) fn instance(&self, team: &str, id: &str) -> Option<Arc<SimulatedInstance>> {
        self.table.lock().instances.iter().find(|one| one.team == team && one.id == id).cloned()
    }

    /// A team's instances, oldest first.
    pub(crate) fn of_team(&self, team: &str) -> Vec<Arc<SimulatedInstance>> {
        self.table.lock().instances.iter().filter(|one| one.team == team).cloned().collect()
    }

    pub(crate) fn views(&self) -> Vec<InstanceView> {
        let now = self.clock.now();
        self.all().iter().map(|instance| instance.view(now)).collect()
    }

    pub(crate) fn inject(&self, fault: Fault) {
        let refuse = *fault.effect() == Effect::Refuse;
        self.faults.add(fault);
        let listening = |one: &&Arc<SimulatedInstance>| one.is_listening();
        for instance in self.all().iter().filter(listening) {
            if refuse && self.faults.take_refusal() {
                instance.stop_listening();
            }
        }
    }

    pub(crate) fn expire(&self, id: &str) -> bool {
        let found = self.all().into_iter().find(|one| one.id == id);
        found.is_some_and(|instance| instance.end(self.clock.now()))
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.clock.advance(time);
        self.end_expired();
    }

    /// Ends everything and waits for that.
    pub(crate) async fn close(&self) {
        self.abort();
        for instance in self.all() {
            instance.close().await;
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

    fn all(&self) -> Vec<Arc<SimulatedInstance>> {
        self.table.lock().instances.clone()
    }

    /// Ends expired instances; returns when the next one expires.
    fn end_expired(&self) -> Option<Duration> {
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

/// Twelve hexadecimal digits: a bijection of the count (SplitMix64's mixing), so no two are alike but by rare
/// chance.
fn instance_id(seed: u64, count: u64) -> String {
    let mut mixed = seed.wrapping_add(count.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:012x}", (mixed ^ (mixed >> 31)) >> 16)
}
