//! The tools that a request can reach: a session with its tools, or the tools that need no session.
//!
//! Invariant: every caller here is an agent. A call within a session is a step of it.

use std::sync::Arc;

use oxenv_core::{
    AgentCall, CallContext, CallRequest, Failure, Observer, Principal, RequestError, Session, SessionRequest,
    StepReply, Toolbox, TraceContext,
};
use oxenv_wire::{ErrorCode, RawJson, RpcCode, RpcError, ToolError, ToolResult, preview};
use serde_json::value::RawValue;

use super::target::McpTarget;
use crate::app::App;
use crate::error;

/// The outcome of a call: it reached its tool, or failed to.
pub(crate) type CallResult = Result<ToolResult, ToolError>;

/// A session, or the tools that need none.
#[derive(Clone)]
pub(crate) enum ToolAccess {
    /// A session and its tools.
    Session(Arc<Session>),
    /// The server's own tools, and the receiver of measures of their calls.
    Server { toolbox: Arc<Toolbox>, observer: Option<Arc<dyn Observer>> },
}

impl ToolAccess {
    /// The tools that a target offers at this moment.
    pub(crate) async fn of(app: &App, target: &McpTarget) -> Result<Self, Failure> {
        Ok(match target {
            McpTarget::Default => ToolAccess::Session(app.store.default_session(false).await?),
            McpTarget::Server => ToolAccess::Server {
                toolbox: Arc::clone(&app.server_tools),
                observer: app.store.observer().cloned(),
            },
            McpTarget::Named(session) => ToolAccess::Session(Arc::clone(session)),
            McpTarget::Private(private) => ToolAccess::Session(Arc::clone(private.0.session())),
        })
    }

    pub(crate) fn toolbox(&self) -> &Arc<Toolbox> {
        match self {
            ToolAccess::Session(session) => session.toolbox(),
            ToolAccess::Server { toolbox, .. } => toolbox,
        }
    }

    pub(crate) async fn call(
        &self,
        call: AgentCall<'_>,
        trace: Option<TraceContext>,
    ) -> Result<CallResult, Failure> {
        match self {
            ToolAccess::Session(session) => {
                let request = SessionRequest { trace, ..SessionRequest::call(call) };
                match session.submit(request).await.into_outcome()? {
                    StepReply::Call { reply, .. } => Ok(reply.outcome),
                    _ => Err(Failure::infrastructure("the call gave no result")),
                }
            }
            ToolAccess::Server { toolbox, observer } => {
                let context = CallContext {
                    caller: call.caller,
                    request: call.request,
                    ..CallContext::sessionless(Principal::Agent)
                };
                let observer = observer.as_deref();
                let request = CallRequest { observer, trace, ..CallRequest::new(context, call.arguments) };
                Ok(toolbox.find(&call.name).call(&request).await)
            }
        }
    }

    /// Waits until the lists of the toolsets are known.
    pub(crate) async fn settled(&self) {
        match self {
            ToolAccess::Session(session) => session.settled().await,
            ToolAccess::Server { toolbox, .. } => toolbox.settled().await,
        }
    }

    /// A request about a resource or a prompt.
    pub(crate) async fn request(&self, method: &str, parameters: &RawValue) -> Result<RawJson, RequestError> {
        match self {
            ToolAccess::Session(session) => session.request(method, parameters).await,
            ToolAccess::Server { toolbox, .. } => {
                let context =
                    CallContext { request: Some(parameters), ..CallContext::sessionless(Principal::Agent) };
                toolbox.request(context, method, parameters).await
            }
        }
    }
}

/// The session of that id.
pub(crate) fn named(app: &App, id: &str) -> Result<Arc<Session>, RpcError> {
    app.store.get(id).map_err(|failure: Failure| match failure.code {
        ErrorCode::SessionNotFound => unknown(id),
        _ => error::rpc(&failure),
    })
}

/// No session has that id, or none that may be named here.
pub(crate) fn unknown(id: &str) -> RpcError {
    RpcError::new(RpcCode::InvalidParams, format!("Unknown session_id: {}", preview(id)))
}
