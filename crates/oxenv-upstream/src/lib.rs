//! MCP servers as toolsets: the manifest that names them, the clients that speak to them, the
//! processes that run them.
//!
//! Invariant: only `child.rs` spawns processes, and it ends them; a call that may have been
//! delivered is never repeated.

pub mod backoff;
pub mod child;
mod client;
mod factory;
mod manager;
pub mod manifest;
pub mod remote;
pub mod secret;
pub mod supervise;

pub use factory::{FactoryOptions, ToolFactory};
pub use manager::{Builtin, ManagerOptions, SessionContext, UpstreamManager, UpstreamState, UpstreamStatus};
