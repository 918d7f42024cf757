//! Tool calls within a session: one, a graph of them, and what a reset does to toolsets.
//!
//! Invariant: a call ends with its epoch and its deadline, whatever its tool does; while it holds
//! the step lock, readers are shown the state before it. Reward hooks run one at a time, in order
//! of completion.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oxenv_wire::{CallGraph, ErrorCode, Phase, RawJson, Reward, ToolError, ToolResult};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::{Guard, Request, after, at};
use super::steps::{CallReply, GraphReply, StepOptions};
use super::{Principal, Session};
use crate::environment::CallRecord;
use crate::failure::Failure;
use crate::graph::Plan;
use crate::toolset::{CallContext, Caller};

/// One call, as it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) principal: Principal,
    pub(super) name: &'a str,
    pub(super) arguments: Option<&'a RawValue>,
    pub(super) caller: Option<&'a dyn Caller>,
    pub(super) request: Option<&'a RawValue>,
}

impl<'a> Asked<'a> {
    pub(super) fn by_control(name: &'a str, arguments: Option<&'a RawValue>) -> Self {
        Asked { principal: Principal::Control, name, arguments, caller: None, request: None }
    }
}

/// What became of a call of a graph, by its place in the plan.
type Finished = (usize, Option<RawJson>, Result<ToolResult, ToolError>);

impl Session {
    /// The call itself, its score and its place in the count.
    pub(super) async fn run_call(
        self: &Arc<Self>,
        mut guard: Option<Guard>,
        epoch: u64,
        asked: Asked<'_>,
        deadline: Option<Instant>,
    ) -> Result<CallReply, Failure> {
        let call = self.toolbox.call(self.context(epoch, &asked), asked.name, asked.arguments);
        let outcome = self.held(guard.as_mut(), epoch, deadline, call).await?;
        if !self.spec.capabilities.observes_calls || outcome.is_err() {
            let done = self.count(epoch, false, None);
            drop(guard);
            return Ok(CallReply { outcome, reward: None, done });
        }
        let guard = match guard {
            Some(guard) => guard,
            None => self.acquire_under(&self.token_of(epoch)?, None).await?,
        };
        let arguments = asked.arguments.map(RawValue::to_owned);
        let record = CallRecord { tool: asked.name.to_owned(), arguments, outcome };
        let (scored, guard) = self.drive(guard, epoch, Request::AfterCall(&record), deadline).await?;
        let done = self.count(epoch, scored.done, scored.reward);
        drop(guard);
        Ok(CallReply { outcome: record.outcome, reward: scored.reward, done })
    }

    /// A graph of calls as one step: those that need nothing more run together.
    pub(super) async fn step_graph(
        self: &Arc<Self>,
        graph: &CallGraph<'_>,
        options: StepOptions,
    ) -> Result<GraphReply, Failure> {
        let plan = Plan::new(graph)?;
        let deadline = after(options.timeout);
        let mut guard = self.acquire(deadline).await?;
        let epoch = self.progress.lock().steppable()?;
        let mut outcomes: Vec<Option<Result<ToolResult, ToolError>>> =
            plan.calls().iter().map(|_| None).collect();
        let mut begun = vec![false; outcomes.len()];
        let mut running = FuturesUnordered::new();
        let mut alone = false;
        let (mut reward, mut done) = (None, false);
        loop {
            for (index, call) in plan.calls().iter().enumerate() {
                // A toolset that cannot overlap waits until it has the session to itself.
                let exclusive = !self.toolbox.concurrent(call.tool);
                let room = !alone && (!exclusive || running.is_empty());
                if begun[index] || !room || !call.ready(&outcomes) {
                    continue;
                }
                begun[index] = true;
                match call.resolve(&plan, &outcomes) {
                    Ok(arguments) => {
                        alone = exclusive;
                        running.push(self.child(epoch, index, call.tool, arguments));
                    }
                    Err(error) => outcomes[index] = Some(Err(error)),
                }
            }
            let Some((index, arguments, outcome)) =
                self.held(Some(&mut guard), epoch, deadline, running.next()).await?
            else {
                // Calls that failed without running may have let others become ready.
                if outcomes.iter().all(Option::is_some) {
                    break;
                }
                continue;
            };
            alone = false;
            if self.spec.capabilities.observes_calls && outcome.is_ok() {
                let record = CallRecord { tool: plan.calls()[index].tool.to_owned(), arguments, outcome };
                let (scored, back) = self.drive(guard, epoch, Request::AfterCall(&record), deadline).await?;
                guard = back;
                reward = sum(reward, scored.reward);
                done |= scored.done;
                outcomes[index] = Some(record.outcome);
            } else {
                outcomes[index] = Some(outcome);
            }
        }
        drop(running);
        if reward.is_some_and(|reward: Reward| !reward.is_finite()) {
            let message = "the rewards of these calls add up to more than a number can hold";
            return Err(Failure::new(ErrorCode::NonFiniteReward, message).in_phase(Phase::Verify));
        }
        let done = self.count(epoch, done, reward);
        drop(guard);
        let ids = plan.calls().iter().map(|call| call.id.to_owned());
        Ok(GraphReply { results: ids.zip(outcomes.into_iter().flatten()).collect(), reward, done })
    }

    async fn child(&self, epoch: u64, index: usize, tool: &str, arguments: Option<RawJson>) -> Finished {
        let asked = Asked::by_control(tool, arguments.as_deref());
        let outcome = self.toolbox.call(self.context(epoch, &asked), tool, arguments.as_deref()).await;
        (index, arguments, outcome)
    }

    /// What a reset does before the environment's own: a fresh workspace, then toolsets as their
    /// authors asked for.
    pub(super) async fn renew(
        self: &Arc<Self>,
        guard: &mut Guard,
        epoch: u64,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let workspace = guard.workspace.clone();
        let work = async {
            if let Some(workspace) = workspace {
                let renewed = tokio::task::spawn_blocking(move || workspace.renew()).await;
                renewed.map_err(|error| Failure::infrastructure(error.to_string()))?.map_err(|error| {
                    Failure::infrastructure(format!("the workspace could not be made fresh: {error}"))
                })?;
            }
            self.toolbox.reset().await
        };
        self.held(Some(guard), epoch, deadline, work).await?
    }

    /// Waits for work that is part of an epoch. Work that is done at once, as most is, needs no way
    /// to be cut off.
    async fn held<T>(
        &self,
        guard: Option<&mut Guard>,
        epoch: u64,
        deadline: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return Ok(done);
        }
        let (token, _shown) = match guard {
            Some(guard) => (self.publish(guard, epoch)?, Some(Shown(self))),
            None => (self.token_of(epoch)?, None),
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = token.cancelled() => {
                Err(self.cut_off(ErrorCode::Cancelled, "the call was cancelled by a reset of its session"))
            }
            () = at(deadline) => {
                Err(self.cut_off(ErrorCode::DeadlineExceeded, "the tool did not answer before the step's deadline"))
            }
        }
    }

    fn context<'a>(&'a self, epoch: u64, asked: &Asked<'a>) -> CallContext<'a> {
        CallContext {
            session_id: Some(&self.id),
            epoch,
            step: self.progress.lock().step_count + 1,
            principal: asked.principal,
            caller: asked.caller,
            request: asked.request,
        }
    }
}

/// The state that readers see while a tool holds the step lock; gone with the call, however it ends.
struct Shown<'a>(&'a Session);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.progress.lock().published = None;
    }
}

/// The sum of two rewards; whole numbers stay whole.
fn sum(one: Option<Reward>, other: Option<Reward>) -> Option<Reward> {
    match (one, other) {
        (None, reward) | (reward, None) => reward,
        (Some(Reward::Int(one)), Some(Reward::Int(other))) => Some(Reward::Int(one.saturating_add(other))),
        (Some(one), Some(other)) => Some(Reward::Float(one.as_f64() + other.as_f64())),
    }
}
