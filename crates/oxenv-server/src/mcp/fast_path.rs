//! The fast path: a list of tools, or a call of one, as one JSON text.
//!
//! Invariant: only well-formed requests are answered here. Any other is left to rmcp, which judges it by the
//! letter of its revision.

use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use oxenv_core::{AgentCall, Principal};
use oxenv_wire::{
    Json, McpEra, Object, RpcCode, RpcError, RpcParams, RpcRequest, ToolCallParams, ToolSpelling,
    exceeds_values, read, write_mcp_call, write_mcp_tools, write_rpc_error, write_rpc_result,
};
use serde_json::Value;

use super::call_errors::error_response;
use super::client_channel::NotificationFilter;
use super::client_protocol::{ClientProtocol, METHOD, NAME, single, takes_json};
use super::dialect::resolve_target;
use super::endpoint::McpEndpoint;
use super::http::has_too_many_values;
use super::log_level::LogLevel;
use super::started_call::{FirstPoll, OwnedCall, StartedCall};
use super::tool_access::ToolAccess;
use super::transport_sessions::{TransportGuard, unknown_session};
use crate::app::App;
use crate::load::{MAX_BYTES, MAX_REQUESTS};
use crate::{error, traces};

/// Where a request names its revision.
pub(super) const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// The most values of a client's capabilities that are read; a client that declares more has none.
const MAX_CAPABILITY_VALUES: usize = 1 << 12;
/// The revision with stateless requests, as JSON.
const STATELESS_JSON: &str = "\"2026-07-28\"";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// What a client sends about itself with every request, and what concerns the reply: no tool needs
/// it.
const CLIENT_META_KEYS: [&str; 5] =
    [META_VERSION, META_CAPABILITIES, META_LEVEL, "io.modelcontextprotocol/clientInfo", "progressToken"];

/// The outcome of a request.
pub(super) enum FastPath {
    /// It is answered with this text.
    Answered(String),
    /// It is answered with this error.
    Refused(StatusCode, RpcError),
    /// The call it asks for runs, and may have something to say before it ends.
    Started(StartedCall),
    /// It is not for this path.
    No,
}

/// The parts of a well-formed request that the fast path needs.
struct PlainRequest<'a> {
    era: McpEra,
    /// The client's capabilities, where a request has to state them.
    capabilities: Option<Json<'a>>,
    /// The requested call, if it is one.
    tool: Option<ToolCallParams<'a>>,
    /// Whether the parameters hold more than the call and what its connection has agreed on.
    more: bool,
    /// Which notifications the client wants; `None` when it can receive none during a request.
    wants: Option<NotificationFilter>,
    /// The transport session that it belongs to.
    within: Option<TransportGuard>,
}

pub(super) async fn answer(
    app: &std::sync::Arc<App>,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    protocol: ClientProtocol<'_>,
    headers: &HeaderMap,
    rpc: &RpcRequest<'_>,
    body: &Bytes,
) -> FastPath {
    let within = match protocol {
        ClientProtocol::Session(id) => match app.transports.find(id, endpoint) {
            Some(within) if rpc.has_id && !within.transport().load.has_room() => {
                return FastPath::Refused(StatusCode::SERVICE_UNAVAILABLE, too_many());
            }
            Some(within) => Some(within),
            None => return FastPath::Refused(StatusCode::NOT_FOUND, unknown_session()),
        },
        _ => None,
    };
    if !rpc.has_id || !matches!(rpc.method.as_ref(), "tools/list" | "tools/call") || !takes_json(headers) {
        return FastPath::No;
    }
    let Ok(params) = rpc.read_params() else { return FastPath::No };
    let Some(plain) = parse_plain(protocol, headers, rpc, &params, within) else { return FastPath::No };
    let ran = match rpc.method.as_ref() {
        "tools/list" => list(app, endpoint, rpc, &params, &plain).await,
        _ => call(app, endpoint, epoch, rpc, &params, plain, body).await,
    };
    ran.unwrap_or_else(|fault| {
        let mut out = String::new();
        write_rpc_error(&mut out, rpc.id, &fault);
        FastPath::Answered(out)
    })
}

/// The refusal of a request whose transport session has too many in flight.
fn too_many() -> RpcError {
    let message = format!(
        "too many requests of this MCP session at once: at most {MAX_REQUESTS}, or {} MiB of them; \
         wait for their answers",
        MAX_BYTES >> 20
    );
    RpcError::new(RpcCode::ServerError, message)
}

/// The parts of the request, if it is well-formed in its era; `None` leaves it to rmcp.
fn parse_plain<'a>(
    protocol: ClientProtocol<'_>,
    headers: &HeaderMap,
    rpc: &RpcRequest<'_>,
    params: &RpcParams<'a>,
    within: Option<TransportGuard>,
) -> Option<PlainRequest<'a>> {
    let meta = params.meta();
    // Metadata that cannot be read is not for here.
    if meta.is_some() != params.get("_meta").is_some() {
        return None;
    }
    let revision = meta.as_ref().and_then(|meta| meta.get(META_VERSION));
    let tool = match rpc.method == "tools/call" {
        true => params.tool_call().ok(),
        false => None,
    };
    let era = match protocol {
        ClientProtocol::Stateless => McpEra::Stateless,
        ClientProtocol::Bare | ClientProtocol::Session(_) if revision.is_none() => McpEra::Handshake,
        _ => return None,
    };
    if era == McpEra::Stateless {
        let meta = meta.as_ref()?;
        let same = revision?.get() == STATELESS_JSON;
        if !same || !meta.get(META_CAPABILITIES)?.is_object() || single(headers, METHOD)? != rpc.method {
            return None;
        }
        if rpc.method == "tools/call" {
            let name = single(headers, NAME)?;
            // An encoded name is decoded elsewhere.
            if name.starts_with("=?") || tool.as_ref()?.name != name {
                return None;
            }
        }
    }
    // A tool has to know what its client can do, because it may ask for that.
    let able = |key: &str, value: Json<'_>| key == META_CAPABILITIES && value.get() != "{}";
    let beyond = |meta: &Object<'_>| {
        meta.iter().any(|(key, value)| !CLIENT_META_KEYS.contains(&key) || able(key, value))
    };
    let more = meta.as_ref().is_some_and(beyond)
        || ["inputResponses", "requestState"].iter().any(|key| params.get(key).is_some());
    let wants = notification_filter(meta.as_ref(), within.as_ref()).ok()?;
    let capabilities = meta.as_ref().and_then(|meta| meta.get(META_CAPABILITIES));
    Some(PlainRequest { era, capabilities, tool, more, wants, within })
}

/// The request has a part that only rmcp reads.
struct LeftToRmcp;

/// Which notifications the client wants; `None` when it can receive none during a request.
fn notification_filter(
    meta: Option<&Object<'_>>,
    within: Option<&TransportGuard>,
) -> Result<Option<NotificationFilter>, LeftToRmcp> {
    let given = |key| meta.and_then(|meta| meta.get(key)).filter(|value| !value.is_null());
    // A token that is neither a number nor a text has no reader.
    let scalar = |value: &Json<'_>| !value.get().starts_with(['[', '{']);
    let progress = match given("progressToken") {
        Some(token) if scalar(&token) => Some(read(token).map_err(|_| LeftToRmcp)?),
        Some(_) => return Err(LeftToRmcp),
        None => None,
    };
    let level = match within {
        Some(within) => Some(within.transport().level.get()),
        None => match given(META_LEVEL) {
            Some(level) => {
                let named = read::<&str>(level).ok().and_then(LogLevel::named);
                Some(named.ok_or(LeftToRmcp)?)
            }
            None => None,
        },
    };
    let receives = within.is_some() || progress.is_some() || level.is_some();
    Ok(receives.then_some(NotificationFilter { progress, level }))
}

async fn list(
    app: &App,
    endpoint: McpEndpoint<'_>,
    rpc: &RpcRequest<'_>,
    params: &RpcParams<'_>,
    plain: &PlainRequest<'_>,
) -> Result<FastPath, RpcError> {
    if params.get("cursor").is_some() {
        return Ok(FastPath::No);
    }
    let access = connected(app, endpoint, params, plain).await?;
    access.settled().await;
    let tools = access.toolbox().listing(Principal::Agent, ToolSpelling::Mcp);
    let mut out = String::with_capacity(tools.len() + 128);
    write_rpc_result(&mut out, rpc.id, |out| write_mcp_tools(out, plain.era, &tools));
    Ok(FastPath::Answered(out))
}

async fn call(
    app: &App,
    endpoint: McpEndpoint<'_>,
    epoch: Option<u64>,
    rpc: &RpcRequest<'_>,
    params: &RpcParams<'_>,
    plain: PlainRequest<'_>,
    body: &Bytes,
) -> Result<FastPath, RpcError> {
    let tool = match &plain.tool {
        Some(tool) => tool.clone(),
        None => params.tool_call()?,
    };
    let access = connected(app, endpoint, params, &plain).await?;
    if plain.era == McpEra::Stateless && wants_headers(&access, &tool.name) {
        return Ok(FastPath::No);
    }
    let request = rpc.params.filter(|_| plain.more);
    let trace = traces::of_params(app, params, endpoint.trace);
    // A call that does not end at once goes on within rmcp, which sends what its tool reports meanwhile. A
    // message that is too large for that is answered here, without such notes.
    let outcome = match plain.wants.filter(|_| !has_too_many_values(body)) {
        None => {
            let request = request.map(Json::raw);
            let call = AgentCall {
                name: tool.name,
                arguments: tool.arguments,
                epoch,
                request,
                ..AgentCall::default()
            };
            access.call(call, trace).await
        }
        Some(wants) => {
            let part = |text: &str| body.slice_ref(text.as_bytes());
            let asked = OwnedCall {
                access,
                name: tool.name.into_owned(),
                arguments: tool.arguments.map(|arguments| part(arguments.get())),
                request: request.map(|request| part(request.get())),
                epoch,
                trace,
            };
            match StartedCall::new(asked, wants).poll_once().await {
                FirstPoll::Finished(outcome) => outcome,
                FirstPoll::Running(started) => return Ok(FastPath::Started(started)),
            }
        }
    };
    let small = |declared: &Json<'_>| !exceeds_values(declared.get(), MAX_CAPABILITY_VALUES);
    let declared =
        || plain.capabilities.filter(small).and_then(|declared| read(declared).ok()).unwrap_or_default();
    let outcome = match error_response(outcome, plain.era, declared) {
        // MCP's own status for it.
        Err(fault) if fault.code == RpcCode::MissingCapability => {
            return Ok(FastPath::Refused(StatusCode::BAD_REQUEST, fault));
        }
        outcome => outcome?,
    };
    let mut out = String::with_capacity(256);
    write_rpc_result(&mut out, rpc.id, |out| write_mcp_call(out, plain.era, outcome.as_ref()));
    Ok(FastPath::Answered(out))
}

/// The target of the request.
async fn connected(
    app: &App,
    endpoint: McpEndpoint<'_>,
    params: &RpcParams<'_>,
    plain: &PlainRequest<'_>,
) -> Result<ToolAccess, RpcError> {
    match &plain.within {
        Some(within) => {
            ToolAccess::of(app, &within.transport().target).await.map_err(|failure| error::rpc(&failure))
        }
        None => resolve_target(app, endpoint, params).await,
    }
}

/// Whether a tool asks for some of its arguments to be repeated as headers.
fn wants_headers(access: &ToolAccess, name: &str) -> bool {
    let tools = access.toolbox().tools(Principal::Agent);
    let tool = tools.iter().find(|tool| tool.name == name);
    tool.is_some_and(|tool| marked(&tool.input_schema))
}

fn marked(schema: &Value) -> bool {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return false;
    };
    properties.values().any(|property| property.get("x-mcp-header").is_some() || marked(property))
}
