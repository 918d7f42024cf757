//! [`RunningOperation`]: a reset, a step or an agent's call, from its first wait to its counted end.
//!
//! Invariant: what may have reached the environment or a tool is counted and recorded once, however it ends.
//! An operation that is dropped before its end was cut off, and is counted as that. Its number is given
//! before the step lock is let go.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use oxenv_wire::{Delivered, ErrorCode, Phase, RawJson, ToolError, ToolResult};
use serde_json::value::RawValue;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use super::drive::at;
use super::step_lock::StepLock;
use super::{Expected, Hooks, Progress, Session};
use crate::environment::{CallRecord, Reset};
use crate::failure::Failure;
use crate::observe::{OperationKind, TraceContext};
use crate::principal::Principal;

/// A reset, a step or a call while it runs.
pub(super) struct RunningOperation<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) input: OperationInput<'a>,
    pub(super) trace: Option<TraceContext>,
    /// Absent while nothing is measured.
    pub(super) clock: Option<Clock>,
    pub(super) epoch: u64,
    pub(super) stage: OperationStage,
    /// Its tool calls, the finished ones first, in order of completion. Empty when they are not kept.
    pub(super) calls: Vec<MadeCall>,
    /// How many of them are over.
    pub(super) finished_calls: usize,
    /// Whether it has called a tool.
    calls_tools: bool,
    /// Whether it runs a program.
    pub(super) runs_code: bool,
    /// The outcomes of calls that are not in a reply yet, by [`MadeCall::place`].
    pub(super) outcomes: Vec<Option<Result<ToolResult, ToolError>>>,
    /// A call that is over and waits for its score.
    pub(super) scoring: Option<Box<Scoring>>,
    pub(super) lock: StepLock,
    /// Keeps others waiting beside the step lock.
    presence: Option<Presence<'a>>,
}

/// The request of an operation.
pub(super) enum OperationInput<'a> {
    /// Known once its epoch has begun.
    Reset(Option<&'a Reset>),
    /// The action is kept only where it is recorded or replayed.
    Step(Principal, Option<RawJson>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperationStage {
    /// Nothing has happened yet.
    Waiting,
    /// It may have reached the environment or a tool.
    Begun,
    /// It was counted, or refused.
    Over,
}

pub(super) struct Clock {
    pub(super) asked: Instant,
    pub(super) began: Instant,
}

/// A call that is scored.
pub(super) struct Scoring {
    /// Its place in the reply of the operation.
    pub(super) place: usize,
    pub(super) call: CallRecord,
}

/// A tool call of an operation.
pub(super) struct MadeCall {
    /// Its name within a graph of calls.
    pub(super) id: Option<String>,
    pub(super) tool: String,
    pub(super) arguments: Option<RawJson>,
    /// Its place in the reply of the operation.
    pub(super) place: usize,
    /// Whether it was made at all: a call of a graph may fail before it begins.
    pub(super) made: bool,
}

/// What keeps others waiting beside the step lock.
#[expect(dead_code, reason = "they are held for their drop")]
enum Presence<'a> {
    /// Forks, snapshots and requests that expect a number.
    Shared(RwLockReadGuard<'a, ()>),
    /// All callers, lists included.
    Alone(Exclusive<'a>, ExclusiveRequest<'a>),
}

/// The session for one operation, but for the step lock. Later ones wait, also for the step lock.
#[expect(dead_code, reason = "they are held for their drop")]
pub(super) struct Exclusive<'a> {
    claim: ExclusiveRequest<'a>,
    guard: RwLockWriteGuard<'a, ()>,
}

/// Announces an operation that needs exclusive access to the session.
struct ExclusiveRequest<'a>(&'a AtomicUsize);

impl<'a> ExclusiveRequest<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        ExclusiveRequest(count)
    }
}

impl Drop for ExclusiveRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Session {
    /// Whether an operation has exclusive access to the session, or waits for it.
    fn is_claimed(&self) -> bool {
        self.exclusive.load(Ordering::Acquire) > 0
    }

    /// Waits until no agent's call overlaps; later callers do not overtake.
    pub(super) async fn exclusive(&self) -> Exclusive<'_> {
        let claim = ExclusiveRequest::new(&self.exclusive);
        Exclusive { guard: self.presence.write().await, claim }
    }
}

impl<'a> RunningOperation<'a> {
    pub(super) fn reset(session: &'a Arc<Session>, trace: Option<TraceContext>) -> Self {
        Self::new(session, OperationInput::Reset(None), trace)
    }

    /// `action` spells the action; it is called only if the action is kept.
    pub(super) fn step(
        session: &'a Arc<Session>,
        principal: Principal,
        action: impl FnOnce() -> RawJson,
        trace: Option<TraceContext>,
    ) -> Self {
        let action = session.keeps_actions().then(action);
        Self::new(session, OperationInput::Step(principal, action), trace)
    }

    fn new(session: &'a Arc<Session>, input: OperationInput<'a>, trace: Option<TraceContext>) -> Self {
        RunningOperation {
            session,
            input,
            trace: session.hooks.place(trace),
            clock: Clock::start(&session.hooks),
            epoch: 0,
            stage: OperationStage::Waiting,
            calls: Vec::new(),
            finished_calls: 0,
            calls_tools: false,
            runs_code: false,
            outcomes: Vec::new(),
            scoring: None,
            lock: StepLock::default(),
            presence: None,
        }
    }

    pub(super) fn principal(&self) -> Principal {
        match self.input {
            OperationInput::Reset(_) => Principal::Control,
            OperationInput::Step(principal, _) => principal,
        }
    }

    pub(super) fn kind(&self) -> OperationKind {
        match self.input {
            OperationInput::Reset(_) => OperationKind::Reset,
            OperationInput::Step(Principal::Agent, _) => OperationKind::AgentCall,
            OperationInput::Step(..) => OperationKind::Step,
        }
    }

    pub(super) fn took(&self) -> Duration {
        self.clock.as_ref().map(|clock| clock.began.elapsed()).unwrap_or_default()
    }

    /// From here on it may reach the environment or a tool, in the epoch that `check` gives.
    pub(super) fn begin(
        &mut self,
        check: impl FnOnce(&mut Progress) -> Result<u64, Failure>,
    ) -> Result<u64, Failure> {
        let mut progress = self.session.progress.lock();
        self.epoch = check(&mut progress)?;
        progress.running += 1;
        drop(progress);
        self.stage = OperationStage::Begun;
        if let Some(clock) = &mut self.clock {
            clock.began = Instant::now();
        }
        Ok(self.epoch)
    }

    /// Takes the step lock: first come, first served among steps, resets, forks and snapshots. What expects a
    /// number waits until nothing else of its session runs, so that no other operation can get that number.
    ///
    /// # Errors
    /// A reset or the end of the session, or the deadline, came first.
    pub(super) async fn lock(&mut self, expect: Expected, deadline: Option<Instant>) -> Result<(), Failure> {
        if !expect.any() && self.try_lock() {
            return Ok(());
        }
        // Boxed, because most operations do not wait.
        Box::pin(self.wait_for_lock(expect, deadline)).await
    }

    async fn wait_for_lock(&mut self, expect: Expected, deadline: Option<Instant>) -> Result<(), Failure> {
        let session = self.session;
        let token = session.progress.lock().token.clone();
        let wait = async {
            let (mut presence, mut claim) = (None, None);
            if expect.any() {
                let claim = ExclusiveRequest::new(&session.expecting);
                presence = Some(Presence::Alone(session.exclusive().await, claim));
            } else if session.is_claimed() {
                // Until this waits for the lock itself, a later caller must not take it.
                claim = Some(ExclusiveRequest::new(&session.exclusive));
                drop(session.presence.read().await);
            }
            let mut guard = pin!(Arc::clone(&session.cell).lock_owned());
            let had = poll_fn(|context| Poll::Ready(guard.as_mut().poll(context))).await;
            drop(claim);
            let guard = match had {
                Poll::Ready(guard) => guard,
                Poll::Pending => guard.await,
            };
            (presence, guard)
        };
        tokio::select! {
            biased;
            // First, because the reset that cancelled the holder of the lock cancelled this one too.
            () = token.cancelled() => Err(session.cancelled(Delivered::No)),
            (presence, guard) = wait => {
                (self.presence, self.lock.guard) = (presence, Some(guard));
                Ok(())
            }
            () = at(deadline) => Err(Failure::new(
                ErrorCode::DeadlineExceeded,
                "the deadline passed while an earlier step of this session was still running",
            ).undelivered()),
        }
    }

    /// Takes the step lock if it is free and no operation waits for it.
    pub(super) fn try_lock(&mut self) -> bool {
        if self.session.is_claimed() {
            return false;
        }
        self.lock.guard = Arc::clone(&self.session.cell).try_lock_owned().ok();
        self.lock.guard.is_some()
    }

    /// Runs beside other work of the session, but neither while it is copied nor beside what expects a
    /// number.
    pub(super) async fn share(&mut self) {
        self.presence = Some(Presence::Shared(self.session.presence.read().await));
    }

    /// Runs beside other work of the session, also while it is copied, but not beside what expects a number.
    pub(super) async fn share_number(&mut self) {
        match self.session.presence.try_read() {
            Ok(guard) => self.presence = Some(Presence::Shared(guard)),
            Err(_) if self.session.expecting.load(Ordering::Acquire) > 0 => self.share().await,
            Err(_) => {}
        }
    }

    /// Notes a tool call that is about to be made. `place` is its place in the reply.
    pub(super) fn call_begins(
        &mut self,
        place: usize,
        id: Option<&str>,
        tool: &str,
        arguments: Option<&RawValue>,
    ) {
        self.calls_tools = true;
        if self.session.keeps_actions() {
            let (id, arguments) = (id.map(str::to_owned), arguments.map(RawValue::to_owned));
            self.calls.push(MadeCall { id, tool: tool.to_owned(), arguments, place, made: true });
        }
    }

    /// Notes a call that is not made.
    pub(super) fn call_fails(&mut self, place: usize, id: &str, tool: &str, error: ToolError) {
        self.call_begins(place, Some(id), tool, None);
        if let Some(call) = self.calls.last_mut() {
            call.made = false;
        }
        self.call_ends(place);
        self.outcomes[place] = Some(Err(error));
    }

    /// Notes that the call of that place is over.
    pub(super) fn call_ends(&mut self, place: usize) {
        let running = &mut self.calls[self.finished_calls..];
        if let Some(at) = running.iter().position(|call| call.place == place) {
            running[..=at].rotate_right(1);
            self.finished_calls += 1;
        }
    }

    /// Releases everything that others of the session may wait for.
    pub(super) fn release(&mut self) {
        self.lock = StepLock::default();
        self.presence = None;
    }
}

impl Drop for RunningOperation<'_> {
    fn drop(&mut self) {
        if self.stage == OperationStage::Begun {
            let failure =
                self.session.cut_off(ErrorCode::Cancelled, "its caller went away before it was over");
            let failure = failure.in_phase(self.phase());
            self.measure(Some(&failure));
            drop(self.conclude(Err(failure)));
        }
    }
}

impl RunningOperation<'_> {
    pub(super) fn phase(&self) -> Phase {
        match self.input {
            OperationInput::Reset(_) => Phase::Reset,
            OperationInput::Step(..) if self.calls_tools => Phase::Tool,
            OperationInput::Step(..) => Phase::Step,
        }
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
