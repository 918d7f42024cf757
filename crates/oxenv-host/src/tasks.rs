//! The tasks of a hosted environment.
//!
//! Each question has an environment of its own, as with the reference: made, asked and closed.

use std::sync::Arc;

use oxenv_core::{EnvironmentContext, Failure, TaskError, TaskSource, Work};
use oxenv_wire::Split;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::host::Host;
use crate::protocol::{SessionRequest, TaskReply};
use crate::session::HostedSession;

/// The methods of OpenEnv's Task API, asked in the environment's own Python.
pub(crate) struct HostedTasks(pub(crate) Arc<Host>);

impl HostedTasks {
    async fn ask<T: DeserializeOwned>(&self, method: &str, arguments: &[Value]) -> Result<T, TaskError> {
        let context = EnvironmentContext::new("tasks", 0);
        let opened = HostedSession::open(Arc::clone(&self.0), context).await;
        let (session, _) = opened.map_err(TaskError::Failed)?;
        let answer = session.task(SessionRequest::Task { method, arguments }).await;
        session.close();
        match answer.map_err(TaskError::Failed)? {
            TaskReply::OutOfRange => Err(TaskError::OutOfRange),
            TaskReply::Unsupported => Err(TaskError::Unsupported),
            TaskReply::Value(value) => serde_json::from_value(value).map_err(|error| {
                TaskError::Failed(Failure::environment(format!(
                    "the answer of {method} is not usable: {error}"
                )))
            }),
        }
    }
}

impl TaskSource for HostedTasks {
    fn splits(&self) -> Work<'_, Result<Vec<Split>, TaskError>> {
        Work::pending(self.ask("list_splits", &[]))
    }

    fn count<'a>(&'a self, split: &'a str) -> Work<'a, Result<usize, TaskError>> {
        Work::pending(async move { self.ask("num_tasks", &[json!(split)]).await })
    }

    fn all<'a>(&'a self, split: &'a str) -> Work<'a, Result<Vec<Value>, TaskError>> {
        Work::pending(async move { self.ask("list_tasks", &[json!(split)]).await })
    }

    fn task<'a>(&'a self, split: &'a str, index: i64) -> Work<'a, Result<Value, TaskError>> {
        Work::pending(async move { self.ask("get_task", &[json!(split), json!(index)]).await })
    }

    fn range<'a>(
        &'a self,
        split: &'a str,
        start: Option<i64>,
        stop: Option<i64>,
    ) -> Work<'a, Result<Vec<Value>, TaskError>> {
        let arguments = [json!(split), json!(start), json!(stop)];
        Work::pending(async move { self.ask("get_task_range", &arguments).await })
    }
}
