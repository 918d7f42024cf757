//! A session: one live environment, its history's counters, its lease.
//!
//! Invariant: a session is a cell with an async lock, not a thread. The holder of the lock is the
//! one step that runs; listing tools, the lease and the published state never wait for it. Once a
//! session has ended it never comes back: doors that own one make a new one.
//!
//! `session/submit.rs` is what doors call, `session/drive.rs` runs the environment's side of it.

mod agent;
mod calls;
mod code;
mod drive;
mod hold;
mod idempotency;
mod lease;
mod operation;
mod progress;
mod request;
mod run;
mod settle;
mod step_lock;
mod steps;
mod submit;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, SystemTime};

use oxenv_wire::SessionInfo;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::audit::utc_micros;
use crate::capabilities::ForkMode;
use crate::code::Interpreter;
use crate::end_reason::EndReason;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::idempotency::{InFlightLimit, ReplyCache};
use crate::observe::{Observer, TraceContext};
use crate::output_log::{Output, OutputLog};
use crate::record::{RecordEntry, RecordEvent, Recorder};
use crate::registry::Slot;
use crate::reply::StepReply;
use crate::slots::SlotOwner;
use crate::spec::{EnvironmentInstance, EnvironmentSpec};
use crate::toolbox::Toolbox;
use crate::workspace::Workspace;

pub(crate) use code::CodeSetup;
pub(crate) use hold::{Past, PausedSession};
pub use lease::Attachment;
pub(crate) use lease::{Lease, LeaseHold};
use progress::{Expected, Progress, WhyReset};
pub use request::{AgentCall, ResetOptions, SessionOperation, SessionRequest};

/// Requests of one session with a key or a number that may run at once.
const MAX_KEYED: InFlightLimit = InFlightLimit { requests: 1024, bytes: 64 << 20 };

/// The options of a new session.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Its seed; absent: derived from the server's.
    pub seed: Option<u64>,
    /// The id of its first episode; absent: a fresh UUID.
    pub episode_id: Option<String>,
    /// How long it lives without a socket and without a call; absent: the store's limit.
    pub lease: Option<Duration>,
    /// The owner's name: slots are shared out fairly among owners, and an owner may have a cap.
    /// Absent: no owner.
    pub owner: Option<Arc<str>>,
    /// How long to wait for a free slot, or for all requested slots; absent: the store's limit.
    pub queue: Option<Duration>,
}

/// One live environment and the counters of its history.
pub struct Session {
    id: String,
    seed: u64,
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
    /// Read while the environment is at work, so it is no part of the cell.
    output: Option<OutputLog>,
    cell: Arc<tokio::sync::Mutex<Cell>>,
    progress: Mutex<Progress>,
    lease: Lease,
    reset_deadline: Duration,
    stuck: Arc<AtomicUsize>,
    hooks: Hooks,
    /// How its programs run; absent: it runs none.
    code: Option<CodeSetup>,
    /// Whether what is done is kept for forks by replay.
    taped: bool,
    /// Read by agents' calls that overlap, written by an operation that needs the session for
    /// itself.
    presence: tokio::sync::RwLock<()>,
    /// How many hold it for writing, or wait for that.
    exclusive: AtomicUsize,
    /// How many of them expect a number.
    expecting: AtomicUsize,
    replies: ReplyCache<StepReply<'static>>,
    waited: Duration,
}

/// What records and measures what sessions do.
#[derive(Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) recorder: Option<Arc<dyn Recorder>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

impl Hooks {
    /// Where in a trace something is that begins now.
    fn place(&self, caller: Option<TraceContext>) -> Option<TraceContext> {
        self.observer.as_ref().map_or(caller, |observer| observer.begins(caller))
    }

    fn any(&self) -> bool {
        self.recorder.is_some() || self.observer.is_some()
    }
}

/// The parts that the store makes a session of.
pub(crate) struct NewSession {
    pub(crate) slot: Slot<Session>,
    pub(crate) spec: Arc<EnvironmentSpec>,
    pub(crate) seed: u64,
    pub(crate) instance: EnvironmentInstance,
    pub(crate) lease: Lease,
    pub(crate) reset_deadline: Duration,
    /// Counts environment calls that were abandoned and have not come back.
    pub(crate) stuck: Arc<AtomicUsize>,
    pub(crate) hooks: Hooks,
    pub(crate) code: Option<CodeSetup>,
    /// The variables of its programs, if it goes on from others.
    pub(crate) interpreter: Option<Box<dyn Interpreter>>,
    /// How long it waited for its slot.
    pub(crate) waited: Duration,
    /// Where its history begins, if not at nothing.
    pub(crate) past: Option<Past>,
}

struct Cell {
    /// Gone once the session has ended.
    environment: Option<Box<dyn Environment>>,
    /// What runs its programs: opened by the first of an episode.
    interpreter: Option<Box<dyn Interpreter>>,
    /// Deleted when the session has ended.
    workspace: Option<Arc<Workspace>>,
}

impl Drop for Cell {
    fn drop(&mut self) {
        drive::discard(self);
    }
}

impl Session {
    pub(crate) fn new(new: NewSession) -> Arc<Self> {
        let taped = new.spec.capabilities.fork == ForkMode::Replay
            || new.instance.toolbox.mounts().iter().any(|mount| mount.toolset.fork() == ForkMode::Replay);
        let past = new.past.unwrap_or_default();
        Arc::new(Session {
            id: new.slot.id().to_owned(),
            seed: new.seed,
            spec: new.spec,
            toolbox: new.instance.toolbox,
            output: new.instance.environment.output_log(),
            cell: Arc::new(tokio::sync::Mutex::new(Cell {
                environment: Some(new.instance.environment),
                interpreter: new.interpreter,
                workspace: new.instance.workspace,
            })),
            progress: Mutex::new(Progress {
                epoch: past.epoch,
                episode_id: past.episode_id.unwrap_or_else(fresh_id),
                seed: past.episode_seed.unwrap_or(new.seed),
                step_count: past.step_count,
                done: past.done,
                reward: past.reward,
                scores: past.scores,
                seq: 0,
                running: 0,
                end_recorded: false,
                reset_required: None,
                unknown_effect: None,
                ended: None,
                closing: false,
                token: CancellationToken::new(),
                published: None,
                slot: Some(new.slot),
                tape: taped.then_some(past.tape),
            }),
            lease: new.lease,
            reset_deadline: new.reset_deadline,
            stuck: new.stuck,
            hooks: new.hooks,
            code: new.code,
            taped,
            presence: tokio::sync::RwLock::new(()),
            exclusive: AtomicUsize::new(0),
            expecting: AtomicUsize::new(0),
            replies: ReplyCache::new(MAX_KEYED),
            waited: new.waited,
        })
    }

    /// The opaque id. It is not a credential.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the environment declares.
    #[must_use]
    pub fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    /// The session's tools. Never waits for a step.
    #[must_use]
    pub fn toolbox(&self) -> &Arc<Toolbox> {
        &self.toolbox
    }

    /// What the environment's processes wrote. Never waits for a step.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] if the environment has no processes.
    pub fn output(&self) -> Result<Output, Failure> {
        self.progress.lock().alive()?;
        let log = self.output.as_ref().ok_or_else(|| {
            let name = &self.spec.name;
            Failure::unsupported(format!(
                "environment '{name}' has no processes of its own, so nothing is kept of what they write"
            ))
        })?;
        Ok(log.read())
    }

    /// Why the session ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.progress.lock().ended.clone()
    }

    /// The session in numbers. Never waits for a step.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        let progress = self.progress.lock();
        SessionInfo {
            session_id: self.id.clone(),
            environment: self.spec.name.clone(),
            seed: self.seed,
            epoch: progress.epoch,
            episode_id: progress.episode_id.clone(),
            step_count: progress.step_count,
            done: progress.done,
            episode_reward: progress.reward,
            episode_scores: progress
                .scores
                .as_deref()
                .and_then(|scores| serde_json::from_str(scores.get()).ok()),
            seq: progress.seq,
            waited_ms: u64::try_from(self.waited.as_millis()).unwrap_or(u64::MAX),
            attached: u32::from(self.lease.is_attached()),
            idle_ms: u64::try_from(self.lease.idle().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Ends the session: cancels what runs, frees the slot, drops the environment. The first reason
    /// stays; ending twice is nothing.
    pub fn end(&self, reason: EndReason) {
        let slot = {
            let mut progress = self.progress.lock();
            if progress.ended.is_some() {
                return;
            }
            tracing::debug!(session = %self.id, ?reason, "session ended");
            if let Some(slot) = &mut progress.slot {
                slot.retire(reason.clone());
            }
            if let Some(observer) = &self.hooks.observer {
                observer.ended(&reason);
            }
            progress.ended = Some(reason);
            progress.token.cancel();
            self.record_end(&mut progress);
            progress.slot.take()
        };
        drop(slot);
        self.toolbox.close();
        let cell = Arc::clone(&self.cell);
        match (cell.try_lock_owned(), tokio::runtime::Handle::try_current()) {
            (Ok(mut cell), _) => drive::discard(&mut cell),
            // A call still runs; it has just been cancelled. A caller may keep the ended session to
            // report why it ended, so the environment must not live as long as that.
            (Err(_), Ok(runtime)) => {
                let cell = Arc::clone(&self.cell);
                runtime.spawn(async move { drive::discard(&mut *cell.lock_owned().await) });
            }
            // Outside a runtime nothing waits: it goes with the last reference to the session.
            (Err(_), Err(_)) => {}
        }
    }

    /// Ends the session now, or as soon as its socket goes away if one is attached. True if now.
    pub fn close(&self) -> bool {
        if self.lease.is_attached() {
            self.progress.lock().closing = true;
            return false;
        }
        self.end(EndReason::Closed);
        true
    }

    /// Takes the session for a socket; a socket that had it is asked to leave. The session's lease
    /// does not run while the attachment lives.
    #[must_use]
    pub fn attach(self: &Arc<Self>) -> Attachment {
        Attachment::new(self)
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Keeps the lease from running until the guard is dropped.
    pub(crate) fn busy(&self) -> LeaseHold<'_> {
        self.lease.busy()
    }

    /// The owner of the session's slot; absent if it has none.
    pub(crate) fn slot_owner(&self) -> Option<SlotOwner> {
        self.progress.lock().slot.as_ref().and_then(Slot::owner)
    }

    /// The number of the last thing that the session did: resets, steps and agents' calls are counted
    /// from 1, over all epochs.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.progress.lock().seq
    }

    /// Marks the session as used, so that its lease begins anew.
    pub fn keep_alive(&self) {
        drop(self.lease.busy());
    }

    /// Records the end of the session, once it has ended and nothing of it runs.
    fn record_end(&self, progress: &mut Progress) {
        let (Some(recorder), Some(reason)) = (&self.hooks.recorder, &progress.ended) else { return };
        if progress.running > 0 || std::mem::replace(&mut progress.end_recorded, true) {
            return;
        }
        // No caller waits for it: the record of an end gives no guarantee.
        drop(recorder.append(&RecordEntry {
            session_id: &self.id,
            seq: progress.seq + 1,
            epoch: progress.epoch,
            time_us: utc_micros(SystemTime::now()),
            event: RecordEvent::Closed { reason: reason.name() },
        }));
    }

    fn detached(&self) {
        if self.progress.lock().closing {
            self.end(EndReason::Closed);
        }
    }

    /// Demands a reset before the next step, if that epoch is still the present one.
    fn require_reset_in(&self, epoch: u64) {
        let mut progress = self.progress.lock();
        if progress.epoch == epoch {
            progress.reset_required.get_or_insert(WhyReset::CutOff);
        }
    }
}

pub(crate) fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
