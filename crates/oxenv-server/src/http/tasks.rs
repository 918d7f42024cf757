//! OpenEnv 0.10's Task API.
//!
//! Invariant: statuses are the reference's: 404 for another environment's name, 501 for an
//! environment without tasks, 400 for an index that is out of range.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use oxenv_core::{Failure, TaskError, TaskSource};
use oxenv_wire::{
    EnvironmentTasks, ErrorCode, NumTasks, OneTask, RangeRequest, Split, SplitRequest, TaskRequest, Tasks,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{InPath, body};
use crate::app::App;
use crate::error::{Refusal, json_response};

pub(crate) async fn environments(State(app): State<Arc<App>>) -> Response {
    json_response(StatusCode::OK, json!([app.store.spec().name]).to_string())
}

pub(crate) async fn splits(State(app): State<Arc<App>>, InPath(name): InPath) -> Result<Response, Refusal> {
    Ok(ok(&source(&app, &name, "list_splits")?.splits()?))
}

pub(crate) async fn tasks(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = SplitRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let source = source(&app, &name, "list_tasks")?;
    let count = source.count(&asked.split)?;
    let tasks = range(&source, &asked.split, 0, count)?;
    Ok(ok(&EnvironmentTasks { tasks, env_name: app.store.spec().name.clone() }))
}

pub(crate) async fn num_tasks(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = SplitRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let num_tasks = source(&app, &name, "num_tasks")?.count(&asked.split)?;
    Ok(ok(&NumTasks { num_tasks }))
}

pub(crate) async fn task(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = TaskRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let source = source(&app, &name, "get_task")?;
    let count = source.count(&asked.split)?;
    let index = from_end(asked.index, count);
    let index = usize::try_from(index).map_err(|_| refusal(&TaskError::OutOfRange))?;
    Ok(ok(&OneTask { task: source.task(&asked.split, index)? }))
}

pub(crate) async fn task_range(
    State(app): State<Arc<App>>,
    InPath(name): InPath,
    request: Request,
) -> Result<Response, Refusal> {
    let body = body::text(&app, request).await?;
    let asked = RangeRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let source = source(&app, &name, "get_task_range")?;
    let count = source.count(&asked.split)?;
    let end = |index: Option<i64>, default: usize| match index {
        Some(index) => usize::try_from(from_end(index, count).max(0)).map_or(count, |index| index.min(count)),
        None => default,
    };
    let tasks = range(&source, &asked.split, end(asked.start, 0), end(asked.stop, count))?;
    Ok(ok(&Tasks { tasks }))
}

/// A Python index: negative ones count from the end.
fn from_end(index: i64, count: usize) -> i64 {
    if index < 0 { index.saturating_add(i64::try_from(count).unwrap_or(i64::MAX)) } else { index }
}

fn range(source: &GuardedTasks<'_>, split: &str, start: usize, stop: usize) -> Result<Vec<Value>, Refusal> {
    (start..stop).map(|index| source.task(split, index)).collect()
}

/// The environment's tasks; a panic while it lists them is a refusal like any other.
struct GuardedTasks<'a>(&'a dyn TaskSource);

impl GuardedTasks<'_> {
    fn splits(&self) -> Result<Vec<Split>, Refusal> {
        catch_panics(|| Ok(self.0.splits()))
    }

    fn count(&self, split: &str) -> Result<usize, Refusal> {
        catch_panics(|| self.0.count(split))
    }

    fn task(&self, split: &str, index: usize) -> Result<Value, Refusal> {
        catch_panics(|| self.0.task(split, index))
    }
}

fn catch_panics<T>(read: impl FnOnce() -> Result<T, TaskError>) -> Result<T, Refusal> {
    let result = catch_unwind(AssertUnwindSafe(read)).map_err(|_| {
        let message = "the environment panicked while it told its tasks; its server's log says where";
        Failure::new(ErrorCode::EnvironmentPanicked, message)
    })?;
    result.map_err(|fault| refusal(&fault))
}

fn source<'a>(app: &'a App, name: &str, method: &str) -> Result<GuardedTasks<'a>, Refusal> {
    let spec = app.store.spec();
    if !spec.name.eq_ignore_ascii_case(name) {
        return Err(Refusal::Status(StatusCode::NOT_FOUND, format!("unknown environment '{name}'")));
    }
    spec.tasks.as_deref().map(GuardedTasks).ok_or_else(|| {
        let detail = format!("{method} is not supported for this environment");
        Refusal::Status(StatusCode::NOT_IMPLEMENTED, detail)
    })
}

fn refusal(fault: &TaskError) -> Refusal {
    let detail = match fault {
        TaskError::UnknownSplit => "Unknown split",
        TaskError::OutOfRange => "Invalid task index",
    };
    Refusal::Status(StatusCode::BAD_REQUEST, detail.to_owned())
}

fn ok<T: Serialize>(body: &T) -> Response {
    json_response(StatusCode::OK, json!(body).to_string())
}
