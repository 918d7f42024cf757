//! Tool calls within a session: one, a graph of them, and what a reset does to toolsets.
//!
//! Invariant: a call ends with its epoch and its deadline, whatever its tool does; while it holds
//! the step lock, readers are shown the state before it. Reward hooks run one at a time, in order
//! of completion.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oxenv_wire::{Delivered, ErrorCode, Phase, RawJson, Reward, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Session;
use super::drive::{EnvironmentRequest, at};
use super::operation::{RunningOperation, Scoring};
use super::step_lock::StepLock;
use crate::environment::{CallRecord, Observed};
use crate::failure::Failure;
use crate::graph::{CallPlan, GraphBudget, PlannedCall};
use crate::reply::{CallReply, GraphReply};
use crate::seed::EpisodeSeeds;
use crate::toolbox::{CallRequest, ResolvedTool};
use crate::toolset::CallContext;

/// One of several calls of a step, when it is over.
pub(super) struct FinishedCall {
    /// Its place in the step.
    pub(super) index: usize,
    pub(super) arguments: Option<RawJson>,
    pub(super) outcome: Result<ToolResult, ToolError>,
}

/// The rewards of the calls of a step so far.
#[derive(Default)]
pub(super) struct StepScore {
    pub(super) reward: Option<Reward>,
    pub(super) metadata: Option<RawJson>,
    pub(super) done: bool,
}

impl Session {
    /// A tool call of a running operation, as the toolbox wants it.
    pub(super) fn call_request<'a>(
        &'a self,
        operation: &RunningOperation<'_>,
        arguments: Option<&'a RawValue>,
        deadline: Option<Instant>,
    ) -> CallRequest<'a> {
        let context = CallContext {
            session_id: Some(&self.id),
            epoch: operation.epoch,
            step: self.progress.lock().step_count + 1,
            principal: operation.principal(),
            caller: None,
            request: None,
        };
        let observer = self.hooks.observer.as_deref();
        CallRequest { context, arguments, deadline, observer, trace: operation.trace }
    }

    /// A call and its score. A failure is the environment's, of scoring it, or that the call was cancelled.
    pub(super) async fn run_call(
        &self,
        operation: &mut RunningOperation<'_>,
        tool: ResolvedTool<'_>,
        request: &CallRequest<'_>,
    ) -> Result<CallReply, Failure> {
        let (name, arguments, deadline) = (tool.name(), request.arguments, request.deadline);
        operation.call_begins(0, None, name, arguments);
        let mut call = pin!(self.call_tool(tool, request));
        let outcome = self.with_step_lock(operation, None, call.as_mut()).await?;
        operation.call_ends(0);
        if !self.spec.capabilities.observes_calls || outcome.is_err() {
            return Ok(CallReply { outcome, reward: None, metadata: None, done: false });
        }
        let call =
            CallRecord { tool: name.to_owned(), arguments: arguments.map(RawValue::to_owned), outcome };
        let scoring = operation.scoring.insert(Box::new(Scoring { place: 0, call }));
        let scored = self.score(scoring, &mut operation.lock, operation.epoch, deadline).await;
        let outcome = operation.scoring.take().map(|scoring| scoring.call.outcome);
        match (scored, outcome) {
            (Ok(Observed { reward, metadata, done, .. }), Some(outcome)) => {
                Ok(CallReply { outcome, reward, metadata, done })
            }
            (Ok(_), None) => Err(Failure::infrastructure("the outcome of the call was lost")),
            (Err(failure), outcome) => {
                operation.outcomes = vec![outcome];
                Err(failure)
            }
        }
    }

    /// Scores a call that is over. Until then its operation has its outcome, so that it is known even if
    /// scoring fails.
    async fn score(
        &self,
        scoring: &Scoring,
        lock: &mut StepLock,
        epoch: u64,
        deadline: Option<Instant>,
    ) -> Result<Observed, Failure> {
        if lock.guard.is_none() {
            let guard = self.acquire_under(&self.token_of(epoch)?).await;
            // The call has run; it waits for its score only.
            let guard = guard.map_err(|failure| failure.with(|detail| detail.delivered = Delivered::Maybe));
            lock.guard = Some(guard?);
        }
        self.drive(lock, epoch, EnvironmentRequest::AfterCall(&scoring.call), deadline).await
    }

    /// The call itself. Until its outcome is known, its effect is not.
    pub(super) async fn call_tool(
        &self,
        tool: ResolvedTool<'_>,
        request: &CallRequest<'_>,
    ) -> Result<ToolResult, ToolError> {
        let (session, epoch, tool_name) = (self, request.context.epoch, tool.name());
        let mut effect = PendingEffect { session, epoch, tool: tool_name, known: false };
        let outcome = tool.call(request).await;
        effect.known = outcome.as_ref().err().is_none_or(|error| error.delivered() != Delivered::Maybe);
        outcome
    }

    /// A graph of calls as one step: those that need nothing more run together.
    pub(super) async fn run_graph(
        &self,
        operation: &mut RunningOperation<'_>,
        plan: CallPlan<'_>,
        deadline: Option<Instant>,
    ) -> Result<GraphReply, Failure> {
        operation.outcomes = plan.calls().iter().map(|_| None).collect();
        let mut budget = GraphBudget::default();
        let mut begun = vec![false; plan.calls().len()];
        let mut running = FuturesUnordered::new();
        let mut tools: Vec<Option<ResolvedTool<'_>>> = plan.calls().iter().map(|_| None).collect();
        let mut alone = false;
        let mut score = StepScore::default();
        loop {
            for (index, call) in plan.calls().iter().enumerate() {
                if begun[index] || alone || !call.ready(&operation.outcomes) {
                    continue;
                }
                let tool = tools[index].take().unwrap_or_else(|| self.toolbox.find(call.tool));
                // A toolset that cannot overlap waits until it has the session to itself.
                let exclusive = !tool.concurrent();
                if exclusive && !running.is_empty() {
                    tools[index] = Some(tool);
                    continue;
                }
                begun[index] = true;
                let arguments = call.resolve(&plan, &operation.outcomes, &mut budget);
                match arguments.and_then(|arguments| in_time(call, deadline).map(|()| arguments)) {
                    Ok(arguments) => {
                        alone = exclusive;
                        operation.call_begins(index, Some(call.id), call.tool, arguments.as_deref());
                        let request = self.call_request(operation, None, deadline);
                        running.push(self.child(index, tool, request, arguments));
                    }
                    Err(error) => operation.call_fails(index, call.id, call.tool, error),
                }
            }
            let Some(finished) = self.with_step_lock(operation, None, pin!(running.next())).await? else {
                // Calls that failed without running may have let others become ready.
                if operation.outcomes.iter().all(Option::is_some) {
                    break;
                }
                continue;
            };
            alone = false;
            operation.call_ends(finished.index);
            let tool = plan.calls()[finished.index].tool;
            let index = finished.index;
            let outcome = self.score_child(operation, tool, finished, deadline, &mut score).await?;
            operation.outcomes[index] = Some(budget.keep(outcome));
        }
        drop(running);
        score.check()?;
        let outcomes = std::mem::take(&mut operation.outcomes).into_iter().flatten();
        let results = plan.calls().iter().map(|call| call.id.to_owned()).zip(outcomes).collect();
        let StepScore { reward, metadata, done } = score;
        Ok(GraphReply { results, reward, metadata, done })
    }

    async fn child(
        &self,
        index: usize,
        tool: ResolvedTool<'_>,
        request: CallRequest<'_>,
        arguments: Option<RawJson>,
    ) -> FinishedCall {
        let request = CallRequest { arguments: arguments.as_deref(), ..request };
        let outcome = self.call_tool(tool, &request).await;
        FinishedCall { index, arguments, outcome }
    }

    /// Scores one of several calls of a step, and gives its outcome back. If scoring fails, the operation has
    /// it.
    pub(super) async fn score_child(
        &self,
        operation: &mut RunningOperation<'_>,
        tool: &str,
        finished: FinishedCall,
        deadline: Option<Instant>,
        score: &mut StepScore,
    ) -> Result<Result<ToolResult, ToolError>, Failure> {
        let FinishedCall { index, arguments, outcome } = finished;
        if !self.spec.capabilities.observes_calls || outcome.is_err() {
            return Ok(outcome);
        }
        let call = CallRecord { tool: tool.to_owned(), arguments, outcome };
        let scoring = operation.scoring.insert(Box::new(Scoring { place: index, call }));
        let scored = self.score(scoring, &mut operation.lock, operation.epoch, deadline).await;
        let Some(scoring) = operation.scoring.take() else {
            return Err(Failure::infrastructure("the outcome of the call was lost"));
        };
        match scored {
            Ok(observed) => {
                score.add(observed);
                Ok(scoring.call.outcome)
            }
            Err(failure) => {
                operation.outcomes[index] = Some(scoring.call.outcome);
                Err(failure)
            }
        }
    }

    /// What a reset does before the environment's own: what is restarted ends, then comes a fresh workspace,
    /// then toolsets as their authors asked for.
    pub(super) async fn renew(
        &self,
        operation: &mut RunningOperation<'_>,
        seed: u64,
        deadline: Option<Instant>,
    ) -> Result<(), Failure> {
        let seeds = EpisodeSeeds::in_epoch(self.seed, operation.epoch, seed);
        let mut workspace = None;
        if let Some(guard) = &mut operation.lock.guard {
            // A new episode begins without variables.
            guard.interpreter = None;
            workspace = guard.workspace.clone();
        }
        let work = async {
            self.toolbox.end_episode(seeds).await;
            if let Some(workspace) = workspace {
                let renewed = tokio::task::spawn_blocking(move || workspace.renew()).await;
                renewed.map_err(|error| Failure::infrastructure(error.to_string()))?.map_err(|error| {
                    Failure::infrastructure(format!("the workspace could not be made fresh: {error}"))
                })?;
            }
            self.toolbox.reset(seeds).await
        };
        self.with_step_lock(operation, deadline, pin!(work)).await?
    }

    /// Waits for work that is part of an epoch. Work that is done at once, as most is, needs no
    /// cancellation.
    async fn with_step_lock<T>(
        &self,
        operation: &mut RunningOperation<'_>,
        deadline: Option<Instant>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Failure> {
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return Ok(done);
        }
        let (token, _shown) = match &mut operation.lock.guard {
            Some(guard) => (self.publish(guard, operation.epoch)?, Some(PublishedState(self))),
            None => (self.token_of(operation.epoch)?, None),
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = token.cancelled() => Err(self.cancelled(Delivered::Maybe).in_phase(Phase::Tool)),
            () = at(deadline) => {
                let message = "the toolsets were not ready for the episode before its deadline";
                Err(self.cut_off(ErrorCode::DeadlineExceeded, message))
            }
        }
    }
}

impl StepScore {
    /// Refuses a reward that is no number.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.reward.is_some_and(|reward| !reward.is_finite()) {
            let message = "the rewards of these calls add up to more than a number can hold";
            return Err(Failure::new(ErrorCode::NonFiniteReward, message).in_phase(Phase::Verify));
        }
        Ok(())
    }

    fn add(&mut self, observed: Observed) {
        self.reward = sum(self.reward, observed.reward);
        self.metadata = observed.metadata.or(self.metadata.take());
        self.done |= observed.done;
    }
}

/// A call, until it is known what became of it: dropped before, its effect is unknown, unless its toolset has
/// no state.
struct PendingEffect<'a> {
    session: &'a Session,
    epoch: u64,
    tool: &'a str,
    known: bool,
}

impl Drop for PendingEffect<'_> {
    fn drop(&mut self) {
        if !self.known && !self.session.toolbox.find(self.tool).is_stateless() {
            let mut progress = self.session.progress.lock();
            if progress.epoch == self.epoch {
                progress.unknown_effect.get_or_insert_with(|| self.tool.to_owned());
            }
        }
    }
}

/// Refuses a call of a graph that would begin after the deadline of its step.
fn in_time(call: &PlannedCall<'_>, deadline: Option<Instant>) -> Result<(), ToolError> {
    if deadline.is_none_or(|deadline| Instant::now() < deadline) {
        return Ok(());
    }
    let message = format!("not called: the deadline of the step passed before '{}' could begin", call.id);
    Err(ToolError::new(ToolErrorType::Timeout, message))
}

/// The state that readers see while a tool or a copy holds the step lock; gone with it, however it ends.
pub(super) struct PublishedState<'a>(pub(super) &'a Session);

impl Drop for PublishedState<'_> {
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
