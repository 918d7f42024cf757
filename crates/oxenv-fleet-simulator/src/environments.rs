//! The environments that can be made.
//!
//! Invariant: one of them serves both MCP endpoints, one only its own, one only the aggregator, as images do.

use serde_json::{Map, Value, json};

/// The regions.
pub(crate) const REGIONS: [&str; 4] = ["us-west-1", "us-east-1", "eu-west-2", "staging"];

/// An environment.
pub(crate) struct SimulatedEnvironment {
    pub(crate) key: &'static str,
    name: &'static str,
    description: &'static str,
    /// The last one is the default.
    versions: &'static [&'static str],
    /// Whether it serves its own MCP endpoint, `/mcp`.
    pub(crate) own_mcp: bool,
    /// Whether it serves the aggregator, `/api/v1/mcp`.
    pub(crate) aggregator: bool,
}

const ENVIRONMENTS: [SimulatedEnvironment; 3] = [
    SimulatedEnvironment {
        key: "fira",
        name: "Fira",
        description: "An issue tracker with an API and a browser",
        versions: &["v1.2.0", "v1.3.0", "v1.3.1"],
        own_mcp: true,
        aggregator: true,
    },
    SimulatedEnvironment {
        key: "echo",
        name: "Echo",
        description: "An API alone: there is no browser, and no aggregator",
        versions: &["v1.0.0"],
        own_mcp: true,
        aggregator: false,
    },
    SimulatedEnvironment {
        key: "desk",
        name: "Desk",
        description: "A browser alone: the environment has no MCP server of its own",
        versions: &["v0.9.0", "v1.0.0"],
        own_mcp: false,
        aggregator: true,
    },
];

pub(crate) fn find(key: &str) -> Option<&'static SimulatedEnvironment> {
    ENVIRONMENTS.iter().find(|known| known.key == key)
}

pub(crate) fn all() -> Vec<Value> {
    ENVIRONMENTS.iter().map(SimulatedEnvironment::document).collect()
}

impl SimulatedEnvironment {
    pub(crate) fn default_version(&self) -> &'static str {
        self.versions.last().copied().unwrap_or_default()
    }

    pub(crate) fn has(&self, version: &str) -> bool {
        self.versions.contains(&version)
    }

    pub(crate) fn document(&self) -> Value {
        let versions: Map<String, Value> =
            self.versions.iter().map(|version| ((*version).to_owned(), json!(self.description))).collect();
        json!({"env_key": self.key, "name": self.name, "description": self.description,
            "default_version": self.default_version(), "versions": versions})
    }
}
