//! Which principal may use which route, in which mode.
//!
//! Invariant: what is not in this table is for nobody. A test drives every route of the router as
//! every principal, so a route without a row fails it; docs/principals.md shows the same table.

use oxenv_core::Principal;

use Access::{Agents, Control, Everybody, Holders, Nobody, Watchers};

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Also who has no token.
    Everybody,
    /// Whoever has a token.
    Holders,
    /// Control and observers.
    Watchers,
    /// Control and agents. An agent comes to its own session, and to no path that names another.
    Agents,
    /// Control.
    Control,
    /// Nobody: the route is not there.
    Nobody,
}

/// A route: method, path, and who may use it in simulation and in production.
pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) simulation: Access,
    pub(super) production: Access,
}

/// Every route.
#[rustfmt::skip]
pub(super) const TABLE: &[Row] = &[
    row("GET", "/health", Everybody, Everybody),
    row("GET", "/ready", Everybody, Everybody),
    row("GET", "/metrics", Watchers, Watchers),
    row("GET", "/metadata", Holders, Holders),
    row("GET", "/schema", Holders, Holders),
    row("GET", "/tools", Holders, Holders),
    row("GET", "/openapi.json", Watchers, Watchers),
    row("GET", "/docs", Watchers, Watchers),
    row("GET", "/redoc", Watchers, Watchers),
    row("GET", "/list_environments", Watchers, Watchers),
    row("GET", "/{environment}/splits", Watchers, Watchers),
    row("POST", "/{environment}/tasks", Watchers, Watchers),
    row("POST", "/{environment}/num_tasks", Watchers, Watchers),
    row("POST", "/{environment}/task", Watchers, Watchers),
    row("POST", "/{environment}/task_range", Watchers, Watchers),
    row("GET", "/ws", Control, Agents),
    row("POST", "/mcp", Agents, Agents),
    row("GET", "/mcp", Agents, Agents),
    row("DELETE", "/mcp", Agents, Agents),
    row("POST", "/sessions/{id}/mcp", Agents, Agents),
    row("GET", "/sessions/{id}/mcp", Agents, Agents),
    row("DELETE", "/sessions/{id}/mcp", Agents, Agents),
    row("POST", "/reset", Control, Nobody),
    row("POST", "/step", Control, Nobody),
    row("GET", "/state", Watchers, Nobody),
    row("POST", "/batch", Control, Nobody),
    row("POST", "/restore", Control, Nobody),
    row("POST", "/sessions", Control, Nobody),
    row("GET", "/sessions", Watchers, Nobody),
    row("GET", "/sessions/{id}", Watchers, Nobody),
    row("DELETE", "/sessions/{id}", Control, Nobody),
    row("POST", "/sessions/{id}/reset", Control, Nobody),
    row("POST", "/sessions/{id}/step", Control, Nobody),
    row("GET", "/sessions/{id}/state", Watchers, Nobody),
    row("POST", "/sessions/{id}/fork", Control, Nobody),
    row("POST", "/sessions/{id}/snapshot", Control, Nobody),
    row("POST", "/sessions/{id}/keepalive", Control, Nobody),
    row("GET", "/trajectories", Watchers, Nobody),
    row("GET", "/trajectories/{id}", Watchers, Nobody),
    row("GET", "/trajectories/{id}/steps", Watchers, Nobody),
];

/// Who may use a route; nobody if it is not in the table.
pub(super) fn access(method: &str, path: &str, production: bool) -> Access {
    // A route for GET answers HEAD as well.
    let method = if method == "HEAD" { "GET" } else { method };
    let row = TABLE.iter().find(|row| row.method == method && row.path == path);
    row.map_or(Nobody, |row| if production { row.production } else { row.simulation })
}

const fn row(method: &'static str, path: &'static str, simulation: Access, production: Access) -> Row {
    Row { method, path, simulation, production }
}

impl Access {
    /// Whether it lets a holder of a token in.
    pub(super) fn takes(self, principal: Principal) -> bool {
        match self {
            Everybody | Holders => true,
            Watchers => principal != Principal::Agent,
            Agents => principal != Principal::Observer,
            Control => principal == Principal::Control,
            Nobody => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_for_nobody() {
        for (method, path) in [("GET", "/new"), ("PATCH", "/step"), ("POST", "/health"), ("get", "/health")] {
            assert_eq!(access(method, path, false), Nobody, "{method} {path}");
        }
        for principal in [Principal::Control, Principal::Agent, Principal::Observer] {
            assert!(!Nobody.takes(principal));
        }
        assert_eq!(access("HEAD", "/state", false), Watchers);
    }

    /// Who may, in words.
    fn words(access: Access) -> &'static str {
        match access {
            Everybody => "everybody",
            Holders => "control, observers, agents",
            Watchers => "control, observers",
            Agents => "control, agents",
            Control => "control",
            Nobody => "nobody",
        }
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let rows = TABLE.iter().map(|row| {
            let (simulation, production) = (words(row.simulation), words(row.production));
            format!("| `{} {}` | {simulation} | {production} |\n", row.method, row.path)
        });
        let table: String = rows.collect();
        let documentation = include_str!("../../../../docs/principals.md");
        assert!(documentation.contains(&table), "docs/principals.md has another table than this:\n{table}");
    }

    #[test]
    fn each_route_stands_once() {
        for (index, row) in TABLE.iter().enumerate() {
            let again =
                TABLE[..index].iter().any(|other| (other.method, other.path) == (row.method, row.path));
            assert!(!again, "{} {}", row.method, row.path);
        }
    }
}
