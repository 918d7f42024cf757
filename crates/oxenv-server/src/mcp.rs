//! The MCP dialect of OpenEnv: `POST /mcp`, `POST /sessions/{id}/mcp`, and what sockets share.
//!
//! Invariant: a `tools/call` is a step of its session and shows no reward. reset, step, state and
//! close of an environment cannot be reached here by any method.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use oxenv_core::{AgentCall, CallContext, Failure, Session, SessionOptions};
use oxenv_wire::{
    ErrorCode, RpcCode, RpcFault, RpcId, RpcParams, RpcRequest, Tool, ToolError, ToolResult, write_rpc_error,
    write_rpc_result,
};
use serde::Deserialize;

use crate::app::App;
use crate::error::{self, Refusal, json_response};
use crate::http::fallback::wants_websocket;
use crate::http::{InPath, InQuery};

/// Protocol revisions that a header may name.
const REVISIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Through which door a request came, and so which session it means.
#[derive(Clone, Copy)]
pub(crate) enum Door<'a> {
    /// `/mcp`: the session that the parameters name, else the default one.
    Open,
    /// A socket: its own session, unless the parameters name another.
    Socket(&'a Arc<Session>),
    /// `/sessions/{id}/mcp`: that session and no other.
    Session(&'a Arc<Session>),
}

#[derive(Deserialize)]
pub(crate) struct EpochQuery {
    epoch: Option<u64>,
}

pub(crate) async fn post(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    reply(&app, Door::Open, None, request).await
}

pub(crate) async fn post_session(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    InQuery(query): InQuery<EpochQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    reply(&app, Door::Session(&session), query.epoch, request).await
}

async fn reply(app: &App, door: Door<'_>, epoch: Option<u64>, request: Request) -> Result<Response, Refusal> {
    let strict = Strictness::of(request.headers());
    let body = crate::http::read(app, request).await?;
    let Ok(text) = str::from_utf8(&body) else {
        let fault = RpcFault::new(RpcCode::ParseError, "Parse error: the body is not UTF-8");
        return Ok(failed(strict.status(StatusCode::BAD_REQUEST), &fault));
    };
    let rpc = match RpcRequest::parse(text) {
        Ok(rpc) => rpc,
        Err(fault) => return Ok(failed(strict.status(StatusCode::BAD_REQUEST), &fault)),
    };
    if let Some((status, fault)) = strict.refusal() {
        return Ok(failed(status, &fault));
    }
    if strict != Strictness::Dialect && !rpc.has_id {
        let mut accepted = Response::new(Body::empty());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        return Ok(accepted);
    }
    Ok(json_response(StatusCode::OK, answer(app, door, epoch, &rpc).await))
}

fn failed(status: StatusCode, fault: &RpcFault) -> Response {
    let mut out = String::new();
    write_rpc_error(&mut out, RpcId::NULL, fault);
    json_response(status, out)
}

/// Whether a request is OpenEnv's dialect, which gets status 200 always, or MCP's own.
#[derive(Debug, Clone, PartialEq)]
enum Strictness {
    Dialect,
    Mcp,
    /// MCP with a revision that does not exist.
    UnknownRevision(String),
    /// MCP within a transport session that this server never made.
    UnknownSession,
}

impl Strictness {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default())
        };
        if text(SESSION_ID).is_some() {
            return Strictness::UnknownSession;
        }
        if let Some(revision) = text(PROTOCOL_VERSION) {
            return match REVISIONS.contains(&revision) {
                true => Strictness::Mcp,
                false => Strictness::UnknownRevision(revision.to_owned()),
            };
        }
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if accept.contains("text/event-stream") { Strictness::Mcp } else { Strictness::Dialect }
    }

    fn status(&self, otherwise: StatusCode) -> StatusCode {
        if *self == Strictness::Dialect { StatusCode::OK } else { otherwise }
    }

    fn refusal(&self) -> Option<(StatusCode, RpcFault)> {
        match self {
            Strictness::Dialect | Strictness::Mcp => None,
            Strictness::UnknownRevision(revision) => {
                let message = format!(
                    "unsupported MCP-Protocol-Version '{revision}'; known are {}",
                    REVISIONS.join(", ")
                );
                Some((StatusCode::BAD_REQUEST, RpcFault::new(RpcCode::ServerError, message)))
            }
            Strictness::UnknownSession => {
                let message =
                    "unknown Mcp-Session-Id: this server makes no transport sessions; leave the header out";
                Some((StatusCode::NOT_FOUND, RpcFault::new(RpcCode::ServerError, message)))
            }
        }
    }
}

/// `GET /mcp`: a WebSocket, or nothing that this server has.
pub(crate) fn refuse_get(headers: &HeaderMap) -> Option<Response> {
    if wants_websocket(headers) {
        return None;
    }
    let mut response =
        json_response(StatusCode::METHOD_NOT_ALLOWED, "{\"detail\":\"Method Not Allowed\"}".to_owned());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    Some(response)
}

/// Answers one request with one JSON-RPC message.
pub(crate) async fn answer(app: &App, door: Door<'_>, epoch: Option<u64>, rpc: &RpcRequest<'_>) -> String {
    let mut out = String::with_capacity(256);
    if let Err(fault) = run(app, door, epoch, rpc, &mut out).await {
        out.clear();
        write_rpc_error(&mut out, rpc.id, &fault);
    }
    out
}

async fn run(
    app: &App,
    door: Door<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcFault> {
    match (rpc.method.as_ref(), door) {
        ("tools/list", _) => list(app, door, rpc, out).await,
        ("tools/call", _) => call(app, door, epoch, rpc, out).await,
        ("openenv/session/create", Door::Open) => {
            let session =
                app.store.create(SessionOptions::default()).await.map_err(|failure| error::rpc(&failure))?;
            write_session(out, rpc.id, session.id(), "");
            Ok(())
        }
        ("openenv/session/create", Door::Socket(session)) => {
            write_session(out, rpc.id, session.id(), "");
            Ok(())
        }
        ("openenv/session/close", Door::Open | Door::Socket(_)) => close(app, door, rpc, out),
        (method, _) => Err(RpcFault::new(RpcCode::MethodNotFound, format!("Method not found: {method}"))),
    }
}

async fn list(app: &App, door: Door<'_>, rpc: &RpcRequest<'_>, out: &mut String) -> Result<(), RpcFault> {
    let tools = match target(app, door, &rpc.read_params()?).await? {
        Some(session) => Arc::clone(session.toolbox().tools()),
        None => Arc::clone(app.server_tools.tools()),
    };
    write_rpc_result(out, rpc.id, |out| write_tools(out, &tools));
    Ok(())
}

async fn call(
    app: &App,
    door: Door<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
    out: &mut String,
) -> Result<(), RpcFault> {
    let params = rpc.read_params()?;
    let tool = params.tool_call()?;
    let outcome = match target(app, door, &params).await? {
        Some(session) => {
            let call = AgentCall { name: tool.name, arguments: tool.arguments, epoch };
            session.call(call).await.map_err(|failure| error::rpc(&failure))?.outcome
        }
        None => {
            let context = CallContext { session_id: None, epoch: 0 };
            app.server_tools.call(context, &tool.name, tool.arguments).await
        }
    };
    let result = checked(outcome)?;
    write_rpc_result(out, rpc.id, |out| result.write_dialect(out));
    Ok(())
}

/// A stock client reads a result with `is_error` as a success, so both kinds of error are errors.
fn checked(outcome: Result<ToolResult, ToolError>) -> Result<ToolResult, RpcFault> {
    match outcome {
        Ok(result) if result.is_error => Err(RpcFault::new(RpcCode::InternalError, result.text())),
        Ok(result) => Ok(result),
        Err(error) => Err(RpcFault::new(RpcCode::InternalError, error.message)),
    }
}

fn close(app: &App, door: Door<'_>, rpc: &RpcRequest<'_>, out: &mut String) -> Result<(), RpcFault> {
    let Some(id) = rpc.read_params()?.session_id()? else {
        return Err(RpcFault::new(RpcCode::InvalidParams, "Invalid params - 'session_id' is required"));
    };
    if matches!(door, Door::Socket(session) if session.id() == id) {
        let message = "Cannot close active WebSocket-managed session via MCP method";
        return Err(RpcFault::new(RpcCode::InvalidRequest, message));
    }
    let session = find(app, &id)?;
    write_session(
        out,
        rpc.id,
        &id,
        if session.close() { ",\"closed\":true" } else { ",\"closed\":false,\"closing\":true" },
    );
    Ok(())
}

/// The session that a request means; none in production for who names none.
async fn target(app: &App, door: Door<'_>, params: &RpcParams<'_>) -> Result<Option<Arc<Session>>, RpcFault> {
    match (door, params.session_id()?) {
        (Door::Session(session), None) => Ok(Some(Arc::clone(session))),
        (Door::Session(session), Some(id)) if session.id() == id => Ok(Some(Arc::clone(session))),
        (Door::Session(_), Some(id)) => Err(unknown(&id)),
        (_, Some(id)) => find(app, &id).map(Some),
        (Door::Socket(session), None) => Ok(Some(Arc::clone(session))),
        (Door::Open, None) if app.production() => Ok(None),
        (Door::Open, None) => {
            app.store.default_session(false).await.map(Some).map_err(|failure| error::rpc(&failure))
        }
    }
}

fn find(app: &App, id: &str) -> Result<Arc<Session>, RpcFault> {
    app.store.get(id).map_err(|failure: Failure| match failure.code {
        ErrorCode::SessionNotFound => unknown(id),
        _ => error::rpc(&failure),
    })
}

fn unknown(id: &str) -> RpcFault {
    RpcFault::new(RpcCode::InvalidParams, format!("Unknown session_id: {id}"))
}

fn write_tools(out: &mut String, tools: &[Tool]) {
    out.push_str("{\"tools\":[");
    for (index, tool) in tools.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(tool.for_dialect().get());
    }
    out.push_str("]}");
}

fn write_session(out: &mut String, rpc: RpcId<'_>, id: &str, rest: &str) {
    write_rpc_result(out, rpc, |out| {
        out.push_str("{\"session_id\":");
        out.push_str(&serde_json::Value::from(id).to_string());
        out.push_str(rest);
        out.push('}');
    });
}
