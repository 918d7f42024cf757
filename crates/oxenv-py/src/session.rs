//! One session as Python holds it: connected at its first request, ended with its last holder.
//!
//! Invariant: nothing is connected before a request is sent, and no step ever lands silently in a fresh
//! environment.

mod state;

use std::future::Future;
use std::sync::Arc;

use oxenv_client::{ClientError, Code, EnvClient, Protocol, ResetOptions, StepOptions};
use oxenv_wire::{Delivered, MULTI_PROTOCOL};
use pyo3::prelude::*;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::error::to_exception;
use crate::launch::{LaunchArguments, ServerSource};
use crate::options::{SessionArguments, optional_seconds};
use crate::reply::{NativeReply, ReplyResult, parse_json, raw_json};
use crate::request::NativeRequest;
use crate::runtime::generation;

use self::state::{Reopen, SessionConnection, SessionOrigin, SessionState};

/// One session.
#[pyclass(frozen, name = "Session", module = "oxenv._native")]
pub(crate) struct NativeSession {
    state: Arc<SessionState>,
}

#[pymethods]
impl NativeSession {
    /// A session at an address, or in an instance that is started for it. Nothing is connected yet.
    #[new]
    fn new(py: Python<'_>, url: Option<String>, options: &str, started: Option<&str>) -> PyResult<Self> {
        let source = || {
            let source = match (url, started) {
                (Some(url), _) => ServerSource::Url(url),
                (None, Some(started)) => parse_json::<LaunchArguments>("instance", started)?.into_source()?,
                (None, None) => {
                    return Err(ClientError::new(Code::InvalidOptions, "give a base_url to connect to"));
                }
            };
            let (client, open) = parse_json::<SessionArguments>("options", options)?.into_options()?;
            Ok(SessionOrigin { source, client, open })
        };
        Ok(NativeSession {
            state: SessionState::new(
                Some(source().map_err(|error| to_exception(py, &error))?),
                SessionConnection::NotConnected,
            ),
        })
    }

    /// Connects, if that is not done; also after a close.
    fn connect(&self) -> NativeRequest {
        self.request(|state| async move {
            state.client(Reopen::Always).await?;
            Ok(NativeReply::Nothing)
        })
    }

    /// Begins an episode. `options` is an object of seed, `episode_id` and what the environment takes.
    fn reset(&self, options: String, timeout_s: Option<f64>) -> NativeRequest {
        self.request(move |state| async move {
            let mut options = parse_reset_options(&options)?;
            options.timeout = optional_seconds("timeout_s", timeout_s)?;
            let client = state.client(Reopen::IfLost).await?;
            let mut outcome = client.reset(&options).await;
            if let Err(error) = &outcome
                && state.note_failure(&client, error).await
                && error.delivered() == Delivered::No
                && state.can_reopen()
            {
                outcome = state.client(Reopen::IfLost).await?.reset(&options).await;
            }
            outcome.map(|result| NativeReply::Step(Box::new(result)))
        })
    }

    /// Takes an action: JSON text of an object.
    #[pyo3(signature = (action, timeout_s=None, key=None, expected_step=None))]
    fn step(
        &self,
        action: String,
        timeout_s: Option<f64>,
        key: Option<String>,
        expected_step: Option<u64>,
    ) -> NativeRequest {
        self.request(move |state| async move {
            let options =
                StepOptions { timeout: optional_seconds("timeout_s", timeout_s)?, key, expected_step };
            let action = raw_json(action)?;
            let client = state.client(Reopen::Never).await?;
            let outcome = client.step_with(&action, &options).await;
            state.noting_failure(&client, outcome).await.map(|result| NativeReply::Step(Box::new(result)))
        })
    }

    /// The environment's state.
    fn state(&self) -> NativeRequest {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.state().await;
            state.noting_failure(&client, outcome).await.map(NativeReply::Json)
        })
    }

    /// The environment's tools.
    fn list_tools(&self) -> NativeRequest {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.list_tools().await;
            state.noting_failure(&client, outcome).await.map(NativeReply::Tools)
        })
    }

    /// Calls a tool with arguments: JSON text of an object.
    #[pyo3(signature = (name, arguments, timeout_s=None, key=None))]
    fn call_tool(
        &self,
        name: String,
        arguments: String,
        timeout_s: Option<f64>,
        key: Option<String>,
    ) -> NativeRequest {
        self.request(move |state| async move {
            let arguments = parse_json("arguments", &arguments)?;
            let timeout = optional_seconds("timeout_s", timeout_s)?;
            let options = StepOptions { timeout, key, ..StepOptions::default() };
            let client = state.client(Reopen::Never).await?;
            // The deadline is for the listing of the schemas too.
            let outcome = with_timeout(timeout_s, client.call_tool_with(&name, arguments, &options)).await;
            state.noting_failure(&client, outcome).await.map(|result| NativeReply::Tool(Box::new(result)))
        })
    }

    /// New sessions that start from the present state.
    fn fork(&self, n: usize) -> NativeRequest {
        self.request(move |state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.fork(n).await;
            state.noting_failure(&client, outcome).await.map(NativeReply::Sessions)
        })
    }

    /// The session as one opaque text.
    fn snapshot(&self) -> NativeRequest {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.snapshot().await;
            state.noting_failure(&client, outcome).await.map(NativeReply::Text)
        })
    }

    /// Ends the session, and the instance that was started for it.
    fn close(&self) -> NativeRequest {
        self.request(|state| async move {
            state.close().await?;
            Ok(NativeReply::Nothing)
        })
    }

    /// What the instance that was started for it wrote last.
    fn logs(&self) -> NativeRequest {
        self.request(|state| async move {
            let logs = match &*state.connection.lock().await {
                SessionConnection::Open(_, Some(instance)) | SessionConnection::Lost(Some(instance)) => {
                    instance.logs().await?
                }
                _ => String::new(),
            };
            Ok(NativeReply::Text(logs))
        })
    }

    /// Protocol, id, the agent's URL and token, the instance's URL and name, as far as they are known now.
    fn facts(&self) -> (Option<&'static str>, [Option<String>; 5]) {
        if self.state.born != generation() {
            return (None, [const { None }; 5]);
        }
        let Ok(connection) = self.state.connection.try_lock() else { return (None, [const { None }; 5]) };
        let SessionConnection::Open(client, instance) = &*connection else {
            return (None, [const { None }; 5]);
        };
        let protocol = match client.protocol() {
            Protocol::Auto => "auto",
            Protocol::Stock => "stock",
            Protocol::Oxenv1 => MULTI_PROTOCOL,
            Protocol::Http => "http",
        };
        let url = instance.as_ref().map(|instance| instance.url().to_owned());
        let name = instance.as_ref().map(|instance| instance.info().name.clone());
        (Some(protocol), [client.session_id(), client.mcp_url(), client.agent_token(), url, name])
    }
}

impl NativeSession {
    /// A session that is open already.
    pub(crate) fn from_client(client: EnvClient) -> Self {
        NativeSession { state: SessionState::new(None, SessionConnection::Open(Arc::new(client), None)) }
    }

    /// The client, if the session is open.
    pub(crate) async fn open_client(state: &Arc<SessionState>) -> Result<Arc<EnvClient>, ClientError> {
        state.client(Reopen::Never).await
    }

    /// What its requests share.
    pub(crate) fn shared(&self) -> Arc<SessionState> {
        self.state.clone()
    }

    fn request<F>(&self, work: impl FnOnce(Arc<SessionState>) -> F) -> NativeRequest
    where
        F: Future<Output = ReplyResult> + Send + 'static,
    {
        NativeRequest::of_generation(self.state.born, work(self.state.clone()))
    }
}

/// The content of a reset; fields that the client does not know go to the environment unchanged.
pub(crate) fn parse_reset_options(text: &str) -> Result<ResetOptions, ClientError> {
    let mut extra: Map<String, Value> = parse_json("reset options", text)?;
    let mut options = ResetOptions::default();
    match extra.shift_remove("seed") {
        Some(Value::Null) | None => {}
        Some(seed) => match seed.as_u64() {
            Some(seed) => options.seed = Some(seed),
            // The server reports what is wrong with it.
            None => _ = extra.insert("seed".to_owned(), seed),
        },
    }
    match extra.shift_remove("episode_id") {
        Some(Value::Null) | None => {}
        Some(Value::String(id)) => options.episode_id = Some(id),
        Some(other) => _ = extra.insert("episode_id".to_owned(), other),
    }
    options.extra = extra;
    Ok(options)
}

/// A deadline of the caller's, beside the client's own.
pub(crate) async fn with_timeout<T>(
    limit_s: Option<f64>,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match optional_seconds("timeout_s", limit_s)? {
        None => call.await,
        Some(limit) => timeout(limit, call).await.unwrap_or_else(|_| {
            let message = format!("no result within {} s; the call was given up", limit.as_secs_f64());
            Err(ClientError::new(Code::TimedOut, message))
        }),
    }
}
