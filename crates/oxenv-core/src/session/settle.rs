//! The end of every reset, step and call: counted, numbered, recorded, measured.
//!
//! Invariant: what reached the environment gets the session's next number, under the lock that its
//! record is taken down under, so numbers and records are in one order. A reply is given only when
//! its record is safe; one that could not be written is a failure, and the session demands a reset.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::SystemTime;

use oxenv_wire::{
    Delivered, ErrorCode, Phase, RawJson, Reward, ToolError, ToolErrorType, ToolResult, panic_text,
};
use serde_json::value::RawValue;
use tokio::runtime::Handle;

use super::operation::{MadeCall, OperationInput, OperationStage, RunningOperation};
use super::{Progress, Session};
use crate::audit::utc_micros;
use crate::environment::CallRecord;
use crate::failure::Failure;
use crate::observe::Operation;
use crate::record::{CallEntry, RecordEntry, RecordEvent, RecordedOutcome, Recorder};
use crate::render::{self, Envelope};
use crate::reply::StepReply;
use crate::spec::EpisodeCall;
use crate::tape::{Tape, Taped};
use crate::work::Work;

/// An operation that is over.
pub(super) struct Settled<'a> {
    pub(super) outcome: Result<StepReply<'a>, Failure>,
    /// Its number; 0 when it did not reach the environment.
    pub(super) seq: u64,
}

/// An operation that is counted, and may still wait for its record.
pub(super) struct Concluded<'a> {
    settled: Settled<'a>,
    recorded: Option<PendingRecord>,
}

/// The record of an operation, until it is known to be safe: one that could not be written is a gap, so the
/// session demands a reset, even if no caller waits any more.
struct PendingRecord {
    session: Arc<Session>,
    epoch: u64,
    /// Nothing once it is known.
    work: Option<RecordWork>,
}

type RecordWork = Work<'static, Result<(), Failure>>;

impl PendingRecord {
    async fn wait(&mut self) -> Result<(), Failure> {
        let Some(work) = &mut self.work else { return Ok(()) };
        let recorded = work.await;
        self.work = None;
        if recorded.is_err() {
            self.session.require_reset_in(self.epoch);
        }
        recorded
    }
}

impl Drop for PendingRecord {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let mut left =
            PendingRecord { session: Arc::clone(&self.session), epoch: self.epoch, work: Some(work) };
        // Without a runtime the process is ending.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { left.wait().await });
        } else {
            left.work = None;
        }
    }
}

impl Settled<'_> {
    /// It was refused before anything happened.
    pub(super) fn refused(failure: Failure) -> Self {
        Settled { outcome: Err(failure), seq: 0 }
    }
}

/// The effect of the outcome on the numbers.
struct OutcomeFacts {
    done: bool,
    reward: Option<Reward>,
}

impl Session {
    /// Whether actions and calls are needed afterwards.
    pub(super) fn keeps_actions(&self) -> bool {
        self.hooks.recorder.is_some() || self.taped
    }
}

impl RunningOperation<'_> {
    /// Ends the operation.
    pub(super) async fn settle<'r>(&mut self, outcome: Result<StepReply<'r>, Failure>) -> Settled<'r> {
        let Concluded { mut settled, recorded } = self.conclude(outcome);
        if let Some(mut recorded) = recorded
            && let Err(failure) = recorded.wait().await
        {
            settled.outcome = Err(failure);
        }
        self.measure(settled.outcome.as_ref().err());
        settled
    }

    /// Ends the operation where nothing is recorded, so that there is nothing to wait for.
    pub(super) fn settle_at_once<'r>(&mut self, outcome: Result<StepReply<'r>, Failure>) -> Settled<'r> {
        let settled = self.conclude(outcome).settled;
        self.measure(settled.outcome.as_ref().err());
        settled
    }

    /// Counts it, lets its record be taken down, and lets the step lock go.
    pub(super) fn conclude<'r>(&mut self, mut outcome: Result<StepReply<'r>, Failure>) -> Concluded<'r> {
        let begun = std::mem::replace(&mut self.stage, OperationStage::Over) == OperationStage::Begun;
        let counts = outcome.as_ref().map_or_else(|failure| failure.delivered != Delivered::No, |_| true);
        let mut seq = 0;
        let mut work = None;
        if begun || counts {
            let scores = self.scores();
            let mut progress = self.session.progress.lock();
            if counts {
                work = self.count(&mut progress, &mut outcome, scores);
                seq = progress.seq;
            }
            progress.running -= usize::from(begun);
            self.session.record_end(&mut progress);
        }
        self.release();
        let recorded = work.map(|work| PendingRecord {
            session: Arc::clone(self.session),
            epoch: self.epoch,
            work: Some(work),
        });
        Concluded { settled: Settled { outcome, seq }, recorded }
    }

    /// What the episode is worth so far, by its parts.
    fn scores(&self) -> Option<RawJson> {
        let environment = self.lock.guard.as_ref()?.environment.as_ref()?;
        if !self.session.spec.capabilities.scored {
            return None;
        }
        catch_unwind(AssertUnwindSafe(|| environment.scores())).unwrap_or_else(|panic| {
            let panic = panic_text(panic.as_ref());
            tracing::error!(session = %self.session.id, panic, "environment panicked as it told its scores");
            None
        })
    }

    /// Gives it its number and its place in the counts and in the record.
    fn count(
        &mut self,
        progress: &mut Progress,
        outcome: &mut Result<StepReply<'_>, Failure>,
        scores: Option<RawJson>,
    ) -> Option<RecordWork> {
        if let (Err(failure), Ok(_)) = (progress.alive(), &outcome) {
            let failure = failure.in_phase(self.phase()).with(|detail| {
                detail.delivered = Delivered::Maybe;
                detail.retryable = false;
            });
            // The outcomes of its calls are still known.
            self.keep_outcomes(std::mem::replace(outcome, Err(failure)));
        }
        progress.seq += 1;
        let current = progress.epoch == self.epoch;
        if let Ok(reply) = outcome
            && current
        {
            progress.advance(&self.input, &facts(reply));
            progress.scores = scores.or(progress.scores.take());
            reply.set_done(progress.done);
        }
        if current {
            let cut_off = outcome.as_ref().is_err_and(|failure| failure.delivered == Delivered::Maybe);
            if cut_off && self.phase() == Phase::Tool {
                // It may have had its effect, so its number in the episode is taken.
                progress.step_count += 1;
            }
            self.keep(progress, outcome);
        }
        let recorder = self.session.hooks.recorder.as_ref()?;
        Some(self.record(recorder.as_ref(), progress.seq, progress.step_count, outcome))
    }

    /// Keeps the outcomes of the calls of a reply that is not given; those of a program are kept anyway.
    fn keep_outcomes(&mut self, reply: Result<StepReply<'_>, Failure>) {
        self.outcomes = match reply {
            Ok(StepReply::Code(_)) => return,
            Ok(StepReply::Call { reply, .. }) => vec![Some(reply.outcome)],
            Ok(StepReply::Graph(graph)) => {
                graph.results.into_iter().map(|(_, outcome)| Some(outcome)).collect()
            }
            Ok(StepReply::Tools(..) | StepReply::Observed(_)) | Err(_) => Vec::new(),
        };
    }

    fn record(
        &self,
        recorder: &dyn Recorder,
        seq: u64,
        step: u64,
        outcome: &Result<StepReply<'_>, Failure>,
    ) -> RecordWork {
        let reply = outcome.as_ref().map(|reply| render::step(reply, Envelope::Data)).unwrap_or_default();
        let outcome_entry = match outcome {
            Err(failure) => RecordedOutcome::Failed(failure),
            Ok(shown) => {
                let OutcomeFacts { done, reward } = facts(shown);
                RecordedOutcome::Answered { reply: &reply, reward, done }
            }
        };
        let cut_off = cut_off_call();
        let calls: Vec<CallEntry<'_>> =
            self.calls.iter().map(|call| self.call_entry(call, outcome, &cut_off)).collect();
        let duration_us = u64::try_from(self.took().as_micros()).unwrap_or(u64::MAX);
        let event = match &self.input {
            OperationInput::Reset(None) => return Work::done(Ok(())),
            OperationInput::Reset(Some(reset)) => RecordEvent::Reset {
                seed: reset.seed,
                seed_given: reset.seed_given,
                episode_id: &reset.episode_id,
                arguments: reset.arguments.as_deref(),
                outcome: outcome_entry,
                duration_us,
            },
            OperationInput::Step(principal, action) => RecordEvent::Step {
                step,
                principal: *principal,
                action: action.as_deref().unwrap_or(RawValue::NULL),
                calls: &calls,
                outcome: outcome_entry,
                duration_us,
            },
        };
        let time_us = utc_micros(SystemTime::now());
        recorder.append(&RecordEntry { session_id: &self.session.id, seq, epoch: self.epoch, time_us, event })
    }

    /// Keeps what a fork by replay will repeat.
    fn keep(&self, progress: &mut Progress, outcome: &Result<StepReply<'_>, Failure>) {
        let Some(tape) = &mut progress.tape else { return };
        match (&self.input, outcome) {
            (OperationInput::Reset(Some(reset)), Ok(_)) => *tape = Tape::beginning((*reset).clone()),
            (OperationInput::Reset(_), _) => *tape = Tape::default(),
            (OperationInput::Step(..), Ok(StepReply::Tools(..))) => {}
            // A program itself is not done again: its variables are copied.
            (OperationInput::Step(_, action), _) if self.calls.is_empty() && !self.runs_code => {
                tape.extend(action.clone().map(Taped::Action));
            }
            (OperationInput::Step(principal, _), _) => {
                let cut_off = cut_off_call();
                tape.extend(self.calls.iter().filter(|call| call.made).map(|call| {
                    let entry = self.call_entry(call, outcome, &cut_off);
                    let record = CallRecord {
                        tool: entry.tool.to_owned(),
                        arguments: entry.arguments.map(ToOwned::to_owned),
                        outcome: entry.outcome.clone(),
                    };
                    Taped::Call(EpisodeCall { principal: *principal, record })
                }));
            }
        }
    }

    /// A call with its outcome: in the reply, or kept because there is none, or cut off.
    fn call_entry<'e>(
        &'e self,
        call: &'e MadeCall,
        outcome: &'e Result<StepReply<'_>, Failure>,
        cut_off: &'e Result<ToolResult, ToolError>,
    ) -> CallEntry<'e> {
        let outcome = match outcome {
            Ok(StepReply::Call { reply, .. }) => Some(&reply.outcome),
            Ok(StepReply::Graph(graph)) => graph.results.get(call.place).map(|(_, outcome)| outcome),
            _ => match &self.scoring {
                Some(scoring) if scoring.place == call.place => Some(&scoring.call.outcome),
                _ => self.outcomes.get(call.place).and_then(Option::as_ref),
            },
        };
        CallEntry {
            id: call.id.as_deref(),
            tool: &call.tool,
            arguments: call.arguments.as_deref(),
            outcome: outcome.unwrap_or(cut_off),
        }
    }

    pub(super) fn measure(&self, failure: Option<&Failure>) {
        let (Some(observer), Some(clock)) = (&self.session.hooks.observer, &self.clock) else { return };
        observer.operated(&Operation {
            kind: self.kind(),
            session_id: &self.session.id,
            epoch: self.epoch,
            waited: clock.began - clock.asked,
            took: clock.began.elapsed(),
            failure,
            trace: self.trace,
        });
    }
}

/// The outcome of a call that was still running when its operation ended.
fn cut_off_call() -> Result<ToolResult, ToolError> {
    let error = ToolError::new(ToolErrorType::ExecutionError, "cut off before it was over");
    Err(error.with_code(ErrorCode::Cancelled))
}

impl Progress {
    fn advance(&mut self, input: &OperationInput<'_>, facts: &OutcomeFacts) {
        match input {
            OperationInput::Reset(reset) => {
                if let Some(reset) = reset {
                    self.episode_id.clone_from(&reset.episode_id);
                    self.seed = reset.seed;
                }
                self.step_count = 0;
                self.done = facts.done;
                self.reward = facts.reward.map(Reward::as_f64);
                self.scores = None;
                self.reset_required = None;
            }
            OperationInput::Step(..) => {
                self.step_count += 1;
                self.done |= facts.done;
                if let Some(reward) = facts.reward {
                    self.reward = Some(self.reward.unwrap_or(0.0) + reward.as_f64());
                }
            }
        }
    }
}

fn facts(reply: &StepReply<'_>) -> OutcomeFacts {
    match reply {
        StepReply::Tools(..) => OutcomeFacts { done: false, reward: None },
        StepReply::Call { reply, .. } => OutcomeFacts { done: reply.done, reward: reply.reward },
        StepReply::Graph(reply) => OutcomeFacts { done: reply.done, reward: reply.reward },
        StepReply::Code(reply) => OutcomeFacts { done: reply.done, reward: reply.reward },
        StepReply::Observed(observed) => OutcomeFacts { done: observed.done, reward: observed.reward },
    }
}
