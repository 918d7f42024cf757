//! Forks, snapshots and what is restored from them, over HTTP.
//!
//! Invariant: a copy is always a new session; the one that it was made of goes on as it was.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_wire::{ForkRequest, Forked, RestoreRequest, SessionSnapshot};
use serde_json::json;

use super::sessions::created;
use super::{InPath, body, once};
use crate::app::App;
use crate::auth::Caller;
use crate::error::{Refusal, json_response};
use crate::operations::{Desk, Made};

pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let desk = Desk::over_http(Arc::clone(&app), caller, request.headers());
    let key = once::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let asked = match body.optional()? {
        Some(value) => ForkRequest::parse(value, &["body"]).map_err(Refusal::Body)?,
        None => ForkRequest::default(),
    };
    let Made { ids, repeated, .. } = desk.create_forks(&id, &asked, key.as_deref()).await?;
    let forked = Forked { sessions: ids.iter().map(|id| desk.created(id)).collect() };
    let response = json_response(StatusCode::CREATED, json!(forked).to_string());
    Ok(once::marked(response, None, repeated))
}

pub(crate) async fn snapshot(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let snapshot = app.store.snapshot(&session).await?;
    Ok(json_response(StatusCode::OK, json!(SessionSnapshot { snapshot }).to_string()))
}

pub(crate) async fn restore(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let desk = Desk::over_http(Arc::clone(&app), caller, request.headers());
    let key = once::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let asked = RestoreRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let Made { ids, repeated, .. } = desk.create_restored(&asked, key.as_deref()).await?;
    Ok(created(&desk, &ids, repeated))
}
