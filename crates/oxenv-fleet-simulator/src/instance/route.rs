//! What a request to an instance asks for.
//!
//! Invariant: paths are matched whole, so a fault at `/mcp` never meets `/api/v1/mcp`.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use crate::fault::{McpMethod, Place};

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Route<'a> {
    Reset,
    Health,
    Resources,
    Describe(&'a str),
    Query(&'a str),
    Verify,
    CdpStart,
    CdpDescribe,
    /// The environment's own MCP server.
    Mcp(McpMethod),
    /// The aggregator.
    ApiMcp(McpMethod),
    /// The application itself.
    App,
}

impl<'a> Route<'a> {
    /// The route of a path, or why there is none. `body` tells which method of MCP it is.
    pub(super) fn of(method: &Method, path: &'a str, body: &[u8]) -> Result<Self, StatusCode> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let route = match (method.as_str(), parts.as_slice()) {
            ("GET", [""] | ["health"] | ["raw", ..]) => Route::App,
            (_, ["mcp"]) => Route::Mcp(mcp_method(body)),
            (_, ["api", "v1", "mcp"]) => Route::ApiMcp(mcp_method(body)),
            (verb, ["api", "v1", "env", rest @ ..]) => return Self::of_manager(verb, rest),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        Ok(route)
    }

    fn of_manager(verb: &str, parts: &[&'a str]) -> Result<Self, StatusCode> {
        match (verb, parts) {
            ("POST", ["reset"]) => Ok(Route::Reset),
            ("GET", ["health"]) => Ok(Route::Health),
            ("GET", ["resources"]) => Ok(Route::Resources),
            ("GET", ["resources", "sqlite", name, "describe"]) => Ok(Route::Describe(name)),
            ("POST", ["resources", "sqlite", name, "query"]) => Ok(Route::Query(name)),
            ("POST", ["execute_verifier_function"]) => Ok(Route::Verify),
            ("POST", ["resources", "cdp", "start"]) => Ok(Route::CdpStart),
            ("GET", ["resources", "cdp", "describe"]) => Ok(Route::CdpDescribe),
            (_, ["reset" | "health" | "resources" | "execute_verifier_function"]) => {
                Err(StatusCode::METHOD_NOT_ALLOWED)
            }
            // There is no /step and no /state.
            _ => Err(StatusCode::NOT_FOUND),
        }
    }

    /// Where its faults are.
    pub(super) fn place(self) -> Place {
        match self {
            Route::Reset => Place::Reset,
            Route::Health => Place::Health,
            Route::Resources => Place::Resources,
            Route::Describe(_) => Place::Describe,
            Route::Query(_) => Place::Query,
            Route::Verify => Place::Verify,
            Route::CdpStart | Route::CdpDescribe => Place::Cdp,
            Route::Mcp(method) => Place::Mcp(method),
            Route::ApiMcp(method) => Place::ApiMcp(method),
            Route::App => Place::Instance,
        }
    }
}

/// Whether a path is the instance manager's, which the runner's gate is before.
pub(super) fn is_manager(path: &str) -> bool {
    path.strip_prefix("/api/v1/env").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn mcp_method(body: &[u8]) -> McpMethod {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    match message["method"].as_str() {
        Some("initialize") => McpMethod::Initialize,
        Some("tools/list") => McpMethod::List,
        Some("tools/call") => McpMethod::Call,
        _ => McpMethod::Any,
    }
}
