//! Whether workers can be made, as far as is known, for `/ready`.
//!
//! Invariant: what has failed stays known until a worker is made; it is tried again at most once in a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::host_error::HostError;

/// How long after a failure a worker is tried again for nobody.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What was last known about the making of workers.
#[derive(Default)]
pub(crate) struct Readiness(Mutex<Option<LastFailure>>);

struct LastFailure {
    message: String,
    at: Instant,
}

impl Readiness {
    /// Remembers how the making of a worker came out.
    pub(crate) fn note<T>(&self, made: &Result<T, HostError>) {
        let failure = |error: &HostError| {
            // The rest is a traceback, or output of the environment.
            let first = error.message.lines().next().unwrap_or_default();
            LastFailure { message: format!("no session can be made: {first}"), at: Instant::now() }
        };
        *self.0.lock() = made.as_ref().err().map(failure);
    }

    /// Why no worker can be made.
    pub(crate) fn problem(&self) -> Option<String> {
        self.0.lock().as_ref().map(|failure| failure.message.clone())
    }

    /// Whether it is time to try again.
    pub(crate) fn is_retry_due(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|failure| failure.at.elapsed() > RETRY_INTERVAL)
    }
}
