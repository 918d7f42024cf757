//! `/health`, `/ready`, `/metadata`, `/schema`, `/tools`, `/openapi.json`: what a server reports about
//! itself.
//!
//! Invariant: no session is made or touched here.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::Principal;
use oxenv_wire::{Health, Metadata, Ready, ToolSpelling, ToolsetProblem};
use serde_json::json;

use crate::app::App;
use crate::error::json_response;

/// Alive, and not going away.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let (status, code) = match app.stopping.is_cancelled() {
        false => ("healthy", StatusCode::OK),
        true => ("draining", StatusCode::SERVICE_UNAVAILABLE),
    };
    json_response(code, json!(Health { status: status.to_owned() }).to_string())
}

/// Able to take one more session.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    let store = app.store.status();
    let mut problems = app.all_tools.problems();
    let of_environment = app.store.factory().problem();
    problems.extend(of_environment.map(|message| ToolsetProblem { toolset: None, message, required: true }));
    let (status, code) = if store.draining {
        ("draining", StatusCode::SERVICE_UNAVAILABLE)
    } else if store.active >= store.max {
        ("full", StatusCode::SERVICE_UNAVAILABLE)
    } else if problems.iter().any(|problem| problem.required) {
        ("unavailable", StatusCode::SERVICE_UNAVAILABLE)
    } else {
        ("ready", StatusCode::OK)
    };
    let ready = Ready {
        status: status.to_owned(),
        active_sessions: store.active,
        max_sessions: store.max,
        stuck_environments: store.stuck,
        problems,
    };
    json_response(code, json!(ready).to_string())
}

pub(crate) async fn metadata(State(app): State<Arc<App>>) -> Response {
    let spec = app.store.spec();
    let metadata = Metadata {
        name: spec.title.clone(),
        description: spec.description.clone(),
        readme_content: spec.readme.clone(),
        version: Some(spec.version.clone()),
        author: spec.author.clone(),
        documentation_url: spec.documentation_url.clone(),
    };
    json_response(StatusCode::OK, json!(metadata).to_string())
}

pub(crate) async fn schema(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, json!(app.store.spec().schemas).to_string())
}

/// The tools RFC's list; toolsets that do not work at present are named beside it.
pub(crate) async fn tools(State(app): State<Arc<App>>) -> Response {
    let toolbox = &app.all_tools;
    toolbox.settled().await;
    let mut body = format!("{{\"tools\":{}", toolbox.listing(Principal::Agent, ToolSpelling::Rest));
    let problems = toolbox.problems();
    if !problems.is_empty() {
        body.push_str(",\"problems\":");
        body.push_str(&json!(problems).to_string());
    }
    body.push('}');
    json_response(StatusCode::OK, body)
}

pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, app.openapi.get().cloned().unwrap_or_default())
}
