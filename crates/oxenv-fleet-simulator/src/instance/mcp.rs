//! MCP over Streamable HTTP: the handshake of 2025, tools, and nothing else.
//!
//! Invariant: a request that names a session must name one that lives; one that names none is served, as
//! servers without sessions do. A call with an id is answered once.

use std::collections::HashSet;

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::context::InstanceContext;
use super::tools::{self, McpServerKind, RpcError};
use crate::connections::JsonResponse;
use crate::fault::{Effect, RequestFaults};
use crate::options::Framing;

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// The newest last.
const VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// Sessions of one endpoint that live at once; the oldest makes room for another.
const MAX_SESSIONS: u64 = 10_000;

/// An endpoint, and its sessions.
pub(super) struct McpEndpoint {
    kind: McpServerKind,
    sessions: Mutex<McpSessions>,
}

#[derive(Default)]
struct McpSessions {
    live: HashSet<String>,
    made: u64,
}

impl McpEndpoint {
    pub(super) fn new(kind: McpServerKind) -> Self {
        McpEndpoint { kind, sessions: Mutex::default() }
    }

    pub(super) fn forget_sessions(&self) {
        self.sessions.lock().live.clear();
    }

    pub(super) async fn handle(
        &self,
        context: &InstanceContext,
        parts: &Parts,
        body: &Bytes,
        faults: &RequestFaults,
    ) -> Response {
        let session = parts.headers.get(SESSION_ID).and_then(|id| id.to_str().ok());
        let known = session.is_none_or(|id| self.sessions.lock().live.contains(id));
        match parts.method {
            Method::POST => {}
            Method::DELETE if session.is_some_and(|id| self.sessions.lock().live.remove(id)) => {
                return StatusCode::NO_CONTENT.into_response();
            }
            Method::DELETE => return session_not_found(),
            _ => return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST, DELETE")]).into_response(),
        }
        let message = match serde_json::from_slice::<Value>(body) {
            Ok(message @ Value::Object(_)) => message,
            Ok(_) => return bad_request(-32600, "a message is one JSON object"),
            Err(error) => return bad_request(-32700, error.to_string()),
        };
        // A session that is asked for anew needs none before.
        if !known && message["method"] != "initialize" {
            return session_not_found();
        }
        let (Some(method), id) = (message["method"].as_str(), &message["id"]) else {
            return StatusCode::ACCEPTED.into_response();
        };
        if id.is_null() {
            return StatusCode::ACCEPTED.into_response();
        }
        let outcome = self.call_method(context, method, &message["params"], faults).await;
        let reply = match outcome {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(error) => json!({"jsonrpc": "2.0", "id": id,
                "error": {"code": error.code, "message": error.message}}),
        };
        let mut response = frame_reply(&reply, context.state.options.framing, faults);
        let sessions = context.state.options.mcp_sessions && !faults.has(&Effect::NoSession);
        if method == "initialize"
            && sessions
            && let Ok(id) = HeaderValue::from_str(&self.open_session(&context.instance.id))
        {
            response.headers_mut().insert(SESSION_ID, id);
        }
        response
    }

    async fn call_method(
        &self,
        context: &InstanceContext,
        method: &str,
        params: &Value,
        faults: &RequestFaults,
    ) -> Result<Value, RpcError> {
        match method {
            "initialize" => Ok(self.initialize(params)),
            "ping" => Ok(json!({})),
            "tools/list" if faults.has(&Effect::EmptyTools) => Ok(json!({"tools": []})),
            "tools/list" => Ok(json!({"tools": tools::list(self.kind)})),
            "tools/call" => {
                let Some(name) = params["name"].as_str() else {
                    return Err(RpcError::new(-32602, "a call names a tool"));
                };
                let result =
                    tools::call(self.kind, &context.databases, name, &params["arguments"], faults).await?;
                if faults.has(&Effect::IsError) {
                    let text = format!("{name} failed, as it was told to");
                    return Ok(json!({"content": [{"type": "text", "text": text}], "isError": true}));
                }
                Ok(result)
            }
            _ => Err(RpcError::new(-32601, format!("Method not found: {method}"))),
        }
    }

    fn initialize(&self, params: &Value) -> Value {
        let wanted = params["protocolVersion"].as_str();
        let newest = VERSIONS[VERSIONS.len() - 1];
        let version = VERSIONS.into_iter().find(|known| wanted == Some(known)).unwrap_or(newest);
        json!({"protocolVersion": version, "capabilities": {"tools": {"listChanged": false}},
            "serverInfo": {"name": self.kind.name(), "version": "1.0.0"}})
    }

    fn open_session(&self, instance: &str) -> String {
        let mut sessions = self.sessions.lock();
        sessions.made += 1;
        let id = format!("{instance}-{}", sessions.made);
        sessions.live.insert(id.clone());
        if let Some(oldest) = sessions.made.checked_sub(MAX_SESSIONS) {
            sessions.live.remove(&format!("{instance}-{oldest}"));
        }
        id
    }
}

/// That there is no such session: the client is to begin another.
pub(super) fn session_not_found() -> Response {
    rpc_failure(StatusCode::NOT_FOUND, -32001, "Session not found")
}

fn bad_request(code: i32, message: impl Into<String>) -> Response {
    rpc_failure(StatusCode::BAD_REQUEST, code, message)
}

fn rpc_failure(status: StatusCode, code: i32, message: impl Into<String>) -> Response {
    let error = json!({"code": code, "message": message.into()});
    (status, JsonResponse(json!({"jsonrpc": "2.0", "id": null, "error": error}))).into_response()
}

fn frame_reply(reply: &Value, framing: Framing, faults: &RequestFaults) -> Response {
    let framing = match (faults.has(&Effect::Json), faults.has(&Effect::Sse)) {
        (true, _) => Framing::Json,
        (_, true) => Framing::Sse,
        _ => framing,
    };
    match framing {
        Framing::Json => JsonResponse(reply).into_response(),
        Framing::Sse => {
            let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
            (headers, format!("event: message\ndata: {reply}\n\n")).into_response()
        }
    }
}
