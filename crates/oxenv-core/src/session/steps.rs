//! What doors call: `reset`, `step`, `call`, `state`, `list`.
//!
//! Invariant: a step holds the step lock from its first look at the session to its counted end; an
//! agent's call holds it only if its toolset cannot overlap. The epoch and the step count change
//! nowhere else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{
    Action, Delivered, ErrorCode, Phase, RawJson, Reward, Spelling, ToolCall, ToolError, ToolResult,
    ToolSpelling, default_call,
};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::calls::Asked;
use super::drive::{Request, after};
use super::{Principal, Session, fresh_id};
use crate::environment::{Observed, Reset};
use crate::failure::Failure;
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

/// What came of a call that reached its tool, or failed to.
#[derive(Debug, Clone)]
pub struct CallReply {
    /// The result, or the typed error.
    pub outcome: Result<ToolResult, ToolError>,
    /// The reward; absent is null. Never shown to the agent.
    pub reward: Option<Reward>,
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
        let _busy = self.lease.busy();
        let deadline = after(Some(self.reset_deadline));
        let (epoch, token) = self.next_epoch()?;
        let reset = Reset {
            seed: seed.unwrap_or_else(|| derive_seed(self.seed, epoch)),
            seed_given: seed.is_some(),
            episode_id: episode_id.unwrap_or_else(fresh_id),
            arguments,
        };
        let mut guard =
            self.acquire_under(&token, deadline).await.map_err(|failure| failure.in_phase(Phase::Reset))?;
        self.renew(&mut guard, epoch, deadline).await.map_err(|failure| failure.in_phase(Phase::Reset))?;
        let (observed, guard) = self.drive(guard, epoch, Request::Reset(&reset), deadline).await?;
        let mut progress = self.progress.lock();
        progress.alive()?;
        if progress.epoch == epoch {
            progress.episode_id = reset.episode_id;
            progress.step_count = 0;
            progress.done = observed.done;
            progress.reward = observed.reward.map(Reward::as_f64);
            progress.reset_required = false;
        }
        drop(guard);
        Ok(observed)
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
        let _busy = self.lease.busy();
        match action {
            Action::ListTools(spelling) => {
                self.list(Principal::Control).await.map(|listing| StepReply::Tools(spelling, listing))
            }
            Action::CallTool(call) => self.step_call(call, options).await,
            Action::Typed(action) => match self.spec.action_space {
                ActionSpace::Typed => self.step_typed(action, options).await,
                ActionSpace::Tools => match default_call(action) {
                    Ok(call) => self.step_call(call, options).await,
                    Err(_) => self.step_typed(action, options).await,
                },
            },
            Action::Code(_) => Err(Failure::unsupported(
                "this environment takes no code actions: no code engine is configured",
            )),
            Action::CallTools(graph) => self.step_graph(&graph, options).await.map(StepReply::Graph),
        }
    }

    /// Calls a tool for an agent: a step of this session that is counted and scored, and that may
    /// overlap with others where the toolset allows it.
    ///
    /// # Errors
    /// [`ErrorCode::EpisodeDone`], [`ErrorCode::WrongEpoch`] and whatever a step may fail with.
    pub async fn call(self: &Arc<Self>, call: AgentCall<'_>) -> Result<CallReply, Failure> {
        let _busy = self.lease.busy();
        let guard = match self.toolbox.concurrent(&call.name) {
            true => None,
            false => Some(self.acquire(None).await?),
        };
        let epoch = {
            let progress = self.progress.lock();
            let epoch = progress.steppable()?;
            if let Some(epoch) = call.epoch.filter(|epoch| *epoch != progress.epoch) {
                let message =
                    format!("the call belongs to epoch {epoch}, the session is in epoch {}", progress.epoch);
                return Err(Failure::new(ErrorCode::WrongEpoch, message));
            }
            if progress.done {
                return Err(Failure::new(
                    ErrorCode::EpisodeDone,
                    "the episode is done; only a reset begins another",
                ));
            }
            epoch
        };
        let asked = Asked {
            principal: Principal::Agent,
            name: &call.name,
            arguments: call.arguments,
            caller: call.caller,
            request: call.request,
        };
        self.run_call(guard, epoch, asked, None).await
    }

    /// The tools that somebody may call, without waiting for a step; counted as a step, as in the reference. Waits for
    /// toolsets whose first list is still to come.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn list(&self, principal: Principal) -> Result<Listing, Failure> {
        self.toolbox.settled().await;
        let tools = self.toolbox.listing(principal, ToolSpelling::Step);
        let mut progress = self.progress.lock();
        progress.alive()?;
        progress.step_count += 1;
        Ok(Listing { tools, done: progress.done })
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

    fn next_epoch(&self) -> Result<(u64, CancellationToken), Failure> {
        let mut progress = self.progress.lock();
        progress.alive()?;
        progress.token.cancel();
        progress.token = CancellationToken::new();
        progress.epoch += 1;
        progress.reset_required = true;
        Ok((progress.epoch, progress.token.clone()))
    }

    async fn step_typed<'a>(
        self: &Arc<Self>,
        action: &RawValue,
        options: StepOptions,
    ) -> Result<StepReply<'a>, Failure> {
        let deadline = after(options.timeout);
        let guard = self.acquire(deadline).await?;
        let epoch = self.progress.lock().steppable()?;
        let (observed, guard) = self.drive(guard, epoch, Request::Step(action), deadline).await?;
        self.count(epoch, observed.done, observed.reward);
        drop(guard);
        Ok(StepReply::Observed(observed))
    }

    async fn step_call<'a>(
        self: &Arc<Self>,
        call: ToolCall<'a>,
        options: StepOptions,
    ) -> Result<StepReply<'a>, Failure> {
        let deadline = after(options.timeout);
        let guard = self.acquire(deadline).await?;
        let epoch = self.progress.lock().steppable()?;
        let asked = Asked::by_control(&call.name, call.arguments);
        let reply = self.run_call(Some(guard), epoch, asked, deadline).await?;
        Ok(StepReply::Call { spelling: call.spelling, name: call.name, reply })
    }

    pub(super) fn cut_off(&self, code: ErrorCode, message: &str) -> Failure {
        let ended = self.progress.lock().alive().err();
        ended.unwrap_or_else(|| {
            Failure::new(code, message)
                .in_phase(Phase::Tool)
                .with(|detail| detail.delivered = Delivered::Maybe)
        })
    }

    /// Counts a finished step, unless its epoch is over; true if the episode is done.
    pub(super) fn count(&self, epoch: u64, done: bool, reward: Option<Reward>) -> bool {
        let mut progress = self.progress.lock();
        if progress.epoch == epoch {
            progress.step_count += 1;
            progress.done |= done;
            if let Some(reward) = reward {
                progress.reward = Some(progress.reward.unwrap_or(0.0) + reward.as_f64());
            }
        }
        progress.done
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
