//! Environments on Fleet, and the tools of many MCP endpoints as one.
//!
//! Invariant: an instance that was made is deleted when its orchestrator is closed or collected, or the
//! process exits, and the exit waits for that.

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_client::fleet::FleetEnvClient;
use oxenv_client::{ClientError, Multiplexer, ResetOptions};
use pyo3::prelude::*;
use serde_json::Value;
use tokio::time::timeout;

use crate::error::to_exception;
use crate::launch::INSTANCE_STOP_TIMEOUT;
use crate::options::{FleetArguments, MultiplexerArguments, optional_seconds};
use crate::reply::{NativeReply, ReplyResult, parse_json};
use crate::request::NativeRequest;
use crate::runtime::{ExitFuture, ExitHook, generation, register_exit_hook, spawn_cleanup};
use crate::session::{parse_reset_options, with_timeout};

/// The orchestrator's side of an instance.
#[pyclass(frozen, name = "Fleet", module = "oxenv._native")]
pub(crate) struct NativeFleet {
    state: Arc<FleetState>,
}

/// The tools of many endpoints.
#[pyclass(frozen, name = "Multiplexer", module = "oxenv._native")]
pub(crate) struct NativeMultiplexer {
    multiplexer: Option<Multiplexer>,
    born: usize,
}

struct FleetState {
    client: Option<Arc<FleetEnvClient>>,
    closed: AtomicBool,
    born: usize,
}

/// Makes an instance and connects its tools; gives both sides.
#[pyfunction]
pub(crate) fn from_fleet(
    py: Python<'_>,
    api_key: String,
    env_key: String,
    options: &str,
) -> PyResult<NativeRequest> {
    let options = parse_json::<FleetArguments>("options", options).and_then(FleetArguments::into_options);
    let options = options.map_err(|error| to_exception(py, &error))?;
    Ok(NativeRequest::new(async move {
        let parts = FleetEnvClient::from_fleet(&api_key, &env_key, options).await?;
        Ok(NativeReply::Fleet(Box::new(parts)))
    }))
}

#[pymethods]
impl NativeFleet {
    /// The instance's id and its root URL.
    fn facts(&self) -> (Option<String>, Option<String>) {
        let client = self.state.client.as_ref();
        client.map(|client| (client.instance_id().to_owned(), client.root().to_owned())).unzip()
    }

    /// Does nothing: what was made runs.
    fn ready(&self) -> NativeRequest {
        NativeRequest::new(async { Ok(NativeReply::Nothing) })
    }

    /// Begins an episode.
    fn reset(&self, options: String, timeout_s: Option<f64>) -> NativeRequest {
        self.request(move |client| async move {
            let mut options: ResetOptions = parse_reset_options(&options)?;
            options.timeout = optional_seconds("timeout_s", timeout_s)?;
            client.reset(&options).await.map(|result| NativeReply::Step(Box::new(result)))
        })
    }

    /// Takes an action: JSON text of an object.
    #[pyo3(signature = (action, timeout_s=None))]
    fn step(&self, action: String, timeout_s: Option<f64>) -> NativeRequest {
        self.request(move |client| async move {
            let action: Value = parse_json("action", &action)?;
            let result = with_timeout(timeout_s, client.step(&action)).await?;
            Ok(NativeReply::Step(Box::new(result)))
        })
    }

    /// The environment's state.
    fn state(&self) -> NativeRequest {
        self.request(|client| async move { client.state().await.map(NativeReply::Json) })
    }

    /// Deletes the instance and waits for that.
    fn close(&self) -> NativeRequest {
        let state = self.state.clone();
        NativeRequest::of_generation(self.state.born, async move {
            state.close().await?;
            Ok(NativeReply::Nothing)
        })
    }
}

#[pymethods]
impl NativeMultiplexer {
    /// The tools of these endpoints, in the order of their precedence. Nothing is connected yet.
    #[new]
    #[expect(clippy::needless_pass_by_value, reason = "a list from Python becomes an owned one")]
    fn new(py: Python<'_>, urls: Vec<String>, options: &str) -> PyResult<Self> {
        let options = parse_json::<MultiplexerArguments>("options", options)
            .and_then(MultiplexerArguments::into_options);
        let multiplexer = options.and_then(|options| Multiplexer::new(&urls, options));
        Ok(NativeMultiplexer::of(multiplexer.map_err(|error| to_exception(py, &error))?))
    }

    /// Lists all endpoints together.
    fn list(&self) -> NativeRequest {
        self.request(|multiplexer| async move {
            multiplexer.list().await.map(|listing| NativeReply::Listing(Box::new(listing)))
        })
    }

    /// Calls a tool at its owner, with arguments: JSON text of an object.
    #[pyo3(signature = (name, arguments, timeout_s=None))]
    fn call_tool(&self, name: String, arguments: String, timeout_s: Option<f64>) -> NativeRequest {
        self.request(move |multiplexer| async move {
            let arguments = parse_json("arguments", &arguments)?;
            let result = with_timeout(timeout_s, multiplexer.call_tool(&name, arguments)).await?;
            Ok(NativeReply::Tool(Box::new(result)))
        })
    }

    /// Waits until a list may have changed.
    fn changed(&self) -> NativeRequest {
        self.request(|multiplexer| async move {
            multiplexer.changed().await;
            Ok(NativeReply::Nothing)
        })
    }

    /// Ends all connections.
    fn close(&self) -> NativeRequest {
        self.request(|multiplexer| async move {
            multiplexer.close().await;
            Ok(NativeReply::Nothing)
        })
    }
}

impl NativeFleet {
    pub(crate) fn new(client: FleetEnvClient) -> Self {
        let client = Some(Arc::new(client));
        let state = Arc::new(FleetState { client, closed: AtomicBool::new(false), born: generation() });
        register_exit_hook(&state);
        NativeFleet { state }
    }

    fn request<F>(&self, work: impl FnOnce(Arc<FleetEnvClient>) -> F) -> NativeRequest
    where
        F: Future<Output = ReplyResult> + Send + 'static,
    {
        match &self.state.client {
            Some(client) => NativeRequest::of_generation(self.state.born, work(client.clone())),
            None => NativeRequest::new(async { Ok(NativeReply::Nothing) }),
        }
    }
}

impl NativeMultiplexer {
    pub(crate) fn of(multiplexer: Multiplexer) -> Self {
        NativeMultiplexer { multiplexer: Some(multiplexer), born: generation() }
    }

    fn request<F>(&self, work: impl FnOnce(Multiplexer) -> F) -> NativeRequest
    where
        F: Future<Output = ReplyResult> + Send + 'static,
    {
        match &self.multiplexer {
            Some(multiplexer) => NativeRequest::of_generation(self.born, work(multiplexer.clone())),
            None => NativeRequest::new(async { Ok(NativeReply::Nothing) }),
        }
    }
}

impl FleetState {
    async fn close(&self) -> Result<(), ClientError> {
        let Some(client) = &self.client else { return Ok(()) };
        client.close().await?;
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl ExitHook for FleetState {
    fn end(self: Arc<Self>) -> ExitFuture {
        Box::pin(async move {
            let _ = timeout(INSTANCE_STOP_TIMEOUT, self.close()).await;
        })
    }
}

impl Drop for FleetState {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        if self.born != generation() {
            mem::forget(client);
        } else if !self.closed.load(Ordering::Acquire) {
            spawn_cleanup(async move {
                let _ = timeout(INSTANCE_STOP_TIMEOUT, client.close()).await;
            });
        }
    }
}

impl Drop for NativeMultiplexer {
    fn drop(&mut self) {
        let Some(multiplexer) = self.multiplexer.take() else { return };
        if self.born != generation() {
            mem::forget(multiplexer);
        } else {
            // Its end is a matter of the runtime's.
            spawn_cleanup(async move { drop(multiplexer) });
        }
    }
}
