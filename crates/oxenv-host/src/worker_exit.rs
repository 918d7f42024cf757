//! How the process of a worker has ended.
//!
//! Invariant: a process is described in the same words however it was started.

use std::fmt;
use std::process::ExitStatus;

use oxenv_process::child::describe_signal;

use crate::protocol::ChildExit;

/// How a worker's process has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WorkerExit {
    /// With that code.
    Code(i32),
    /// By that signal.
    Signal(i32),
    /// It was never started, for that reason.
    NotStarted(String),
    /// With its template.
    Lost,
}

impl WorkerExit {
    /// How a process ended whose supervisor has this status.
    pub(crate) fn of_supervised(status: ExitStatus) -> Self {
        match status.code() {
            Some(code @ 129..) => WorkerExit::Signal(code - 128),
            Some(code) => WorkerExit::Code(code),
            None => WorkerExit::Lost,
        }
    }

    /// How a child ended, as the template reports it.
    pub(crate) fn of(exit: &ChildExit) -> Self {
        match exit.status {
            None => WorkerExit::NotStarted(exit.error.clone().unwrap_or_default()),
            Some(code @ 0..) => WorkerExit::Code(code),
            Some(signal) => WorkerExit::Signal(-signal),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerExit::Code(code) => write!(f, "exited with code {code}"),
            WorkerExit::Signal(signal) => f.write_str(&describe_signal(*signal)),
            WorkerExit::NotStarted(why) => write!(f, "could not be started: {why}"),
            WorkerExit::Lost => f.write_str("ended with the process that had imported the environment"),
        }
    }
}
