//! Options as Python gives them: one JSON object each, with the names that its keyword arguments have.
//!
//! Invariant: a wrong one is `INVALID_OPTIONS` before anything is sent.

use std::time::Duration;

use oxenv_client::fleet::FleetOptions;
use oxenv_client::{ClientError, ClientOptions, Code, MultiplexOptions, OpenOptions, Protocol, Strictness};
use oxenv_process::secret::Secret;
use oxenv_wire::MULTI_PROTOCOL;
use serde::Deserialize;
use serde_json::{Map, Value};

/// How to connect and how to open a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionArguments {
    protocol: String,
    token: Option<String>,
    headers: Vec<(String, String)>,
    connect_timeout_s: f64,
    timeout_s: f64,
    max_message: usize,
    validate_arguments: bool,
    seed: Option<u64>,
    episode_id: Option<String>,
    resume_s: Option<f64>,
    queue_s: Option<f64>,
}

/// How to talk to endpoints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MultiplexerArguments {
    strict: bool,
    headers: Vec<(String, String)>,
    connect_timeout_s: f64,
    timeout_s: f64,
    optional: Vec<String>,
}

/// How an instance on Fleet is made.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FleetArguments {
    base_url: Option<String>,
    region: Option<String>,
    data_key: Option<String>,
    image_type: Option<String>,
    env_variables: Map<String, Value>,
    extra: Map<String, Value>,
    run_id: Option<String>,
    ttl_seconds: Option<f64>,
    heartbeat_s: Option<f64>,
    runner_token: Option<String>,
    timeout_s: f64,
    reset_timeout_s: f64,
    strict: bool,
}

impl SessionArguments {
    /// The client's own options.
    pub(crate) fn into_options(self) -> Result<(ClientOptions, OpenOptions), ClientError> {
        let protocol = match self.protocol.as_str() {
            "auto" => Protocol::Auto,
            "stock" => Protocol::Stock,
            MULTI_PROTOCOL => Protocol::Oxenv1,
            "http" => Protocol::Http,
            other => {
                return Err(invalid_options(format!(
                    "protocol {other:?}: use 'auto', 'stock', 'oxenv.1' or 'http'"
                )));
            }
        };
        let client = ClientOptions {
            protocol,
            token: self.token,
            headers: self.headers,
            connect_timeout: parse_seconds("connect_timeout_s", self.connect_timeout_s)?,
            timeout: parse_seconds("message_timeout_s", self.timeout_s)?,
            max_message: self.max_message,
            validate_arguments: self.validate_arguments,
        };
        let open = OpenOptions {
            seed: self.seed,
            episode_id: self.episode_id,
            resume: optional_seconds("resume_s", self.resume_s)?,
            queue: optional_seconds("queue_s", self.queue_s)?,
        };
        Ok((client, open))
    }
}

impl MultiplexerArguments {
    /// The multiplexer's own options.
    pub(crate) fn into_options(self) -> Result<MultiplexOptions, ClientError> {
        Ok(MultiplexOptions {
            strictness: strictness(self.strict),
            headers: self.headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            connect_timeout: parse_seconds("connect_timeout_s", self.connect_timeout_s)?,
            timeout: parse_seconds("timeout_s", self.timeout_s)?,
            optional: self.optional,
        })
    }
}

impl FleetArguments {
    /// The adapter's own options.
    pub(crate) fn into_options(self) -> Result<FleetOptions, ClientError> {
        Ok(FleetOptions {
            base_url: self.base_url,
            region: self.region,
            data_key: self.data_key,
            image_type: self.image_type,
            env_variables: self.env_variables,
            extra: self.extra,
            run_id: self.run_id,
            ttl: optional_seconds("ttl_seconds", self.ttl_seconds)?,
            heartbeat: optional_seconds("heartbeat_s", self.heartbeat_s)?,
            runner_token: self.runner_token,
            timeout: parse_seconds("timeout_s", self.timeout_s)?,
            reset_timeout: parse_seconds("reset_timeout_s", self.reset_timeout_s)?,
            strictness: strictness(self.strict),
        })
    }
}

/// Seconds of a named argument.
pub(crate) fn parse_seconds(name: &str, value: f64) -> Result<Duration, ClientError> {
    Duration::try_from_secs_f64(value).map_err(|error| invalid_options(format!("{name} is {value}: {error}")))
}

/// Seconds of a named argument that may be absent.
pub(crate) fn optional_seconds(name: &str, value: Option<f64>) -> Result<Option<Duration>, ClientError> {
    value.map(|value| parse_seconds(name, value)).transpose()
}

pub(crate) fn invalid_options(message: impl Into<String>) -> ClientError {
    ClientError::new(Code::InvalidOptions, message)
}

fn strictness(strict: bool) -> Strictness {
    if strict { Strictness::Strict } else { Strictness::Degraded }
}
