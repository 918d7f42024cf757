//! Completed requests for an event loop: a list, and a descriptor that is readable while there are some.
//!
//! Invariant: a task that puts a reply here never waits for the interpreter; one wake-up serves all replies
//! that came until it is answered.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use oxenv_client::{ClientError, Code};
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::error::to_exception;
use crate::reply::ReplyResult;
use crate::request::NativeRequest;
use crate::runtime::{generation, lock, spawn};

/// The completed requests of one event loop.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct CompletionQueue {
    shared: Arc<QueueState>,
    wake_reader: UnixStream,
    born: usize,
}

struct QueueState {
    completed: Mutex<Vec<(u64, ReplyResult)>>,
    running: Mutex<RunningTasks>,
    wake_writer: UnixStream,
}

#[derive(Default)]
struct RunningTasks {
    last_ticket: u64,
    tasks: HashMap<u64, AbortHandle>,
}

/// Adds the result of its request to the queue; an error if it was dropped without one.
struct CompletionGuard {
    shared: Arc<QueueState>,
    ticket: u64,
    outcome: Option<ReplyResult>,
}

#[pymethods]
impl CompletionQueue {
    #[new]
    fn new() -> PyResult<Self> {
        let (wake_reader, wake_writer) = UnixStream::pair()?;
        wake_reader.set_nonblocking(true)?;
        wake_writer.set_nonblocking(true)?;
        let shared =
            Arc::new(QueueState { completed: Mutex::default(), running: Mutex::default(), wake_writer });
        Ok(CompletionQueue { shared, wake_reader, born: generation() })
    }

    /// The descriptor that is readable while there are replies.
    fn fileno(&self) -> i32 {
        self.wake_reader.as_raw_fd()
    }

    /// Whether it was made by this process, not by one that forked it.
    #[getter]
    fn ours(&self) -> bool {
        self.born == generation()
    }

    /// Sends a request; returns the number that its reply will have.
    fn start(&self, request: &NativeRequest) -> PyResult<u64> {
        let work = request.take()?;
        let mut running = lock(&self.shared.running);
        running.last_ticket += 1;
        let ticket = running.last_ticket;
        let delivery = CompletionGuard { shared: self.shared.clone(), ticket, outcome: None };
        let task = spawn(async move {
            let mut delivery = delivery;
            let outcome = work.await;
            delivery.fill(outcome);
        });
        running.tasks.insert(ticket, task);
        Ok(ticket)
    }

    /// Cancels a request, if it still runs.
    fn cancel(&self, ticket: u64) {
        let task = lock(&self.shared.running).tasks.remove(&ticket);
        if let Some(task) = task {
            task.abort();
        }
    }

    /// Takes the replies that are there: number, whether it is a reply, and the reply or the exception.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<(u64, bool, Py<PyAny>)>> {
        let mut bytes = [0_u8; 64];
        while matches!((&self.wake_reader).read(&mut bytes), Ok(n) if n == bytes.len()) {}
        let arrived = std::mem::take(&mut *lock(&self.shared.completed));
        let spelled = |(ticket, outcome): (u64, ReplyResult)| {
            let reply =
                outcome.map_err(|error| to_exception(py, &error)).and_then(|reply| reply.into_python(py));
            match reply {
                Ok(reply) => (ticket, true, reply),
                Err(error) => (ticket, false, error.into_value(py).into_any()),
            }
        };
        Ok(arrived.into_iter().map(spelled).collect())
    }
}

impl CompletionGuard {
    fn fill(&mut self, outcome: ReplyResult) {
        self.outcome = Some(outcome);
    }
}

impl Drop for CompletionGuard {
    fn drop(&mut self) {
        lock(&self.shared.running).tasks.remove(&self.ticket);
        let outcome = self.outcome.take().unwrap_or_else(|| Err(no_reply()));
        let mut arrived = lock(&self.shared.completed);
        arrived.push((self.ticket, outcome));
        if arrived.len() == 1 {
            // It can be full only if the loop does not read it, and then one more byte changes
            // nothing.
            let _ = (&self.shared.wake_writer).write(&[1]);
        }
    }
}

/// A cancelled request has no caller waiting for its reply; this is for one that ended without a reply by
/// itself.
fn no_reply() -> ClientError {
    ClientError::new(Code::InvalidReply, "the request ended without a reply: a fault of the client itself")
}
