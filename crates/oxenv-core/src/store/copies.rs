//! Sessions that start from another's state: forks, and snapshots restored.
//!
//! Invariant: a copy is always a new session with a slot of its own; the original is held still
//! while it is copied, and goes on as if nothing had happened. Either all forks of a request are
//! made, or none, and what a request waits for has one deadline for all of them.

use std::sync::Arc;

use oxenv_wire::Phase;
use tokio::time::Instant;

use super::SessionStore;
use super::making::{NewSessionParts, QueueTimeout};
use crate::capabilities::ForkMode;
use crate::code::Interpreter;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::idempotency::{Attempt, IdempotentReply, Identity, MemorySize, ReplySender, fingerprint};
use crate::observe::{Operation, OperationKind};
use crate::record::SessionOrigin;
use crate::registry::Slot;
use crate::session::{Past, PausedSession, Session, SessionOptions};
use crate::slots::NoSlot;
use crate::snapshot::{SavedInterpreter, SealedSnapshot, Snapshot, SnapshotKeySource};
use crate::snapshot_room::SnapshotRoom;
use crate::spec::{CopySource, EnvironmentContext, EnvironmentInstance};
use crate::tape::{Tape, Taped};
use crate::work::Work;

/// A snapshot of no more bytes is encoded and decoded at once, which takes less than a millisecond.
const MAX_INLINE_BYTES: usize = 64 << 10;

/// The ids of sessions that were made by one request.
pub type SessionIds = Vec<String>;

/// What new sessions begin with.
#[derive(Clone)]
pub enum SessionSource {
    /// A new environment.
    Environment,
    /// The state that [`SessionStore::snapshot`] has saved.
    Snapshot(String),
    /// The present state of another session.
    Fork {
        /// The id of the session that is copied.
        original: String,
        /// The session itself, or why it cannot be had: a repeat does without it.
        found: Result<Arc<Session>, Failure>,
        /// How many copies are made: all, or none.
        count: usize,
    },
}

/// How repeats of a request that makes sessions are recognised.
#[derive(Debug, Clone, Copy)]
pub struct OpenKey<'a> {
    /// The client's key: a repeat with the same key is the same request.
    pub key: &'a str,
    /// Whether its sessions are for its caller alone. Then it is given up when the caller goes away before
    /// they are made, and a repeat makes them. Else it runs to its end.
    pub ends_with_caller: bool,
}

/// Sessions that were made, and what they go on from.
struct OpenedSessions {
    sessions: Vec<Arc<Session>>,
    /// The number of the last thing that the original of forks had done; else 0.
    seq: u64,
}

/// A session that is held still, and the slots of its copies.
struct StillWithSlots<'a> {
    held: PausedSession<'a>,
    slots: Vec<Slot<Session>>,
}

impl OpenedSessions {
    fn ids(&self) -> SessionIds {
        self.sessions.iter().map(|session| session.id().to_owned()).collect()
    }
}

/// Answers a request that made sessions, or failed to.
fn settle(
    ticket: ReplySender<SessionIds>,
    opened: Result<OpenedSessions, Failure>,
) -> IdempotentReply<SessionIds> {
    let seq = opened.as_ref().map_or(0, |opened| opened.seq);
    ticket.settle(opened.map(|opened| opened.ids()), seq)
}

impl MemorySize for SessionIds {
    fn weight(&self) -> usize {
        64 * self.len()
    }
}

impl SessionStore {
    /// Makes `n` sessions that go on from the present state of another: its epoch, episode, step
    /// count, reward and seed. `options` gives them another seed for later episodes, or another lease. Their
    /// slots are waited for together, and none is taken before; all are made by one deadline. Dropping the
    /// future leaves nothing.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::CapacityReached`], at once and not retryable if there are fewer slots in all;
    /// [`oxenv_wire::ErrorCode::Unsupported`] names what cannot be forked;
    /// [`oxenv_wire::ErrorCode::ResetRequired`] while the state is unknown; and every failure of making a
    /// session.
    pub async fn fork(
        &self,
        session: &Arc<Session>,
        n: usize,
        options: SessionOptions,
    ) -> Result<Vec<Arc<Session>>, Failure> {
        Ok(self.fork_measured(session, n, options).await?.sessions)
    }

    async fn fork_measured(
        &self,
        session: &Arc<Session>,
        n: usize,
        options: SessionOptions,
    ) -> Result<OpenedSessions, Failure> {
        let began = self.hooks.observer.as_ref().map(|_| std::time::Instant::now());
        let forked = self.fork_now(session, n, options).await;
        self.measured(session, OperationKind::Fork, began, forked.as_ref().err());
        forked
    }

    async fn fork_now(
        &self,
        session: &Arc<Session>,
        n: usize,
        options: SessionOptions,
    ) -> Result<OpenedSessions, Failure> {
        let _busy = session.busy();
        let StillWithSlots { mut held, slots } = self.hold_with_slots(session, n, &options).await?;
        let deadline = self.boot_deadline();
        let origin = SessionOrigin::Fork { session_id: session.id(), seq: held.seq };
        let seed = options.seed.unwrap_or_else(|| session.seed());
        let mut forks = Vec::with_capacity(n);
        for slot in slots {
            let boot = held.past.boot(slot.id(), seed);
            let instance = self.fork_instance(&mut held, boot, deadline).await?;
            let interpreter = self.fork_interpreter(&mut held, deadline).await?;
            let past = held.past.copy();
            forks.push(NewSessionParts {
                slot,
                seed,
                instance,
                interpreter,
                past,
                options: options.clone(),
                origin: Some(origin),
            });
        }
        let seq = held.seq;
        drop(held);
        let mut unlisted = Vec::with_capacity(n);
        for made in forks {
            unlisted.push(self.record(made).await?);
        }
        let sessions = unlisted.into_iter().map(|session| self.list_now(session)).collect();
        Ok(OpenedSessions { sessions, seq })
    }

    /// Waits until the session is still and the given number of slots is free, and takes both at once:
    /// neither is held while waiting for the other. The time to wait for slots is that of the whole
    /// request.
    async fn hold_with_slots<'a>(
        &self,
        session: &'a Session,
        n: usize,
        options: &SessionOptions,
    ) -> Result<StillWithSlots<'a>, Failure> {
        self.refuse_if_draining()?;
        let patience = QueueTimeout::new(options.queue.unwrap_or(self.limits.queue));
        let no_slot = |refusal| self.no_slot(refusal, n, patience);
        let beside = session.slot_owner();
        self.slots.refuse_too_many(&options.owner, n, beside.as_ref()).map_err(no_slot)?;
        let held = patience.bound(session.hold()).await??;
        let permit = match (self.slots.take(&options.owner, n, None).await, patience.until()) {
            (Ok(permit), _) => Some(permit),
            (Err(NoSlot::Full { .. } | NoSlot::Memory { .. }), Some(_)) => None,
            (Err(refusal), _) => return Err(no_slot(refusal)),
        };
        let (held, permit) = match permit {
            Some(permit) => (held, permit),
            None => {
                drop(held);
                let permit = self.slots.take(&options.owner, n, patience.until()).await.map_err(no_slot)?;
                (patience.bound(session.hold()).await??, permit)
            }
        };
        let waited = patience.began.elapsed();
        let slots = permit.singly().map(|permit| self.slot(Some(permit), waited)).collect();
        Ok(StillWithSlots { held, slots })
    }

    /// Makes sessions and returns their ids; at most once for a key, which belongs to the original of
    /// forks, else to the options' owner: a repeat gets the same sessions, also when they have ended. The
    /// answer's number is that of the last thing that the original of forks had done.
    ///
    /// The outcome fails as [`SessionStore::create`], [`SessionStore::restore`] and [`SessionStore::fork`]
    /// do, and with [`oxenv_wire::ErrorCode::KeyConflict`] and [`oxenv_wire::ErrorCode::ReplyForgotten`].
    pub async fn open(
        self: &Arc<Self>,
        source: SessionSource,
        options: SessionOptions,
        key: Option<OpenKey<'_>>,
    ) -> IdempotentReply<SessionIds> {
        let Some(OpenKey { key, ends_with_caller }) = key else {
            let opened = self.open_now(source, options).await;
            let seq = opened.as_ref().map_or(0, |opened| opened.seq);
            return IdempotentReply::own(opened.map(|opened| opened.ids()), seq);
        };
        let identity = source.identity(key, &options);
        let fingerprint = source.fingerprint(&options);
        let ticket = loop {
            match self.made.claim(&identity, fingerprint, source.bytes()) {
                Err(refusal) => return IdempotentReply::refused(refusal),
                Ok(Attempt::First(ticket)) => break ticket,
                // `None` if the first caller went away and its sessions with it: then this one is the
                // first.
                Ok(Attempt::Repeat(waiting)) => {
                    if let Some(answer) = waiting.answer().await {
                        return answer;
                    }
                }
            }
        };
        if ends_with_caller {
            let ticket = ticket.harmless();
            return settle(ticket, self.open_now(source, options).await);
        }
        let store = Arc::clone(self);
        let ran = tokio::spawn(async move { settle(ticket, store.open_now(source, options).await) });
        ran.await.unwrap_or_else(|error| IdempotentReply::refused(Failure::infrastructure(error.to_string())))
    }

    async fn open_now(
        &self,
        source: SessionSource,
        options: SessionOptions,
    ) -> Result<OpenedSessions, Failure> {
        let session = match source {
            SessionSource::Fork { found, count, .. } => {
                return self.fork_measured(&found?, count, options).await;
            }
            SessionSource::Environment => self.create(options).await?,
            SessionSource::Snapshot(snapshot) => self.restore(snapshot, options).await?,
        };
        Ok(OpenedSessions { sessions: vec![session], seq: 0 })
    }

    /// The present state of a session as a text that [`SessionStore::restore`] takes, of this server
    /// or of another of the same version with the same [`SnapshotKey`](crate::SnapshotKey).
    ///
    /// # Errors
    /// As [`SessionStore::fork`].
    pub async fn snapshot(&self, session: &Arc<Session>) -> Result<String, Failure> {
        let room = SnapshotRoom { bytes: u64::MAX, more: "" };
        Ok(self.sealed_snapshot(session, room).await?.into_text())
    }

    /// The snapshot before it is a text, for callers that have that room; never more than
    /// [`StoreLimits::snapshot`](crate::StoreLimits).
    ///
    /// # Errors
    /// As [`SessionStore::snapshot`].
    pub async fn sealed_snapshot(
        &self,
        session: &Arc<Session>,
        room: SnapshotRoom,
    ) -> Result<SealedSnapshot, Failure> {
        let began = self.hooks.observer.as_ref().map(|_| std::time::Instant::now());
        let own = self.snapshot_room();
        let room = if room.bytes < own.bytes { room } else { own };
        let saved = self.snapshot_now(session, room).await;
        self.measured(session, OperationKind::Snapshot, began, saved.as_ref().err());
        saved
    }

    /// Where the key of snapshots comes from.
    #[must_use]
    pub fn snapshot_key_source(&self) -> SnapshotKeySource {
        self.snapshot_key.source()
    }

    /// The room that every snapshot has here.
    #[must_use]
    pub fn snapshot_room(&self) -> SnapshotRoom {
        SnapshotRoom { bytes: self.limits.snapshot, ..SnapshotRoom::default() }
    }

    async fn snapshot_now(
        &self,
        session: &Arc<Session>,
        room: SnapshotRoom,
    ) -> Result<SealedSnapshot, Failure> {
        let still = QueueTimeout::new(self.limits.queue).bound(session.hold());
        let mut held = still.await??;
        let original = CopySource { room, ..held.original()? };
        let save = std::panic::AssertUnwindSafe(|| self.factory.save(original));
        let mut state = self
            .contain(save, self.boot_deadline())
            .await?
            .map_err(|failure| failure.in_phase(Phase::Boot))?;
        room.holds(state.len() as u64)?;
        let interpreter = self.save_interpreter(&mut held, &mut state, room).await?;
        let spec = self.spec();
        let snapshot = Snapshot {
            environment: spec.name.clone(),
            environment_version: spec.version.clone(),
            session_id: session.id().to_owned(),
            seq: held.seq,
            seed: session.seed(),
            epoch: held.past.epoch,
            episode_id: held.past.episode_id.clone().unwrap_or_default(),
            episode_seed: held.past.episode_seed,
            step_count: held.past.step_count,
            done: held.past.done,
            reward: held.past.reward,
            scores: held.past.scores.clone(),
            interpreter,
        };
        let key = self.snapshot_key.clone();
        on_a_thread(state.len(), move || snapshot.seal(state, &key)).await
    }

    /// Makes a session that goes on from a saved state.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::SnapshotInvalid`] when the text is damaged or forged, or of another key,
    /// environment or version; and every failure of making a session.
    pub async fn restore(
        &self,
        snapshot: impl Into<String>,
        options: SessionOptions,
    ) -> Result<Arc<Session>, Failure> {
        let restored = self.restore_now(snapshot.into(), options).await;
        self.observe_refusal(&restored);
        restored
    }

    async fn restore_now(&self, text: String, options: SessionOptions) -> Result<Arc<Session>, Failure> {
        let key = self.snapshot_key.clone();
        let (snapshot, mut state) = on_a_thread(text.len(), move || Snapshot::open(&text, &key)).await??;
        snapshot.fits(self.spec())?;
        self.snapshot_room().holds(state.len() as u64)?;
        let engine = self.code.as_ref().map(|code| code.engine.as_ref());
        let saved = snapshot.interpreter.as_ref().map(|saved| saved.take(engine, &mut state)).transpose()?;
        let slot = self.take_slot(&options).await?;
        let seed = options.seed.unwrap_or(snapshot.seed);
        let past = Past {
            epoch: snapshot.epoch,
            episode_id: Some(snapshot.episode_id.clone()),
            episode_seed: Some(snapshot.episode_seed()),
            step_count: snapshot.step_count,
            done: snapshot.done,
            reward: snapshot.reward,
            scores: snapshot.scores.clone(),
            tape: Tape::unknown(),
        };
        let boot = past.boot(slot.id(), seed);
        let restore = std::panic::AssertUnwindSafe(|| self.factory.restore(boot, &state));
        let instance = self
            .contain(restore, self.boot_deadline())
            .await?
            .map_err(|failure| failure.in_phase(Phase::Boot))?;
        let interpreter = match (&self.code, &saved) {
            (Some(code), Some(saved)) => {
                let open = std::panic::AssertUnwindSafe(|| code.restore(snapshot.episode_seed(), saved));
                let opened = self.contain(open, self.boot_deadline()).await?;
                Some(opened.map_err(|failure| failure.in_phase(Phase::Boot))?)
            }
            _ => None,
        };
        let origin = Some(SessionOrigin::Snapshot { session_id: &snapshot.session_id, seq: snapshot.seq });
        self.register(NewSessionParts { slot, seed, instance, interpreter, past, options, origin }).await
    }

    async fn fork_instance(
        &self,
        held: &mut PausedSession<'_>,
        boot: EnvironmentContext,
        deadline: Instant,
    ) -> Result<EnvironmentInstance, Failure> {
        let by_replay = self.spec().capabilities.fork == ForkMode::Replay;
        let tape = by_replay.then(|| held.past.tape.copy());
        if let Some(entries) = tape.as_ref().and_then(|tape| tape.entries()) {
            let mut instance = self.make(boot, deadline).await?;
            let environment = instance.environment.as_mut();
            let again = std::panic::AssertUnwindSafe(|| Work::pending(replay(environment, entries)));
            self.contain(again, deadline).await?;
            return Ok(instance);
        }
        let original = held.original()?;
        let fork = std::panic::AssertUnwindSafe(|| self.factory.fork(boot, original));
        self.contain(fork, deadline).await?.map_err(|failure| failure.in_phase(Phase::Boot))
    }

    /// A copy of the variables of a session's programs.
    async fn fork_interpreter(
        &self,
        held: &mut PausedSession<'_>,
        deadline: Instant,
    ) -> Result<Option<Box<dyn Interpreter>>, Failure> {
        let Some(interpreter) = held.interpreter() else { return Ok(None) };
        let fork =
            std::panic::AssertUnwindSafe(move || Work::pending(async move { interpreter.fork().await }));
        let forked = self.contain(fork, deadline).await?;
        forked.map(Some).map_err(|failure| failure.in_phase(Phase::Boot))
    }

    /// Puts the variables of a session's programs behind its state.
    async fn save_interpreter(
        &self,
        held: &mut PausedSession<'_>,
        state: &mut Vec<u8>,
        room: SnapshotRoom,
    ) -> Result<Option<SavedInterpreter>, Failure> {
        let (Some(interpreter), Some(code)) = (held.interpreter(), &self.code) else { return Ok(None) };
        let left = room.bytes - state.len() as u64;
        let save = std::panic::AssertUnwindSafe(move || {
            Work::pending(async move { interpreter.snapshot(left).await })
        });
        let saved = self.contain(save, self.boot_deadline()).await?;
        let saved = saved.map_err(|failure| failure.in_phase(Phase::Boot))?;
        room.holds((state.len() + saved.len()) as u64)?;
        Ok(Some(SavedInterpreter::append(code.engine.as_ref(), state, &saved)))
    }

    /// Work of the factory or of an environment that is being made, until the deadline, its panics contained.
    async fn contain<'a, T: Send + 'a>(
        &self,
        begin: std::panic::AssertUnwindSafe<impl FnOnce() -> Work<'a, T>>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        self.bounded(begin, deadline).await.map_err(|why| self.factory_failed(&why))
    }

    fn measured(
        &self,
        session: &Session,
        kind: OperationKind,
        began: Option<std::time::Instant>,
        failure: Option<&Failure>,
    ) {
        let (Some(observer), Some(began)) = (&self.hooks.observer, began) else { return };
        observer.operated(&Operation {
            kind,
            session_id: session.id(),
            epoch: session.info().epoch,
            waited: std::time::Duration::ZERO,
            took: began.elapsed(),
            failure,
            trace: None,
        });
    }
}

/// Encodes or decodes a snapshot of the given number of bytes. A long one blocks no thread of other
/// sessions.
async fn on_a_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if bytes <= MAX_INLINE_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::infrastructure(error.to_string()))
}

impl SessionSource {
    /// A key belongs to its owner, or to the session that is forked: no caller learns of another's
    /// sessions.
    fn identity(&self, key: &str, options: &SessionOptions) -> Identity {
        let owner = match self {
            SessionSource::Fork { original, .. } => Some(original.as_str()),
            SessionSource::Environment | SessionSource::Snapshot(_) => options.owner.as_deref(),
        };
        match owner {
            Some(owner) => Identity::KeyFor(owner.to_owned(), key.to_owned()),
            None => Identity::Key(key.to_owned()),
        }
    }

    /// What the request holds while it runs.
    fn bytes(&self) -> usize {
        match self {
            SessionSource::Environment | SessionSource::Fork { .. } => 0,
            SessionSource::Snapshot(snapshot) => snapshot.len(),
        }
    }

    fn fingerprint(&self, options: &SessionOptions) -> u64 {
        let source = match self {
            SessionSource::Environment => ("create", "", 1),
            SessionSource::Snapshot(snapshot) => ("restore", snapshot.as_str(), 1),
            SessionSource::Fork { original, count, .. } => ("fork", original.as_str(), *count),
        };
        fingerprint((source, options.seed, &options.episode_id, options.lease, options.queue))
    }
}

/// Does again what an episode was made of. What failed the first time fails again.
async fn replay<'a>(environment: &mut dyn Environment, entries: impl Iterator<Item = &'a Taped>) {
    for entry in entries {
        match entry {
            Taped::Reset(reset) => drop(environment.reset(reset).await),
            Taped::Action(action) => drop(environment.step(action).await),
            // As when it was made: what gave no result is not scored.
            Taped::Call(call) if call.record.outcome.is_err() => {}
            Taped::Call(call) => drop(environment.after_call(&call.record).await),
        }
    }
}
