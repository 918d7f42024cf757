//! `/sessions…`: sessions made, named and closed over HTTP.
//!
//! Invariant: a session that is named here is never made by being named.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::EndReason;
use oxenv_wire::{SessionCreate, SessionInfo};
use serde_json::json;

use super::control::{reset_request, reset_session, step_request, step_session};
use super::{InPath, body, idempotency};
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{Refusal, json_response};
use crate::operations::{CreatedSessions, RequestContext, progress};
use crate::traces::CallersTrace;

pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let context = RequestContext::over_http(Arc::clone(&app), caller, request.headers());
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let asked = match body.optional()? {
        Some(value) => SessionCreate::parse(value, &["body"]).map_err(Refusal::Body)?,
        None => SessionCreate::default(),
    };
    let CreatedSessions { ids, repeated, .. } = context.create(&asked, key.as_deref()).await?;
    Ok(created(&context, &ids, repeated))
}

/// The reply of status 201 that names a new session.
pub(super) fn created(context: &RequestContext, ids: &[String], repeated: bool) -> Response {
    let id = ids.first().map_or("", String::as_str);
    let response = json_response(StatusCode::CREATED, json!(context.created(id)).to_string());
    idempotency::marked(response, None, repeated)
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
    CallersTrace(trace): CallersTrace,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    reset_session(&session, &reset_request(&body)?, key, trace).await
}

pub(crate) async fn step(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    CallersTrace(trace): CallersTrace,
    request: Request,
) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    step_session(&session, step_request(&body, key)?, trace).await
}

pub(crate) async fn state(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    Ok(json_response(StatusCode::OK, app.store.get(&id)?.state().await?))
}

/// What the processes of the session's environment wrote.
pub(crate) async fn logs(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    let output = app.store.get(&id)?.output()?;
    let body = json!({ "session_id": id, "text": output.text, "dropped_bytes": output.dropped });
    Ok(json_response(StatusCode::OK, body.to_string()))
}

/// Lets the session's lease begin anew, and replies with the session's progress.
pub(crate) async fn keep_alive(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    session.keep_alive();
    Ok(json_response(StatusCode::OK, json!(progress(&session)).to_string()))
}
