//! The answer for paths and methods that do not exist.
//!
//! Invariant: FastAPI's bodies, so that a client that parses errors parses these.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use serde_json::json;

use crate::error::json_response;

pub(crate) async fn not_found(request: Request) -> Response {
    // A WebSocket on an unknown path is refused with 403 by the reference's framework.
    let status =
        if wants_websocket(request.headers()) { StatusCode::FORBIDDEN } else { StatusCode::NOT_FOUND };
    json_response(status, json!({ "detail": "Not Found" }).to_string())
}

pub(crate) async fn method_not_allowed() -> Response {
    other_method()
}

/// A path that is there, and takes other methods.
pub(crate) fn other_method() -> Response {
    json_response(StatusCode::METHOD_NOT_ALLOWED, json!({ "detail": "Method Not Allowed" }).to_string())
}

/// Whether a request asks to become a WebSocket.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}
