//! Environments, toolsets and sessions: everything that happens between a door and an
//! environment, without knowing which door.
//!
//! Invariant: this crate knows no HTTP, no MCP transport, no database and no container, and a panic
//! in an environment ends its session, never the process.
//!
//! An author writes a [`TypedEnvironment`] and wraps it in [`typed`], or implements [`Environment`]
//! and [`EnvironmentFactory`] by hand; [`contract::check`] tells whether it keeps the rules. A door
//! asks a [`SessionStore`] for a [`Session`] and calls its `reset`, `step`, `call` and `state`.

pub mod contract;

mod environment;
mod failure;
mod native;
mod seed;
mod session;
mod spec;
mod store;
mod tool_schemas;
mod toolbox;
mod toolset;
mod typed;
mod validate;
mod work;

pub use environment::{CallRecord, Environment, Observed, Reset};
pub use failure::{Failure, FailureDetail};
pub use native::NativeToolset;
pub use seed::derive_seed;
pub use session::{
    AgentCall, Attachment, CallReply, EndReason, Listing, Principal, Session, SessionOptions, StepOptions,
    StepReply,
};
pub use spec::{
    ActionSpace, Boot, Capabilities, EnvironmentFactory, EnvironmentSpec, Execution, ForkMode, Instance,
    TaskFault, TaskSource,
};
pub use store::{Limits, SessionStore, StoreStatus};
pub use tool_schemas::tool_schemas;
pub use toolbox::Toolbox;
pub use toolset::{CallContext, Scope, Toolset};
pub use typed::{Step, TypedEnvironment, TypedFactory, typed};
pub use validate::explain;
pub use work::Work;
