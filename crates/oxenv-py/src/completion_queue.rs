//! Replies for an event loop: a list, and a descriptor that is readable while there are some.
//!
//! Invariant: whoever puts a reply here never waits for the interpreter; one wake-up serves all replies that came
//! until it is answered.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use oxenv_client::{ClientError, Code};
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::error::raised;
use crate::reply::Reply;
use crate::request::Request;
use crate::runtime::{generation, lock, start};

type Outcome = Result<Reply, ClientError>;

/// The replies that an event loop waits for.
#[pyclass(frozen, module = "oxenv._native")]
pub(crate) struct Mailbox {
    shared: Arc<Shared>,
    bell: UnixStream,
    born: usize,
}

struct Shared {
    arrived: Mutex<Vec<(u64, Outcome)>>,
    running: Mutex<Running>,
    rope: UnixStream,
}

#[derive(Default)]
struct Running {
    last: u64,
    tasks: HashMap<u64, AbortHandle>,
}

/// Puts the outcome of its request into the mailbox, and a failure if there is none.
struct Delivery {
    shared: Arc<Shared>,
    ticket: u64,
    outcome: Option<Outcome>,
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rope.set_nonblocking(true)?;
        let shared = Arc::new(Shared { arrived: Mutex::default(), running: Mutex::default(), rope });
        Ok(Mailbox { shared, bell, born: generation() })
    }

    /// The descriptor that is readable while there are replies.
    fn fileno(&self) -> i32 {
        self.bell.as_raw_fd()
    }

    /// Whether it was made by this process, not by one that forked it.
    #[getter]
    fn ours(&self) -> bool {
        self.born == generation()
    }

    /// Sends a request; gives the number that its reply will have.
    fn start(&self, request: &Request) -> PyResult<u64> {
        let work = request.take()?;
        let mut running = lock(&self.shared.running);
        running.last += 1;
        let ticket = running.last;
        let delivery = Delivery { shared: self.shared.clone(), ticket, outcome: None };
        let task = start(async move {
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
        let mut rings = [0_u8; 64];
        while matches!((&self.bell).read(&mut rings), Ok(n) if n == rings.len()) {}
        let arrived = std::mem::take(&mut *lock(&self.shared.arrived));
        let spelled = |(ticket, outcome): (u64, Outcome)| {
            let reply = outcome.map_err(|error| raised(py, &error)).and_then(|reply| reply.into_python(py));
            match reply {
                Ok(reply) => (ticket, true, reply),
                Err(error) => (ticket, false, error.into_value(py).into_any()),
            }
        };
        Ok(arrived.into_iter().map(spelled).collect())
    }
}

impl Delivery {
    fn fill(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        lock(&self.shared.running).tasks.remove(&self.ticket);
        let outcome = self.outcome.take().unwrap_or_else(|| Err(broken()));
        let mut arrived = lock(&self.shared.arrived);
        arrived.push((self.ticket, outcome));
        if arrived.len() == 1 {
            // It can be full only if the loop does not look, and then one more byte tells it nothing.
            let _ = (&self.shared.rope).write(&[1]);
        }
    }
}

/// Nobody waits for the reply of a cancelled request; this is for one that ended without a reply by itself.
fn broken() -> ClientError {
    ClientError::new(Code::InvalidReply, "the request ended without a reply: a fault of the client itself")
}
