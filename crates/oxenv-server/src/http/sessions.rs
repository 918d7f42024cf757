//! `/sessions…`: sessions made, named and closed over HTTP.
//!
//! Invariant: a session that is named here is never made by being named.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use oxenv_core::{EndReason, SessionOptions};
use oxenv_wire::{SessionCreate, SessionCreated, SessionInfo};
use serde_json::json;

use super::control::{reset_request, reset_session, step_request, step_session};
use super::{InPath, body};
use crate::app::App;
use crate::error::{Refusal, json_response};

pub(crate) async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let headers = request.headers().clone();
    let body = body::text(&app, request).await?;
    let asked = match body.optional()? {
        Some(value) => SessionCreate::parse(value, &["body"]).map_err(Refusal::Body)?,
        None => SessionCreate::default(),
    };
    let session = app
        .store
        .create(SessionOptions {
            seed: asked.seed,
            episode_id: asked.episode_id.map(String::from),
            // A lease too long for a clock is one that never runs out.
            lease: asked
                .resume_s
                .map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
            ..SessionOptions::default()
        })
        .await?;
    let created = SessionCreated {
        session_id: session.id().to_owned(),
        mcp_url: mcp_url(&headers, session.id()),
        agent_token: None,
    };
    Ok(json_response(StatusCode::CREATED, json!(created).to_string()))
}

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let mut sessions: Vec<SessionInfo> = app.store.list().iter().map(|session| session.info()).collect();
    sessions.sort_by(|a, b| a.session_id.cmp(&b.session_id));
    json_response(StatusCode::OK, json!({ "sessions": sessions }).to_string())
}

pub(crate) async fn show(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    Ok(json_response(StatusCode::OK, json!(app.store.get(&id)?.info()).to_string()))
}

pub(crate) async fn close(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    app.store.get(&id)?.end(EndReason::Closed);
    Ok(json_response(StatusCode::OK, json!({ "session_id": id, "closed": true }).to_string()))
}

pub(crate) async fn reset(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let body = body::text(&app, request).await?;
    reset_session(&session, reset_request(&body)?).await
}

pub(crate) async fn step(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let body = body::text(&app, request).await?;
    step_session(&session, step_request(&body)?).await
}

pub(crate) async fn state(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    Ok(json_response(StatusCode::OK, app.store.get(&id)?.state().await?))
}

/// Where an agent finds the session's tools: absolute by the name that the client called us by.
fn mcp_url(headers: &HeaderMap, id: &str) -> String {
    match headers.get(header::HOST).and_then(|host| host.to_str().ok()) {
        Some(host) => format!("http://{host}/sessions/{id}/mcp"),
        None => format!("/sessions/{id}/mcp"),
    }
}
