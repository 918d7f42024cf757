//! Environments on Fleet, and the tools of many MCP endpoints as one.
//!
//! Invariant: an instance that was made is deleted when its orchestrator is closed or collected, or the process
//! exits, and the exit waits for that.

use std::future::Future;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_client::fleet::FleetEnvClient;
use oxenv_client::{ClientError, Multiplexer, ResetOptions};
use pyo3::prelude::*;
use serde_json::Value;
use tokio::time::timeout;

use crate::error::raised;
use crate::launch::END_LIMIT;
use crate::options::{EndpointOptions, InstanceOptions, some_seconds};
use crate::reply::{Reply, value};
use crate::request::Request;
use crate::runtime::{Ending, Held, end_later, generation, hold};
use crate::session::{reset_options, within};

/// The orchestrator's side of an instance.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Fleet {
    state: Arc<State>,
}

/// The tools of many endpoints.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Endpoints {
    multiplexer: Option<Multiplexer>,
    born: usize,
}

struct State {
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
) -> PyResult<Request> {
    let options = value::<InstanceOptions>("options", options).and_then(InstanceOptions::checked);
    let options = options.map_err(|error| raised(py, &error))?;
    Ok(Request::new(async move {
        let parts = FleetEnvClient::from_fleet(&api_key, &env_key, options).await?;
        Ok(Reply::Fleet(Box::new(parts)))
    }))
}

#[pymethods]
impl Fleet {
    /// The instance's id and its root URL.
    fn facts(&self) -> (Option<String>, Option<String>) {
        let client = self.state.client.as_ref();
        client.map(|client| (client.instance_id().to_owned(), client.root().to_owned())).unzip()
    }

    /// Does nothing: what was made runs.
    fn ready(&self) -> Request {
        Request::new(async { Ok(Reply::Nothing) })
    }

    /// Begins an episode.
    fn reset(&self, options: String, timeout_s: Option<f64>) -> Request {
        self.request(move |client| async move {
            let mut options: ResetOptions = reset_options(&options)?;
            options.timeout = some_seconds("timeout_s", timeout_s)?;
            client.reset(&options).await.map(|result| Reply::Step(Box::new(result)))
        })
    }

    /// Takes an action: JSON text of an object.
    #[pyo3(signature = (action, timeout_s=None))]
    fn step(&self, action: String, timeout_s: Option<f64>) -> Request {
        self.request(move |client| async move {
            let action: Value = value("action", &action)?;
            let result = within(timeout_s, client.step(&action)).await?;
            Ok(Reply::Step(Box::new(result)))
        })
    }

    /// The environment's state.
    fn state(&self) -> Request {
        self.request(|client| async move { client.state().await.map(Reply::Json) })
    }

    /// Deletes the instance and waits for that.
    fn close(&self) -> Request {
        let state = self.state.clone();
        Request::of(self.state.born, async move {
            state.close().await?;
            Ok(Reply::Nothing)
        })
    }
}

#[pymethods]
impl Endpoints {
    /// The tools of these endpoints, in the order of their precedence. Nothing is connected yet.
    #[new]
    #[expect(clippy::needless_pass_by_value, reason = "a list from Python becomes an owned one")]
    fn new(py: Python<'_>, urls: Vec<String>, options: &str) -> PyResult<Self> {
        let options = value::<EndpointOptions>("options", options).and_then(EndpointOptions::checked);
        let multiplexer = options.and_then(|options| Multiplexer::new(&urls, options));
        Ok(Endpoints::of(multiplexer.map_err(|error| raised(py, &error))?))
    }

    /// Lists all endpoints together.
    fn list(&self) -> Request {
        self.request(|multiplexer| async move {
            multiplexer.list().await.map(|listing| Reply::Listing(Box::new(listing)))
        })
    }

    /// Calls a tool at its owner, with arguments: JSON text of an object.
    #[pyo3(signature = (name, arguments, timeout_s=None))]
    fn call_tool(&self, name: String, arguments: String, timeout_s: Option<f64>) -> Request {
        self.request(move |multiplexer| async move {
            let arguments = value("arguments", &arguments)?;
            let result = within(timeout_s, multiplexer.call_tool(&name, arguments)).await?;
            Ok(Reply::Tool(Box::new(result)))
        })
    }

    /// Waits until a list may have changed.
    fn changed(&self) -> Request {
        self.request(|multiplexer| async move {
            multiplexer.changed().await;
            Ok(Reply::Nothing)
        })
    }

    /// Ends all connections.
    fn close(&self) -> Request {
        self.request(|multiplexer| async move {
            multiplexer.close().await;
            Ok(Reply::Nothing)
        })
    }
}

impl Fleet {
    pub(crate) fn made(client: FleetEnvClient) -> Self {
        let client = Some(Arc::new(client));
        let state = Arc::new(State { client, closed: AtomicBool::new(false), born: generation() });
        hold(&state);
        Fleet { state }
    }

    fn request<F>(&self, work: impl FnOnce(Arc<FleetEnvClient>) -> F) -> Request
    where
        F: Future<Output = Result<Reply, ClientError>> + Send + 'static,
    {
        match &self.state.client {
            Some(client) => Request::of(self.state.born, work(client.clone())),
            None => Request::new(async { Ok(Reply::Nothing) }),
        }
    }
}

impl Endpoints {
    pub(crate) fn of(multiplexer: Multiplexer) -> Self {
        Endpoints { multiplexer: Some(multiplexer), born: generation() }
    }

    fn request<F>(&self, work: impl FnOnce(Multiplexer) -> F) -> Request
    where
        F: Future<Output = Result<Reply, ClientError>> + Send + 'static,
    {
        match &self.multiplexer {
            Some(multiplexer) => Request::of(self.born, work(multiplexer.clone())),
            None => Request::new(async { Ok(Reply::Nothing) }),
        }
    }
}

impl State {
    async fn close(&self) -> Result<(), ClientError> {
        let Some(client) = &self.client else { return Ok(()) };
        client.close().await?;
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl Held for State {
    fn end(self: Arc<Self>) -> Ending {
        Box::pin(async move {
            let _ = timeout(END_LIMIT, self.close()).await;
        })
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        if self.born != generation() {
            mem::forget(client);
        } else if !self.closed.load(Ordering::Acquire) {
            end_later(async move {
                let _ = timeout(END_LIMIT, client.close()).await;
            });
        }
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        let Some(multiplexer) = self.multiplexer.take() else { return };
        if self.born != generation() {
            mem::forget(multiplexer);
        } else {
            // Its end is a matter of the runtime's.
            end_later(async move { drop(multiplexer) });
        }
    }
}
