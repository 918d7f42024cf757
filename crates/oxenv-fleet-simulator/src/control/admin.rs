//! What Fleet does not have: the simulator's own routes, below `/simulator/`, for tests in other processes.
//!
//! Invariant: they need a key like all others, and are neither logged nor met by faults.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::detail;
use crate::connections::Json;
use crate::fault::Fault;
use crate::log::{Addressee, Request};
use crate::state::World;

pub(super) fn answer(world: &World, method: &Method, path: &str, body: &Bytes) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["requests"]) => {
            let requests: Vec<Value> = world.log.requests().iter().map(request).collect();
            Json(requests).into_response()
        }
        ("GET", ["faults"]) => Json(left(world)).into_response(),
        ("POST", ["faults"]) => inject(world, &String::from_utf8_lossy(body)),
        ("DELETE", ["faults"]) => {
            world.faults.clear();
            Json(left(world)).into_response()
        }
        ("POST", ["expire", id]) if world.expire(id) => Json(json!({"expired": id})).into_response(),
        ("POST", ["expire", id]) => detail(StatusCode::NOT_FOUND, format!("no instance {id} that could end")),
        ("POST", ["advance", seconds]) => match seconds.parse() {
            Ok(seconds) => {
                world.advance(Duration::from_secs(seconds));
                Json(json!({"advanced": seconds})).into_response()
            }
            Err(_) => detail(StatusCode::BAD_REQUEST, format!("'{seconds}' are no whole seconds")),
        },
        _ => detail(
            StatusCode::NOT_FOUND,
            "the simulator has GET requests, GET, POST and DELETE faults, POST expire/ID, POST advance/SECONDS",
        ),
    }
}

/// Adds faults, one a line; all of them or none.
fn inject(world: &World, text: &str) -> Response {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.map(str::parse).collect::<Result<Vec<Fault>, _>>() {
        Ok(faults) => {
            for fault in faults {
                world.inject(fault);
            }
            Json(left(world)).into_response()
        }
        Err(error) => detail(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn left(world: &World) -> Vec<String> {
    world.faults.left().iter().map(ToString::to_string).collect()
}

fn request(request: &Request) -> Value {
    let headers: Map<String, Value> =
        request.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let body = request.json().unwrap_or_else(|| json!(String::from_utf8_lossy(&request.body)));
    let to = match &request.to {
        Addressee::Control => "control",
        Addressee::Instance(id) => id,
    };
    json!({"to": to, "method": request.method, "path": request.path, "headers": headers, "body": body})
}
