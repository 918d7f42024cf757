//! OpenEnv environments written in Python: imported once by a template process, and run in a process of
//! their own for each session.
//!
//! [`Host::start`] imports an environment, [`HostedFactory`] makes sessions of it. The Python side is
//! `worker.py`, which needs the standard library alone and is started with the environment's own Python.
//!
//! Invariant: a worker's death ends nothing but its own session's episode, with a typed error.

mod directory;
mod environment;
mod factory;
mod frames;
mod host;
mod host_error;
mod limits;
mod log_tail;
mod places;
mod protocol;
mod readiness;
mod reload;
mod session;
mod tasks;
mod template;
mod toolset;
mod worker;
mod worker_exit;

pub use directory::{MAX_COPIED_BYTES, size};
pub use factory::HostedFactory;
pub use host::{Host, HostOptions, Isolation};
pub use host_error::HostError;
pub use protocol::{HostSource, WorkerLimits};
