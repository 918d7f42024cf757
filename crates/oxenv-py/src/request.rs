//! One request that was not sent yet: waited for by a thread, or started for an event loop.
//!
//! Invariant: giving up drops the future, and that cancels the request; what waits lets the interpreter go
//! and looks for signals (Ctrl-C) often enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use oxenv_client::{ClientError, Code};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::to_exception;
use crate::reply::ReplyResult;
use crate::runtime::{block_on, generation, lock, runtime};

/// How often a waiting thread looks for signals.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The work of a request.
pub(crate) type RequestFuture = Pin<Box<dyn Future<Output = ReplyResult> + Send>>;

/// A request that was not sent yet.
#[pyclass(frozen, name = "Request", module = "oxenv._native")]
pub(crate) struct NativeRequest {
    future: Mutex<Option<RequestFuture>>,
}

impl NativeRequest {
    /// A request of something that was made in this generation; else one that fails.
    pub(crate) fn of_generation(
        born: usize,
        work: impl Future<Output = ReplyResult> + Send + 'static,
    ) -> Self {
        if born == generation() { Self::new(work) } else { Self::new(async { Err(made_before_fork()) }) }
    }

    /// A request.
    pub(crate) fn new(work: impl Future<Output = ReplyResult> + Send + 'static) -> Self {
        NativeRequest { future: Mutex::new(Some(Box::pin(work))) }
    }

    /// The work, to run once.
    pub(crate) fn take(&self) -> PyResult<RequestFuture> {
        lock(&self.future).take().ok_or_else(|| PyRuntimeError::new_err("a request can be awaited once only"))
    }
}

#[pymethods]
impl NativeRequest {
    /// Waits for the reply. A signal's handler that raises, as Ctrl-C does, cancels the request.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut waiting = BlockingWait { future: Some(self.take()?) };
        loop {
            if let Some(outcome) = py.detach(|| waiting.wait_for(SIGNAL_CHECK_INTERVAL)) {
                return outcome.map_err(|error| to_exception(py, &error))?.into_python(py);
            }
            if let Err(interrupted) = py.check_signals() {
                py.detach(|| drop(waiting));
                return Err(interrupted);
            }
        }
    }
}

/// A future that this thread waits for.
struct BlockingWait {
    future: Option<RequestFuture>,
}

impl BlockingWait {
    /// Waits until the reply is there or the time has passed.
    fn wait_for(&mut self, limit: Duration) -> Option<ReplyResult> {
        let work = self.future.as_mut()?;
        let outcome = block_on(async { tokio::time::timeout(limit, work).await });
        if outcome.is_ok() {
            self.future = None;
        }
        outcome.ok()
    }
}

impl Drop for BlockingWait {
    fn drop(&mut self) {
        // What is dropped may have to start its end in the background.
        let _runtime = runtime().enter();
        self.future = None;
    }
}

/// Why what a parent made cannot be used by the child that it forked.
pub(crate) fn made_before_fork() -> ClientError {
    ClientError::new(
        Code::Closed,
        "this client was made before the process was forked, and belongs to the parent; make another one \
         here",
    )
}
