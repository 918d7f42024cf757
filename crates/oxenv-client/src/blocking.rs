//! Clients for callers without an async runtime: each call blocks.
//!
//! Invariant: nothing is implemented here; one background thread drives the clients, so that sockets are read
//! and pings answered between calls too.

use std::future::Future;
use std::sync::OnceLock;

use oxenv_wire::{Tool, ToolResult};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::env_client;
use crate::error::{ClientError, Code, Result};
use crate::options::{ClientOptions, OpenOptions, ResetOptions, StepOptions};
use crate::result::StepResult;

/// The runtime that drives clients whose callers have none: one thread.
///
/// # Panics
/// If the machine gives no thread.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("oxenv-client")
            .enable_all()
            .build()
            .expect("a thread can be started")
    })
}

/// Waits for a future on the caller's thread, while [`runtime`] drives its sockets.
///
/// # Panics
/// On a thread that runs a runtime already; [`wait_for`] refuses that instead.
///
/// ```
/// assert_eq!(oxenv_client::blocking::wait(async { 1 + 1 }), 2);
/// ```
pub fn wait<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Waits as [`wait`] does, for a future that can fail.
///
/// # Errors
/// [`Code::InvalidOptions`] on a thread of a runtime, which must not wait: its tasks would stand still. Also
/// within `spawn_blocking`, which cannot be distinguished from it.
pub fn wait_for<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    if Handle::try_current().is_ok() {
        let message = "a blocking client was called on a thread of an async runtime; use the async client \
                       there, or a thread of your own";
        return Err(ClientError::new(Code::InvalidOptions, message));
    }
    wait(future)
}

/// One session of an environment; each of its calls blocks. It may be shared among threads; the calls of one
/// session are answered in their order.
///
/// ```no_run
/// # fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::ResetOptions;
/// use oxenv_client::blocking::EnvClient;
///
/// let env = EnvClient::connect("localhost:8000")?;
/// env.reset(&ResetOptions::default())?;
/// println!("{:?}", env.step(&serde_json::json!({ "action": "DOWN" }))?.reward);
/// env.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EnvClient {
    client: env_client::EnvClient,
}

impl EnvClient {
    /// See [`EnvClient::connect`](crate::EnvClient::connect).
    ///
    /// # Errors
    /// As there; and as [`wait_for`], here and in every other function.
    pub fn connect(url: &str) -> Result<Self> {
        wait_for(env_client::EnvClient::connect(url)).map(Self::new)
    }

    /// See [`EnvClient::connect_with`](crate::EnvClient::connect_with).
    ///
    /// # Errors
    /// As there.
    pub fn connect_with(url: &str, options: &ClientOptions, open: &OpenOptions) -> Result<Self> {
        wait_for(env_client::EnvClient::connect_with(url, options, open)).map(Self::new)
    }

    /// Wraps a session of the async client. Its runtime, [`runtime`] or another, must go on running.
    #[must_use]
    pub fn new(client: env_client::EnvClient) -> Self {
        EnvClient { client }
    }

    /// The session for async callers, and its description: protocol, id, addresses.
    #[must_use]
    pub fn client(&self) -> &env_client::EnvClient {
        &self.client
    }

    /// See [`EnvClient::reset`](crate::EnvClient::reset).
    ///
    /// # Errors
    /// As there.
    pub fn reset(&self, options: &ResetOptions) -> Result<StepResult> {
        wait_for(self.client.reset(options))
    }

    /// See [`EnvClient::step`](crate::EnvClient::step).
    ///
    /// # Errors
    /// As there.
    pub fn step<A: Serialize + ?Sized>(&self, action: &A) -> Result<StepResult> {
        wait_for(self.client.step(action))
    }

    /// See [`EnvClient::step_with`](crate::EnvClient::step_with).
    ///
    /// # Errors
    /// As there.
    pub fn step_with<A: Serialize + ?Sized>(&self, action: &A, options: &StepOptions) -> Result<StepResult> {
        wait_for(self.client.step_with(action, options))
    }

    /// See [`EnvClient::state`](crate::EnvClient::state).
    ///
    /// # Errors
    /// As there.
    pub fn state(&self) -> Result<Value> {
        wait_for(self.client.state())
    }

    /// See [`EnvClient::list_tools`](crate::EnvClient::list_tools).
    ///
    /// # Errors
    /// As there.
    pub fn list_tools(&self) -> Result<Vec<Tool>> {
        wait_for(self.client.list_tools())
    }

    /// See [`EnvClient::call_tool`](crate::EnvClient::call_tool).
    ///
    /// # Errors
    /// As there.
    pub fn call_tool(&self, name: &str, arguments: Value) -> Result<ToolResult> {
        wait_for(self.client.call_tool(name, arguments))
    }

    /// See [`EnvClient::fork`](crate::EnvClient::fork).
    ///
    /// # Errors
    /// As there.
    pub fn fork(&self, n: usize) -> Result<Vec<EnvClient>> {
        Ok(wait_for(self.client.fork(n))?.into_iter().map(Self::new).collect())
    }

    /// See [`EnvClient::snapshot`](crate::EnvClient::snapshot).
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self) -> Result<String> {
        wait_for(self.client.snapshot())
    }

    /// See [`EnvClient::close`](crate::EnvClient::close).
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<()> {
        wait_for(self.client.close())
    }
}
