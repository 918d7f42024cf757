//! Sessions that start from another's state: forks, and snapshots restored.
//!
//! Invariant: a copy is always a new session with a slot of its own; the original is held still
//! while it is copied, and goes on as if nothing had happened. Either all forks of a request are
//! made, or none.

use std::sync::Arc;

use oxenv_wire::Phase;

use super::SessionStore;
use super::making::Made;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::observe::{Operation, OperationKind};
use crate::once::{Answer, Claim, Identity, Weigh, fingerprint};
use crate::record::Origin;
use crate::session::{Held, Past, Session, SessionOptions};
use crate::snapshot::{SealedSnapshot, Snapshot};
use crate::spec::{Boot, ForkMode, Instance, Original, SnapshotRoom};
use crate::tape::{Tape, Taped};
use crate::work::Work;

/// A snapshot of no more bytes is encoded and decoded at once, which takes less than a millisecond.
const INLINE_BYTES: usize = 64 << 10;

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
        /// The session that is copied.
        of: Arc<Session>,
        /// How many copies are made: all, or none.
        count: usize,
    },
}

impl Weigh for SessionIds {
    fn weight(&self) -> usize {
        64 * self.len()
    }
}

impl SessionStore {
    /// Makes `n` sessions that go on from the present state of another: its epoch, episode, step
    /// count, reward and seed. `options` gives them another seed for later episodes, or another lease.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] names what cannot be forked; [`oxenv_wire::ErrorCode::ResetRequired`] while the
    /// state is unknown; and whatever making a session may fail with.
    pub async fn fork(
        &self,
        session: &Arc<Session>,
        n: usize,
        options: SessionOptions,
    ) -> Result<Vec<Arc<Session>>, Failure> {
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
    ) -> Result<Vec<Arc<Session>>, Failure> {
        let mut slots = Vec::with_capacity(n);
        for _ in 0..n {
            slots.push(self.take_slot(&options).await?);
        }
        let mut held = session.hold().await?;
        let origin = Origin::Fork { session_id: session.id(), seq: held.seq };
        let seed = options.seed.unwrap_or_else(|| session.seed());
        let mut forks = Vec::with_capacity(n);
        for slot in slots {
            let boot = held.past.boot(slot.id(), seed);
            let instance = self.fork_instance(&mut held, boot).await?;
            let past = held.past.copy();
            forks.push(Made { slot, seed, instance, past, options: options.clone(), origin: Some(origin) });
        }
        drop(held);
        let mut sessions = Vec::with_capacity(n);
        for made in forks {
            sessions.push(self.register(made).await?);
        }
        Ok(sessions)
    }

    /// Makes sessions and tells their ids; at most once for a key, which belongs to the original of forks, else to
    /// the options' owner: a repeat gets the same sessions. With a key it runs to its end even if nobody waits for
    /// it any more.
    ///
    /// The outcome fails as [`SessionStore::create`], [`SessionStore::restore`] and [`SessionStore::fork`] do, and
    /// with [`oxenv_wire::ErrorCode::KeyConflict`].
    pub async fn open(
        self: &Arc<Self>,
        source: SessionSource,
        options: SessionOptions,
        key: Option<&str>,
    ) -> Answer<SessionIds> {
        let Some(key) = key else {
            return Answer::own(self.open_now(source, options).await, 0);
        };
        let identity = source.identity(key, &options);
        let fingerprint = source.fingerprint(&options);
        match self.made.claim(identity, fingerprint, source.bytes()) {
            Err(refusal) => Answer::refused(refusal),
            Ok(Claim::Repeat(waiting)) => waiting.answer().await.unwrap_or_else(Answer::refused),
            Ok(Claim::First(ticket)) => {
                let store = Arc::clone(self);
                let ran = tokio::spawn(async move {
                    let made = store.open_now(source, options).await;
                    store.made.settle(&ticket, made, 0)
                });
                ran.await.unwrap_or_else(|error| Answer::refused(Failure::infrastructure(error.to_string())))
            }
        }
    }

    async fn open_now(&self, source: SessionSource, options: SessionOptions) -> Result<SessionIds, Failure> {
        let sessions = match source {
            SessionSource::Environment => vec![self.create(options).await?],
            SessionSource::Snapshot(snapshot) => vec![self.restore(snapshot, options).await?],
            SessionSource::Fork { of, count } => self.fork(&of, count, options).await?,
        };
        Ok(sessions.iter().map(|session| session.id().to_owned()).collect())
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

    /// The same before it is a text, for who has that room; never more than [`Limits::snapshot`](crate::Limits).
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
        let mut held = session.hold().await?;
        let original = Original { room, ..held.original()? };
        let save = std::panic::AssertUnwindSafe(|| self.factory.save(original));
        let state = self.contain(save).await?.map_err(|failure| failure.in_phase(Phase::Boot))?;
        room.holds(state.len() as u64)?;
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
        };
        let key = self.snapshot_key.clone();
        on_a_thread(state.len(), move || snapshot.seal(state, &key)).await
    }

    /// Makes a session that goes on from a saved state.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::SnapshotInvalid`] when the text is damaged or forged, or of another key, environment or
    /// version;
    /// and whatever making a session may fail with.
    pub async fn restore(
        &self,
        snapshot: impl Into<String>,
        options: SessionOptions,
    ) -> Result<Arc<Session>, Failure> {
        let (text, key) = (snapshot.into(), self.snapshot_key.clone());
        let (snapshot, state) = on_a_thread(text.len(), move || Snapshot::open(&text, &key)).await??;
        snapshot.fits(self.spec())?;
        self.snapshot_room().holds(state.len() as u64)?;
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
        let instance = self.contain(restore).await?.map_err(|failure| failure.in_phase(Phase::Boot))?;
        let origin = Origin::Snapshot { session_id: &snapshot.session_id, seq: snapshot.seq };
        self.register(Made { slot, seed, instance, past, options, origin: Some(origin) }).await
    }

    async fn fork_instance(&self, held: &mut Held<'_>, boot: Boot) -> Result<Instance, Failure> {
        let by_replay = self.spec().capabilities.fork == ForkMode::Replay;
        let tape = by_replay.then(|| held.past.tape.copy());
        if let Some(entries) = tape.as_ref().and_then(|tape| tape.entries()) {
            let mut instance = self.make(boot).await?;
            replay(instance.environment.as_mut(), entries).await;
            return Ok(instance);
        }
        let original = held.original()?;
        let fork = std::panic::AssertUnwindSafe(|| self.factory.fork(boot, original));
        self.contain(fork).await?.map_err(|failure| failure.in_phase(Phase::Boot))
    }

    /// Work of the factory, within the time for making an environment, its panics contained.
    async fn contain<'a, T: Send + 'a>(
        &self,
        begin: std::panic::AssertUnwindSafe<impl FnOnce() -> Work<'a, Result<T, Failure>>>,
    ) -> Result<Result<T, Failure>, Failure> {
        self.bounded(begin).await.map_err(|why| self.factory_failed(&why))
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

/// Encodes or decodes a snapshot of so many bytes. One that takes long keeps no thread from other sessions.
async fn on_a_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    if bytes <= INLINE_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::infrastructure(error.to_string()))
}

impl SessionSource {
    /// A key belongs to its owner, or to the session that is forked: nobody is told of another's sessions.
    fn identity(&self, key: &str, options: &SessionOptions) -> Identity {
        let owner = match self {
            SessionSource::Fork { of, .. } => Some(of.id()),
            SessionSource::Environment | SessionSource::Snapshot(_) => options.owner.as_deref(),
        };
        match owner {
            Some(owner) => Identity::KeyFor(owner.to_owned(), key.to_owned()),
            None => Identity::Key(key.to_owned()),
        }
    }

    /// What the request keeps while it runs.
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
            SessionSource::Fork { of, count } => ("fork", of.id(), *count),
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
