//! OpenEnv's dialect: its methods, on every door that speaks JSON-RPC.
//!
//! Invariant: results and errors are spelled as a stock client knows them, for every caller.

use std::sync::Arc;

use oxenv_core::{AgentCall, Principal};
use oxenv_wire::{
    CallOutcome, RpcCode, RpcError, RpcId, RpcParams, RpcRequest, ToolError, ToolSpelling, preview,
    write_rpc_error, write_rpc_result,
};
use serde_json::json;

use super::endpoint::{EndpointPath, McpEndpoint};
use super::tool_access::{ToolAccess, named, unknown};
use crate::app::App;
use crate::{error, traces};

/// Answers one request with one JSON-RPC message.
pub(crate) async fn answer(
    app: &App,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
) -> String {
    let mut out = String::with_capacity(256);
    if let Err(fault) = run(app, endpoint, epoch, rpc, &mut out).await {
        out.clear();
        write_rpc_error(&mut out, rpc.id, &fault);
    }
    out
}

async fn run(
    app: &App,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcError> {
    match (rpc.method.as_ref(), endpoint.place) {
        ("tools/list", _) => list(app, endpoint, rpc, out).await,
        ("tools/call", _) => call(app, endpoint, epoch, rpc, out).await,
        (method @ ("openenv/session/create" | "openenv/session/close"), _) if !endpoint.caller.controls() => {
            Err(error::rpc(&endpoint.caller.forbidden(method)))
        }
        ("openenv/session/create", EndpointPath::Open) => {
            let session = app.store.create(endpoint.caller.options()).await;
            let session = session.map_err(|failure| error::rpc(&failure))?;
            write_session(out, rpc.id, session.id(), &agent_token(app, session.id()));
            Ok(())
        }
        ("openenv/session/create", EndpointPath::Socket(session)) => {
            write_session(out, rpc.id, session.id(), &agent_token(app, session.id()));
            Ok(())
        }
        ("openenv/session/close", EndpointPath::Open | EndpointPath::Socket(_)) => {
            close(app, endpoint, rpc, out)
        }
        (method, _) => {
            let message = format!("Method not found: {}", preview(method));
            Err(RpcError::new(RpcCode::MethodNotFound, message))
        }
    }
}

async fn list(
    app: &App,
    endpoint: McpEndpoint<'_>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcError> {
    let access = resolve_target(app, endpoint, &rpc.read_params()?).await?;
    access.settled().await;
    let tools = access.toolbox().listing(Principal::Agent, ToolSpelling::Dialect);
    write_rpc_result(out, rpc.id, |out| {
        out.push_str("{\"tools\":");
        out.push_str(&tools);
        out.push('}');
    });
    Ok(())
}

async fn call(
    app: &App,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcError> {
    let params = rpc.read_params()?;
    let tool = params.tool_call()?;
    let access = resolve_target(app, endpoint, &params).await?;
    let trace = traces::of_params(app, &params, endpoint.trace);
    let call = AgentCall { name: tool.name, arguments: tool.arguments, epoch, ..AgentCall::default() };
    let outcome = access.call(call, trace).await.map_err(|failure| error::rpc(&failure))?;
    let outcome = CallOutcome::new(outcome.as_ref());
    let result = outcome.result().map_err(fault)?;
    write_rpc_result(out, rpc.id, |out| result.write_dialect(out));
    Ok(())
}

/// A stock client reads any result as a success, so a tool that reports that it failed is an error
/// too.
fn fault(error: &ToolError) -> RpcError {
    let data = error.data().map_or(serde_json::Value::Null, |data| json!({ "oxenv": data }));
    RpcError { code: RpcCode::InternalError, message: error.message.clone(), data }
}

fn close(
    app: &App,
    endpoint: McpEndpoint<'_>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcError> {
    let Some(id) = rpc.read_params()?.session_id()? else {
        return Err(RpcError::new(RpcCode::InvalidParams, "Invalid params - 'session_id' is required"));
    };
    if matches!(endpoint.place, EndpointPath::Socket(session) if session.id() == id) {
        let message = "Cannot close active WebSocket-managed session via MCP method";
        return Err(RpcError::new(RpcCode::InvalidRequest, message));
    }
    let session = named(app, &id)?;
    write_session(
        out,
        rpc.id,
        &id,
        if session.close() { ",\"closed\":true" } else { ",\"closed\":false,\"closing\":true" },
    );
    Ok(())
}

/// What a request means: the session that it names, else its door's; in production the server's
/// own tools for callers that name none.
pub(super) async fn resolve_target(
    app: &App,
    endpoint: McpEndpoint<'_>,
    params: &RpcParams<'_>,
) -> Result<ToolAccess, RpcError> {
    match (endpoint.place, params.session_id()?) {
        (EndpointPath::Session(session), Some(id)) if session.id() != id => Err(unknown(&id)),
        (EndpointPath::Session(session), _) | (EndpointPath::Socket(session), None) => {
            Ok(ToolAccess::Session(Arc::clone(session)))
        }
        (EndpointPath::Open | EndpointPath::Socket(_), Some(id)) => named(app, &id).map(ToolAccess::Session),
        (EndpointPath::Open, None) => ToolAccess::of(app, &endpoint.target(app.config.mode))
            .await
            .map_err(|failure| error::rpc(&failure)),
    }
}

/// What replies have beside a session's id, on a server that has tokens.
fn agent_token(app: &App, id: &str) -> String {
    app.agent_token(id).map_or_else(String::new, |token| format!(",\"agent_token\":\"{token}\""))
}

fn write_session(out: &mut String, rpc: RpcId<'_>, id: &str, rest: &str) {
    write_rpc_result(out, rpc, |out| {
        out.push_str("{\"session_id\":");
        out.push_str(&serde_json::Value::from(id).to_string());
        out.push_str(rest);
        out.push('}');
    });
}
