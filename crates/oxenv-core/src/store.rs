//! The store of sessions: bounded, with leases, drained at the end.
//!
//! Invariant: a slot is taken before an environment is made and freed exactly once, by the drop of
//! the [`Slot`](crate::registry::Slot) that its session holds, on every path: close, lease, panic, failed
//! boot, drain.

mod copies;
mod making;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use oxenv_wire::{ErrorCode, preview};
use parking_lot::RwLock;

use crate::code::{CodeEngine, CodeLimits};
use crate::end_reason::EndReason;
use crate::failure::Failure;
use crate::idempotency::{InFlightLimit, ReplyCache};
use crate::observe::Observer;
use crate::record::Recorder;
use crate::registry::Registry;
use crate::session::{CodeSetup, Hooks, Session, SessionOptions};
use crate::slots::{SlotCounts, Slots};
use crate::snapshot::SnapshotKey;
use crate::snapshot_room::SnapshotRoom;
use crate::spec::{EnvironmentFactory, EnvironmentSpec};

pub use copies::{OpenKey, SessionIds, SessionSource};

/// Requests with a key that make sessions and may run at once.
const MAX_KEYED: InFlightLimit = InFlightLimit { requests: 16_384, bytes: 256 << 20 };

/// What bounds a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Sessions at once, the default session aside. Default 256.
    pub max_sessions: usize,
    /// Sessions at once of one owner; absent (the default): as many as there are slots.
    pub max_per_owner: Option<usize>,
    /// Bytes of memory that the process may use before no more sessions are made; absent (the
    /// default): any.
    pub memory: Option<u64>,
    /// How long a request waits for a free slot, or for all that it asks for. Default 20 s, which is well
    /// inside the patience of stock clients.
    pub queue: Duration,
    /// Lease of a session without a socket. Default 15 minutes.
    pub idle: Duration,
    /// Lease of the default session; absent (the default): none.
    pub default_idle: Option<Duration>,
    /// Deadline for making an environment, or all that one request copies. Default 60 s.
    pub boot: Duration,
    /// Deadline of a reset. Default 60 s.
    pub reset: Duration,
    /// Most bytes of a session's state that a snapshot holds. Default 256 MiB.
    pub snapshot: u64,
    /// The server's seed, from which sessions' seeds come; absent: random.
    pub seed: Option<u64>,
}

impl Default for StoreLimits {
    fn default() -> Self {
        StoreLimits {
            max_sessions: 256,
            max_per_owner: None,
            memory: None,
            queue: Duration::from_secs(20),
            idle: Duration::from_secs(15 * 60),
            default_idle: None,
            boot: Duration::from_secs(60),
            reset: Duration::from_secs(60),
            snapshot: SnapshotRoom::default().bytes,
            seed: None,
        }
    }
}

/// A store in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatus {
    /// Sessions that take a slot.
    pub active: usize,
    /// Slots.
    pub max: usize,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// Abandoned environment calls that have not come back.
    pub stuck: usize,
    /// Whether the store takes no new sessions.
    pub draining: bool,
}

/// All sessions of one environment.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::{
///     Mount, NativeToolset, ResetOptions, SessionOptions, SessionRequest, SessionStore, StoreLimits,
///     tool_environment,
/// };
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Add {
///     a: i64,
///     b: i64,
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let math = NativeToolset::new("math").tool("add", "Adds.", |add: Add| Ok(add.a + add.b));
/// let factory = tool_environment("math", "Adds numbers.", vec![Mount::new(Arc::new(math))], None);
/// let store = SessionStore::new(factory, StoreLimits::default());
///
/// let session = store.create(SessionOptions::default()).await.unwrap();
/// let options = ResetOptions { seed: Some(7), ..ResetOptions::default() };
/// let reset = session.submit(SessionRequest::reset(options)).await;
/// assert_eq!(reset.seq, 1);
/// assert!(session.state().await.unwrap().contains("\"step_count\":0"));
///
/// // A copy goes on from the same state.
/// let saved = store.snapshot(&session).await.unwrap();
/// let copy = store.restore(saved, SessionOptions::default()).await.unwrap();
/// assert_eq!(copy.info().epoch, session.info().epoch);
/// # });
/// ```
pub struct SessionStore {
    factory: Arc<dyn EnvironmentFactory>,
    limits: StoreLimits,
    seed: u64,
    created: AtomicU64,
    draining: AtomicBool,
    stuck: Arc<AtomicUsize>,
    registry: Arc<Registry<Session>>,
    slots: Arc<Slots>,
    hooks: Hooks,
    snapshot_key: SnapshotKey,
    /// How sessions run programs; absent: they run none.
    code: Option<CodeSetup>,
    /// What keyed requests have made.
    made: ReplyCache<SessionIds>,
    default: RwLock<Option<Arc<Session>>>,
    /// Held while a default session is made, so that there is only ever one.
    making_default: tokio::sync::Mutex<()>,
}

impl SessionStore {
    /// A store of environments that `factory` makes.
    #[must_use]
    pub fn new(factory: Arc<dyn EnvironmentFactory>, limits: StoreLimits) -> Self {
        let seed =
            limits.seed.unwrap_or_else(|| u64::try_from(uuid::Uuid::new_v4().as_u128() >> 75).unwrap_or(0));
        SessionStore {
            factory,
            limits,
            seed,
            created: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            stuck: Arc::default(),
            registry: Arc::default(),
            slots: Slots::new(limits.max_sessions, limits.max_per_owner, limits.memory),
            hooks: Hooks::default(),
            snapshot_key: SnapshotKey::random(),
            code: None,
            made: ReplyCache::new(MAX_KEYED),
            default: RwLock::new(None),
            making_default: tokio::sync::Mutex::new(()),
        }
    }

    /// Records what every session does from now on.
    #[must_use]
    pub fn with_recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.hooks.recorder = Some(recorder);
        self
    }

    /// Counts and measures what every session does from now on.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.hooks.observer = Some(observer);
        self
    }

    /// Makes snapshots with that key, and restores only what was made with it. Default: a random one, so
    /// that no other store restores what this one has saved.
    #[must_use]
    pub fn with_snapshot_key(mut self, key: SnapshotKey) -> Self {
        self.snapshot_key = key;
        self
    }

    /// Lets sessions run programs, each with these limits. Default: code actions are refused.
    #[must_use]
    pub fn with_code_engine(mut self, engine: Arc<dyn CodeEngine>, limits: CodeLimits) -> Self {
        self.code = Some(CodeSetup { engine, limits });
        self
    }

    /// The observer that measures what its sessions do, if there is one.
    #[must_use]
    pub fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.hooks.observer.as_ref()
    }

    /// What the environment declares.
    #[must_use]
    pub fn spec(&self) -> &Arc<EnvironmentSpec> {
        self.factory.spec()
    }

    /// The factory.
    #[must_use]
    pub fn factory(&self) -> &Arc<dyn EnvironmentFactory> {
        &self.factory
    }

    /// Makes a session, after waiting for a slot if all are taken. Dropping the future leaves the
    /// queue.
    ///
    /// # Errors
    /// [`ErrorCode::CapacityReached`], [`ErrorCode::Draining`], [`ErrorCode::FactoryError`].
    pub async fn create(&self, options: SessionOptions) -> Result<Arc<Session>, Failure> {
        let created = async {
            let slot = self.take_slot(&options).await?;
            self.boot(slot, options).await
        };
        let created = created.await;
        self.observe_refusal(&created);
        created
    }

    /// Reports a session that could not be made to the observer.
    fn observe_refusal(&self, made: &Result<Arc<Session>, Failure>) {
        if let (Err(failure), Some(observer)) = (made, &self.hooks.observer) {
            observer.refused(failure);
        }
    }

    /// The session of that id.
    ///
    /// # Errors
    /// [`ErrorCode::SessionNotFound`], or [`ErrorCode::SessionEnded`] with the reason.
    pub fn get(&self, id: &str) -> Result<Arc<Session>, Failure> {
        if let Some(session) = self.registry.get(id) {
            return Ok(session);
        }
        let reason = self.registry.end_reason(id);
        Err(match reason {
            Some(reason) => Failure::new(
                ErrorCode::SessionEnded,
                format!("session {id} has ended: {}", end_message(&reason)),
            ),
            None => Failure::new(ErrorCode::SessionNotFound, format!("Unknown session_id: {}", preview(id))),
        })
    }

    /// The sessions that take a slot, in no order.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Session>> {
        self.registry.list()
    }

    /// The session of requests that name none, made at first use. A default session that has ended
    /// stays ended, so that a step on it fails, until `for_reset` asks for a new one.
    ///
    /// # Errors
    /// [`ErrorCode::Draining`], [`ErrorCode::FactoryError`].
    pub async fn default_session(&self, for_reset: bool) -> Result<Arc<Session>, Failure> {
        if let Some(session) = self.usable_default(for_reset) {
            return Ok(session);
        }
        let _making = self.making_default.lock().await;
        if let Some(session) = self.usable_default(for_reset) {
            return Ok(session);
        }
        self.refuse_if_draining()?;
        let session = self.boot(self.slot(None, Duration::ZERO), SessionOptions::default()).await?;
        *self.default.write() = Some(Arc::clone(&session));
        Ok(session)
    }

    fn usable_default(&self, for_reset: bool) -> Option<Arc<Session>> {
        let default = self.default.read();
        default.as_ref().filter(|session| !for_reset || session.ended().is_none()).map(Arc::clone)
    }

    /// The store in numbers.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        let SlotCounts { active, waiting } = self.slots.counts();
        StoreStatus {
            active,
            waiting,
            max: self.limits.max_sessions,
            stuck: self.stuck.load(Ordering::Acquire),
            draining: self.draining.load(Ordering::Acquire),
        }
    }

    /// Ends sessions whose lease has run out, for as long as the future is polled.
    pub async fn reap(&self) {
        let shortest = self.limits.default_idle.map_or(self.limits.idle, |idle| idle.min(self.limits.idle));
        let every = (shortest / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for session in self.list() {
                if session.lease().expired() {
                    tracing::info!(session = %session.id(), "session expired");
                    session.end(EndReason::Expired);
                }
            }
        }
    }

    /// Takes no new sessions from now on; requests that wait for a slot fail at once.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.slots.close();
    }

    /// Ends every session.
    pub fn end_all(&self, reason: &EndReason) {
        for session in self.list() {
            session.end(reason.clone());
        }
    }
}

fn end_message(reason: &EndReason) -> String {
    match reason {
        EndReason::Closed => "it was closed".to_owned(),
        EndReason::Expired => "its lease ran out".to_owned(),
        EndReason::Failed(panic) => format!("its environment panicked: {panic}"),
        EndReason::Drained => "the server is shutting down".to_owned(),
    }
}
