//! The options of an instance.
//!
//! Invariant: `Debug` shows no token and no variable's value.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::multiplexer::Strictness;

/// How an instance is made.
#[derive(Clone, Default)]
pub struct FleetOptions {
    /// The control plane; `https://orchestrator.fleetai.com` if absent.
    pub base_url: Option<String>,
    /// Where the instance is to run.
    pub region: Option<String>,
    /// `key:version` of the data it begins with.
    pub data_key: Option<String>,
    /// The kind of image, such as `mcp`.
    pub image_type: Option<String>,
    /// Variables of its environment.
    pub env_variables: Map<String, Value>,
    /// A name that instances of one run share.
    pub run_id: Option<String>,
    /// After how long Fleet ends it.
    pub ttl: Option<Duration>,
    /// Fleet ends the instance if no heartbeat comes for that long; heartbeats are sent twice as often.
    /// Absent: as the instance reports, or never.
    pub heartbeat: Option<Duration>,
    /// The token of the instance's runner; requested with the API key if absent.
    pub runner_token: Option<String>,
    /// Other fields of the request to make it, such as `seed`, `task_id`, `force_pull`.
    pub extra: Map<String, Value>,
    /// How long making it may take; 0: 15 minutes.
    pub timeout: Duration,
    /// How long a reset may take; 0: 2 minutes.
    pub reset_timeout: Duration,
    /// How a listing goes on when one MCP endpoint cannot be reached; one that answers 404 is absent, not
    /// broken.
    pub strictness: Strictness,
}

impl FleetOptions {
    pub(super) fn timeout(&self) -> Duration {
        or(self.timeout, Duration::from_mins(15))
    }

    pub(super) fn reset_timeout(&self) -> Duration {
        or(self.reset_timeout, Duration::from_mins(2))
    }
}

impl fmt::Debug for FleetOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.env_variables.keys().collect();
        f.debug_struct("FleetOptions")
            .field("region", &self.region)
            .field("data_key", &self.data_key)
            .field("image_type", &self.image_type)
            .field("env_variables", &names)
            .field("run_id", &self.run_id)
            .field("ttl", &self.ttl)
            .field("runner_token", &self.runner_token.is_some())
            .field("strictness", &self.strictness)
            .finish_non_exhaustive()
    }
}

fn or(time: Duration, default: Duration) -> Duration {
    if time.is_zero() { default } else { time }
}
