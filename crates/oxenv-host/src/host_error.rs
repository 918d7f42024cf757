//! Why an environment cannot be served, for people.
//!
//! Invariant: it says what happened and what to do about it.

use std::io;

use crate::protocol::{ErrorKind, WorkerError};

/// Why an environment cannot be served.
#[derive(Debug)]
pub struct HostError {
    /// What happened and what to do about it.
    pub message: String,
    /// The module that is not installed, if that is why.
    pub missing_module: Option<String>,
}

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}

impl HostError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        HostError { message: message.into(), missing_module: None }
    }

    pub(crate) fn import(error: WorkerError, lines: &str) -> Self {
        let shown = match error.kind {
            ErrorKind::Host => error.message,
            _ => match error.trace {
                Some(trace) => format!("the environment cannot be imported: {}\n{trace}", error.message),
                None => format!("the environment cannot be imported: {}", error.message),
            },
        };
        let message = if lines.is_empty() { shown } else { format!("{shown}\nits output:\n{lines}") };
        HostError { message, missing_module: error.module }
    }
}

impl From<io::Error> for HostError {
    fn from(error: io::Error) -> Self {
        HostError::new(error.to_string())
    }
}
