//! Environments on Fleet: an instance is made, reset and ended over Fleet's API, and its tools are called
//! over MCP.
//!
//! Invariant: an instance that was made is deleted: by [`FleetEnvClient::close`], by its drop, and on every
//! path on which making it fails. The API key goes to Fleet and to the instance's own host, and to no log.

mod api_error;
mod control;
mod create;
mod create_request;
mod guard;
mod heartbeat;
mod http;
mod instance;
mod lifecycle;
mod manager;
mod observation;
mod options;
mod shorten;
mod start;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oxenv_wire::{
    Action, Delivered, ErrorCode, FailureKind, Phase, ToolCall, after, default_call, raw, render_issues,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::error::{ClientError, Code, Result};
use crate::multiplexer::Multiplexer;
use crate::options::ResetOptions;
use crate::result::StepResult;
pub use control::FleetControl;
use guard::InstanceGuard;
pub use guard::deletions_done;
use heartbeat::Heartbeat;
pub use instance::{FleetInstance, FleetManagerUrls, FleetUrls};
use lifecycle::InstanceLifecycle;
use manager::InstanceManager;
pub use options::FleetOptions;

/// Where Fleet's control plane is.
const DEFAULT_BASE_URL: &str = "https://orchestrator.fleetai.com";

/// How long deleting an instance may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the tools' connections may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a step may take that the instance itself serves.
const STEP_TIMEOUT: Duration = Duration::from_mins(1);

/// The orchestrator's side of an instance on Fleet. Its drop deletes the instance, in the background: see
/// [`deletions_done`].
///
/// ```no_run
/// # async fn run(api_key: &str) -> oxenv_client::Result<()> {
/// use oxenv_client::ResetOptions;
/// use oxenv_client::fleet::{FleetEnvClient, FleetOptions};
/// use serde_json::json;
///
/// let (orchestrator, tools) =
///     FleetEnvClient::from_fleet(api_key, "fira:1.3.1", FleetOptions::default()).await?;
/// orchestrator.reset(&ResetOptions::default()).await?;
/// let result = tools.call_tool("computer", json!({ "action": "screenshot" })).await?;
/// println!("{}", result.text());
/// orchestrator.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct FleetEnvClient {
    instance: FleetInstance,
    manager: InstanceManager,
    tools: Multiplexer,
    lifecycle: Arc<InstanceLifecycle>,
    reset_timeout: Duration,
    // Ends before the instance does.
    heartbeat: parking_lot::Mutex<Option<Heartbeat>>,
    guard: Mutex<InstanceGuard>,
}

impl FleetEnvClient {
    /// Makes an instance, waits until it runs, and connects its tools. Dropping the future deletes the
    /// instance.
    ///
    /// A failure comes after what was made is deleted, which may take 10 s beyond the timeout.
    ///
    /// # Errors
    /// A code of Fleet's or of the connection; then no instance is left, or the message reports that one may
    /// be.
    pub async fn from_fleet(
        api_key: &str,
        env_key: &str,
        options: FleetOptions,
    ) -> Result<(FleetEnvClient, Multiplexer)> {
        start::create(api_key, env_key, &options).await
    }

    /// Connects to a running instance, and leaves it to its maker: neither drop nor close deletes it.
    ///
    /// # Errors
    /// [`Code::FleetInstanceGone`], and why it cannot be used. Of the options, those that make an instance
    /// are not looked at.
    pub async fn attach(
        api_key: &str,
        instance_id: &str,
        options: FleetOptions,
    ) -> Result<(FleetEnvClient, Multiplexer)> {
        start::attach(api_key, instance_id, &options).await
    }

    /// The instance's id.
    #[must_use]
    pub fn instance_id(&self) -> &str {
        &self.instance.instance_id
    }

    /// The instance's root URL.
    #[must_use]
    pub fn root(&self) -> &str {
        self.instance.root().unwrap_or_default()
    }

    /// The instance, as Fleet reported it when it began to run.
    #[must_use]
    pub fn instance(&self) -> &FleetInstance {
        &self.instance
    }

    /// Begins an episode. The observation is made by the client, because Fleet reports none: `message` (the
    /// reset's), `resources` (as Fleet lists them), `tools` (their names); the last two are null if they
    /// could not be read.
    ///
    /// The options `seed` and `extra` (such as `timestamp`) go to the instance. It is sent once.
    ///
    /// # Errors
    /// [`Code::TimedOut`] after the reset's deadline, [`Code::FleetRunnerRefused`],
    /// [`Code::FleetInstanceGone`], and other codes for why there is no result.
    pub async fn reset(&self, options: &ResetOptions) -> Result<StepResult> {
        self.lifecycle.check_usable()?;
        let limit = options.timeout.unwrap_or(self.reset_timeout);
        let message = match self.manager.reset(options, limit).await {
            Ok(message) => message,
            Err(error) => return Err(self.explain(error, Phase::Reset).await),
        };
        self.lifecycle.begin_episode(options.episode_id.as_deref());
        let (resources, tools) = tokio::join!(self.manager.resources(), self.tools.list_tools());
        let names = |tools: &[oxenv_wire::Tool]| tools.iter().map(|tool| tool.name.as_ref().into()).collect();
        let tools = tools.map_or(Value::Null, |tools| Value::Array(names(&tools)));
        observation::reset_observation(&message, &resources.unwrap_or_default(), &tools)
    }

    /// Takes an action: `ListToolsAction` and `CallToolAction`, in any spelling, go through the MCP
    /// endpoints, and the observation has that spelling's shape. Any other goes to the instance's `/step`,
    /// should its image serve one.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`] for any other, while Fleet serves no `/step`;
    /// [`Code::FleetInstanceGone`]; and why nothing is known of a call.
    pub async fn step(&self, action: &Value) -> Result<StepResult> {
        self.lifecycle.check_usable()?;
        let text = raw(action).unwrap_or_default();
        let parsed = match Action::parse(&*text).map_err(|issues| invalid_action(&issues))? {
            // An environment of tools alone takes a call without its `type`.
            Action::Typed(typed) => default_call(typed).map_or(Action::Typed(typed), Action::CallTool),
            parsed => parsed,
        };
        let taken = match parsed {
            Action::ListTools(spelling) => match self.tools.list_tools().await {
                Ok(tools) => observation::tools_observation(spelling, &tools),
                Err(error) => Err(error),
            },
            Action::CallTool(call) => self.call_tool(&call).await,
            Action::CallTools(_) | Action::Code(_) | Action::Typed(_) => self.step_instance(action).await,
        };
        match taken {
            Ok(result) => {
                self.lifecycle.count_step();
                Ok(result)
            }
            Err(error) => Err(self.explain(error, Phase::Step).await),
        }
    }

    /// The state: what the instance reports, or, while its image serves no `/state`, `episode_id`,
    /// `step_count` and `instance_id` as the client counts them.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn state(&self) -> Result<Value> {
        self.lifecycle.check_usable()?;
        if !self.lifecycle.state_unsupported.load(Ordering::Relaxed) {
            match self.manager.state().await {
                Ok(Some(state)) => return Ok(state),
                Ok(None) => self.lifecycle.state_unsupported.store(true, Ordering::Relaxed),
                Err(error) => return Err(self.explain(error, Phase::Step).await),
            }
        }
        Ok(self.lifecycle.state(self.instance_id()))
    }

    /// Deletes the instance and waits for that. Closing twice is not an error.
    ///
    /// # Errors
    /// If Fleet does not say that it is gone; the message names it.
    pub async fn close(&self) -> Result<()> {
        self.lifecycle.mark_closed();
        drop(self.heartbeat.lock().take());
        let end = async { self.guard.lock().await.delete(after(Instant::now(), DELETE_TIMEOUT)).await };
        // An instance that hangs is still deleted.
        let (_, ended) = tokio::join!(timeout(CLOSE_TIMEOUT, self.tools.close()), end);
        ended
    }

    /// Leaves the instance running and gives its id: from now on its end is the caller's care, or its time to
    /// live's.
    #[must_use]
    pub fn detach(mut self) -> String {
        self.guard.get_mut().disarm();
        self.instance.instance_id.clone()
    }

    async fn call_tool(&self, call: &ToolCall<'_>) -> Result<StepResult> {
        let arguments = match call.arguments {
            Some(arguments) => serde_json::from_str(arguments.get()).unwrap_or_default(),
            None => json!({}),
        };
        let outcome = self.tools.call_tool(&call.name, arguments).await;
        observation::call_observation(call, outcome)
    }

    /// Sends an action that is not a tool call to the instance's own `/step`.
    async fn step_instance(&self, action: &Value) -> Result<StepResult> {
        if !self.lifecycle.step_unsupported.load(Ordering::Relaxed) {
            if let Some(answer) = self.manager.step(action, STEP_TIMEOUT).await? {
                return observation::parse_step(&String::from_utf8_lossy(&answer.body));
            }
            self.lifecycle.step_unsupported.store(true, Ordering::Relaxed);
        }
        Err(manager::unsupported(
            "Fleet serves no /step, so that only actions that list or call tools can be taken: \
             {\"type\":\"list_tools\"}, {\"type\":\"call_tool\",\"tool_name\":…,\"arguments\":{…}}",
        ))
    }

    async fn explain(&self, error: ClientError, phase: Phase) -> ClientError {
        let error = self.manager.explain(error).await;
        if error.code() == Code::FleetInstanceGone {
            self.lifecycle.mark_gone(&error);
        }
        match error.phase() {
            None => error.with_phase(phase),
            Some(_) => error,
        }
    }
}

impl fmt::Debug for FleetEnvClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetEnvClient").field("instance", &self.instance).finish_non_exhaustive()
    }
}

fn invalid_action(issues: &[oxenv_wire::ValidationIssue]) -> ClientError {
    let data = serde_json::to_value(issues).unwrap_or_default();
    ClientError::new(Code::Server(ErrorCode::ValidationError), render_issues("action", issues))
        .with_kind(FailureKind::Action)
        .with_delivered(Delivered::No)
        .with_data(data)
}

/// The guide's own code, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/fleet.md")]
struct FleetGuide;
