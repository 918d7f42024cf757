//! The tools of a hosted environment.

use std::sync::Arc;

use oxenv_core::{CallContext, EnvironmentContext, Failure, ForkMode, Scope, Toolset, Work};
use oxenv_wire::{Delivered, Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

use crate::environment::empty_object;
use crate::host::Host;
use crate::protocol::{CallReply, ListedTool, SessionRequest};
use crate::session::{CallScore, HostedSession};

/// The tools of an environment.
pub(crate) struct HostedToolset {
    pub(crate) name: String,
    pub(crate) tools: Arc<[Tool]>,
    pub(crate) callee: Callee,
}

/// What a tool call reaches.
#[derive(Clone)]
pub(crate) enum Callee {
    /// The environment of a session.
    Session(Arc<HostedSession>),
    /// An environment that is made for the call and closed after it, as with the reference.
    NewEnvironment(Arc<Host>),
}

/// A tool as the environment lists it.
pub(crate) fn tool(listed: ListedTool) -> Tool {
    Tool {
        name: listed.name.into(),
        title: listed.title,
        description: listed.description,
        input_schema: listed.input_schema,
        output_schema: listed.output_schema,
        annotations: listed.annotations,
        meta: None,
    }
}

impl Toolset for HostedToolset {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::clone(&self.tools)
    }

    fn scope(&self) -> Scope {
        Scope::Session
    }

    fn concurrent(&self) -> bool {
        matches!(self.callee, Callee::NewEnvironment(_))
    }

    /// The environment does, with the texts that its users know.
    fn validates(&self) -> bool {
        true
    }

    /// It is copied with its environment, and not by itself.
    fn fork(&self) -> ForkMode {
        ForkMode::None
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(async move {
            match &self.callee {
                Callee::Session(session) => call_in(session, tool, arguments).await,
                Callee::NewEnvironment(host) => call_alone(host, tool, arguments).await,
            }
        })
    }
}

/// Calls a tool in a session, which keeps the reward for its step.
async fn call_in(
    session: &HostedSession,
    tool: &str,
    arguments: Option<&RawValue>,
) -> Result<ToolResult, ToolError> {
    let request = SessionRequest::Call { tool, arguments: arguments.unwrap_or(empty_object()) };
    let take = |reply: CallReply<'_>| {
        session.keep_score(CallScore {
            tool: tool.to_owned(),
            arguments: arguments.map(ToOwned::to_owned),
            reward: reply.reward,
            done: reply.done,
        });
        outcome(reply)
    };
    session.call(request, take).await.unwrap_or_else(|failure| Err(tool_error(&failure)))
}

/// Calls a tool in an environment of its own.
async fn call_alone(
    host: &Arc<Host>,
    tool: &str,
    arguments: Option<&RawValue>,
) -> Result<ToolResult, ToolError> {
    let context = EnvironmentContext::new("call", 0);
    let opened = HostedSession::open(Arc::clone(host), context).await;
    let (session, _) = opened.map_err(|failure| tool_error(&failure))?;
    let called = call_in(&session, tool, arguments).await;
    session.close();
    called
}

fn tool_error(failure: &Failure) -> ToolError {
    let kind = match failure.delivered {
        Delivered::Yes => ToolErrorType::ExecutionError,
        _ => ToolErrorType::TransportError,
    };
    ToolError::new(kind, failure.message.clone())
}

fn outcome(reply: CallReply<'_>) -> Result<ToolResult, ToolError> {
    if let Some(error) = reply.error {
        return Err(ToolError::new(error.error_type, error.message));
    }
    let text = reply.result.map_or("null", RawValue::get);
    ToolResult::parse_dialect(text).map_err(|error| {
        let says = format!("what the tool gave cannot be read: {error}");
        ToolError::new(ToolErrorType::ExecutionError, says)
    })
}
