//! `POST /reset`, `POST /step`, `GET /state`: the default session.
//!
//! Invariant: requests that name no session share one, so a `curl` walk sees one environment.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::{Failure, Idempotency, Session, SessionRequest, TraceContext};
use oxenv_wire::{ResetRequest, StepRequest};

use super::body::{self, Text};
use super::idempotency;
use crate::app::App;
use crate::error::{Refusal, json_response};
use crate::operations;
use crate::traces::CallersTrace;

pub(crate) async fn reset(
    State(app): State<Arc<App>>,
    CallersTrace(trace): CallersTrace,
    request: Request,
) -> Result<Response, Refusal> {
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let request = reset_request(&body)?;
    let session = app.store.default_session(true).await?;
    reset_session(&session, &request, key, trace).await
}

pub(crate) async fn step(
    State(app): State<Arc<App>>,
    CallersTrace(trace): CallersTrace,
    request: Request,
) -> Result<Response, Refusal> {
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let request = step_request(&body, key)?;
    let session = app.store.default_session(false).await?;
    step_session(&session, request, trace).await
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

/// Reads the body of a step, with the key that its header may name.
pub(super) fn step_request(body: &Text, key: Option<String>) -> Result<StepRequest<'_>, Refusal> {
    let mut request = StepRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    request.key = idempotency::same_key(key, request.key.take())?.map(Cow::Owned);
    Ok(request)
}

pub(super) async fn reset_session(
    session: &Arc<Session>,
    request: &ResetRequest<'_>,
    key: Option<String>,
    trace: Option<TraceContext>,
) -> Result<Response, Refusal> {
    let once = Idempotency { key, ..Idempotency::default() };
    let reset = SessionRequest::reset(operations::reset(request));
    idempotency::answered(&session.submit(SessionRequest { once, trace, ..reset }).await)
}

pub(super) async fn step_session(
    session: &Arc<Session>,
    request: StepRequest<'_>,
    trace: Option<TraceContext>,
) -> Result<Response, Refusal> {
    if let Some(request_id) = &request.request_id {
        tracing::debug!(session = session.id(), request_id = %request_id, "step");
    }
    let timeout = request.timeout_s.map(Duration::from);
    let once = Idempotency {
        key: request.key.map(String::from),
        seq: request.seq,
        expected_step: request.expected_step,
    };
    let step = SessionRequest::step(session.spec().parse_action(request.action).map_err(Failure::invalid)?);
    idempotency::answered(&session.submit(SessionRequest { once, timeout, trace, ..step }).await)
}
