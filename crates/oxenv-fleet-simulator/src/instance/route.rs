//! The routes of an instance.
//!
//! Invariant: paths are matched whole, so a fault at `/mcp` never meets `/api/v1/mcp`.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use crate::fault::{FaultTarget, McpMethod};

/// A route.
#[derive(Clone, Copy)]
pub(super) enum InstanceRoute<'a> {
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

impl<'a> InstanceRoute<'a> {
    /// The route of a path, or why there is none. `body` shows which method of MCP it is.
    pub(super) fn parse(method: &Method, path: &'a str, body: &[u8]) -> Result<Self, StatusCode> {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let route = match (method.as_str(), parts.as_slice()) {
            ("GET", [""] | ["health"] | ["raw", ..]) => InstanceRoute::App,
            (_, ["mcp"]) => InstanceRoute::Mcp(mcp_method(body)),
            (_, ["api", "v1", "mcp"]) => InstanceRoute::ApiMcp(mcp_method(body)),
            (verb, ["api", "v1", "env", rest @ ..]) => return Self::parse_manager(verb, rest),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        Ok(route)
    }

    fn parse_manager(verb: &str, parts: &[&'a str]) -> Result<Self, StatusCode> {
        match (verb, parts) {
            ("POST", ["reset"]) => Ok(InstanceRoute::Reset),
            ("GET", ["health"]) => Ok(InstanceRoute::Health),
            ("GET", ["resources"]) => Ok(InstanceRoute::Resources),
            ("GET", ["resources", "sqlite", name, "describe"]) => Ok(InstanceRoute::Describe(name)),
            ("POST", ["resources", "sqlite", name, "query"]) => Ok(InstanceRoute::Query(name)),
            ("POST", ["execute_verifier_function"]) => Ok(InstanceRoute::Verify),
            ("POST", ["resources", "cdp", "start"]) => Ok(InstanceRoute::CdpStart),
            ("GET", ["resources", "cdp", "describe"]) => Ok(InstanceRoute::CdpDescribe),
            (_, ["reset" | "health" | "resources" | "execute_verifier_function"]) => {
                Err(StatusCode::METHOD_NOT_ALLOWED)
            }
            // There is no /step and no /state.
            _ => Err(StatusCode::NOT_FOUND),
        }
    }

    /// The target of its faults.
    pub(super) fn fault_target(self) -> FaultTarget {
        match self {
            InstanceRoute::Reset => FaultTarget::Reset,
            InstanceRoute::Health => FaultTarget::Health,
            InstanceRoute::Resources => FaultTarget::Resources,
            InstanceRoute::Describe(_) => FaultTarget::Describe,
            InstanceRoute::Query(_) => FaultTarget::Query,
            InstanceRoute::Verify => FaultTarget::Verify,
            InstanceRoute::CdpStart | InstanceRoute::CdpDescribe => FaultTarget::Cdp,
            InstanceRoute::Mcp(method) => FaultTarget::Mcp(method),
            InstanceRoute::ApiMcp(method) => FaultTarget::ApiMcp(method),
            InstanceRoute::App => FaultTarget::Instance,
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
