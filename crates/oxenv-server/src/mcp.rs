//! The agents' door: MCP of both eras and OpenEnv's dialect, at `/mcp` and `/sessions/{id}/mcp`.
//!
//! Invariant: a `tools/call` is a step of its session and shows no reward. reset, step, state and fork of an
//! environment cannot be reached here by any method; `openenv/session/close` ends a session for control
//! alone, and not where the address names the session. A caller that is not control reaches one session,
//! whatever the request names.
//!
//! A request is read once. `mcp/client_protocol.rs` finds out what its client speaks; `mcp/dialect.rs`
//! answers OpenEnv's dialect; `mcp/fast_path.rs` answers what clients of MCP mostly ask for, a list of tools
//! or a call of one; `mcp/http.rs` forwards everything else to rmcp's service, which calls
//! `mcp/handler.rs`. `mcp/transport_sessions.rs` keeps the sessions of clients that shook hands.

mod call_errors;
mod client_channel;
mod client_protocol;
pub(crate) mod dialect;
pub(crate) mod endpoint;
mod fast_path;
mod handler;
mod http;
mod list_changes;
mod log_level;
mod pipe;
mod rmcp_types;
mod started_call;
pub(crate) mod stdio;
mod target;
mod tool_access;
pub(crate) mod transport_sessions;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use oxenv_core::Session;
use oxenv_wire::{Object, RpcCode, RpcError, RpcId, RpcRequest};
use serde::Deserialize;

use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{Refusal, json_response, rpc_response};
use crate::http::fallback::{self, wants_websocket};
use crate::http::{InPath, InQuery};
use crate::traces;

use client_protocol::{ClientProtocol, REVISIONS};
use endpoint::McpEndpoint;
use fast_path::FastPath;

#[derive(Deserialize)]
pub(crate) struct EpochQuery {
    epoch: Option<u64>,
}

/// The sender of a request, at `/mcp` or at `/sessions/{id}/mcp`.
pub(crate) struct McpRequester {
    caller: Caller,
    /// The one session that it may reach: that of the path, or an agent's own. `None` for control at `/mcp`.
    session: Option<Arc<Session>>,
}

impl FromRequestParts<Arc<App>> for McpRequester {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let session = match Option::<InPath>::from_request_parts(parts, app).await? {
            Some(InPath(id)) => Some(app.store.get(&id)?),
            None => caller.own_session(&app.store)?,
        };
        Ok(McpRequester { caller, session })
    }
}

impl McpRequester {
    fn endpoint(&self) -> McpEndpoint<'_> {
        McpEndpoint::http(&self.caller, self.session.as_ref())
    }
}

/// One message, and its reply.
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    InQuery(EpochQuery { epoch }): InQuery<EpochQuery>,
    requester: McpRequester,
    request: Request,
) -> Result<Response, Refusal> {
    let app = &app;
    let (parts, body) = request.into_parts();
    let protocol = ClientProtocol::of(&parts.headers);
    let trace = traces::of_headers(app, &parts.headers);
    let endpoint = McpEndpoint { trace, ..requester.endpoint() };
    let body = crate::http::read(app, Request::new(body)).await?;
    let Ok(text) = str::from_utf8(&body) else {
        let fault = RpcError::new(RpcCode::ParseError, "Parse error: the body is not UTF-8");
        return Ok(rpc_response(protocol.status(StatusCode::BAD_REQUEST), RpcId::NULL, &fault));
    };
    let rpc = match RpcRequest::parse(text) {
        Ok(rpc) => rpc,
        Err(_) if matches!(protocol, ClientProtocol::Session(_)) && is_reply(text) => {
            let forwarded = http::forward(app, endpoint, epoch, None, parts.clone(), body.clone(), None);
            return Ok(Box::pin(forwarded).await);
        }
        Err(fault) => return Ok(rpc_response(protocol.status(StatusCode::BAD_REQUEST), RpcId::NULL, &fault)),
    };
    if protocol == ClientProtocol::Dialect || rpc.method.starts_with("openenv/") {
        return Ok(json_response(StatusCode::OK, dialect::answer(app, endpoint, epoch, &rpc).await));
    }
    if let Some(fault) = unknown_revision(protocol, &rpc) {
        return Ok(rpc_response(StatusCode::BAD_REQUEST, rpc.id, &fault));
    }
    if protocol == ClientProtocol::Bare && !rpc.has_id {
        let mut accepted = Response::new(Body::empty());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        return Ok(accepted);
    }
    let started = match fast_path::answer(app, endpoint, epoch, protocol, &parts.headers, &rpc, &body).await {
        FastPath::Answered(text) => return Ok(json_response(StatusCode::OK, text)),
        FastPath::Refused(status, fault) => return Ok(rpc_response(status, rpc.id, &fault)),
        FastPath::Started(started) => Some(started),
        FastPath::No => None,
    };
    // On the heap, because the future of every request would be as large as what rmcp does for a few.
    Ok(Box::pin(http::forward(app, endpoint, epoch, Some(&rpc), parts.clone(), body.clone(), started)).await)
}

/// `GET /mcp`: a WebSocket, or the events of a transport session.
pub(crate) async fn socket_or_events(
    State(app): State<Arc<App>>,
    requester: McpRequester,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    request: Request,
) -> Response {
    match wants_websocket(request.headers()) {
        true => crate::ws::mcp::upgrade(app, requester.caller, upgrade, &request),
        false => events(State(app), requester, request).await,
    }
}

/// The events of a transport session.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    requester: McpRequester,
    request: Request,
) -> Response {
    let headers = request.headers();
    let asks = client_protocol::accept_names(headers, "text/event-stream")
        || headers.contains_key(client_protocol::SESSION_ID);
    if !asks || wants_websocket(headers) {
        return not_allowed();
    }
    http::without_body(&app, requester.endpoint(), request).await
}

/// The end of a transport session.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    requester: McpRequester,
    request: Request,
) -> Response {
    match ClientProtocol::of(request.headers()) {
        ClientProtocol::Session(_) => http::without_body(&app, requester.endpoint(), request).await,
        _ => not_allowed(),
    }
}

/// Whether a message that is not a request is the answer to one of ours.
fn is_reply(text: &str) -> bool {
    Object::parse(text).is_ok_and(|object| {
        let answers = object.get("result").is_some() || object.get("error").is_some();
        answers && object.get("id").is_some() && object.get("method").is_none()
    })
}

/// The refusal of a revision that is not known; `None` where the request names its revision itself, for which
/// rmcp has MCP's own error.
fn unknown_revision(protocol: ClientProtocol<'_>, rpc: &RpcRequest<'_>) -> Option<RpcError> {
    let ClientProtocol::Unknown(revision) = protocol else { return None };
    let names_revision = rpc
        .read_params()
        .is_ok_and(|params| params.meta().is_some_and(|meta| meta.get(fast_path::META_VERSION).is_some()));
    let message =
        format!("unsupported MCP-Protocol-Version '{revision}'; known are {}", REVISIONS.join(", "));
    (!names_revision).then(|| RpcError::new(RpcCode::ServerError, message))
}

/// There is nothing to look at here, and nothing to end.
fn not_allowed() -> Response {
    let mut response = fallback::other_method();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}
