//! What orchestrators ask for: resets, steps, the state; and what every door gets back.
//!
//! Invariant: a step holds the step lock from its first look at the session to its counted end. An
//! epoch begins nowhere else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{
    Action, Delivered, ErrorCode, Phase, RawJson, Reward, Spelling, ToolCall, ToolError, ToolResult,
    ToolsetProblem, default_call,
};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::Asked;
use super::drive::{Guard, Request, after};
use super::request::{SessionOperation, SessionRequest};
use super::settle::{Doing, Ran, Settled};
use super::{Expect, Principal, Session, fresh_id};
use crate::environment::{Observed, Reset};
use crate::failure::Failure;
use crate::graph::Plan;
use crate::observe::TraceContext;
use crate::render;
use crate::seed::derive_seed;
use crate::spec::{ActionSpace, Execution};
use crate::toolset::Caller;

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
    /// What does not work at present, so that its tools may be missing.
    pub problems: Vec<ToolsetProblem>,
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
    pub(super) async fn reset_expecting(
        self: &Arc<Self>,
        asked: ResetOptions,
        expect: Expect,
        trace: Option<TraceContext>,
    ) -> Settled<'static> {
        let deadline = after(Some(self.reset_deadline));
        let (epoch, token) = match self.next_epoch(expect) {
            Ok(begun) => begun,
            Err(failure) => return Settled::refused(failure.in_phase(Phase::Reset)),
        };
        let reset = Reset {
            seed: asked.seed.unwrap_or_else(|| derive_seed(self.seed, epoch)),
            seed_given: asked.seed.is_some(),
            episode_id: asked.episode_id.unwrap_or_else(fresh_id),
            arguments: asked.arguments,
        };
        let mut doing = Doing::reset(&self.hooks, &reset, trace);
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
        self.renew(&mut guard, epoch, reset.seed, deadline).await?;
        let (observed, guard) = self.drive(guard, epoch, Request::Reset(reset), deadline).await?;
        let problems = self.toolbox.problems();
        let observed = observed.map(|observed| render::with_problems(observed, &problems));
        Ok(Ran { outcome: observed.map(StepReply::Observed), guard: Some(guard), calls: Vec::new() })
    }

    /// A typed step that has to wait for nothing: its environment does not suspend, nothing else of its session
    /// runs, and nobody records. Absent when it has to; then nothing has happened.
    pub(super) fn step_inline<'a>(&self, request: &SessionRequest<'_>) -> Option<Settled<'a>> {
        let SessionOperation::Step(action @ Action::Typed(typed)) = &request.operation else { return None };
        let inline = self.spec.capabilities.execution == Execution::Inline;
        if !inline || self.spec.action_space != ActionSpace::Typed || self.hooks.recorder.is_some() {
            return None;
        }
        let guard = Arc::clone(&self.cell).try_lock_owned().ok()?;
        let _busy = self.lease.busy();
        let mut doing = Doing::step(self, Principal::Control, action, request.trace);
        let steppable = self.progress.lock().steppable(Expect::of(&request.once));
        let ran = steppable.and_then(|epoch| {
            doing.began(epoch);
            let (observed, guard) = self.drive_inline(guard, Request::Step(typed))?;
            Ok(Ran { outcome: observed.map(StepReply::Observed), guard: Some(guard), calls: Vec::new() })
        });
        Some(self.settle_at_once(&doing, ran))
    }

    pub(super) async fn step_expecting<'a>(
        self: &Arc<Self>,
        action: Action<'a>,
        timeout: Option<Duration>,
        expect: Expect,
        trace: Option<TraceContext>,
    ) -> Settled<'a> {
        let mut doing = Doing::step(self, Principal::Control, &action, trace);
        let ran = self.run_step(&mut doing, action, after(timeout), expect).await;
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
