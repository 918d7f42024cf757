//! One request that was not sent yet: waited for by a thread, or started for an event loop.
//!
//! Invariant: giving up drops the future, and that cancels the request; what waits lets the interpreter go and looks
//! for signals (Ctrl-C) often enough.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use oxenv_client::{ClientError, Code};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::raised;
use crate::reply::Reply;
use crate::runtime::{generation, lock, runtime, wait};

/// How often a waiting thread looks for signals.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// What is done for a request.
pub(crate) type Work = Pin<Box<dyn Future<Output = Result<Reply, ClientError>> + Send>>;

/// A request that was not sent yet.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Request {
    work: Mutex<Option<Work>>,
}

impl Request {
    /// A request of something that was made in this generation; else one that fails.
    pub(crate) fn of(
        born: usize,
        work: impl Future<Output = Result<Reply, ClientError>> + Send + 'static,
    ) -> Self {
        if born == generation() { Self::new(work) } else { Self::new(async { Err(of_the_parent()) }) }
    }

    /// A request.
    pub(crate) fn new(work: impl Future<Output = Result<Reply, ClientError>> + Send + 'static) -> Self {
        Request { work: Mutex::new(Some(Box::pin(work))) }
    }

    /// What is to be done, once.
    pub(crate) fn take(&self) -> PyResult<Work> {
        lock(&self.work).take().ok_or_else(|| PyRuntimeError::new_err("a request can be awaited once only"))
    }
}

#[pymethods]
impl Request {
    /// Waits for the reply. A signal's handler that raises, as Ctrl-C does, cancels the request.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let mut waiting = Waiting { work: Some(self.take()?) };
        loop {
            if let Some(outcome) = py.detach(|| waiting.slice(SIGNALS_EVERY)) {
                return outcome.map_err(|error| raised(py, &error))?.into_python(py);
            }
            if let Err(interrupted) = py.check_signals() {
                py.detach(|| drop(waiting));
                return Err(interrupted);
            }
        }
    }
}

/// A future that this thread waits for.
struct Waiting {
    work: Option<Work>,
}

impl Waiting {
    /// Waits until the reply is there or the time has passed.
    fn slice(&mut self, limit: Duration) -> Option<Result<Reply, ClientError>> {
        let work = self.work.as_mut()?;
        let outcome = wait(async { tokio::time::timeout(limit, work).await });
        if outcome.is_ok() {
            self.work = None;
        }
        outcome.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // What is dropped may have to start its end in the background.
        let _runtime = runtime().enter();
        self.work = None;
    }
}

/// Why what a parent made cannot be used by the child that it forked.
pub(crate) fn of_the_parent() -> ClientError {
    ClientError::new(
        Code::Closed,
        "this client was made before the process was forked, and belongs to the parent; make another one here",
    )
}
