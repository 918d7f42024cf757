//! The bare HTTP responder: axum and serde_json.
//!
//! The status is 200, or 400 if the JSON is not that of the measured requests.

use std::io;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::payload::{self, Call, StepBody};

/// Formats the reply to a call at `/mcp`.
type ReplyFormat = fn(&Call<'_>) -> serde_json::Result<String>;

/// `POST /step`, and `POST /mcp` in OpenEnv's dialect.
pub(crate) fn dialect() -> Router {
    mcp_router(payload::result).route("/step", post(async |body: Bytes| json(step(&body))))
}

/// `POST /mcp` of MCP 2026-07-28.
pub(crate) fn mcp() -> Router {
    mcp_router(payload::mcp_result)
}

/// Answers every connection until the process is ended.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // An error is ignored: replies are only slower without TCP_NODELAY.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

fn mcp_router(format: ReplyFormat) -> Router {
    Router::new()
        .route("/health", get(async || json(Ok(r#"{"status":"healthy"}"#.to_owned()))))
        .route("/mcp", post(async move |body: Bytes| json(call(&body, format))))
}

fn step(body: &[u8]) -> serde_json::Result<String> {
    let request: StepBody<'_> = serde_json::from_slice(body)?;
    payload::step(&request.action)
}

fn call(body: &[u8], format: ReplyFormat) -> serde_json::Result<String> {
    let request: Call<'_> = serde_json::from_slice(body)?;
    if request.method != "tools/call" {
        return Ok(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not found"}}"#.to_owned()
        );
    }
    format(&request)
}

fn json(reply: serde_json::Result<String>) -> Response {
    match reply {
        Ok(body) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
