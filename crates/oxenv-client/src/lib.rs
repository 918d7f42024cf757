//! Clients of environments: one session over WebSocket or HTTP, many sessions over one socket, the tools of
//! many MCP servers as one, and environments on Fleet.
//!
//! Invariant: a call's outcome is known, or reported as unknown. Nothing is sent twice unless it surely
//! was not delivered, or carries a key under which the server runs it once.

mod arguments;
pub mod blocking;
mod connection;
mod connection_clients;
mod dial;
mod env_client;
mod error;
pub mod fleet;
mod http_error;
mod multiplexer;
mod options;
#[cfg(feature = "providers")]
mod provided;
mod result;
mod server_address;
mod server_error;
mod typed;

pub use connection::Connection;
pub use connection_clients::BatchStep;
pub use env_client::EnvClient;
pub use error::{ClientError, Code, Result};
pub use multiplexer::{Conflict, EndpointReport, MultiplexOptions, Multiplexer, Strictness, ToolListing};
pub use options::{ClientOptions, OpenOptions, Protocol, ResetOptions, StepOptions};
#[cfg(feature = "providers")]
pub use provided::ProvidedEnv;
pub use result::{ForkedSession, StepResult};
pub use typed::{TypedClient, TypedResult};

/// The guide, whose code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/client.md")]
struct ClientGuide;
