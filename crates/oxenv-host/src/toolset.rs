//! The tools of a hosted environment.

use std::sync::Arc;

use oxenv_core::{CallContext, ForkMode, Scope, Toolset, Work};
use oxenv_wire::{Delivered, Tool, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

use crate::environment::empty_object;
use crate::protocol::{CallReply, ListedTool, SessionRequest};
use crate::session::{CallScore, HostedSession};

/// The tools of an environment; without a session, only their list.
pub(crate) struct HostedToolset {
    pub(crate) name: String,
    pub(crate) tools: Arc<[Tool]>,
    pub(crate) session: Option<Arc<HostedSession>>,
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
        false
    }

    /// The environment does, with the texts that its users know.
    fn validates(&self) -> bool {
        true
    }

    fn fork(&self) -> ForkMode {
        ForkMode::None
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let Some(session) = &self.session else {
            let says = "this tool belongs to an episode: name a session";
            return Work::done(Err(ToolError::new(ToolErrorType::ExecutionError, says)));
        };
        Work::pending(async move {
            let given = match arguments {
                Some(arguments) => arguments,
                None => empty_object(),
            };
            let request = SessionRequest::Call { tool, arguments: given };
            let called = session.call(request, |reply| {
                session.keep_score(CallScore {
                    tool: tool.to_owned(),
                    arguments: arguments.map(ToOwned::to_owned),
                    reward: reply.reward,
                    done: reply.done,
                });
                outcome(reply)
            });
            match called.await {
                Ok(outcome) => outcome,
                Err(failure) if failure.delivered == Delivered::Yes => {
                    Err(ToolError::new(ToolErrorType::ExecutionError, failure.message.clone()))
                }
                Err(failure) => Err(ToolError::new(ToolErrorType::TransportError, failure.message.clone())),
            }
        })
    }
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
