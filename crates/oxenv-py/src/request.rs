//! One request that was not sent yet: waited for by a thread, or started for an event loop.
//!
//! Invariant: giving up drops the future, and that cancels the request; what waits lets the interpreter go and looks
//! for signals (Ctrl-C) often enough.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use oxenv_client::{ClientError, Code};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::error::raised;
use crate::reply::Reply;
use crate::runtime::{generation, lock, runtime};

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
        let mut waiting = Waiting::new(self.take()?);
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

/// A future that this thread polls; the runtime's thread drives its sockets and timers.
struct Waiting {
    work: Option<Work>,
    alarm: Arc<Alarm>,
    waker: Waker,
}

/// Wakes the thread that polls.
struct Alarm {
    thread: Thread,
    rung: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Waiting {
    fn new(work: Work) -> Self {
        let alarm = Arc::new(Alarm { thread: thread::current(), rung: AtomicBool::new(true) });
        Waiting { work: Some(work), waker: Waker::from(alarm.clone()), alarm }
    }

    /// Polls until the reply is there or the time has passed.
    fn slice(&mut self, limit: Duration) -> Option<Result<Reply, ClientError>> {
        let _runtime = runtime().enter();
        let end = Instant::now() + limit;
        loop {
            if self.alarm.rung.swap(false, Ordering::AcqRel) {
                let mut work = pin!(self.work.as_mut()?);
                if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                    self.work = None;
                    return Some(outcome);
                }
                continue;
            }
            let left = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            thread::park_timeout(left);
        }
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
