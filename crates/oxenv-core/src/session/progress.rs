//! A session's numbers, and what they allow.
//!
//! Invariant: the numbers change only under their lock, which is never held while an environment or a
//! tool runs. The recorder takes an entry down under it, so that records are in the order of their
//! numbers.

use oxenv_wire::{ErrorCode, RawJson};
use tokio_util::sync::CancellationToken;

use super::Session;
use crate::end_reason::EndReason;
use crate::failure::Failure;
use crate::registry::Slot;
use crate::tape::Tape;

/// The progress of a session.
pub(super) struct Progress {
    pub(super) epoch: u64,
    pub(super) episode_id: String,
    /// The episode's; before the first reset, the session's own.
    pub(super) seed: u64,
    pub(super) step_count: u64,
    pub(super) done: bool,
    /// The sum of the episode's rewards; none while there was none.
    pub(super) reward: Option<f64>,
    /// The parts of that sum, as the environment reports them.
    pub(super) scores: Option<RawJson>,
    /// The number of the last thing that was counted, over all epochs.
    pub(super) seq: u64,
    /// Operations that have begun and are not counted yet.
    pub(super) running: usize,
    /// Whether the record has its end.
    pub(super) end_recorded: bool,
    /// Set while the environment's state is unknown.
    pub(super) reset_required: Option<WhyReset>,
    /// The tool whose call was cut off in this epoch, so that it is unknown whether it had its
    /// effect.
    pub(super) unknown_effect: Option<String>,
    pub(super) ended: Option<EndReason>,
    pub(super) closing: bool,
    /// Cancelled by the next reset and by the end.
    pub(super) token: CancellationToken,
    /// The state before the call that holds the step lock and has suspended or blocks; nothing at
    /// other times.
    pub(super) published: Option<Result<RawJson, Failure>>,
    pub(super) slot: Option<Slot<Session>>,
    /// The episode so far, if a fork would have to repeat it.
    pub(super) tape: Option<Tape>,
}

/// Why only a reset can follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhyReset {
    /// It is unknown how far a step came.
    CutOff,
    /// The epoch's reset failed, or has not ended yet.
    NoReset,
}

/// What a request expects of the session; compared before it is run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expected {
    /// The number that it will have within the session.
    pub(super) seq: Option<u64>,
    /// The number that it will have within the episode.
    pub(super) step: Option<u64>,
}

impl Expected {
    /// Whether anything is expected.
    pub(super) fn any(self) -> bool {
        self.seq.is_some() || self.step.is_some()
    }
}

impl Progress {
    /// Refuses everything that needs a living session.
    pub(super) fn alive(&self) -> Result<(), Failure> {
        let Some(reason) = &self.ended else { return Ok(()) };
        let message = match reason {
            EndReason::Closed => "the session was closed; open a new one".to_owned(),
            EndReason::Expired => {
                "the session's lease ran out; open a new one, or reset the default one".to_owned()
            }
            EndReason::Failed(panic) => {
                format!("the session ended because its environment panicked: {panic}")
            }
            EndReason::Drained => {
                return Err(Failure::new(ErrorCode::Draining, "the server is shutting down"));
            }
        };
        Err(Failure::new(ErrorCode::SessionEnded, message))
    }

    /// Refuses a request that believes something else about the session.
    pub(super) fn expects(&self, expect: Expected) -> Result<(), Failure> {
        let message = match (expect.seq, expect.step) {
            (Some(seq), _) if seq != self.seq + 1 => {
                format!("the request is to be number {seq}, but the session's next is {}", self.seq + 1)
            }
            (_, Some(step)) if step != self.step_count + 1 => {
                format!("the step is to be number {step}, but the episode's next is {}", self.step_count + 1)
            }
            _ => return Ok(()),
        };
        Err(Failure::new(ErrorCode::StepConflict, message))
    }

    /// Begins an epoch: what runs in the present one is cancelled.
    pub(super) fn next_epoch(&mut self, expect: Expected) -> Result<u64, Failure> {
        self.alive()?;
        self.expects(expect)?;
        self.token.cancel();
        self.token = CancellationToken::new();
        self.epoch += 1;
        self.reset_required = Some(WhyReset::NoReset);
        self.unknown_effect = None;
        Ok(self.epoch)
    }

    /// Refuses an agent's call that comes too late, or for another epoch; returns its epoch.
    pub(super) fn callable(&self, epoch: Option<u64>) -> Result<u64, Failure> {
        let current = self.steppable(Expected::default())?;
        if let Some(epoch) = epoch.filter(|epoch| *epoch != current) {
            let message = format!("the call belongs to epoch {epoch}, the session is in epoch {current}");
            return Err(Failure::new(ErrorCode::WrongEpoch, message));
        }
        if self.done {
            let message = "the episode is done; only a reset begins another";
            return Err(Failure::new(ErrorCode::EpisodeDone, message));
        }
        Ok(current)
    }

    /// Refuses to copy what is not known.
    pub(super) fn copyable(&self) -> Result<(), Failure> {
        self.steppable(Expected::default())?;
        let Some(tool) = &self.unknown_effect else { return Ok(()) };
        let message = format!(
            "a call of tool '{tool}' was cut off in this episode, and nobody knows whether it had its \
             effect: the session can be copied after its next reset"
        );
        Err(Failure::new(ErrorCode::ResetRequired, message))
    }

    /// Refuses a step while the environment's state is unknown; returns the epoch it belongs to.
    pub(super) fn steppable(&self, expect: Expected) -> Result<u64, Failure> {
        self.alive()?;
        if let Some(why) = self.reset_required {
            let message = match why {
                WhyReset::CutOff => {
                    "the last step was cut off, so the environment's state is unknown: reset it first"
                }
                WhyReset::NoReset => {
                    "the last reset failed or is not over, so there is no episode: reset the session again"
                }
            };
            return Err(Failure::new(ErrorCode::ResetRequired, message));
        }
        self.expects(expect)?;
        Ok(self.epoch)
    }
}
