//! What all instances of one upstream share: its lists, its pool of warm instances, its discovery.
//!
//! Invariant: the lists that were known last stay offered, whatever happens to the instances.

use oxenv_wire::after;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use oxenv_core::Scope;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::SessionContext;
use super::instance::Instance;
use super::launch::{LaunchContext, LaunchSpec};
use super::watchers::WatchedHandles;
use crate::backoff::Backoff;
use crate::client::{Lists, UpstreamError};
use crate::manifest::{Manifest, ToolsetEntry};

/// The pause before a discovery that failed may be tried again.
const REDISCOVERY_PAUSE: Duration = Duration::from_secs(5);

/// What an instance is started for. The two kinds never wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartKind {
    /// A call.
    Wanted,
    /// Discovery, restarts, warming.
    Background,
}

/// How many starts of each kind may run at once.
pub(super) struct StartLimits {
    wanted: Semaphore,
    background: Semaphore,
}

/// One upstream.
pub(super) struct Upstream {
    pub(super) entry: ToolsetEntry,
    manifest: Arc<Manifest>,
    launch_spec: LaunchSpec,
    launch: Arc<LaunchContext>,
    start_limits: Arc<StartLimits>,
    known: watch::Sender<KnownLists>,
    /// How many instances are kept warm; 0 where none can be.
    warm: usize,
    pool: Mutex<Vec<Instance>>,
    refilling: AtomicBool,
    discovery: Mutex<Discovery>,
    pub(super) handles: WatchedHandles,
    /// The scope of its instances, once that is known.
    scope: OnceLock<Scope>,
    /// Whether its server gets the seed of the episode, and so serves no other.
    pub(super) follows_seed: bool,
    /// Whether its server of the next episode can run beside that of the present one. One that runs in the
    /// workspace cannot: a reset makes that anew.
    pub(super) starts_ahead: bool,
}

/// The state of an upstream.
#[derive(Default)]
struct KnownLists {
    lists: Option<Lists>,
    /// Why it could not be started or listed when that was last tried.
    problem: Option<String>,
    /// Whether its first lists came, or failed to.
    settled: bool,
    /// How many discoveries have ended.
    discoveries: u64,
}

#[derive(Clone, Copy)]
enum Discovery {
    /// May run from then on.
    Due(Option<Instant>),
    /// Runs again at that time.
    Waiting(Instant),
    Running,
}

impl StartLimits {
    pub(super) fn new(concurrency: usize) -> Self {
        let permits = concurrency.clamp(1, Semaphore::MAX_PERMITS);
        StartLimits { wanted: Semaphore::new(permits), background: Semaphore::new(permits) }
    }

    async fn permit(&self, kind: StartKind) -> Result<SemaphorePermit<'_>, String> {
        let limit = match kind {
            StartKind::Wanted => &self.wanted,
            StartKind::Background => &self.background,
        };
        limit.acquire().await.map_err(|_| "the server is closing".to_owned())
    }
}

impl Upstream {
    pub(super) fn new(
        entry: ToolsetEntry,
        scope: Option<Scope>,
        manifest: Arc<Manifest>,
        launch: Arc<LaunchContext>,
        start_limits: Arc<StartLimits>,
        warm: usize,
    ) -> Arc<Self> {
        let launch_spec = LaunchSpec::new(launch.clone(), entry.clone());
        let warmable = launch_spec.is_process() && launch_spec.is_portable() && entry.scope == Scope::Session;
        let follows_seed = entry.follows_seed();
        let starts_ahead = follows_seed && !launch_spec.runs_in_workspace();
        Arc::new(Upstream {
            entry,
            manifest,
            launch_spec,
            launch,
            start_limits,
            known: watch::Sender::new(KnownLists::default()),
            warm: if warmable { warm } else { 0 },
            pool: Mutex::new(Vec::new()),
            refilling: AtomicBool::new(false),
            discovery: Mutex::new(Discovery::Due(None)),
            handles: WatchedHandles::default(),
            scope: scope.map_or_else(OnceLock::new, OnceLock::from),
            follows_seed,
            starts_ahead,
        })
    }

    /// Runs a task that ends by itself when the manager does.
    pub(super) fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.launch.tracker.spawn(task);
    }

    /// Runs a task that ends with the manager.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.launch.stop.clone();
        self.track(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Gives an instance: a warm one if there is one, else a new one.
    ///
    /// # Errors
    /// Why there is no instance.
    pub(super) async fn get_instance(
        self: &Arc<Self>,
        place: Option<&SessionContext>,
        kind: StartKind,
    ) -> Result<Instance, String> {
        if let (Some(place), Some(instance)) = (place, self.take_warm()) {
            self.refill();
            instance.counts_in(&place.running);
            self.launch_spec.settle(&instance, place).await?;
            return Ok(instance);
        }
        let _permit = self.start_limits.permit(kind).await?;
        let instance = self.launch_spec.make(place, self.known()).await?;
        if place.is_some() {
            self.refill();
        }
        Ok(instance)
    }

    fn take_warm(&self) -> Option<Instance> {
        let mut pool = self.pool.lock();
        while let Some(instance) = pool.pop() {
            if !instance.is_over() {
                return Some(instance);
            }
        }
        None
    }

    /// Fills the pool in the background.
    fn refill(self: &Arc<Self>) {
        if self.pool.lock().len() >= self.warm || self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let upstream = self.clone();
        self.spawn(async move {
            while upstream.pool.lock().len() < upstream.warm {
                let Ok(instance) = upstream.get_instance(None, StartKind::Background).await else { break };
                upstream.pool.lock().push(instance);
            }
            upstream.refilling.store(false, Ordering::Release);
        });
    }

    /// Learns in the background what it offers, unless that is known, under way, or failed just now. Only
    /// for upstreams of sessions: the shared instance of another reports by itself.
    pub(super) fn discover(self: &Arc<Self>) {
        {
            let mut discovery = self.discovery.lock();
            let due = matches!(*discovery, Discovery::Due(at) if at.is_none_or(|at| at <= Instant::now()));
            if !due || self.known().is_some() {
                return;
            }
            *discovery = Discovery::Running;
        }
        let upstream = self.clone();
        self.spawn(async move { upstream.discover_until_known().await });
    }

    /// Asks it what it offers: once, or, where it is not known whether all sessions share it, until that is
    /// known.
    async fn discover_until_known(&self) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(why) = self.discover_once().await {
                self.failed(&why);
            }
            let again = self.scope().is_none();
            let due = after(Instant::now(), if again { backoff.next_pause() } else { REDISCOVERY_PAUSE });
            // No other task begins to ask meanwhile, so only one asks at any time.
            *self.discovery.lock() = if again { Discovery::Waiting(due) } else { Discovery::Due(Some(due)) };
            self.known.send_modify(|known| known.discoveries += 1);
            if !again {
                return;
            }
            sleep_until(due).await;
            *self.discovery.lock() = Discovery::Running;
        }
    }

    async fn discover_once(&self) -> Result<(), String> {
        // Held until the instance is of use or gone, so that servers that are only asked do not pile up.
        let _permit = self.start_limits.permit(StartKind::Background).await?;
        let instance = self.launch_spec.make(None, None).await?;
        let lists = instance.first_lists().await?;
        self.find_scope(&instance);
        self.set_lists(&lists);
        let spare = {
            let mut pool = self.pool.lock();
            if pool.len() < self.warm {
                pool.push(instance);
                None
            } else {
                Some(instance)
            }
        };
        if let Some(instance) = spare {
            instance.end().await;
        }
        Ok(())
    }

    /// The scope of its instances; `None` while that is not known.
    pub(super) fn scope(&self) -> Option<Scope> {
        self.scope.get().copied()
    }

    /// Waits until the scope of its instances is known.
    ///
    /// # Errors
    /// Why that cannot be found out.
    pub(super) async fn scope_found(self: &Arc<Self>) -> Result<Scope, UpstreamError> {
        if let Some(scope) = self.scope() {
            return Ok(scope);
        }
        let seen = self.known.borrow().discoveries;
        self.discover();
        if self.is_discovering() {
            // The sender is this very upstream's.
            let _ = self.known.subscribe().wait_for(|known| known.discoveries > seen).await;
        }
        self.scope().ok_or_else(|| {
            UpstreamError::Unavailable(self.problem().unwrap_or_else(|| "it cannot be reached".to_owned()))
        })
    }

    /// Waits until the scope of its instances is known, however long that takes.
    pub(super) async fn scope_known(&self) -> Option<Scope> {
        // The sender is this very upstream's.
        let _ = self.known.subscribe().wait_for(|_| self.scope().is_some()).await;
        self.scope()
    }

    /// Takes the scope from an instance, unless it is known.
    fn find_scope(&self, instance: &Instance) {
        let scope = if instance.has_session() { Scope::Session } else { Scope::Server };
        if self.scope.set(scope).is_err() {
            return;
        }
        let toolset = &self.entry.name;
        match scope {
            Scope::Session => {
                tracing::info!(%toolset, "scope: session, because its server gives sessions of its own");
            }
            Scope::Server => {
                tracing::info!(%toolset, "scope: server, because its server gives no sessions: all share it");
            }
        }
    }

    /// Takes lists as those that it offers.
    pub(super) fn set_lists(&self, lists: &Lists) {
        let mut changed = false;
        let mut first = false;
        self.known.send_modify(|known| {
            changed = !known.lists.as_ref().is_some_and(|old| old.is(lists));
            first = known.lists.is_none();
            known.lists = Some(lists.clone());
            known.problem = None;
        });
        if first {
            let names: Vec<&str> = lists.tools.iter().map(|tool| &*tool.name).collect();
            for problem in self.manifest.check_tools(&self.entry, &names) {
                tracing::warn!(toolset = %self.entry.name, "{problem}");
            }
        }
        if changed {
            self.handles.bump();
        }
        // Last, so that callers that waited for the first list find toolboxes that know of it.
        self.known.send_modify(|known| known.settled = true);
    }

    /// Takes note that a start failed.
    pub(super) fn failed(&self, why: &str) {
        tracing::warn!(toolset = %self.entry.name, "cannot be started: {why}");
        self.known.send_modify(|known| {
            known.problem = Some(why.to_owned());
            known.settled = true;
        });
    }

    /// Notes that a start succeeded.
    pub(super) fn works(&self) {
        self.known.send_if_modified(|known| known.problem.take().is_some());
    }

    /// The lists as they were known last.
    pub(super) fn known(&self) -> Option<Lists> {
        self.known.borrow().lists.clone()
    }

    /// Why it could not be started when that was last tried.
    pub(super) fn problem(&self) -> Option<String> {
        self.known.borrow().problem.clone()
    }

    /// Whether a discovery runs, or is about to.
    pub(super) fn is_discovering(&self) -> bool {
        match *self.discovery.lock() {
            Discovery::Due(_) => false,
            Discovery::Waiting(due) => due <= Instant::now(),
            Discovery::Running => true,
        }
    }

    /// Whether its first list is known to its watchers, or known not to come.
    pub(super) fn is_settled(&self) -> bool {
        self.known.borrow().settled
    }

    /// Waits until its first lists came or failed to.
    pub(super) async fn settled(&self) {
        // The sender is this very upstream's.
        let _ = self.known.subscribe().wait_for(|known| known.settled).await;
    }

    /// Ends the warm instances.
    pub(super) fn drain(&self) {
        self.pool.lock().clear();
    }
}
