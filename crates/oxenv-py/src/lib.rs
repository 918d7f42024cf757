//! The private native module `oxenv._native`; what Python programs use is hand-written around it.
//!
//! Invariant: nothing is decided here: values are translated, and the interpreter is let go while a call
//! waits. No thread of ours ever takes the interpreter's lock, so a busy program delays no socket.

mod completion_queue;
mod connection;
mod error;
mod fleet;
mod launch;
mod options;
mod reply;
mod request;
mod runtime;
mod runtime_driver;
mod session;

use pyo3::prelude::*;

/// The names of all codes, as exceptions have them.
#[pyfunction]
fn codes() -> Vec<String> {
    oxenv_client::Code::all().map(oxenv_client::Code::name).collect()
}

#[pymodule(gil_used = true)]
mod _native {
    #[pymodule_export]
    use super::codes;
    #[pymodule_export]
    use super::completion_queue::CompletionQueue;
    #[pymodule_export]
    use super::connection::NativeConnection;
    #[pymodule_export]
    use super::fleet::{NativeFleet, NativeMultiplexer, from_fleet};
    #[pymodule_export]
    use super::request::NativeRequest;
    #[pymodule_export]
    use super::runtime::{forked, shut_down};
    #[pymodule_export]
    use super::session::NativeSession;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
