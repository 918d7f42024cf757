//! What orchestrators ask for: resets, steps, the state.
//!
//! Invariant: a step holds the step lock from its first look at the session to its counted end. An
//! epoch begins nowhere else.

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Action, Delivered, Phase, RawJson, ToolCall, default_call};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::{EnvironmentRequest, after};
use super::operation::{OperationInput, RunningOperation};
use super::request::{ResetOptions, SessionOperation, SessionRequest};
use super::settle::Settled;
use super::{Expected, Session, fresh_id};
use crate::capabilities::Execution;
use crate::environment::{Observed, Reset};
use crate::failure::Failure;
use crate::graph::CallPlan;
use crate::observe::TraceContext;
use crate::principal::Principal;
use crate::render;
use crate::reply::StepReply;
use crate::seed::derive_seed;
use crate::spec::ActionSpace;

impl Session {
    pub(super) async fn reset_expecting(
        self: &Arc<Self>,
        options: ResetOptions,
        expect: Expected,
        trace: Option<TraceContext>,
    ) -> Settled<'static> {
        let deadline = after(Some(self.reset_deadline));
        let reset;
        let mut operation = RunningOperation::reset(self, trace);
        let outcome = match self.begin_epoch(&mut operation, expect, deadline).await {
            Ok(epoch) => {
                reset = Reset {
                    seed: options.seed.unwrap_or_else(|| derive_seed(self.seed, epoch)),
                    seed_given: options.seed.is_some(),
                    episode_id: options.episode_id.unwrap_or_else(fresh_id),
                    arguments: options.arguments,
                };
                operation.input = OperationInput::Reset(Some(&reset));
                self.run_reset(&mut operation, &reset, deadline).await
            }
            Err(failure) => Err(failure),
        };
        let outcome = outcome.map(StepReply::Observed).map_err(|failure| failure.in_phase(Phase::Reset));
        operation.settle(outcome).await
    }

    /// Begins an epoch, which cancels what runs in the present one. What expects a number begins it only once
    /// it has that number, and the step lock.
    async fn begin_epoch(
        &self,
        operation: &mut RunningOperation<'_>,
        expect: Expected,
        deadline: Option<Instant>,
    ) -> Result<u64, Failure> {
        if expect.any() {
            operation.lock(expect, deadline).await?;
        }
        operation.begin(|progress| progress.next_epoch(expect))
    }

    async fn run_reset(
        &self,
        operation: &mut RunningOperation<'_>,
        reset: &Reset,
        deadline: Option<Instant>,
    ) -> Result<Observed, Failure> {
        let epoch = operation.epoch;
        if operation.lock.guard.is_none() {
            // The epoch has begun, whatever the outcome of its reset.
            let locked = operation.lock(Expected::default(), deadline).await;
            locked.map_err(|failure| failure.with(|detail| detail.delivered = Delivered::Maybe))?;
        }
        // Another reset, or the end, may have come while this one waited.
        self.token_of(epoch)?;
        self.renew(operation, reset.seed, deadline).await?;
        let observed =
            self.drive(&mut operation.lock, epoch, EnvironmentRequest::Reset(reset), deadline).await?;
        Ok(render::with_problems(observed, &self.toolbox.problems()))
    }

    /// A typed step that needs no waiting: its environment does not suspend, nothing else of its
    /// session runs, and nothing is recorded. Absent when it has to wait; then nothing has happened.
    pub(super) fn step_inline<'a>(self: &Arc<Self>, request: &SessionRequest<'_>) -> Option<Settled<'a>> {
        let SessionOperation::Step(action @ Action::Typed(typed)) = &request.operation else { return None };
        let inline = self.spec.capabilities.execution == Execution::Inline;
        let expect = Expected::of(&request.once);
        if !inline
            || self.spec.action_space == ActionSpace::Tools
            || self.hooks.recorder.is_some()
            || expect.any()
        {
            return None;
        }
        let _busy = self.lease.busy();
        let mut operation =
            RunningOperation::step(self, Principal::Control, || action.to_raw(), request.trace);
        if !operation.try_lock() {
            return None;
        }
        let begun = operation.begin(|progress| progress.steppable(expect));
        let outcome =
            begun.and_then(|_| self.drive_inline(&mut operation.lock, EnvironmentRequest::Step(typed)));
        Some(operation.settle_at_once(outcome.map(StepReply::Observed)))
    }

    pub(super) async fn step_expecting<'a>(
        self: &Arc<Self>,
        action: Action<'a>,
        timeout: Option<Duration>,
        expect: Expected,
        trace: Option<TraceContext>,
    ) -> Settled<'a> {
        let mut operation = RunningOperation::step(self, Principal::Control, || action.to_raw(), trace);
        let outcome = self.run_step(&mut operation, action, after(timeout), expect).await;
        operation.settle(outcome).await
    }

    async fn run_step<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        action: Action<'a>,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<StepReply<'a>, Failure> {
        match action {
            Action::ListTools(spelling) => {
                Box::pin(self.run_list(operation, spelling, deadline, expect)).await
            }
            Action::CallTool(call) => self.run_control_call(operation, call, deadline, expect).await,
            Action::CallTools(graph) => {
                let plan = CallPlan::new(&graph)?;
                self.begin_step(operation, deadline, expect).await?;
                Box::pin(self.run_graph(operation, plan, deadline)).await.map(StepReply::Graph)
            }
            Action::Typed(action) => match self.spec.action_space {
                ActionSpace::Typed | ActionSpace::Own => {
                    self.run_typed(operation, action, deadline, expect).await
                }
                ActionSpace::Tools => match default_call(action) {
                    Ok(call) => self.run_control_call(operation, call, deadline, expect).await,
                    Err(_) => self.run_typed(operation, action, deadline, expect).await,
                },
            },
            Action::Code(code) => Box::pin(self.run_code(operation, &code, deadline, expect)).await,
        }
    }

    /// Takes the step lock, in the present epoch.
    pub(super) async fn begin_step(
        &self,
        operation: &mut RunningOperation<'_>,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<u64, Failure> {
        operation.lock(expect, deadline).await?;
        operation.begin(|progress| progress.steppable(expect))
    }

    async fn run_typed<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        action: &RawValue,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<StepReply<'a>, Failure> {
        let epoch = self.begin_step(operation, deadline, expect).await?;
        let observed =
            self.drive(&mut operation.lock, epoch, EnvironmentRequest::Step(action), deadline).await;
        observed.map(StepReply::Observed)
    }

    async fn run_control_call<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        call: ToolCall<'a>,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<StepReply<'a>, Failure> {
        self.begin_step(operation, deadline, expect).await?;
        let tool = self.toolbox.find(&call.name);
        let request = self.call_request(operation, call.arguments, deadline);
        let reply = self.run_call(operation, tool, &request).await?;
        Ok(StepReply::Call { spelling: call.spelling, name: call.name, reply })
    }

    /// The state: a JSON object with `episode_id`, `step_count` and the environment's own fields.
    /// While a step that suspends or blocks runs, it is the state before that step.
    ///
    /// # Errors
    /// When the session has ended or the environment does not know its state.
    pub async fn state(&self) -> Result<String, Failure> {
        let _busy = self.lease.busy();
        self.progress.lock().alive()?;
        let fields = self.state_fields().await?;
        let progress = self.progress.lock();
        progress.alive()?;
        Ok(merge_state(&progress.episode_id, progress.step_count, fields.get()))
    }

    async fn state_fields(&self) -> Result<RawJson, Failure> {
        loop {
            if let Ok(mut guard) = Arc::clone(&self.cell).try_lock_owned() {
                return self.publish_state(&mut guard)?;
            }
            let published = self.progress.lock().published.clone();
            if let Some(state) = published {
                return state;
            }
            // An inline step ends within the poll that began it, so this is no wait for a step.
            if self.spec.capabilities.execution == Execution::Inline {
                let mut guard = self.acquire().await?;
                return self.publish_state(&mut guard)?;
            }
            // Between taking the lock and publishing, or between finishing and releasing it.
            tokio::task::yield_now().await;
        }
    }
}

fn merge_state(episode_id: &str, step_count: u64, fields: &str) -> String {
    use std::fmt::Write as _;
    let mut state = String::with_capacity(fields.len() + 96);
    let episode_id = serde_json::Value::from(episode_id);
    // Writing to a String cannot fail.
    let _ = write!(state, "{{\"episode_id\":{episode_id},\"step_count\":{step_count}");
    let rest = fields[1..].trim_ascii_start();
    if !rest.starts_with('}') {
        state.push(',');
    }
    state.push_str(rest);
    state
}
