//! The simulator's own routes, below `/simulator/`, for tests in other processes; Fleet has none of them.
//!
//! Invariant: they need a key like all others, and are neither logged nor met by faults.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::connections::{JsonResponse, error_response};
use crate::fault::Fault;
use crate::log::{Destination, LoggedRequest};
use crate::state::SimulatorState;

pub(super) fn handle(simulator: &SimulatorState, method: &Method, path: &str, body: &Bytes) -> Response {
    let parts: Vec<&str> = path.split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["requests"]) => {
            let requests: Vec<Value> = simulator.log.requests().iter().map(request_document).collect();
            JsonResponse(requests).into_response()
        }
        ("GET", ["faults"]) => JsonResponse(remaining_faults(simulator)).into_response(),
        ("POST", ["faults"]) => inject(simulator, &String::from_utf8_lossy(body)),
        ("DELETE", ["faults"]) => {
            simulator.faults.clear();
            JsonResponse(remaining_faults(simulator)).into_response()
        }
        ("POST", ["expire", id]) if simulator.expire(id) => {
            JsonResponse(json!({"expired": id})).into_response()
        }
        ("POST", ["expire", id]) => {
            error_response(StatusCode::NOT_FOUND, format!("no instance {id} that could end"))
        }
        ("POST", ["advance", seconds]) => match seconds.parse() {
            Ok(seconds) => {
                simulator.advance(Duration::from_secs(seconds));
                JsonResponse(json!({"advanced": seconds})).into_response()
            }
            Err(_) => error_response(StatusCode::BAD_REQUEST, format!("'{seconds}' are no whole seconds")),
        },
        _ => error_response(
            StatusCode::NOT_FOUND,
            "the simulator has GET requests, GET, POST and DELETE faults, POST expire/ID, \
             POST advance/SECONDS",
        ),
    }
}

/// Adds faults, one a line; all of them or none.
fn inject(simulator: &SimulatorState, text: &str) -> Response {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.map(str::parse).collect::<Result<Vec<Fault>, _>>() {
        Ok(faults) => {
            for fault in faults {
                simulator.inject(fault);
            }
            JsonResponse(remaining_faults(simulator)).into_response()
        }
        Err(error) => error_response(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn remaining_faults(simulator: &SimulatorState) -> Vec<String> {
    simulator.faults.remaining().iter().map(ToString::to_string).collect()
}

fn request_document(request: &LoggedRequest) -> Value {
    let headers: Map<String, Value> =
        request.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let body = request.json().unwrap_or_else(|| json!(String::from_utf8_lossy(&request.body)));
    let to = match &request.to {
        Destination::Control => "control",
        Destination::Instance(id) => id,
    };
    json!({"to": to, "method": request.method, "path": request.path, "headers": headers, "body": body})
}
