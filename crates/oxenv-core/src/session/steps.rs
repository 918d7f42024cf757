//! What orchestrators call: `reset`, `step`, `state`; and what every door gets back.
//!
//! Invariant: a step holds the step lock from its first look at the session to its counted end. An
//! epoch begins nowhere else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{
    Action, Delivered, ErrorCode, Phase, RawJson, Reward, Spelling, ToolCall, ToolError, ToolResult,
    default_call,
};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Asked;
use super::drive::{Guard, Request, after};
use super::settle::{Doing, Ran};
use super::{Expect, Principal, Session, fresh_id};
use crate::environment::{Observed, Reset};
use crate::failure::Failure;
use crate::graph::Plan;
use crate::observe::TraceContext;
use crate::seed::derive_seed;
use crate::spec::{ActionSpace, Execution};
use crate::toolset::Caller;

/// How a step is to be run.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepOptions {
    /// Deadline of the whole step, waiting included; absent: none.
    pub timeout: Option<Duration>,
    /// The trace that the step is part of.
    pub trace: Option<TraceContext>,
}

/// An agent's call.
#[derive(Clone, Default)]
pub struct AgentCall<'a> {
    /// The tool's name.
    pub name: Cow<'a, str>,
    /// The arguments, an object.
    pub arguments: Option<&'a RawValue>,
    /// The epoch that the caller believes in; another is refused.
    pub epoch: Option<u64>,
    /// The client behind the call, where the door can carry messages both ways.
    pub caller: Option<&'a dyn Caller>,
    /// The parameters of the MCP request that the call is.
    pub request: Option<&'a RawValue>,
    /// The trace that the call is part of.
    pub trace: Option<TraceContext>,
}

/// How an episode is to be begun.
#[derive(Debug, Clone, Default)]
pub struct ResetOptions {
    /// Its seed; absent: derived from the session's seed and the epoch.
    pub seed: Option<u64>,
    /// Its id; absent: a UUID.
    pub episode_id: Option<String>,
    /// The whole object that the client sent.
    pub arguments: Option<RawJson>,
    /// The trace that the reset is part of.
    pub trace: Option<TraceContext>,
}

/// What came of a call that reached its tool, or failed to.
#[derive(Debug, Clone)]
pub struct CallReply {
    /// The result, or the typed error.
    pub outcome: Result<ToolResult, ToolError>,
    /// The reward; absent is null. Never shown to the agent.
    pub reward: Option<Reward>,
    /// What the environment adds, such as the parts of the reward: an object. Never shown to the
    /// agent.
    pub metadata: Option<RawJson>,
    /// Whether the episode is done now.
    pub done: bool,
}

/// What came of a `call_tools` action.
#[derive(Debug, Clone)]
pub struct GraphReply {
    /// What came of each call, by its id, in the order they were sent.
    pub results: Vec<(String, Result<ToolResult, ToolError>)>,
    /// The sum of the calls' rewards; absent is null.
    pub reward: Option<Reward>,
    /// What the environment added to the last call that it scored: an object.
    pub metadata: Option<RawJson>,
    /// Whether the episode is done now.
    pub done: bool,
}

/// The tools, as one step's observation.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The tools that a step may call, in order: a JSON array in the words of a step.
    pub tools: Arc<str>,
    /// Whether the episode is done.
    pub done: bool,
}

/// What a step shows; the spelling is the request's.
#[derive(Debug, Clone)]
pub enum StepReply<'a> {
    /// The tools.
    Tools(Spelling, Listing),
    /// A tool call's outcome.
    Call {
        /// How the request was spelled.
        spelling: Spelling,
        /// The tool's name.
        name: Cow<'a, str>,
        /// What came of it.
        reply: CallReply,
    },
    /// The outcomes of a graph of calls.
    Graph(GraphReply),
    /// The environment's own observation.
    Observed(Observed),
}

impl Session {
    /// Begins an episode: cancels calls in flight, begins a new epoch, resets the environment.
    /// `seed` absent: derived from the session's seed and the epoch; `episode_id` absent: a UUID.
    ///
    /// # Errors
    /// [`Failure`]; after one the session demands another reset before a step.
    pub async fn reset(
        self: &Arc<Self>,
        seed: Option<u64>,
        episode_id: Option<String>,
        arguments: Option<RawJson>,
    ) -> Result<Observed, Failure> {
        Ok(self.reset_numbered(seed, episode_id, arguments).await?.0)
    }

    /// The same, with the number that the reset has in the session.
    ///
    /// # Errors
    /// As [`Session::reset`].
    pub async fn reset_numbered(
        self: &Arc<Self>,
        seed: Option<u64>,
        episode_id: Option<String>,
        arguments: Option<RawJson>,
    ) -> Result<(Observed, u64), Failure> {
        let asked = ResetOptions { seed, episode_id, arguments, trace: None };
        let (outcome, seq) = self.reset_expecting(asked, Expect::default()).await;
        match outcome? {
            StepReply::Observed(observed) => Ok((observed, seq)),
            _ => Err(Failure::environment("the reset gave no observation")),
        }
    }

    pub(super) async fn reset_expecting(
        self: &Arc<Self>,
        asked: ResetOptions,
        expect: Expect,
    ) -> (Result<StepReply<'static>, Failure>, u64) {
        let _busy = self.lease.busy();
        let deadline = after(Some(self.reset_deadline));
        let (epoch, token) = match self.next_epoch(expect) {
            Ok(begun) => begun,
            Err(failure) => return (Err(failure.in_phase(Phase::Reset)), 0),
        };
        let reset = Reset {
            seed: asked.seed.unwrap_or_else(|| derive_seed(self.seed, epoch)),
            seed_given: asked.seed.is_some(),
            episode_id: asked.episode_id.unwrap_or_else(fresh_id),
            arguments: asked.arguments,
        };
        let mut doing = Doing::reset(&self.hooks, &reset, asked.trace);
        let ran = self.run_reset(&mut doing, &reset, (epoch, &token), deadline).await;
        self.settle(doing, ran.map_err(|failure| failure.in_phase(Phase::Reset))).await
    }

    async fn run_reset(
        self: &Arc<Self>,
        doing: &mut Doing<'_>,
        reset: &Reset,
        (epoch, token): (u64, &CancellationToken),
        deadline: Option<Instant>,
    ) -> Result<Ran<'static>, Failure> {
        doing.began(epoch);
        let mut guard = self.acquire_under(token, deadline).await?;
        doing.began(epoch);
        self.renew(&mut guard, epoch, deadline).await?;
        let (observed, guard) = self.drive(guard, epoch, Request::Reset(reset), deadline).await?;
        Ok(Ran { outcome: observed.map(StepReply::Observed), guard: Some(guard), calls: Vec::new() })
    }

    /// Takes one action. Dropping the future cancels it.
    ///
    /// # Errors
    /// [`Failure`]: no reward, no observation. A tool's own error is no failure but an observation.
    pub async fn step<'a>(
        self: &Arc<Self>,
        action: Action<'a>,
        options: StepOptions,
    ) -> Result<StepReply<'a>, Failure> {
        Ok(self.step_numbered(action, options).await?.0)
    }

    /// The same, with the number that the step has in the session.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub async fn step_numbered<'a>(
        self: &Arc<Self>,
        action: Action<'a>,
        options: StepOptions,
    ) -> Result<(StepReply<'a>, u64), Failure> {
        let (outcome, seq) = self.step_expecting(action, options, Expect::default()).await;
        outcome.map(|reply| (reply, seq))
    }

    /// Takes a typed step that has to wait for nothing: its environment does not suspend, nothing else
    /// of its session runs, and nobody records. Absent when it has to; then nothing has happened.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_at_once<'a>(
        &self,
        action: &Action<'_>,
        trace: Option<TraceContext>,
    ) -> Option<Result<(StepReply<'a>, u64), Failure>> {
        let Action::Typed(typed) = action else { return None };
        let inline = self.spec.capabilities.execution == Execution::Inline;
        if !inline || self.spec.action_space != ActionSpace::Typed || self.hooks.recorder.is_some() {
            return None;
        }
        let guard = Arc::clone(&self.cell).try_lock_owned().ok()?;
        let _busy = self.lease.busy();
        let mut doing = Doing::step(self, Principal::Control, action, trace);
        let steppable = self.progress.lock().steppable(Expect::default());
        let ran = steppable.and_then(|epoch| {
            doing.began(epoch);
            let (observed, guard) = self.drive_inline(guard, Request::Step(typed))?;
            Ok(Ran { outcome: observed.map(StepReply::Observed), guard: Some(guard), calls: Vec::new() })
        });
        let (outcome, seq) = self.settle_at_once(&doing, ran);
        Some(outcome.map(|reply| (reply, seq)))
    }

    pub(super) async fn step_expecting<'a>(
        self: &Arc<Self>,
        action: Action<'a>,
        options: StepOptions,
        expect: Expect,
    ) -> (Result<StepReply<'a>, Failure>, u64) {
        let _busy = self.lease.busy();
        let mut doing = Doing::step(self, Principal::Control, &action, options.trace);
        let ran = self.run_step(&mut doing, action, after(options.timeout), expect).await;
        self.settle(doing, ran).await
    }

    async fn run_step<'a>(
        self: &Arc<Self>,
        doing: &mut Doing<'_>,
        action: Action<'a>,
        deadline: Option<Instant>,
        expect: Expect,
    ) -> Result<Ran<'a>, Failure> {
        match action {
            Action::ListTools(spelling) => self.run_list(doing, spelling, expect).await,
            Action::CallTool(call) => self.run_control_call(doing, call, deadline, expect).await,
            Action::CallTools(graph) => {
                let plan = Plan::new(&graph)?;
                let (guard, epoch) = self.begin(doing, deadline, expect).await?;
                self.run_graph(plan, guard, epoch, deadline).await
            }
            Action::Typed(action) => match self.spec.action_space {
                ActionSpace::Typed => self.run_typed(doing, action, deadline, expect).await,
                ActionSpace::Tools => match default_call(action) {
                    Ok(call) => self.run_control_call(doing, call, deadline, expect).await,
                    Err(_) => self.run_typed(doing, action, deadline, expect).await,
                },
            },
            Action::Code(_) => Err(Failure::unsupported(
                "this environment takes no code actions: no code engine is configured",
            )),
        }
    }

    /// Takes the step lock, in the present epoch.
    async fn begin(
        &self,
        doing: &mut Doing<'_>,
        deadline: Option<Instant>,
        expect: Expect,
    ) -> Result<(Guard, u64), Failure> {
        let guard = self.acquire(deadline).await?;
        let epoch = self.progress.lock().steppable(expect)?;
        doing.began(epoch);
        Ok((guard, epoch))
    }

    async fn run_typed<'a>(
        self: &Arc<Self>,
        doing: &mut Doing<'_>,
        action: &RawValue,
        deadline: Option<Instant>,
        expect: Expect,
    ) -> Result<Ran<'a>, Failure> {
        let (guard, epoch) = self.begin(doing, deadline, expect).await?;
        let (observed, guard) = self.drive(guard, epoch, Request::Step(action), deadline).await?;
        Ok(Ran { outcome: observed.map(StepReply::Observed), guard: Some(guard), calls: Vec::new() })
    }

    async fn run_control_call<'a>(
        self: &Arc<Self>,
        doing: &mut Doing<'_>,
        call: ToolCall<'a>,
        deadline: Option<Instant>,
        expect: Expect,
    ) -> Result<Ran<'a>, Failure> {
        let (guard, epoch) = self.begin(doing, deadline, expect).await?;
        let asked = Asked::by_control(&call.name, call.arguments, doing.trace());
        let (reply, guard, calls) = self.run_call(Some(guard), epoch, asked, deadline).await?;
        let (spelling, name) = (call.spelling, call.name);
        Ok(Ran { outcome: reply.map(|reply| StepReply::Call { spelling, name, reply }), guard, calls })
    }

    /// The state: a JSON object with `episode_id`, `step_count` and the environment's own fields.
    /// While a step that suspends or blocks runs, it is the state before that step.
    ///
    /// # Errors
    /// When the session has ended or the environment cannot tell.
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
                return self.tell(&mut guard)?;
            }
            let published = self.progress.lock().published.clone();
            if let Some(state) = published {
                return state;
            }
            // An inline step ends within the poll that began it, so this is no wait for a step.
            if self.spec.capabilities.execution == Execution::Inline {
                let mut guard = self.acquire(None).await?;
                return self.tell(&mut guard)?;
            }
            // Between taking the lock and publishing, or between finishing and releasing it.
            tokio::task::yield_now().await;
        }
    }

    fn next_epoch(&self, expect: Expect) -> Result<(u64, CancellationToken), Failure> {
        let mut progress = self.progress.lock();
        progress.alive()?;
        progress.expects(expect)?;
        progress.token.cancel();
        progress.token = CancellationToken::new();
        progress.epoch += 1;
        progress.reset_required = true;
        Ok((progress.epoch, progress.token.clone()))
    }

    pub(super) fn cut_off(&self, code: ErrorCode, message: &str) -> Failure {
        let ended = self.progress.lock().alive().err();
        ended.unwrap_or_else(|| {
            Failure::new(code, message)
                .in_phase(Phase::Tool)
                .with(|detail| detail.delivered = Delivered::Maybe)
        })
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
