//! The bare HTTP responder: axum and serde_json, and nothing between them.
//!
//! Every request is answered with 200, or with 400 where its JSON is not the one that is measured.

use std::io;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::payload::{self, Call, StepBody};

/// What answers a call at `/mcp`, in one of its spellings.
type Speller = fn(&Call<'_>) -> serde_json::Result<String>;

/// The doors of OpenEnv.
pub(crate) fn dialect() -> Router {
    mcp_spelled(payload::result).route("/step", post(async |body: Bytes| json(step(&body))))
}

/// The door of MCP 2026-07-28.
pub(crate) fn mcp() -> Router {
    mcp_spelled(payload::mcp_result)
}

/// Answers every connection until the process is ended.
pub(crate) async fn serve(listener: TcpListener, router: Router) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Without it replies would wait for acknowledgements; a socket that refuses it still works.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await
}

fn mcp_spelled(spell: Speller) -> Router {
    Router::new()
        .route("/health", get(async || json(Ok(r#"{"status":"healthy"}"#.to_owned()))))
        .route("/mcp", post(async move |body: Bytes| json(call(&body, spell))))
}

fn step(body: &[u8]) -> serde_json::Result<String> {
    let request: StepBody<'_> = serde_json::from_slice(body)?;
    payload::step(&request.action)
}

fn call(body: &[u8], spell: Speller) -> serde_json::Result<String> {
    let request: Call<'_> = serde_json::from_slice(body)?;
    if request.method != "tools/call" {
        return Ok(
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not found"}}"#.to_owned()
        );
    }
    spell(&request)
}

fn json(reply: serde_json::Result<String>) -> Response {
    match reply {
        Ok(body) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}
