//! The requests that a fault applies to.
//!
//! Invariant: a target covers requests by what they are, never by how a path ends: `/mcp` is a suffix of
//! `/api/v1/mcp`.

use std::fmt;

/// A request, or a kind of requests. In the text form those over MCP may name a method: `mcp.call`,
/// `mcps.list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultTarget {
    /// `control`: anything on the control plane.
    Control,
    /// `create`: requests that make an instance.
    Create,
    /// `get`: requests for one instance.
    Get,
    /// `list`: instances are listed.
    List,
    /// `delete`: requests that end one instance.
    Delete,
    /// `delete-all`: requests that end instances together.
    DeleteAll,
    /// `heartbeat`.
    Heartbeat,
    /// `environments`: all of them, or one.
    Environments,
    /// `regions`.
    Regions,
    /// `account`.
    Account,
    /// `token`: requests for the runner token.
    Token,
    /// `instance`: anything on an instance's host.
    Instance,
    /// `manager`: anything of the instance manager.
    Manager,
    /// `reset`.
    Reset,
    /// `health`.
    Health,
    /// `resources`: their list.
    Resources,
    /// `describe`: a database's tables.
    Describe,
    /// `query`: a query of a database.
    Query,
    /// `verify`: requests that run a verifier.
    Verify,
    /// `cdp`: anything of the browser.
    Cdp,
    /// `mcp`: the environment's own MCP server, at `/mcp`.
    Mcp(McpMethod),
    /// `api/v1/mcp`: the aggregator, at `/api/v1/mcp`.
    ApiMcp(McpMethod),
    /// `mcps`: both MCP servers.
    Mcps(McpMethod),
}

/// Which requests over MCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum McpMethod {
    /// All.
    Any,
    /// `.initialize`
    Initialize,
    /// `.list`: `tools/list`.
    List,
    /// `.call`: `tools/call`.
    Call,
}

/// All places but those over MCP, with their names.
const NAMES: [(FaultTarget, &str); 20] = [
    (FaultTarget::Control, "control"),
    (FaultTarget::Create, "create"),
    (FaultTarget::Get, "get"),
    (FaultTarget::List, "list"),
    (FaultTarget::Delete, "delete"),
    (FaultTarget::DeleteAll, "delete-all"),
    (FaultTarget::Heartbeat, "heartbeat"),
    (FaultTarget::Environments, "environments"),
    (FaultTarget::Regions, "regions"),
    (FaultTarget::Account, "account"),
    (FaultTarget::Token, "token"),
    (FaultTarget::Instance, "instance"),
    (FaultTarget::Manager, "manager"),
    (FaultTarget::Reset, "reset"),
    (FaultTarget::Health, "health"),
    (FaultTarget::Resources, "resources"),
    (FaultTarget::Describe, "describe"),
    (FaultTarget::Query, "query"),
    (FaultTarget::Verify, "verify"),
    (FaultTarget::Cdp, "cdp"),
];

const METHODS: [(McpMethod, &str); 3] =
    [(McpMethod::Initialize, ".initialize"), (McpMethod::List, ".list"), (McpMethod::Call, ".call")];

impl FaultTarget {
    /// Whether a fault here happens to that request. The request is as narrow as can be.
    pub(crate) fn covers(self, request: FaultTarget) -> bool {
        let method = |wanted: McpMethod, is: McpMethod| wanted == McpMethod::Any || wanted == is;
        match (self, request) {
            (FaultTarget::Control, _) => !request.is_instance(),
            (FaultTarget::Instance, _) => request.is_instance(),
            (FaultTarget::Manager, _) => request.is_manager(),
            (FaultTarget::Mcp(wanted), FaultTarget::Mcp(is))
            | (FaultTarget::ApiMcp(wanted), FaultTarget::ApiMcp(is)) => method(wanted, is),
            (FaultTarget::Mcps(wanted), FaultTarget::Mcp(is) | FaultTarget::ApiMcp(is)) => method(wanted, is),
            _ => self == request,
        }
    }

    /// Whether it is on an instance's host.
    pub(crate) fn is_instance(self) -> bool {
        self == FaultTarget::Instance || self.is_manager() || self.is_mcp()
    }

    fn is_manager(self) -> bool {
        use FaultTarget::{Cdp, Describe, Health, Manager, Query, Reset, Resources, Verify};
        matches!(self, Manager | Reset | Health | Resources | Describe | Query | Verify | Cdp)
    }

    pub(crate) fn is_mcp(self) -> bool {
        matches!(self, FaultTarget::Mcp(_) | FaultTarget::ApiMcp(_) | FaultTarget::Mcps(_))
    }

    /// Whether requests with that method are among those that it names.
    pub(crate) fn includes_method(self, method: McpMethod) -> bool {
        match self {
            FaultTarget::Mcp(named) | FaultTarget::ApiMcp(named) | FaultTarget::Mcps(named) => {
                named == McpMethod::Any || named == method
            }
            _ => false,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<FaultTarget> {
        if let Some((place, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return Some(*place);
        }
        let (name, method) = METHODS
            .iter()
            .find_map(|(method, suffix)| text.strip_suffix(suffix).map(|name| (name, *method)))
            .unwrap_or((text, McpMethod::Any));
        match name {
            "mcp" => Some(FaultTarget::Mcp(method)),
            "api/v1/mcp" => Some(FaultTarget::ApiMcp(method)),
            "mcps" => Some(FaultTarget::Mcps(method)),
            _ => None,
        }
    }
}

impl fmt::Display for FaultTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, method) = match self {
            FaultTarget::Mcp(method) => ("mcp", *method),
            FaultTarget::ApiMcp(method) => ("api/v1/mcp", *method),
            FaultTarget::Mcps(method) => ("mcps", *method),
            other => {
                let name = NAMES.iter().find(|(place, _)| place == other).map_or("", |(_, name)| name);
                return f.write_str(name);
            }
        };
        let suffix = METHODS.iter().find(|(known, _)| *known == method).map_or("", |(_, suffix)| suffix);
        write!(f, "{name}{suffix}")
    }
}
