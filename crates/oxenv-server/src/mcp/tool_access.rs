//! What a request can reach: a session with its tools, or the tools that need no session.
//!
//! Invariant: whoever calls through here is an agent. A call within a session is a step of it.

use std::sync::Arc;

use oxenv_core::{
    AgentCall, Attachment, CallContext, CallRequest, EndReason, Failure, Observer, Principal, RequestError,
    Session, SessionRequest, StepReply, Toolbox, TraceContext,
};
use oxenv_wire::{ErrorCode, RawJson, RpcCode, RpcError, ToolError, ToolResult, preview};
use serde_json::value::RawValue;

use crate::app::App;
use crate::auth::caller::Caller;
use crate::error;

/// What came of a call that reached its tool, or failed to.
pub(crate) type CallResult = Result<ToolResult, ToolError>;

/// A session, or the tools that need none.
#[derive(Clone)]
pub(crate) enum ToolAccess {
    /// A session and its tools.
    Session(Arc<Session>),
    /// The server's own tools, and who measures their calls.
    Server { toolbox: Arc<Toolbox>, observer: Option<Arc<dyn Observer>> },
}

impl ToolAccess {
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

/// What a client of MCP is connected to; looked up anew for each request.
#[derive(Clone)]
pub(crate) enum McpTarget {
    /// The session of requests that name none.
    Default,
    /// The server's own tools.
    Server,
    /// The session of the URL.
    Named(Arc<Session>),
    /// A session that was made for this client.
    Private(Arc<PrivateSession>),
}

impl McpTarget {
    pub(crate) async fn reach(&self, app: &App) -> Result<ToolAccess, Failure> {
        Ok(match self {
            McpTarget::Default => ToolAccess::Session(app.store.default_session(false).await?),
            McpTarget::Server => ToolAccess::Server {
                toolbox: Arc::clone(&app.server_tools),
                observer: app.store.observer().cloned(),
            },
            McpTarget::Named(session) => ToolAccess::Session(Arc::clone(session)),
            McpTarget::Private(private) => ToolAccess::Session(Arc::clone(private.0.session())),
        })
    }

    /// Whether there will never be anything to reach again.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            McpTarget::Default | McpTarget::Server => false,
            McpTarget::Named(session) => session.ended().is_some(),
            McpTarget::Private(private) => private.0.session().ended().is_some(),
        }
    }
}

/// A session that ends with the client that it was made for.
pub(crate) struct PrivateSession(Attachment);

impl PrivateSession {
    pub(crate) async fn make(app: &App, caller: &Caller) -> Result<McpTarget, Failure> {
        let session = app.store.create(caller.options()).await?;
        Ok(McpTarget::Private(Arc::new(PrivateSession(session.attach()))))
    }

    pub(crate) fn end(&self) {
        self.0.session().end(EndReason::Closed);
    }
}

impl Drop for PrivateSession {
    fn drop(&mut self) {
        if !self.0.is_superseded() {
            self.end();
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
