//! Forwards to rmcp's service what the fast path leaves, and turns rmcp's plain texts into JSON-RPC.
//!
//! Invariant: whatever a client sends, the reply is JSON-RPC or a stream of it.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use http_body_util::{BodyExt, Full};
use oxenv_wire::{RpcCode, RpcError, RpcId, RpcRequest, exceeds_values};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};

use super::client_protocol::{ClientProtocol, takes_anything};
use super::endpoint::McpEndpoint;
use super::handler::ToolboxHandler;
use super::log_level::LogThreshold;
use super::started_call::{Epoch, StartedCall};
use super::target::{McpTarget, PrivateSession};
use super::transport_sessions::{TransportGuard, TransportManager, TransportPlan, unknown_session};
use crate::app::App;
use crate::error::{self, rpc_response};

/// The most values of a message that goes to rmcp, which builds all of them: 60 MiB of zeros took 6 GiB.
/// Lists and calls of tools as clients make them are not among these, so arguments have no such bound.
const MAX_VALUES: usize = 1 << 18;

/// Whether a message has more values than rmcp is given to build.
pub(super) fn has_too_many_values(message: &[u8]) -> bool {
    str::from_utf8(message).is_ok_and(|text| exceeds_values(text, MAX_VALUES))
}

/// Takes a message to rmcp, with the call that has begun if it is one.
pub(super) async fn forward(
    app: &Arc<App>,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    rpc: Option<&RpcRequest<'_>>,
    mut parts: Parts,
    body: Bytes,
    started: Option<StartedCall>,
) -> Response {
    let id = rpc.map_or(RpcId::NULL, |rpc| rpc.id);
    if has_too_many_values(&body) {
        let message = format!("Invalid request: the message has more than {MAX_VALUES} values");
        let fault = RpcError::new(RpcCode::InvalidRequest, message);
        return rpc_response(StatusCode::PAYLOAD_TOO_LARGE, id, &fault);
    }
    let shakes_hands = rpc.is_some_and(|rpc| rpc.method == "initialize");
    let found = match ClientProtocol::of(&parts.headers) {
        ClientProtocol::Session(session) => app.transports.find(session, endpoint),
        _ => None,
    };
    if let Some(found) = found.as_ref().filter(|_| rpc.is_some_and(|rpc| rpc.has_id)) {
        // It goes with the request, and counts for as long as rmcp works on that.
        parts.extensions.insert(found.transport().load.add_shared(body.len()));
    }
    let PreparedTarget { target, plan } = match prepare(app, endpoint, found.as_ref(), shakes_hands).await {
        Ok(prepared) => prepared,
        Err(fault) => return unavailable(id, &fault),
    };
    let level = plan.as_ref().map(|plan| plan.level.clone()).unwrap_or_default();
    let handler = match ToolboxHandler::new(app, target, level).await {
        Ok(handler) => handler,
        Err(failure) => return rpc_response(StatusCode::OK, id, &error::rpc(&failure)),
    };
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if takes_anything(&parts.headers) {
        let both = HeaderValue::from_static("application/json, text/event-stream");
        parts.headers.insert(header::ACCEPT, both);
    }
    parts.extensions.insert(Epoch(epoch));
    if let Some(started) = started {
        parts.extensions.insert(started.hand_over());
    }
    let manager = TransportManager::new(&app.transports, plan);
    served(app, handler, manager, Request::from_parts(parts, Full::new(body)), id).await
}

/// Takes a GET or a DELETE to rmcp.
pub(super) async fn without_body(app: &Arc<App>, endpoint: McpEndpoint<'_>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let found = match ClientProtocol::of(&parts.headers) {
        ClientProtocol::Session(id) => match app.transports.find(id, endpoint) {
            Some(found) => Some(found),
            None => return rpc_response(StatusCode::NOT_FOUND, RpcId::NULL, &unknown_session()),
        },
        _ => None,
    };
    let target = found
        .as_ref()
        .map_or_else(|| endpoint.target(app.config.mode), |found| found.transport().target.clone());
    let handler = match ToolboxHandler::new(app, target, LogThreshold::default()).await {
        Ok(handler) => handler,
        Err(failure) => return rpc_response(StatusCode::OK, RpcId::NULL, &error::rpc(&failure)),
    };
    let manager = TransportManager::new(&app.transports, None);
    served(app, handler, manager, Request::from_parts(parts, Full::default()), RpcId::NULL).await
}

/// The target of a request.
struct PreparedTarget {
    target: McpTarget,
    /// The transport session to make, if the request shakes hands.
    plan: Option<TransportPlan>,
}

/// Finds what a request is connected to, and makes room for a transport session if it shakes hands.
async fn prepare(
    app: &App,
    endpoint: McpEndpoint<'_>,
    found: Option<&TransportGuard>,
    shakes_hands: bool,
) -> Result<PreparedTarget, RpcError> {
    if let Some(found) = found {
        return Ok(PreparedTarget { target: found.transport().target.clone(), plan: None });
    }
    if !shakes_hands {
        return Ok(PreparedTarget { target: endpoint.target(app.config.mode), plan: None });
    }
    let room = app.transports.reserve(endpoint.caller).await?;
    let target = match endpoint.target(app.config.mode) {
        McpTarget::Server => {
            let made = PrivateSession::make(&app.store, endpoint.caller).await;
            made.map_err(|failure| error::rpc(&failure))?
        }
        target => target,
    };
    let plan = TransportPlan {
        target: target.clone(),
        session_id: endpoint.session_id().map(str::to_owned),
        caller: endpoint.caller.clone(),
        level: LogThreshold::default(),
        room,
    };
    Ok(PreparedTarget { target, plan: Some(plan) })
}

/// The refusal of a handshake that there is no room for.
fn unavailable(id: RpcId<'_>, fault: &RpcError) -> Response {
    let mut response = rpc_response(StatusCode::SERVICE_UNAVAILABLE, id, fault);
    response.headers_mut().insert(header::RETRY_AFTER, error::RETRY_AFTER_S.into());
    response
}

async fn served(
    app: &Arc<App>,
    handler: Arc<ToolboxHandler>,
    manager: Arc<TransportManager>,
    request: Request<Full<Bytes>>,
    id: RpcId<'_>,
) -> Response {
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .with_json_response(true)
        .with_sse_keep_alive(Some(app.config.ping_every))
        .with_max_request_body_bytes(app.config.max_message)
        .with_cancellation_token(app.killed.clone());
    let service = StreamableHttpService::new(move || Ok(Arc::clone(&handler)), manager, config);
    let response = service.handle(request).await;
    match is_json_rpc(&response) {
        true => response.map(Body::new),
        false => reworded(response.map(Body::new), id).await,
    }
}

/// Whether a response is JSON-RPC, a stream of it, or nothing at all.
fn is_json_rpc<B>(response: &Response<B>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    response.status().is_success() || kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// A refusal in plain text, as JSON-RPC.
async fn reworded(response: Response, id: RpcId<'_>) -> Response {
    let (parts, body) = response.into_parts();
    // The whole of it is in memory already.
    let text = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let (status, fault) = match parts.status {
        // The message is JSON-RPC, or it had not come here.
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            let message =
                format!("Invalid params - {}", text.trim_start_matches("fail to deserialize request body "));
            (StatusCode::BAD_REQUEST, RpcError::new(RpcCode::InvalidParams, message))
        }
        status => (status, RpcError::new(RpcCode::ServerError, text)),
    };
    let mut response = rpc_response(status, id, &fault);
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}
