//! Code actions: programs that call an environment's tools, run by interpreters in worker processes.
//!
//! [`Monty`] is the engine for `SessionStore::with_code_engine` of `oxenv-core`; [`worker`] is the `main` of
//! its worker, which is a program of its own. [`contract::check`] is the suite that every engine passes.
//!
//! Invariant: code reaches the host through the tools that it is given, and through nothing else. What a
//! program does to its worker ends its own session's episode, with a typed error.

pub mod contract;
mod frames;
mod monty;
mod protocol;
mod signature;
pub mod worker;

pub use monty::{Monty, MontyOptions, StartError};
