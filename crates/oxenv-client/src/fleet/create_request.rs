//! [`CreateRequest`]: a request to make an instance, and its recovery.
//!
//! Invariant: one logical create has one request id, whatever is repeated, so that Fleet makes one instance.

use std::time::Duration;

use reqwest::{Method, Url};
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use super::api_error::{control_error, detail};
use super::control::{FleetControl, RetryPolicy};
use super::http::FleetResponse;
use super::instance::FleetInstance;
use super::options::FleetOptions;
use crate::error::{ClientError, Code, Result};

/// Regions with instances at hosts of their own.
const REGIONS: [&str; 4] = ["us-west-1", "us-east-1", "eu-west-2", "staging"];

/// How long one attempt at the recovery of a create may take: Fleet has nothing to wait for then.
const RECOVERY_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request to make an instance. A clone is the same request.
#[derive(Clone)]
pub(super) struct CreateRequest {
    /// Under which Fleet knows it again.
    pub(super) id: Uuid,
    pub(super) url: Url,
    body: Map<String, Value>,
    pub(super) what: String,
}

/// The outcome of a request that is sent again: the instance's id, or that there surely is none.
pub(super) enum RecoveredInstance {
    Created(String),
    None,
}

impl CreateRequest {
    /// # Errors
    /// [`Code::InvalidOptions`], if there is no such request.
    pub(super) fn new(env_key: &str, options: &FleetOptions, control: &FleetControl) -> Result<Self> {
        if env_key.is_empty() || env_key.starts_with(':') {
            let message = "the environment's key is empty; name one, as 'fira' or 'fira:1.3.1'";
            return Err(ClientError::new(Code::InvalidOptions, message));
        }
        let region = options.region.as_deref().filter(|region| REGIONS.contains(region));
        let regional =
            region.filter(|_| control.is_default()).map(|region| format!("https://{region}.fleetai.com"));
        let url = match regional.and_then(|base| Url::parse(&base).ok()) {
            Some(base) => super::control::join_url(&base, &["v1", "env", "instances"]),
            None => control.url(&["v1", "env", "instances"]),
        };
        let what = format!("make an instance of '{env_key}'");
        Ok(CreateRequest { id: Uuid::new_v4(), url, body: create_body(env_key, options), what })
    }

    /// The body if the answer may take that long.
    pub(super) fn body(&self, wait: u64) -> Value {
        let mut body = self.body.clone();
        body.insert("max_wait_seconds".to_owned(), wait.into());
        Value::Object(body)
    }
}

/// Absent values are left out, never null.
fn create_body(env_key: &str, options: &FleetOptions) -> Map<String, Value> {
    let mut body = options.extra.clone();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    let (key, version) = split_version(env_key);
    put("env_key", Some(key.into()));
    put("env_version", version.map(Value::from));
    if let Some(data) = &options.data_key {
        let (key, version) = split_version(data);
        put("data_key", Some(key.into()));
        put("data_version", version.map(Value::from));
    }
    put("region", options.region.clone().map(Value::from));
    put("run_id", options.run_id.clone().map(Value::from));
    let variables = (!options.env_variables.is_empty()).then(|| Value::from(options.env_variables.clone()));
    put("env_variables", variables);
    put("image_type", options.image_type.clone().map(Value::from));
    put("created_from", Some("sdk".into()));
    put("ttl_seconds", options.ttl.map(whole_seconds));
    put("heartbeat_interval", options.heartbeat.map(whole_seconds));
    body
}

/// `fira:1.3.1` as `fira` and `v1.3.1`.
fn split_version(key: &str) -> (&str, Option<String>) {
    let Some((key, version)) = key.split_once(':') else { return (key, None) };
    let digits = version.starts_with(|letter: char| letter.is_ascii_digit());
    (key, Some(if digits { format!("v{version}") } else { version.to_owned() }))
}

/// Rounded up, at least one.
fn whole_seconds(time: Duration) -> Value {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    seconds.max(1).into()
}

/// How long Fleet may hold the request, by how long we wait for it.
pub(super) fn max_wait_seconds(timeout: Duration) -> u64 {
    timeout.as_secs().saturating_sub(30).min(3600)
}

/// Finds out what became of a request whose answer was lost, by sending it again under the same id. It asks
/// Fleet not to wait until the instance runs.
pub(super) async fn recover(
    control: &FleetControl,
    request: &CreateRequest,
    deadline: Instant,
) -> Result<RecoveredInstance> {
    let body = request.body(0);
    let repeat = RetryPolicy {
        retry_not_found: true,
        attempt_timeout: Some(RECOVERY_ATTEMPT_TIMEOUT),
        ..RetryPolicy::until(deadline)
    };
    let answer = control
        .send_with_retries(Method::POST, &request.url, Some(&body), request.id, repeat)
        .await
        .outcome?;
    if let Some(id) = duplicate_id(&answer) {
        return Ok(RecoveredInstance::Created(id));
    }
    if answer.is_success() {
        let instance: FleetInstance = answer.json("the repeated request", control.secrets())?;
        return Ok(RecoveredInstance::Created(instance.instance_id));
    }
    // A request that is refused for its content now was refused before as well.
    match answer.status {
        400 | 422 => Ok(RecoveredInstance::None),
        _ => Err(control_error(&request.what, &answer, control.secrets())),
    }
}

/// The id of the instance that the same request made before.
pub(super) fn duplicate_id(answer: &FleetResponse) -> Option<String> {
    if answer.status != 409 {
        return None;
    }
    let detail = detail(answer);
    let is = detail["error"] == "duplicate_request_id";
    is.then(|| detail["instance_id"].as_str().map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(env_key: &str, options: &FleetOptions) -> CreateRequest {
        let control = FleetControl::new("sk_test", options.base_url.as_deref()).unwrap();
        CreateRequest::new(env_key, options, &control).unwrap()
    }

    #[test]
    fn the_body_is_the_sdks() {
        let options = FleetOptions {
            data_key: Some("base:2".to_owned()),
            ttl: Some(Duration::from_secs(600)),
            env_variables: [("A".to_owned(), json!(1))].into_iter().collect(),
            image_type: Some("mcp".to_owned()),
            run_id: Some("r1".to_owned()),
            ..FleetOptions::default()
        };
        let body = request("fira:1.3.1", &options).body(max_wait_seconds(Duration::from_secs(900)));
        let wanted = json!({
            "env_key": "fira", "env_version": "v1.3.1", "data_key": "base", "data_version": "v2",
            "run_id": "r1", "env_variables": { "A": 1 }, "image_type": "mcp", "created_from": "sdk",
            "ttl_seconds": 600, "max_wait_seconds": 870
        });
        assert_eq!(body, wanted);
        let body = request("fira", &FleetOptions::default()).body(max_wait_seconds(Duration::from_secs(900)));
        assert_eq!(body, json!({ "env_key": "fira", "created_from": "sdk", "max_wait_seconds": 870 }));
    }

    #[test]
    fn keys_are_split_and_waits_bounded() {
        assert_eq!(split_version("fira:v2:x"), ("fira", Some("v2:x".to_owned())));
        assert_eq!(split_version("fira:latest"), ("fira", Some("latest".to_owned())));
        assert_eq!(split_version("fira"), ("fira", None));
        assert_eq!(
            (max_wait_seconds(Duration::from_secs(10)), max_wait_seconds(Duration::from_secs(9000))),
            (0, 3600)
        );
    }

    #[test]
    fn a_region_has_a_host_of_its_own_unless_a_base_is_given() {
        let place = |region: &str, base: Option<&str>| {
            let base_url = base.map(str::to_owned);
            let options =
                FleetOptions { region: Some(region.to_owned()), base_url, ..FleetOptions::default() };
            request("fira", &options).url.to_string()
        };
        assert_eq!(place("eu-west-2", None), "https://eu-west-2.fleetai.com/v1/env/instances");
        assert_eq!(place("evil.example/", None), "https://orchestrator.fleetai.com/v1/env/instances");
        assert_eq!(place("eu-west-2", Some("http://localhost:1/")), "http://localhost:1/v1/env/instances");
    }
}
