//! Making an instance.
//!
//! Invariant: a request id makes one instance, even if the connection that it came over is lost: it is
//! recorded before anything is waited for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::connections::{JsonResponse, error_response};
use crate::environments::{self, REGIONS, SimulatedEnvironment};
use crate::fault::PendingOutcome;
use crate::instance::{InstanceConfig, SimulatedInstance, host};
use crate::state::{CreateOutcome, SimulatorState};
use crate::view::InstanceStatus;

/// The longest that a create is held.
const MAX_CREATE_WAIT: Duration = Duration::from_secs(3600);

/// The parts of a create request that matter here.
#[derive(Deserialize)]
struct CreateBody {
    env_key: String,
    env_version: Option<String>,
    data_key: Option<String>,
    data_version: Option<String>,
    region: Option<String>,
    run_id: Option<String>,
    env_variables: Option<Map<String, Value>>,
    ttl_seconds: Option<u32>,
    heartbeat_interval: Option<u32>,
    max_wait_seconds: Option<u32>,
    seed: Option<i64>,
}

pub(super) async fn create(
    simulator: &Arc<SimulatorState>,
    team: &str,
    parts: &Parts,
    body: &Bytes,
    outcome: Option<PendingOutcome>,
) -> Response {
    let wanted: CreateBody = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return unprocessable_body(&error.to_string()),
    };
    let (environment, version) = match choose_environment(&wanted) {
        Ok(chosen) => chosen,
        Err(why) => return error_response(StatusCode::BAD_REQUEST, why),
    };
    let max_wait =
        wanted.max_wait_seconds.map_or(MAX_CREATE_WAIT, |seconds| Duration::from_secs(seconds.into()));
    let until = simulator.clock.now().saturating_add(max_wait.min(MAX_CREATE_WAIT));
    let request_id = parts.headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let make = |id| create_instance(simulator, id, team, environment, version, wanted, outcome);
    match simulator.create(team, request_id, make) {
        Ok(CreateOutcome::Created(instance)) => {
            if outcome.is_none() {
                wait_until_ready(simulator, &instance, until).await;
            }
            JsonResponse(instance.document(&simulator.clock)).into_response()
        }
        Ok(CreateOutcome::Duplicate(id)) => error_response(
            StatusCode::CONFLICT,
            json!({"error": "duplicate_request_id", "instance_id": id,
                "message": "A create with this request id was already accepted"}),
        ),
        Ok(CreateOutcome::LimitReached(held)) => {
            let limit = simulator.options.instance_limit;
            error_response(
                StatusCode::FORBIDDEN,
                json!({"error_type": "instance_limit_exceeded", "running_instances": held,
                    "instance_limit": limit,
                    "message": format!("You have {held} running instances out of a maximum of {limit}")}),
            )
        }
        Err(error) => error_response(StatusCode::INTERNAL_SERVER_ERROR, format!("no listener: {error}")),
    }
}

/// Waits until the instance is no longer pending, at most until then.
async fn wait_until_ready(simulator: &SimulatorState, instance: &SimulatedInstance, until: Duration) {
    let clock = &simulator.clock;
    loop {
        let now = clock.now();
        if instance.status(now) != InstanceStatus::Pending || now >= until {
            return;
        }
        clock.sleep_until(|| Some(instance.ready_at().min(until))).await;
    }
}

fn choose_environment(wanted: &CreateBody) -> Result<(&'static SimulatedEnvironment, String), String> {
    let key = &wanted.env_key;
    let environment = environments::find(key).ok_or_else(|| format!("Environment '{key}' not found"))?;
    let version = wanted.env_version.clone().unwrap_or_else(|| environment.default_version().to_owned());
    if !environment.has(&version) {
        return Err(format!("Version '{version}' not found for '{key}'"));
    }
    match &wanted.region {
        Some(region) if !REGIONS.contains(&region.as_str()) => {
            Err(format!("Region {region} not supported. Please use {REGIONS:?}"))
        }
        _ => Ok((environment, version)),
    }
}

fn create_instance(
    simulator: &Arc<SimulatorState>,
    id: String,
    team: &str,
    environment: &'static SimulatedEnvironment,
    version: String,
    wanted: CreateBody,
    outcome: Option<PendingOutcome>,
) -> io::Result<Arc<SimulatedInstance>> {
    let made = InstanceConfig {
        environment,
        version,
        region: wanted.region.unwrap_or_else(|| REGIONS[0].to_owned()),
        data_key: wanted.data_key,
        data_version: wanted.data_version,
        env_variables: wanted.env_variables,
        run_id: wanted.run_id,
        heartbeat_interval: wanted.heartbeat_interval,
        ttl: wanted.ttl_seconds.map_or(simulator.options.ttl, |seconds| Duration::from_secs(seconds.into())),
        seed: wanted.seed.unwrap_or_default(),
        outcome,
    };
    host::start_instance(simulator, id, team.to_owned(), made)
}

/// A body that does not fit, with the messages of the framework that Fleet is built with.
fn unprocessable_body(why: &str) -> Response {
    let kind = if why.starts_with("missing field") { "missing" } else { "value_error" };
    let field = why.split('`').nth(1).unwrap_or("body");
    error_response(
        StatusCode::UNPROCESSABLE_ENTITY,
        json!([{"type": kind, "loc": ["body", field], "msg": why, "input": null}]),
    )
}
