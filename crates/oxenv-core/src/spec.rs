//! What an environment declares about itself, and the factory that makes live ones.
//!
//! Invariant: a spec is immutable and shared; everything that a door publishes about an environment
//! without touching a session comes from here.

use std::sync::Arc;

use oxenv_wire::{Action, Json, Object, Schemas, ValidationIssue};
use serde::Serialize;

use crate::capabilities::{Capabilities, ForkMode};
use crate::environment::{CallRecord, Environment};
use crate::failure::Failure;
use crate::principal::Principal;
use crate::seed::EpisodeSeeds;
use crate::snapshot_room::SnapshotRoom;
use crate::tasks::TaskSource;
use crate::tool_schemas::tool_schemas;
use crate::toolbox::Toolbox;
use crate::work::Work;
use crate::workspace::Workspace;

/// How a step without a known `type` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionSpace {
    /// The environment's own typed action.
    Typed,
    /// A tool call, as OpenEnv's MCP environments take it.
    Tools,
    /// The environment's own, and so is one that is spelled as a tool call.
    Own,
}

/// What is known about an environment without making one.
#[derive(Clone)]
pub struct EnvironmentSpec {
    /// The name it is served under: `connect4`.
    pub name: String,
    /// The name in `/metadata`, by which the reference knows it: `EchoEnvironment`.
    pub title: String,
    /// A description in one sentence.
    pub description: String,
    /// Its version.
    pub version: String,
    /// Its author.
    pub author: Option<String>,
    /// Its README, in Markdown.
    pub readme: Option<String>,
    /// Where to read more.
    pub documentation_url: Option<String>,
    /// JSON Schemas of its messages.
    pub schemas: Schemas,
    /// How a step without a known `type` is read.
    pub action_space: ActionSpace,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Its tasks, if it has some.
    pub tasks: Option<Arc<dyn TaskSource>>,
}

impl EnvironmentSpec {
    /// A spec with the defaults of a tool environment; the rest is for the author to fill in.
    #[must_use]
    pub fn new(name: &str, description: &str) -> Self {
        EnvironmentSpec {
            name: name.to_owned(),
            title: name.to_owned(),
            description: description.to_owned(),
            version: "1.0.0".to_owned(),
            author: None,
            readme: None,
            documentation_url: None,
            schemas: tool_schemas(),
            action_space: ActionSpace::Tools,
            capabilities: Capabilities::default(),
            tasks: None,
        }
    }

    /// Reads an action for this environment.
    ///
    /// # Errors
    /// As [`Action::parse`].
    pub fn parse_action<'a>(&self, value: impl Into<Json<'a>>) -> Result<Action<'a>, Vec<ValidationIssue>> {
        let value = value.into();
        let object =
            Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(&[], &fault, value)])?;
        self.read_action(&object)
    }

    /// Reads an action for this environment from an object that was split already.
    ///
    /// # Errors
    /// As [`Action::parse`].
    pub fn read_action<'a>(&self, object: &Object<'a>) -> Result<Action<'a>, Vec<ValidationIssue>> {
        match self.action_space {
            ActionSpace::Own => Ok(Action::Typed(object.json().raw())),
            ActionSpace::Typed | ActionSpace::Tools => Action::from_object(object),
        }
    }
}

/// What a new environment gets.
#[derive(Debug, Clone)]
pub struct EnvironmentContext {
    /// The session's id.
    pub session_id: String,
    /// The session's seed; the state before the first reset comes from it.
    pub seed: u64,
    /// The seeds of the episode that it begins in, and of the next: for a copy, those of its original.
    pub episode: EpisodeSeeds,
}

impl EnvironmentContext {
    /// What an environment gets that has not been reset yet.
    #[must_use]
    pub fn new(session_id: impl Into<String>, seed: u64) -> Self {
        EnvironmentContext { session_id: session_id.into(), seed, episode: EpisodeSeeds::before_reset(seed) }
    }
}

/// A new environment with the tools that come with it.
pub struct EnvironmentInstance {
    /// The environment.
    pub environment: Box<dyn Environment>,
    /// Its tools.
    pub toolbox: Arc<Toolbox>,
    /// Its folder, where it has one.
    pub workspace: Option<Arc<Workspace>>,
}

impl EnvironmentInstance {
    /// An environment without a workspace.
    #[must_use]
    pub fn new(environment: Box<dyn Environment>, toolbox: Arc<Toolbox>) -> Self {
        EnvironmentInstance { environment, toolbox, workspace: None }
    }
}

/// A session that is being forked or saved: nothing of it runs meanwhile.
pub struct CopySource<'a> {
    /// The session's id.
    pub session_id: &'a str,
    /// Its environment.
    pub environment: &'a mut dyn Environment,
    /// Its tools.
    pub toolbox: &'a Arc<Toolbox>,
    /// Its folder, where it has one.
    pub workspace: Option<&'a Arc<Workspace>>,
    /// The tool calls of its epoch in order, if one of its toolsets is forked by replay.
    pub calls: &'a [EpisodeCall],
    /// The most that may be saved.
    pub room: SnapshotRoom,
}

/// A tool call of an episode, and its caller.
#[derive(Debug, Clone)]
pub struct EpisodeCall {
    /// Through which door it came.
    pub principal: Principal,
    /// The call.
    pub record: CallRecord,
}

/// Makes environments of one kind.
pub trait EnvironmentFactory: Send + Sync {
    /// What they declare.
    fn spec(&self) -> &Arc<EnvironmentSpec>;

    /// Makes one. Dropping the work cancels it.
    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>>;

    /// Makes one that goes on from the present state of another. Called once for each fork, one
    /// after the other. Here: the environment copies itself, and the toolbox, of which nothing
    /// belongs to one session, is shared.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] names what cannot be forked.
    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        let _ = boot;
        if self.spec().capabilities.fork == ForkMode::None {
            let name = &self.spec().name;
            let message = format!("environment '{name}' cannot be forked: it declares fork: none");
            return Work::done(Err(Failure::unsupported(message)));
        }
        let toolbox = Arc::clone(original.toolbox);
        Work::done(
            original.environment.fork().map(|environment| EnvironmentInstance::new(environment, toolbox)),
        )
    }

    /// The present state of a session as bytes for [`EnvironmentFactory::restore`]; the format is
    /// the factory's own. What is large is refused before it is made.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] names what cannot be saved, or has no room.
    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        Work::done(original.environment.snapshot())
    }

    /// Makes one that goes on from a saved state.
    ///
    /// # Errors
    /// When the bytes are no state that this factory saved.
    fn restore<'a>(
        &'a self,
        boot: EnvironmentContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(async move {
            let mut instance = self.create(boot).await?;
            instance.environment.restore(saved)?;
            Ok(instance)
        })
    }

    /// Why no environment can be made at present; absent: as far as is known, one can. Never waits, and may
    /// begin to mend it.
    fn problem(&self) -> Option<String> {
        None
    }

    /// The tools that need no session; offered in production to callers that have none.
    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::new(Toolbox::empty())
    }

    /// Every tool that a session has, for lists that are requested without one.
    fn all_tools(&self) -> Arc<Toolbox> {
        self.server_tools()
    }
}
