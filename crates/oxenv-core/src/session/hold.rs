//! Holding a session still, so that its state can be copied or saved.
//!
//! Invariant: while a session is held nothing of it runs: the step that ran is over, agents' calls
//! that overlap are over, and later ones wait. What is held is known: no call of its episode was cut off in a
//! toolset that has a state.

use oxenv_wire::{Delivered, ErrorCode, RawJson};

use super::Session;
use super::calls::PublishedState;
use super::lease::LeaseHold;
use super::operation::Exclusive;
use super::step_lock::CellGuard;
use crate::capabilities::Execution;
use crate::code::Interpreter;
use crate::failure::Failure;
use crate::seed::EpisodeSeeds;
use crate::snapshot_room::SnapshotRoom;
use crate::spec::{CopySource, EnvironmentContext, EpisodeCall};
use crate::tape::{Tape, Taped};

/// A session that is held still.
pub(crate) struct PausedSession<'a> {
    session: &'a Session,
    /// Where the copy continues from.
    pub(crate) past: Past,
    /// The number of the last thing that the session did.
    pub(crate) seq: u64,
    calls: Vec<EpisodeCall>,
    _shown: Option<PublishedState<'a>>,
    guard: CellGuard,
    _still: Exclusive<'a>,
    _busy: LeaseHold<'a>,
}

/// Where a session's history begins, if not at nothing.
#[derive(Debug, Default)]
pub(crate) struct Past {
    pub(crate) epoch: u64,
    pub(crate) episode_id: Option<String>,
    /// The present episode's; absent: there was no reset.
    pub(crate) episode_seed: Option<u64>,
    pub(crate) step_count: u64,
    pub(crate) done: bool,
    pub(crate) reward: Option<f64>,
    pub(crate) scores: Option<RawJson>,
    pub(crate) tape: Tape,
}

impl Session {
    /// Waits until nothing of the session runs. Dropping the returned hold lets it go on.
    pub(crate) async fn hold(&self) -> Result<PausedSession<'_>, Failure> {
        let busy = self.lease.busy();
        let token = self.progress.lock().token.clone();
        // The order of the two locks is that of a step that expects a number.
        let still = tokio::select! {
            biased;
            () = token.cancelled() => return Err(self.cancelled(Delivered::No)),
            still = self.exclusive() => still,
        };
        let mut guard = self.acquire().await?;
        // A copy takes as long as its workspace is large, and readers do not wait for it.
        let apart = guard.workspace.is_some() || guard.interpreter.is_some();
        let lasts = apart || self.spec.capabilities.execution != Execution::Inline;
        let shown = if lasts {
            Some(self.publish(&mut guard, self.epoch()).map(|_| PublishedState(self))?)
        } else {
            None
        };
        let mut progress = self.progress.lock();
        progress.copyable()?;
        let past = Past {
            epoch: progress.epoch,
            episode_id: Some(progress.episode_id.clone()),
            episode_seed: Some(progress.seed),
            step_count: progress.step_count,
            done: progress.done,
            reward: progress.reward,
            scores: progress.scores.clone(),
            tape: progress.tape.as_mut().map(Tape::copy).unwrap_or_default(),
        };
        let seq = progress.seq;
        drop(progress);
        let calls = match past.tape.entries() {
            Some(entries) => calls(entries),
            None => {
                let message = "what the episode was made of is not known as a whole: it took more than 16 \
                               MiB, or began before a snapshot; the session can be copied again after its \
                               next reset";
                return Err(Failure::new(ErrorCode::Unsupported, message));
            }
        };
        Ok(PausedSession {
            session: self,
            past,
            seq,
            calls,
            _shown: shown,
            guard,
            _still: still,
            _busy: busy,
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.progress.lock().epoch
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

impl Past {
    /// What an environment gets to continue from here, in a session of that id and seed.
    pub(crate) fn boot(&self, session_id: &str, seed: u64) -> EnvironmentContext {
        let present = self.episode_seed.unwrap_or(seed);
        EnvironmentContext {
            session_id: session_id.to_owned(),
            seed,
            episode: EpisodeSeeds::in_epoch(seed, self.epoch, present),
        }
    }

    /// The history for a copy of the session.
    pub(crate) fn copy(&mut self) -> Self {
        Past {
            episode_id: self.episode_id.clone(),
            scores: self.scores.clone(),
            tape: self.tape.copy(),
            ..*self
        }
    }
}

impl PausedSession<'_> {
    /// The variables of its programs, if it has run one.
    pub(crate) fn interpreter(&mut self) -> Option<&mut dyn Interpreter> {
        match &mut self.guard.interpreter {
            Some(interpreter) => Some(interpreter.as_mut()),
            None => None,
        }
    }

    /// What a factory copies or saves.
    pub(crate) fn original(&mut self) -> Result<CopySource<'_>, Failure> {
        let cell = &mut *self.guard;
        let Some(environment) = &mut cell.environment else {
            return Err(Failure::new(ErrorCode::SessionEnded, "the session has ended; open a new one"));
        };
        Ok(CopySource {
            session_id: &self.session.id,
            environment: environment.as_mut(),
            toolbox: &self.session.toolbox,
            workspace: cell.workspace.as_ref(),
            calls: &self.calls,
            room: SnapshotRoom::default(),
        })
    }
}

fn calls<'a>(entries: impl Iterator<Item = &'a Taped>) -> Vec<EpisodeCall> {
    let call = |entry: &Taped| match entry {
        Taped::Call(call) => Some(call.clone()),
        Taped::Reset(_) | Taped::Action(_) => None,
    };
    entries.filter_map(call).collect()
}
