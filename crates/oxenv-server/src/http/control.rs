//! `POST /reset`, `POST /step`, `GET /state`: the default session.
//!
//! Invariant: requests that name no session share one, so a `curl` walk sees one environment.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::render::{self, Envelope};
use oxenv_core::{Failure, Session, StepOptions};
use oxenv_wire::{Action, ResetRequest, StepRequest};
use serde_json::value::RawValue;

use super::body::{self, Text};
use crate::app::App;
use crate::error::{Refusal, json_response};

pub(crate) async fn reset(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let request = reset_request(&body)?;
    let session = app.store.default_session(true).await?;
    reset_session(&session, request).await
}

pub(crate) async fn step(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let request = step_request(&body)?;
    let session = app.store.default_session(false).await?;
    step_session(&session, request).await
}

pub(crate) async fn state(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let session = app.store.default_session(false).await?;
    Ok(json_response(StatusCode::OK, session.state().await?))
}

/// Reads the body of a reset; an empty one asks for the defaults.
pub(super) fn reset_request(body: &Text) -> Result<ResetRequest<'_>, Refusal> {
    match body.optional()? {
        Some(value) => ResetRequest::parse(value, &["body"]).map_err(Refusal::Body),
        None => Ok(ResetRequest::default()),
    }
}

pub(super) fn step_request(body: &Text) -> Result<StepRequest<'_>, Refusal> {
    let request = StepRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    if request.key.is_some() || request.expected_step.is_some() {
        // Taking a promise of at-most-once and not keeping it would be worse than refusing it.
        let refusal =
            Failure::unsupported("this server does not know 'key' and 'expected_step' yet: leave them out");
        return Err(refusal.into());
    }
    Ok(request)
}

pub(super) async fn reset_session(
    session: &Arc<Session>,
    request: ResetRequest<'_>,
) -> Result<Response, Refusal> {
    let episode_id = request.episode_id.map(String::from);
    let arguments = request.arguments.map(RawValue::to_owned);
    let observed = session.reset(request.seed, episode_id, arguments).await?;
    Ok(json_response(StatusCode::OK, render::observed(&observed, Envelope::Body)))
}

pub(super) async fn step_session(
    session: &Arc<Session>,
    request: StepRequest<'_>,
) -> Result<Response, Refusal> {
    if let Some(request_id) = &request.request_id {
        tracing::debug!(session = session.id(), request_id = %request_id, "step");
    }
    let action = Action::parse(request.action).map_err(Failure::invalid)?;
    // A timeout too long for a clock is no timeout.
    let timeout = request.timeout_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let reply = session.step(action, StepOptions { timeout, trace: None }).await?;
    Ok(json_response(StatusCode::OK, render::step(&reply, Envelope::Body)))
}
