//! OpenEnv 0.10's Task API.
//!
//! Invariant: statuses are the reference's: 404 for another environment's name, 501 for an
//! environment without tasks, 400 for an index that is out of range.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::FutureExt as _;
use oxenv_core::{Failure, TaskError, TaskSource};
use oxenv_wire::{
    EnvironmentTasks, ErrorCode, NumTasks, OneTask, RangeRequest, SplitRequest, TaskRequest, Tasks,
};
use serde::Serialize;
use serde_json::json;

use super::{InPath, body};
use crate::app::App;
use crate::error::{Refusal, json_response};

pub(crate) async fn environments(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, json!([app.store.spec().name]).to_string())
}

pub(crate) async fn splits(State(app): State<Arc<App>>, InPath(name): InPath) -> Result<Response, Refusal> {
    let method = "list_splits";
    let source = source(&app, &name, method)?;
    answered(method, async { source.splits().await }, |splits| splits).await
}

pub(crate) async fn tasks(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = SplitRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let (method, env_name) = ("list_tasks", app.store.spec().name.clone());
    let source = source(&app, &name, method)?;
    answered(method, async { source.all(&asked.split).await }, |tasks| EnvironmentTasks { tasks, env_name })
        .await
}

pub(crate) async fn num_tasks(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = SplitRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let method = "num_tasks";
    let source = source(&app, &name, method)?;
    answered(method, async { source.count(&asked.split).await }, |num_tasks| NumTasks { num_tasks }).await
}

pub(crate) async fn task(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = TaskRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let method = "get_task";
    let source = source(&app, &name, method)?;
    answered(method, async { source.task(&asked.split, asked.index).await }, |task| OneTask { task }).await
}

pub(crate) async fn task_range(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = RangeRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let method = "get_task_range";
    let source = source(&app, &name, method)?;
    answered(method, async { source.range(&asked.split, asked.start, asked.stop).await }, |tasks| Tasks {
        tasks,
    })
    .await
}

/// The environment's tasks, as asked for by a method of the reference's.
fn source<'a>(app: &'a App, name: &str, method: &str) -> Result<&'a dyn TaskSource, Refusal> {
    let spec = app.store.spec();
    if !spec.name.eq_ignore_ascii_case(name) {
        return Err(Refusal::Status(StatusCode::NOT_FOUND, format!("unknown environment '{name}'")));
    }
    spec.tasks.as_deref().ok_or_else(|| refusal(TaskError::Unsupported, method))
}

/// The reply to a question; a panic of the environment's is a refusal like any other.
async fn answered<T, R: Serialize>(
    method: &str,
    answer: impl Future<Output = Result<T, TaskError>>,
    reply: impl FnOnce(T) -> R,
) -> Result<Response, Refusal> {
    let answer = AssertUnwindSafe(answer).catch_unwind().await.map_err(|_| {
        let message = "the environment panicked while it told its tasks; its server's log says where";
        Failure::new(ErrorCode::EnvironmentPanicked, message)
    })?;
    let answer = answer.map_err(|fault| refusal(fault, method))?;
    Ok(json_response(StatusCode::OK, json!(reply(answer)).to_string()))
}

fn refusal(fault: TaskError, method: &str) -> Refusal {
    match fault {
        TaskError::UnknownSplit => Refusal::Status(StatusCode::BAD_REQUEST, "Unknown split".to_owned()),
        TaskError::OutOfRange => Refusal::Status(StatusCode::BAD_REQUEST, "Invalid task index".to_owned()),
        TaskError::Unsupported => {
            let detail = format!("{method} is not supported for this environment");
            Refusal::Status(StatusCode::NOT_IMPLEMENTED, detail)
        }
        TaskError::Failed(failure) => failure.into(),
    }
}
