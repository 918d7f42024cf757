//! The options of a simulated Fleet.
//!
//! Invariant: `Debug` shows no key and no token.

use std::fmt;
use std::time::Duration;

use crate::fault::Fault;

/// A key of the API, and its team. Teams do not see each other's instances, and each has a limit of its
/// own.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What clients send as `Authorization: Bearer KEY`.
    pub key: String,
    /// The team's id.
    pub team: String,
}

impl ApiKey {
    /// A key of a team.
    pub fn new(key: impl Into<String>, team: impl Into<String>) -> Self {
        ApiKey { key: key.into(), team: team.into() }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("team", &self.team).finish_non_exhaustive()
    }
}

/// How replies over MCP are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// One JSON document.
    #[default]
    Json,
    /// A stream of server-sent events with one event.
    Sse,
}

/// The credentials that the MCP endpoints of an instance require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum McpAuth {
    /// Nothing.
    #[default]
    Open,
    /// The API key, as `Authorization: Bearer KEY`; otherwise 401.
    Bearer,
    /// The runner token, as `X-Runner-Token: TOKEN`; otherwise 404.
    Runner,
}

/// The options of a simulated Fleet.
#[derive(Clone)]
pub struct SimulatorOptions {
    /// The port of the control plane; 0 takes a free one.
    pub port: u16,
    /// The keys that are known. Default: one, `sk_simulated`, of `team-1`.
    pub keys: Vec<ApiKey>,
    /// Instances at once of one team. Default: 10.
    pub instance_limit: usize,
    /// How long an instance is `pending` before it runs; a create is held that long. Default: zero.
    pub provisioning_delay: Duration,
    /// How long an instance lives if its create has no `ttl_seconds`. Default: 1 hour.
    pub ttl: Duration,
    /// Whether the instance manager answers 404 without the runner token. Default: no.
    pub runner_gate: bool,
    /// The runner token. Default: `runner_simulated`.
    pub runner_token: String,
    /// Whether verifiers are run. They are code that the caller sends, and it runs on this machine as this
    /// user with `python3`; otherwise each fails and reports that. Default: no.
    pub run_verifiers: bool,
    /// How long a verifier may run. Default: 30 s.
    pub verifier_timeout: Duration,
    /// How replies over MCP are framed, unless a fault sets it.
    pub framing: Framing,
    /// Whether an `initialize` is given a session id, which later requests must name. Default: yes.
    pub mcp_sessions: bool,
    /// The credentials that the MCP endpoints require.
    pub mcp_auth: McpAuth,
    /// Ids are made of this and of how many came before. Default: 0.
    pub seed: u64,
    /// Faults from the beginning.
    pub faults: Vec<Fault>,
}

impl SimulatorOptions {
    /// Whether there is a runner token at all: without a gate Fleet knows of none.
    pub(crate) fn knows_runner_token(&self) -> bool {
        self.runner_gate || self.mcp_auth == McpAuth::Runner
    }
}

impl Default for SimulatorOptions {
    fn default() -> Self {
        SimulatorOptions {
            port: 0,
            keys: vec![ApiKey::new("sk_simulated", "team-1")],
            instance_limit: 10,
            provisioning_delay: Duration::ZERO,
            ttl: Duration::from_secs(3600),
            runner_gate: false,
            runner_token: "runner_simulated".to_owned(),
            run_verifiers: false,
            verifier_timeout: Duration::from_secs(30),
            framing: Framing::Json,
            mcp_sessions: true,
            mcp_auth: McpAuth::Open,
            seed: 0,
            faults: Vec::new(),
        }
    }
}

impl fmt::Debug for SimulatorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorOptions")
            .field("port", &self.port)
            .field("keys", &self.keys)
            .field("instance_limit", &self.instance_limit)
            .field("provisioning_delay", &self.provisioning_delay)
            .field("runner_gate", &self.runner_gate)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}
