//! Making an instance.
//!
//! Invariant: a request id makes one instance, whatever becomes of the connection that it came over: the claim is made
//! before anything is waited for.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::environments::{self, REGIONS};
use super::{Environment, detail};
use crate::connections::Json;
use crate::fault::Fate;
use crate::instance::{Instance, Made};
use crate::simulator::Status;
use crate::state::{Claim, World};

/// The longest that a create is held.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// What a create asks for, of what matters here.
#[derive(Deserialize)]
struct Wanted {
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

pub(super) async fn answer(
    world: &Arc<World>,
    team: &str,
    parts: &Parts,
    body: &Bytes,
    fate: Option<Fate>,
) -> Response {
    let wanted: Wanted = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return unprocessable(&error.to_string()),
    };
    let (environment, version) = match choose(&wanted) {
        Ok(chosen) => chosen,
        Err(why) => return detail(StatusCode::BAD_REQUEST, why),
    };
    let max_wait = wanted.max_wait_seconds.map_or(MAX_WAIT, |seconds| Duration::from_secs(seconds.into()));
    let until = world.clock.now().saturating_add(max_wait.min(MAX_WAIT));
    let request_id = parts.headers.get("x-request-id").and_then(|id| id.to_str().ok());
    let make = |id| make(world, id, team, environment, version, wanted, fate);
    match world.claim(team, request_id, make) {
        Ok(Claim::Made(instance)) => {
            if fate.is_none() {
                hold(world, &instance, until).await;
            }
            Json(instance.document(&world.clock)).into_response()
        }
        Ok(Claim::Duplicate(id)) => detail(
            StatusCode::CONFLICT,
            json!({"error": "duplicate_request_id", "instance_id": id,
                "message": "A create with this request id was already accepted"}),
        ),
        Ok(Claim::Full(held)) => {
            let limit = world.options.instance_limit;
            detail(
                StatusCode::FORBIDDEN,
                json!({"error_type": "instance_limit_exceeded", "running_instances": held, "instance_limit": limit,
                    "message": format!("You have {held} running instances out of a maximum of {limit}")}),
            )
        }
        Err(error) => detail(StatusCode::INTERNAL_SERVER_ERROR, format!("no listener: {error}")),
    }
}

/// Waits until the instance is no longer pending, at most until then.
async fn hold(world: &World, instance: &Instance, until: Duration) {
    let clock = &world.clock;
    loop {
        let now = clock.now();
        if instance.status(now) != Status::Pending || now >= until {
            return;
        }
        clock.sleep_until(|| Some(instance.ready_at().min(until))).await;
    }
}

fn choose(wanted: &Wanted) -> Result<(&'static Environment, String), String> {
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

fn make(
    world: &Arc<World>,
    id: String,
    team: &str,
    environment: &'static Environment,
    version: String,
    wanted: Wanted,
    fate: Option<Fate>,
) -> io::Result<Arc<Instance>> {
    let made = Made {
        environment,
        version,
        region: wanted.region.unwrap_or_else(|| REGIONS[0].to_owned()),
        data_key: wanted.data_key,
        data_version: wanted.data_version,
        env_variables: wanted.env_variables,
        run_id: wanted.run_id,
        heartbeat_interval: wanted.heartbeat_interval,
        ttl: wanted.ttl_seconds.map_or(world.options.ttl, |seconds| Duration::from_secs(seconds.into())),
        seed: wanted.seed.unwrap_or_default(),
        fate,
    };
    Instance::start(world, id, team.to_owned(), made)
}

/// A body that does not fit, in the words of the framework that Fleet is built with.
fn unprocessable(why: &str) -> Response {
    let kind = if why.starts_with("missing field") { "missing" } else { "value_error" };
    let field = why.split('`').nth(1).unwrap_or("body");
    detail(
        StatusCode::UNPROCESSABLE_ENTITY,
        json!([{"type": kind, "loc": ["body", field], "msg": why, "input": null}]),
    )
}
