//! MCP servers as toolsets: the manifest that names them and the clients that speak to them.
//!
//! Invariant: a call that may have been delivered is never repeated.

pub mod backoff;
mod client;
mod factory;
mod manager;
pub mod manifest;
pub mod remote;

pub use factory::{FactoryOptions, ToolFactory};
pub use manager::{Builtin, ManagerOptions, SessionContext, UpstreamManager, UpstreamState, UpstreamStatus};
