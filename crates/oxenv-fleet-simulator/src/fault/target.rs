//! Where something goes wrong.
//!
//! Invariant: a place covers requests by what they are, never by how a path ends: `/mcp` is a suffix of `/api/v1/mcp`.

use std::fmt;

/// A request, or a kind of requests. In the text form those over MCP may name a method: `mcp.call`, `mcps.list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// `control`: anything on the control plane.
    Control,
    /// `create`: an instance is to be made.
    Create,
    /// `get`: one instance is asked for.
    Get,
    /// `list`: instances are listed.
    List,
    /// `delete`: one instance is to be ended.
    Delete,
    /// `delete-all`: instances are to be ended together.
    DeleteAll,
    /// `heartbeat`.
    Heartbeat,
    /// `environments`: all of them, or one.
    Environments,
    /// `regions`.
    Regions,
    /// `account`.
    Account,
    /// `token`: the runner token is asked for.
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
    /// `verify`: a verifier is to be run.
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
const NAMES: [(Place, &str); 20] = [
    (Place::Control, "control"),
    (Place::Create, "create"),
    (Place::Get, "get"),
    (Place::List, "list"),
    (Place::Delete, "delete"),
    (Place::DeleteAll, "delete-all"),
    (Place::Heartbeat, "heartbeat"),
    (Place::Environments, "environments"),
    (Place::Regions, "regions"),
    (Place::Account, "account"),
    (Place::Token, "token"),
    (Place::Instance, "instance"),
    (Place::Manager, "manager"),
    (Place::Reset, "reset"),
    (Place::Health, "health"),
    (Place::Resources, "resources"),
    (Place::Describe, "describe"),
    (Place::Query, "query"),
    (Place::Verify, "verify"),
    (Place::Cdp, "cdp"),
];

const METHODS: [(McpMethod, &str); 3] =
    [(McpMethod::Initialize, ".initialize"), (McpMethod::List, ".list"), (McpMethod::Call, ".call")];

impl Place {
    /// Whether a fault here happens to that request. The request is as narrow as can be.
    pub(crate) fn covers(self, request: Place) -> bool {
        let method = |wanted: McpMethod, is: McpMethod| wanted == McpMethod::Any || wanted == is;
        match (self, request) {
            (Place::Control, _) => !request.at_instance(),
            (Place::Instance, _) => request.at_instance(),
            (Place::Manager, _) => request.at_manager(),
            (Place::Mcp(wanted), Place::Mcp(is)) | (Place::ApiMcp(wanted), Place::ApiMcp(is)) => {
                method(wanted, is)
            }
            (Place::Mcps(wanted), Place::Mcp(is) | Place::ApiMcp(is)) => method(wanted, is),
            _ => self == request,
        }
    }

    /// Whether it is on an instance's host.
    pub(crate) fn at_instance(self) -> bool {
        self == Place::Instance || self.at_manager() || self.over_mcp()
    }

    fn at_manager(self) -> bool {
        use Place::{Cdp, Describe, Health, Manager, Query, Reset, Resources, Verify};
        matches!(self, Manager | Reset | Health | Resources | Describe | Query | Verify | Cdp)
    }

    pub(crate) fn over_mcp(self) -> bool {
        matches!(self, Place::Mcp(_) | Place::ApiMcp(_) | Place::Mcps(_))
    }

    /// Whether requests with that method are among those that it names.
    pub(crate) fn reaches(self, method: McpMethod) -> bool {
        match self {
            Place::Mcp(named) | Place::ApiMcp(named) | Place::Mcps(named) => {
                named == McpMethod::Any || named == method
            }
            _ => false,
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Place> {
        if let Some((place, _)) = NAMES.iter().find(|(_, name)| *name == text) {
            return Some(*place);
        }
        let (name, method) = METHODS
            .iter()
            .find_map(|(method, suffix)| text.strip_suffix(suffix).map(|name| (name, *method)))
            .unwrap_or((text, McpMethod::Any));
        match name {
            "mcp" => Some(Place::Mcp(method)),
            "api/v1/mcp" => Some(Place::ApiMcp(method)),
            "mcps" => Some(Place::Mcps(method)),
            _ => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, method) = match self {
            Place::Mcp(method) => ("mcp", *method),
            Place::ApiMcp(method) => ("api/v1/mcp", *method),
            Place::Mcps(method) => ("mcps", *method),
            other => {
                let name = NAMES.iter().find(|(place, _)| place == other).map_or("", |(_, name)| name);
                return f.write_str(name);
            }
        };
        let suffix = METHODS.iter().find(|(known, _)| *known == method).map_or("", |(_, suffix)| suffix);
        write!(f, "{name}{suffix}")
    }
}
