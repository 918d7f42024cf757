//! `POST /batch`: many requests to many sessions in one.
//!
//! Invariant: status 200 whatever the outcome of the items; each has its own result, in its place.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_wire::BatchRequest;

use super::body;
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{Refusal, json_response};
use crate::operations::{RequestContext, RunningBatch};

pub(crate) async fn run(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let context = RequestContext::over_http(Arc::clone(&app), caller, request.headers());
    let body = body::text(&app, request).await?;
    let request = BatchRequest::parse_body(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let mut batch = RunningBatch::begin(&context, &request).await;
    while batch.next().await.is_some() {}
    let mut reply = String::new();
    batch.write(&mut reply, false);
    Ok(json_response(StatusCode::OK, reply))
}
