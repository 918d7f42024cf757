//! The end of every reset, step and call: counted, numbered, recorded, measured.
//!
//! Invariant: what reached the environment gets the session's next number, under the lock that its
//! record is taken down under, so numbers and records are in one order. A reply is given only when
//! its record is safe; one that could not be written is a failure, and the session demands a reset.

use std::time::{Duration, SystemTime};

use oxenv_wire::{Action, Delivered, RawJson, Reward};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::Guard;
use super::steps::StepReply;
use super::{Hooks, Principal, Progress, Session};
use crate::audit::utc_micros;
use crate::environment::{CallRecord, Reset};
use crate::failure::Failure;
use crate::observe::{Operation, OperationKind, TraceContext};
use crate::record::{CallEntry, Entry, Event, Outcome, Recorder};
use crate::render::{self, Envelope};
use crate::tape::{Tape, Taped};
use crate::work::Work;

/// A reset, a step or a call while it is being done.
pub(super) struct Doing<'a> {
    what: What<'a>,
    trace: Option<TraceContext>,
    /// Absent while nobody measures.
    clock: Option<Clock>,
    /// Known once it has begun.
    pub(super) epoch: u64,
}

enum What<'a> {
    Reset(&'a Reset),
    /// The action is kept only for who records or replays it.
    Step(Principal, Option<RawJson>),
}

struct Clock {
    asked: Instant,
    began: Instant,
}

/// How far it came while the environment, or the toolbox, had it.
pub(super) struct Ran<'a> {
    pub(super) outcome: Result<StepReply<'a>, Failure>,
    /// The step lock, if it is still held.
    pub(super) guard: Option<Guard>,
    /// Of each tool call in its order; empty when nobody keeps them.
    pub(super) calls: Vec<Taken>,
}

/// The parts of a tool call that its reply does not have.
pub(super) struct Taken {
    pub(super) tool: String,
    pub(super) arguments: Option<RawJson>,
}

/// An operation that is over.
pub(super) struct Settled<'a> {
    pub(super) outcome: Result<StepReply<'a>, Failure>,
    /// Its number; 0 when it did not reach the environment.
    pub(super) seq: u64,
}

impl Settled<'_> {
    /// It was refused before anything happened.
    pub(super) fn refused(failure: Failure) -> Self {
        Settled { outcome: Err(failure), seq: 0 }
    }
}

/// What the outcome means for the numbers.
struct Facts {
    done: bool,
    reward: Option<Reward>,
}

impl<'a> Doing<'a> {
    pub(super) fn reset(hooks: &Hooks, reset: &'a Reset, trace: Option<TraceContext>) -> Self {
        let trace = hooks.place(trace);
        Doing { what: What::Reset(reset), trace, clock: Clock::start(hooks), epoch: 0 }
    }

    pub(super) fn step(
        session: &Session,
        principal: Principal,
        action: &Action<'_>,
        trace: Option<TraceContext>,
    ) -> Self {
        let action = session.keeps_actions().then(|| action.to_raw());
        let trace = session.hooks.place(trace);
        Doing { what: What::Step(principal, action), trace, clock: Clock::start(&session.hooks), epoch: 0 }
    }

    /// Says that it has the session to itself now, in that epoch.
    pub(super) fn began(&mut self, epoch: u64) {
        self.epoch = epoch;
        if let Some(clock) = &mut self.clock {
            clock.began = Instant::now();
        }
    }

    pub(super) fn principal(&self) -> Principal {
        match self.what {
            What::Reset(_) => Principal::Control,
            What::Step(principal, _) => principal,
        }
    }

    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    fn kind(&self) -> OperationKind {
        match self.what {
            What::Reset(_) => OperationKind::Reset,
            What::Step(Principal::Agent, _) => OperationKind::AgentCall,
            What::Step(..) => OperationKind::Step,
        }
    }

    fn took(&self) -> Duration {
        self.clock.as_ref().map(|clock| clock.began.elapsed()).unwrap_or_default()
    }
}

impl Ran<'_> {
    /// It failed while the lock was held.
    pub(super) fn failed(failure: Failure, guard: Guard) -> Self {
        Ran { outcome: Err(failure), guard: Some(guard), calls: Vec::new() }
    }
}

impl Clock {
    fn start(hooks: &Hooks) -> Option<Self> {
        let now = || {
            let now = Instant::now();
            Clock { asked: now, began: now }
        };
        hooks.any().then(now)
    }
}

impl Session {
    /// Whether somebody wants to have actions and calls afterwards.
    pub(super) fn keeps_actions(&self) -> bool {
        self.hooks.recorder.is_some() || self.taped
    }

    /// Ends an operation.
    pub(super) async fn settle<'a>(&self, doing: Doing<'_>, ran: Result<Ran<'a>, Failure>) -> Settled<'a> {
        let (mut outcome, seq, recorded) = self.conclude(&doing, ran);
        if let Err(failure) = recorded.await {
            self.require_reset();
            outcome = Err(failure);
        }
        self.measure(&doing, outcome.as_ref().err());
        Settled { outcome, seq }
    }

    /// Ends an operation where nobody records, so that there is nothing to wait for.
    pub(super) fn settle_at_once<'a>(&self, doing: &Doing<'_>, ran: Result<Ran<'a>, Failure>) -> Settled<'a> {
        let (outcome, seq, _) = self.conclude(doing, ran);
        self.measure(doing, outcome.as_ref().err());
        Settled { outcome, seq }
    }

    /// Counts it, lets its record be taken down, and lets the step lock go.
    fn conclude<'a>(
        &self,
        doing: &Doing<'_>,
        ran: Result<Ran<'a>, Failure>,
    ) -> (Result<StepReply<'a>, Failure>, u64, Work<'static, Result<(), Failure>>) {
        let mut ran = match ran {
            Ok(ran) => ran,
            Err(failure) => Ran { outcome: Err(failure), guard: None, calls: Vec::new() },
        };
        if ran.outcome.as_ref().err().is_some_and(|failure| failure.delivered == Delivered::No) {
            return (ran.outcome, 0, Work::done(Ok(())));
        }
        let (seq, recorded) = self.count(doing, &mut ran);
        (ran.outcome, seq, recorded)
    }

    /// Gives it its number and its place in the counts and in the record.
    fn count(&self, doing: &Doing<'_>, ran: &mut Ran<'_>) -> (u64, Work<'static, Result<(), Failure>>) {
        let scores = match &ran.guard {
            Some(guard) if self.spec.capabilities.scored => {
                guard.environment.as_ref().and_then(|environment| environment.scores())
            }
            _ => None,
        };
        let mut progress = self.progress.lock();
        let ended = progress.alive().err();
        if let (Some(failure), Ok(_)) = (ended, &ran.outcome) {
            ran.outcome = Err(failure.with(|detail| detail.delivered = Delivered::Maybe));
        }
        progress.seq += 1;
        let current = progress.epoch == doing.epoch;
        if let Ok(reply) = &mut ran.outcome
            && current
        {
            progress.advance(&doing.what, &facts(reply));
            progress.scores = scores.or(progress.scores.take());
            reply.set_done(progress.done);
        }
        if current {
            progress.keep(&doing.what, &ran.outcome, &ran.calls);
        }
        let recorded = match &self.hooks.recorder {
            Some(recorder) => {
                let numbers = (progress.seq, progress.step_count);
                self.record(recorder.as_ref(), doing, numbers, &ran.outcome, &ran.calls)
            }
            None => Work::done(Ok(())),
        };
        (progress.seq, recorded)
    }

    fn record(
        &self,
        recorder: &dyn Recorder,
        doing: &Doing<'_>,
        (seq, step): (u64, u64),
        outcome: &Result<StepReply<'_>, Failure>,
        calls: &[Taken],
    ) -> Work<'static, Result<(), Failure>> {
        let reply = outcome.as_ref().map(|reply| render::step(reply, Envelope::Data)).unwrap_or_default();
        let outcome_entry = match outcome {
            Err(failure) => Outcome::Failed(failure),
            Ok(shown) => {
                let Facts { done, reward } = facts(shown);
                Outcome::Answered { reply: &reply, reward, done }
            }
        };
        let calls = outcome.as_ref().map(|reply| call_entries(reply, calls)).unwrap_or_default();
        let duration_us = u64::try_from(doing.took().as_micros()).unwrap_or(u64::MAX);
        let event = match &doing.what {
            What::Reset(reset) => Event::Reset {
                seed: reset.seed,
                seed_given: reset.seed_given,
                episode_id: &reset.episode_id,
                arguments: reset.arguments.as_deref(),
                outcome: outcome_entry,
                duration_us,
            },
            What::Step(principal, action) => Event::Step {
                step,
                principal: *principal,
                action: action.as_deref().unwrap_or(RawValue::NULL),
                calls: &calls,
                outcome: outcome_entry,
                duration_us,
            },
        };
        let time_us = utc_micros(SystemTime::now());
        recorder.append(&Entry { session_id: &self.id, seq, epoch: doing.epoch, time_us, event })
    }

    fn measure(&self, doing: &Doing<'_>, failure: Option<&Failure>) {
        let (Some(observer), Some(clock)) = (&self.hooks.observer, &doing.clock) else { return };
        observer.operated(&Operation {
            kind: doing.kind(),
            session_id: &self.id,
            epoch: doing.epoch,
            waited: clock.began - clock.asked,
            took: clock.began.elapsed(),
            failure,
            trace: doing.trace,
        });
    }
}

impl Progress {
    fn advance(&mut self, what: &What<'_>, facts: &Facts) {
        match what {
            What::Reset(reset) => {
                self.episode_id.clone_from(&reset.episode_id);
                self.seed = reset.seed;
                self.step_count = 0;
                self.done = facts.done;
                self.reward = facts.reward.map(Reward::as_f64);
                self.scores = None;
                self.reset_required = false;
            }
            What::Step(..) => {
                self.step_count += 1;
                self.done |= facts.done;
                if let Some(reward) = facts.reward {
                    self.reward = Some(self.reward.unwrap_or(0.0) + reward.as_f64());
                }
            }
        }
    }

    /// Keeps what a fork by replay will repeat.
    fn keep(&mut self, what: &What<'_>, outcome: &Result<StepReply<'_>, Failure>, calls: &[Taken]) {
        let Some(tape) = &mut self.tape else { return };
        match (what, outcome) {
            (What::Reset(reset), Ok(_)) => *tape = Tape::beginning((*reset).clone()),
            (What::Reset(_), Err(_)) => *tape = Tape::default(),
            (_, Ok(reply @ (StepReply::Call { .. } | StepReply::Graph(_)))) => {
                for call in call_entries(reply, calls) {
                    tape.push(Taped::Call(CallRecord {
                        tool: call.tool.to_owned(),
                        arguments: call.arguments.map(ToOwned::to_owned),
                        outcome: call.outcome.clone(),
                    }));
                }
            }
            (_, Ok(StepReply::Tools(..))) => {}
            (What::Step(_, Some(action)), _) => tape.push(Taped::Action(action.clone())),
            (What::Step(_, None), _) => {}
        }
    }
}

impl StepReply<'_> {
    fn set_done(&mut self, now: bool) {
        match self {
            StepReply::Tools(_, listing) => listing.done = now,
            StepReply::Call { reply, .. } => reply.done = now,
            StepReply::Graph(reply) => reply.done = now,
            // What the environment says of itself stands.
            StepReply::Observed(_) => {}
        }
    }
}

fn facts(reply: &StepReply<'_>) -> Facts {
    match reply {
        StepReply::Tools(..) => Facts { done: false, reward: None },
        StepReply::Call { reply, .. } => Facts { done: reply.done, reward: reply.reward },
        StepReply::Graph(reply) => Facts { done: reply.done, reward: reply.reward },
        StepReply::Observed(observed) => Facts { done: observed.done, reward: observed.reward },
    }
}

fn call_entries<'r>(reply: &'r StepReply<'_>, calls: &'r [Taken]) -> Vec<CallEntry<'r>> {
    let results: Vec<_> = match reply {
        StepReply::Call { reply, .. } => vec![(None, &reply.outcome)],
        StepReply::Graph(graph) => {
            graph.results.iter().map(|(id, outcome)| (Some(id.as_str()), outcome)).collect()
        }
        StepReply::Tools(..) | StepReply::Observed(_) => Vec::new(),
    };
    let entry = |((id, outcome), taken): ((Option<&'r str>, &'r _), &'r Taken)| CallEntry {
        id,
        tool: &taken.tool,
        arguments: taken.arguments.as_deref(),
        outcome,
    };
    results.into_iter().zip(calls).map(entry).collect()
}
