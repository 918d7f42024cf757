//! The configuration of an instance.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::environments::SimulatedEnvironment;
use crate::fault::PendingOutcome;

/// What an instance was created with.
pub(crate) struct InstanceConfig {
    pub(crate) environment: &'static SimulatedEnvironment,
    pub(crate) version: String,
    pub(crate) region: String,
    pub(crate) data_key: Option<String>,
    pub(crate) data_version: Option<String>,
    pub(crate) env_variables: Option<Map<String, Value>>,
    pub(crate) run_id: Option<String>,
    pub(crate) heartbeat_interval: Option<u32>,
    pub(crate) ttl: Duration,
    pub(crate) seed: i64,
    pub(crate) outcome: Option<PendingOutcome>,
}
