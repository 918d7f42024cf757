//! One session as Python holds it: connected at its first request, ended with its last holder.
//!
//! Invariant: nothing is connected before a request is sent, and no step ever lands silently in a fresh environment.

mod state;

use std::future::Future;
use std::sync::Arc;

use oxenv_client::{ClientError, Code, EnvClient, Protocol, ResetOptions, StepOptions};
use oxenv_wire::Delivered;
use pyo3::prelude::*;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::error::raised;
use crate::launch::{Source, Started};
use crate::options::{SessionOptions, some_seconds};
use crate::reply::{Reply, raw, value};
use crate::request::Request;
use crate::runtime::generation;

use self::state::{Live, Origin, Reopen, State};

/// One session.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Session {
    state: Arc<State>,
}

/// The outcome of a client's function as a reply.
type Outcome = Result<Reply, ClientError>;

#[pymethods]
impl Session {
    /// A session at an address, or in an instance that is started for it. Nothing is connected yet.
    #[new]
    fn new(py: Python<'_>, url: Option<String>, options: &str, started: Option<&str>) -> PyResult<Self> {
        let source = || {
            let source = match (url, started) {
                (Some(url), _) => Source::Url(url),
                (None, Some(started)) => value::<Started>("instance", started)?.source()?,
                (None, None) => {
                    return Err(ClientError::new(Code::InvalidOptions, "give a base_url to connect to"));
                }
            };
            let (client, open) = value::<SessionOptions>("options", options)?.split()?;
            Ok(Origin { source, client, open })
        };
        Ok(Session { state: State::new(Some(source().map_err(|error| raised(py, &error))?), Live::NotYet) })
    }

    /// Connects, if that is not done; also after a close.
    fn connect(&self) -> Request {
        self.request(|state| async move {
            state.client(Reopen::Always).await?;
            Ok(Reply::Nothing)
        })
    }

    /// Begins an episode. `options` is an object of seed, `episode_id` and what the environment takes.
    fn reset(&self, options: String, timeout_s: Option<f64>) -> Request {
        self.request(move |state| async move {
            let mut options = reset_options(&options)?;
            options.timeout = some_seconds("timeout_s", timeout_s)?;
            let client = state.client(Reopen::IfLost).await?;
            let mut outcome = client.reset(&options).await;
            if let Err(error) = &outcome
                && state.judge(&client, error).await
                && error.delivered() == Delivered::No
                && state.can_reopen()
            {
                outcome = state.client(Reopen::IfLost).await?.reset(&options).await;
            }
            outcome.map(|result| Reply::Step(Box::new(result)))
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
    ) -> Request {
        self.request(move |state| async move {
            let options = StepOptions { timeout: some_seconds("timeout_s", timeout_s)?, key, expected_step };
            let action = raw(action)?;
            let client = state.client(Reopen::Never).await?;
            let outcome = client.step_with(&action, &options).await;
            state.judged(&client, outcome).await.map(|result| Reply::Step(Box::new(result)))
        })
    }

    /// The environment's state.
    fn state(&self) -> Request {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.state().await;
            state.judged(&client, outcome).await.map(Reply::Json)
        })
    }

    /// The environment's tools.
    fn list_tools(&self) -> Request {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.list_tools().await;
            state.judged(&client, outcome).await.map(Reply::Tools)
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
    ) -> Request {
        self.request(move |state| async move {
            let arguments = value("arguments", &arguments)?;
            let timeout = some_seconds("timeout_s", timeout_s)?;
            let options = StepOptions { timeout, key, ..StepOptions::default() };
            let client = state.client(Reopen::Never).await?;
            // The deadline is for the listing of the schemas too.
            let outcome = within(timeout_s, client.call_tool_with(&name, arguments, &options)).await;
            state.judged(&client, outcome).await.map(|result| Reply::Tool(Box::new(result)))
        })
    }

    /// New sessions that start from the present state.
    fn fork(&self, n: usize) -> Request {
        self.request(move |state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.fork(n).await;
            state.judged(&client, outcome).await.map(Reply::Sessions)
        })
    }

    /// The session as one opaque text.
    fn snapshot(&self) -> Request {
        self.request(|state| async move {
            let client = state.client(Reopen::Never).await?;
            let outcome = client.snapshot().await;
            state.judged(&client, outcome).await.map(Reply::Text)
        })
    }

    /// Ends the session, and the instance that was started for it.
    fn close(&self) -> Request {
        self.request(|state| async move {
            state.close().await?;
            Ok(Reply::Nothing)
        })
    }

    /// What the instance that was started for it wrote last.
    fn logs(&self) -> Request {
        self.request(|state| async move {
            let logs = match &*state.live.lock().await {
                Live::Open(_, Some(instance)) | Live::Lost(Some(instance)) => instance.logs().await?,
                _ => String::new(),
            };
            Ok(Reply::Text(logs))
        })
    }

    /// Protocol, id, the agent's URL and token, the instance's URL and name, as far as they are known now.
    fn facts(&self) -> (Option<&'static str>, [Option<String>; 5]) {
        if self.state.born != generation() {
            return (None, [const { None }; 5]);
        }
        let Ok(live) = self.state.live.try_lock() else { return (None, [const { None }; 5]) };
        let Live::Open(client, instance) = &*live else { return (None, [const { None }; 5]) };
        let protocol = match client.protocol() {
            Protocol::Auto => "auto",
            Protocol::Stock => "stock",
            Protocol::Oxenv1 => "oxenv.1",
            Protocol::Http => "http",
        };
        let url = instance.as_ref().map(|instance| instance.url().to_owned());
        let name = instance.as_ref().map(|instance| instance.info().name.clone());
        (Some(protocol), [client.session_id(), client.mcp_url(), client.agent_token(), url, name])
    }
}

impl Session {
    /// A session that is open already.
    pub(crate) fn opened(client: EnvClient) -> Self {
        Session { state: State::new(None, Live::Open(Arc::new(client), None)) }
    }

    /// The client, if the session is open.
    pub(crate) async fn open_client(state: &Arc<State>) -> Result<Arc<EnvClient>, ClientError> {
        state.client(Reopen::Never).await
    }

    /// What its requests share.
    pub(crate) fn shared(&self) -> Arc<State> {
        self.state.clone()
    }

    fn request<F>(&self, work: impl FnOnce(Arc<State>) -> F) -> Request
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Request::of(self.state.born, work(self.state.clone()))
    }
}

/// What a reset is given; what the client has no field for goes to the environment as it is.
pub(crate) fn reset_options(text: &str) -> Result<ResetOptions, ClientError> {
    let mut extra: Map<String, Value> = value("reset options", text)?;
    let mut options = ResetOptions::default();
    match extra.shift_remove("seed") {
        Some(Value::Null) | None => {}
        Some(seed) => match seed.as_u64() {
            Some(seed) => options.seed = Some(seed),
            // The server says what is wrong with it.
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
pub(crate) async fn within<T>(
    limit_s: Option<f64>,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match some_seconds("timeout_s", limit_s)? {
        None => call.await,
        Some(limit) => timeout(limit, call).await.unwrap_or_else(|_| {
            let message = format!("no result within {} s; the call was given up", limit.as_secs_f64());
            Err(ClientError::new(Code::TimedOut, message))
        }),
    }
}
