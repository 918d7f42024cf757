//! A minimal gateway: an axum handler that forwards `tools/call` to an upstream through the SDK's client.
//!
//! Invariant: it parses the request, makes the call and writes the result. It has no lookup, validation,
//! policy or sessions.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use rmcp::model::{CallToolRequestParams, CallToolResult, JsonObject, ResultType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Upstream, serve};

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    name: String,
    arguments: JsonObject,
}

#[derive(Serialize)]
struct Reply<'a> {
    jsonrpc: &'a str,
    id: &'a RawValue,
    result: CallToolResult,
}

/// Forwards calls at `/mcp` until the process is ended.
pub(crate) async fn serve(port: u16, upstream: Upstream) -> Result<(), String> {
    let upstream = Arc::new(upstream);
    let forward = post(async move |body: Bytes| match call(&upstream, &body).await {
        Ok(reply) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], reply).into_response(),
        Err(error) => refused(error),
    });
    serve::listen(port, Router::new().route("/mcp", forward)).await
}

async fn call(upstream: &Upstream, body: &[u8]) -> Result<Vec<u8>, String> {
    let request: Request<'_> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let Params { name, arguments } = request.params;
    let params = CallToolRequestParams::new(name).with_arguments(arguments);
    let mut result = upstream.client.call_tool(params).await.map_err(|error| error.to_string())?;
    // The upstream speaks an older revision, which has no such key.
    result.result_type = Some(ResultType::COMPLETE);
    let reply = Reply { jsonrpc: "2.0", id: request.id, result };
    serde_json::to_vec(&reply).map_err(|error| error.to_string())
}

fn refused(error: String) -> Response {
    (StatusCode::BAD_GATEWAY, error).into_response()
}
