//! Runs one call of a session's environment: inline, in a task, or on a thread of its own, with a
//! deadline, cancellation and panics contained.
//!
//! Invariant: the operation that runs the environment holds the cell's lock; an operation that ends before
//! the environment's task aborts it, and the session then demands a reset, because it is unknown how far the
//! task came.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use oxenv_wire::{Delivered, ErrorCode, Phase, RawJson, Seconds, panic_text};
use serde_json::value::RawValue;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::step_lock::{CellGuard, InFlight, StepLock, StuckWatch};
use super::{Cell, Session};
use crate::capabilities::Execution;
use crate::end_reason::EndReason;
use crate::environment::{CallRecord, Observed, Reset};
use crate::failure::Failure;
use crate::work::Work;

/// A limit that is never reached: more than a century.
const NO_TIMEOUT: Duration = Seconds::MAX;

/// A request to the environment.
#[derive(Clone, Copy)]
pub(super) enum EnvironmentRequest<'a> {
    Reset(&'a Reset),
    Step(&'a RawValue),
    AfterCall(&'a CallRecord),
}

/// A request to the environment, for a task that outlives the caller's borrow.
enum OwnedRequest {
    Reset(Reset),
    Step(RawJson),
    AfterCall(CallRecord),
}

impl EnvironmentRequest<'_> {
    fn to_owned(self) -> OwnedRequest {
        match self {
            EnvironmentRequest::Reset(reset) => OwnedRequest::Reset(reset.clone()),
            EnvironmentRequest::Step(action) => OwnedRequest::Step(action.to_owned()),
            EnvironmentRequest::AfterCall(call) => OwnedRequest::AfterCall(call.clone()),
        }
    }

    fn phase(self) -> Phase {
        match self {
            EnvironmentRequest::Reset(_) => Phase::Reset,
            EnvironmentRequest::Step(_) => Phase::Step,
            EnvironmentRequest::AfterCall(_) => Phase::Verify,
        }
    }
}

impl OwnedRequest {
    fn borrow(&self) -> EnvironmentRequest<'_> {
        match self {
            OwnedRequest::Reset(reset) => EnvironmentRequest::Reset(reset),
            OwnedRequest::Step(action) => EnvironmentRequest::Step(action),
            OwnedRequest::AfterCall(call) => EnvironmentRequest::AfterCall(call),
        }
    }
}

impl Session {
    /// Waits for the step lock in the present epoch.
    pub(super) async fn acquire(&self) -> Result<CellGuard, Failure> {
        if let Ok(guard) = Arc::clone(&self.cell).try_lock_owned() {
            return Ok(guard);
        }
        let token = self.progress.lock().token.clone();
        self.acquire_under(&token).await
    }

    pub(super) async fn acquire_under(&self, token: &CancellationToken) -> Result<CellGuard, Failure> {
        tokio::select! {
            biased;
            // First, because the reset that cancelled the holder of the lock cancelled this one too.
            () = token.cancelled() => Err(self.cancelled(Delivered::No)),
            guard = Arc::clone(&self.cell).lock_owned() => Ok(guard),
        }
    }

    /// Runs one request of an epoch, whose operation has the step lock, to its end. After a failure that
    /// marks it so, it is unknown how far the request came.
    pub(super) async fn drive(
        &self,
        lock: &mut StepLock,
        epoch: u64,
        request: EnvironmentRequest<'_>,
        deadline: Option<Instant>,
    ) -> Result<Observed, Failure> {
        match self.spec.capabilities.execution {
            Execution::Inline => self.drive_inline(lock, request),
            execution => {
                let phase = request.phase();
                let answer = Box::pin(self.drive_apart(execution, lock, epoch, request, deadline)).await?;
                check_observed(answer, phase)
            }
        }
    }

    /// Runs one request of an environment that does not suspend.
    pub(super) fn drive_inline(
        &self,
        lock: &mut StepLock,
        request: EnvironmentRequest<'_>,
    ) -> Result<Observed, Failure> {
        let phase = request.phase();
        let guard = locked(&mut lock.guard)?;
        match catch_unwind(AssertUnwindSafe(|| now(guard, request))) {
            Ok(answer) => check_observed(answer, phase),
            Err(panic) => {
                if let Some(mut guard) = lock.guard.take() {
                    discard(&mut guard);
                }
                Err(self.panicked(&panic_text(panic.as_ref()), phase))
            }
        }
    }

    async fn drive_apart(
        &self,
        execution: Execution,
        lock: &mut StepLock,
        epoch: u64,
        request: EnvironmentRequest<'_>,
        deadline: Option<Instant>,
    ) -> Result<Result<Observed, Failure>, Failure> {
        let phase = request.phase();
        let token = self.publish(locked(&mut lock.guard)?, epoch)?;
        let Some(mut guard) = lock.guard.take() else { return Err(not_locked()) };
        let request = request.to_owned();
        let watch = Arc::new(StuckWatch::new(Arc::clone(&self.stuck)));
        let ran = Arc::clone(&watch);
        let work = async move {
            let outcome = perform(&mut guard, request.borrow()).await;
            drop(ran);
            (outcome, guard)
        };
        let mut handle = match execution {
            Execution::Blocking => {
                let runtime = tokio::runtime::Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(work))
            }
            _ => tokio::spawn(work),
        };
        let in_flight = InFlight { abort: handle.abort_handle(), watch, armed: true };
        let in_flight = lock.in_flight.insert(in_flight);
        // Dropped before the handle, with which the step lock may go.
        let mut unfinished = Unfinished { session: self, epoch, armed: true };
        tokio::select! {
            biased;
            joined = &mut handle => {
                (in_flight.armed, unfinished.armed) = (false, false);
                self.progress.lock().published = None;
                let (answer, guard) = joined.map_err(|error| self.task_failure(error, epoch, phase))?;
                lock.guard = Some(guard);
                Ok(answer)
            }
            () = token.cancelled() => Err(self.cancelled(Delivered::Maybe).in_phase(phase)),
            () = at(deadline) => {
                Err(self.cut_off(ErrorCode::DeadlineExceeded, &self.too_late(phase)).in_phase(phase))
            }
        }
    }

    /// Keeps the present state for readers, and returns the token that cancels calls of that epoch.
    pub(super) fn publish(&self, guard: &mut CellGuard, epoch: u64) -> Result<CancellationToken, Failure> {
        let state = self.publish_state(guard)?;
        let token = self.token_of(epoch)?;
        self.progress.lock().published = Some(state);
        Ok(token)
    }

    /// Cancelled by the next reset or the end, unless it has come already.
    pub(super) fn token_of(&self, epoch: u64) -> Result<CancellationToken, Failure> {
        let progress = self.progress.lock();
        if progress.epoch == epoch && progress.ended.is_none() {
            return Ok(progress.token.clone());
        }
        drop(progress);
        Err(self.cancelled(Delivered::Maybe))
    }

    /// The state's own fields, or why they are not known; the outer failure is that the session has
    /// ended, possibly by a panic just now.
    pub(super) fn publish_state(&self, guard: &mut CellGuard) -> Result<Result<RawJson, Failure>, Failure> {
        let Some(environment) = &guard.environment else { return Err(self.cancelled(Delivered::No)) };
        match catch_unwind(AssertUnwindSafe(|| environment.state())) {
            Ok(Ok(state)) if !is_object(&state) => {
                Ok(Err(Failure::environment("the environment's state is not a JSON object")))
            }
            Ok(state) => Ok(state),
            Err(panic) => {
                discard(guard);
                Err(self.panicked(&panic_text(panic.as_ref()), Phase::Step))
            }
        }
    }

    /// The failure of what a reset or the end of its session came before.
    pub(super) fn cancelled(&self, delivered: Delivered) -> Failure {
        let failure = self.cut_off(ErrorCode::Cancelled, "the call was cancelled by a reset of its session");
        failure.with(|detail| {
            detail.delivered = delivered;
            detail.retryable = delivered == Delivered::No && detail.code == ErrorCode::Draining;
        })
    }

    /// The failure of what was cut off: by the end of the session, or else the given one. It is unknown
    /// how far the operation came.
    pub(super) fn cut_off(&self, code: ErrorCode, message: &str) -> Failure {
        let ended = self.progress.lock().alive().err();
        let failure = ended.unwrap_or_else(|| Failure::new(code, message));
        failure.with(|detail| {
            detail.delivered = Delivered::Maybe;
            detail.retryable = false;
        })
    }

    /// What happened to a request that the deadline came before.
    fn too_late(&self, phase: Phase) -> String {
        match phase {
            Phase::Reset => {
                let seconds = self.reset_deadline.as_secs_f64();
                format!("the environment did not finish its reset within {seconds} s; reset it again")
            }
            _ => {
                "the environment did not finish before the deadline; reset it before the next step".to_owned()
            }
        }
    }

    fn task_failure(&self, error: JoinError, epoch: u64, phase: Phase) -> Failure {
        if error.is_panic() {
            return self.panicked(&panic_text(error.into_panic().as_ref()), phase);
        }
        self.require_reset_in(epoch);
        self.cancelled(Delivered::Maybe).in_phase(phase)
    }

    fn panicked(&self, panic: &str, phase: Phase) -> Failure {
        tracing::error!(session = %self.id, environment = %self.spec.name, panic, "environment panicked");
        self.end(EndReason::Failed(panic.to_owned()));
        let message =
            format!("the environment panicked ({panic}); its session has ended, reset to begin a new one");
        Failure::new(ErrorCode::EnvironmentPanicked, message).in_phase(phase)
    }
}

/// Drops what a session lived in; a panic in an environment's drop is its own affair.
pub(super) fn discard(cell: &mut Cell) {
    let environment = cell.environment.take();
    let _ = catch_unwind(AssertUnwindSafe(|| drop(environment)));
    cell.interpreter = None;
    cell.workspace = None;
}

pub(super) fn locked(guard: &mut Option<CellGuard>) -> Result<&mut CellGuard, Failure> {
    guard.as_mut().ok_or_else(not_locked)
}

fn not_locked() -> Failure {
    Failure::infrastructure("the operation does not hold the lock of its session")
}

fn perform<'a>(cell: &'a mut Cell, request: EnvironmentRequest<'a>) -> Work<'a, Result<Observed, Failure>> {
    let Some(environment) = &mut cell.environment else {
        return Work::done(Err(Failure::new(
            ErrorCode::SessionEnded,
            "the session has ended; open a new one",
        )));
    };
    match request {
        EnvironmentRequest::Reset(reset) => environment.reset(reset),
        EnvironmentRequest::Step(action) => environment.step(action),
        EnvironmentRequest::AfterCall(call) => environment.after_call(call),
    }
}

fn now(cell: &mut Cell, request: EnvironmentRequest<'_>) -> Result<Observed, Failure> {
    match pin!(perform(cell, request)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(Failure::environment(
            "the environment declares inline execution but suspended: declare task execution",
        )),
    }
}

/// What an environment answered, in the phase that it was asked in.
fn check_observed(answer: Result<Observed, Failure>, phase: Phase) -> Result<Observed, Failure> {
    answer.and_then(checked).map_err(|failure| match failure.phase {
        // A failure of scoring already has its phase.
        Phase::Verify => failure,
        _ => failure.in_phase(phase),
    })
}

/// An observation that can be shown, with a reward that is a number.
fn checked(observed: Observed) -> Result<Observed, Failure> {
    if let Some(reward) = observed.reward.filter(|reward| !reward.is_finite()) {
        let message =
            format!("the environment gave the reward {}, which is not a finite number", reward.as_f64());
        return Err(Failure::new(ErrorCode::NonFiniteReward, message));
    }
    if !is_object(&observed.fields) {
        return Err(Failure::environment("the environment's observation is not a JSON object"));
    }
    Ok(observed)
}

/// Raw JSON has no space in front of it, so its first character shows its type.
fn is_object(json: &RawValue) -> bool {
    json.get().starts_with('{')
}

pub(super) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The deadline after that duration; `None` if no clock reaches it.
pub(super) fn after(limit: Option<Duration>) -> Option<Instant> {
    limit.filter(|limit| *limit < NO_TIMEOUT).map(|limit| oxenv_wire::after(Instant::now(), limit))
}

/// A step that runs apart, in the environment or as a program: given up before it is done, the session
/// demands a reset.
pub(super) struct Unfinished<'a> {
    pub(super) session: &'a Session,
    pub(super) epoch: u64,
    pub(super) armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.session.require_reset_in(self.epoch);
        }
    }
}
