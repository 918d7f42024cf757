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
use oxenv_wire::{Delivered, ErrorCode, Phase, RawJson, Reward, ToolError, ToolResult};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::drive::{Guard, Request, at};
use super::settle::{Ran, Taken};
use super::steps::{CallReply, GraphReply, StepReply};
use super::{Principal, Session};
use crate::environment::CallRecord;
use crate::failure::Failure;
use crate::graph::{Budget, Plan};
use crate::observe::{CallError, ObservedCall, TraceContext};
use crate::seed::EpisodeSeeds;
use crate::toolset::{CallContext, Caller};

/// One call, as it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) principal: Principal,
    pub(super) name: &'a str,
    pub(super) arguments: Option<&'a RawValue>,
    pub(super) caller: Option<&'a dyn Caller>,
    pub(super) request: Option<&'a RawValue>,
    pub(super) trace: Option<TraceContext>,
}

impl<'a> Asked<'a> {
    pub(super) fn by_control(
        name: &'a str,
        arguments: Option<&'a RawValue>,
        trace: Option<TraceContext>,
    ) -> Self {
        Asked { principal: Principal::Control, name, arguments, caller: None, request: None, trace }
    }
}

/// A call with its score, the step lock if it is held, and what the reply does not have.
type Scored = (Result<CallReply, Failure>, Option<Guard>, Vec<Taken>);

/// What became of a call of a graph, by its place in the plan.
type Finished = (usize, Option<RawJson>, Result<ToolResult, ToolError>);

impl Session {
    /// The call itself and its score. The inner failure is the environment's, of scoring it.
    pub(super) async fn run_call(
        self: &Arc<Self>,
        mut guard: Option<Guard>,
        epoch: u64,
        asked: Asked<'_>,
        deadline: Option<Instant>,
    ) -> Result<Scored, Failure> {
        let call = self.call_tool(epoch, &asked);
        let outcome = self.held(guard.as_mut(), epoch, deadline, call).await?;
        let observes = self.spec.capabilities.observes_calls && outcome.is_ok();
        let kept = (observes || self.keeps_actions())
            .then(|| (asked.name.to_owned(), asked.arguments.map(RawValue::to_owned)));
        if !observes {
            let calls = kept.map(|(tool, arguments)| Taken { tool, arguments }).into_iter().collect();
            return Ok((Ok(CallReply { outcome, reward: None, metadata: None, done: false }), guard, calls));
        }
        let guard = match guard {
            Some(guard) => guard,
            None => self.acquire_under(&self.token_of(epoch)?, None).await.map_err(delivered)?,
        };
        let (tool, arguments) = kept.unwrap_or_default();
        let record = CallRecord { tool, arguments, outcome };
        let (scored, guard) = self.drive(guard, epoch, Request::AfterCall(&record), deadline).await?;
        let CallRecord { tool, arguments, outcome } = record;
        let reply = scored.map(|scored| CallReply {
            outcome,
            reward: scored.reward,
            metadata: scored.metadata,
            done: scored.done,
        });
        Ok((reply, Some(guard), vec![Taken { tool, arguments }]))
    }

    /// One call by the toolbox, measured if somebody measures.
    async fn call_tool(&self, epoch: u64, asked: &Asked<'_>) -> Result<ToolResult, ToolError> {
        let began = self.hooks.observer.as_ref().map(|_| std::time::Instant::now());
        let outcome = self.toolbox.call(self.context(epoch, asked), asked.name, asked.arguments).await;
        if let (Some(observer), Some(began)) = (&self.hooks.observer, began)
            && let Some(toolset) = self.toolbox.owner(asked.name)
        {
            observer.called(&ObservedCall {
                session_id: Some(&self.id),
                tool: asked.name,
                toolset,
                took: began.elapsed(),
                tool_error: outcome.as_ref().is_ok_and(|result| result.is_error),
                error: outcome
                    .as_ref()
                    .err()
                    .map(|error| CallError { error_type: error.error_type, code: error.code }),
                trace: asked.trace,
            });
        }
        outcome
    }

    /// A graph of calls as one step: those that need nothing more run together.
    pub(super) async fn run_graph<'a>(
        self: &Arc<Self>,
        plan: Plan<'_>,
        mut guard: Guard,
        epoch: u64,
        deadline: Option<Instant>,
    ) -> Result<Ran<'a>, Failure> {
        let mut outcomes: Vec<Option<Result<ToolResult, ToolError>>> =
            plan.calls().iter().map(|_| None).collect();
        let mut taken: Vec<Option<RawJson>> = plan.calls().iter().map(|_| None).collect();
        let mut budget = Budget::default();
        let mut begun = vec![false; outcomes.len()];
        let mut running = FuturesUnordered::new();
        let mut alone = false;
        let (mut reward, mut metadata, mut done) = (None, None, false);
        loop {
            for (index, call) in plan.calls().iter().enumerate() {
                // A toolset that cannot overlap waits until it has the session to itself.
                let exclusive = !self.toolbox.concurrent(call.tool);
                let room = !alone && (!exclusive || running.is_empty());
                if begun[index] || !room || !call.ready(&outcomes) {
                    continue;
                }
                begun[index] = true;
                match call.resolve(&plan, &outcomes, &mut budget) {
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
                let scored = match scored {
                    Ok(scored) => scored,
                    Err(failure) => return Ok(Ran::failed(failure, guard)),
                };
                reward = sum(reward, scored.reward);
                metadata = scored.metadata.or(metadata);
                done |= scored.done;
                (taken[index], outcomes[index]) = (record.arguments, Some(budget.keep(record.outcome)));
            } else {
                (taken[index], outcomes[index]) = (arguments, Some(budget.keep(outcome)));
            }
        }
        drop(running);
        if reward.is_some_and(|reward: Reward| !reward.is_finite()) {
            let message = "the rewards of these calls add up to more than a number can hold";
            let failure = Failure::new(ErrorCode::NonFiniteReward, message).in_phase(Phase::Verify);
            return Ok(Ran::failed(failure, guard));
        }
        let tools = plan.calls().iter().map(|call| call.tool.to_owned());
        let calls = tools.zip(taken).map(|(tool, arguments)| Taken { tool, arguments }).collect();
        let ids = plan.calls().iter().map(|call| call.id.to_owned());
        let results = ids.zip(outcomes.into_iter().flatten()).collect();
        let reply = StepReply::Graph(GraphReply { results, reward, metadata, done });
        Ok(Ran { outcome: Ok(reply), guard: Some(guard), calls })
    }

    async fn child(&self, epoch: u64, index: usize, tool: &str, arguments: Option<RawJson>) -> Finished {
        let asked = Asked::by_control(tool, arguments.as_deref(), None);
        let outcome = self.call_tool(epoch, &asked).await;
        (index, arguments, outcome)
    }

    /// What a reset does before the environment's own: a fresh workspace, then toolsets as their
    /// authors asked for.
    pub(super) async fn renew(
        self: &Arc<Self>,
        guard: &mut Guard,
        epoch: u64,
        seed: u64,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let seeds = EpisodeSeeds::in_epoch(self.seed, epoch, seed);
        let workspace = guard.workspace.clone();
        let work = async {
            if let Some(workspace) = workspace {
                let renewed = tokio::task::spawn_blocking(move || workspace.renew()).await;
                renewed.map_err(|error| Failure::infrastructure(error.to_string()))?.map_err(|error| {
                    Failure::infrastructure(format!("the workspace could not be made fresh: {error}"))
                })?;
            }
            self.toolbox.reset(seeds).await
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

/// A call that has run waits for its score only.
fn delivered(failure: Failure) -> Failure {
    failure.with(|detail| detail.delivered = Delivered::Maybe)
}

/// The sum of two rewards; whole numbers stay whole.
fn sum(one: Option<Reward>, other: Option<Reward>) -> Option<Reward> {
    match (one, other) {
        (None, reward) | (reward, None) => reward,
        (Some(Reward::Int(one)), Some(Reward::Int(other))) => Some(Reward::Int(one.saturating_add(other))),
        (Some(one), Some(other)) => Some(Reward::Float(one.as_f64() + other.as_f64())),
    }
}
