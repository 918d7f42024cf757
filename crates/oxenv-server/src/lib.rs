//! The doors: HTTP, WebSocket and MCP, over sessions of `oxenv-core`.
//!
//! Invariant: no environment logic here. A handler translates a request, calls a session, and
//! translates the reply; `error.rs` is the one place that maps failures to statuses and codes.
//!
//! Entry points: [`Server::run`] accepts connections until told to stop; [`router`] is the routes
//! alone, for tests and for embedding.

mod app;
mod auth;
mod config;
mod connections;
mod error;
mod hosts;
mod http;
mod judge;
mod load;
mod mcp;
mod metrics;
mod openapi;
mod operations;
mod peer;
mod peer_stream;
mod route;
mod routes;
mod server;
mod shutdown;
mod stall_timeout;
mod timing;
mod traces;
mod trajectories;
mod ws;

pub use app::App;
pub use auth::tokens::{TokenError, Tokens};
pub use config::{Mode, ServerConfig};
pub use connections::raise_descriptor_limit;
pub use judge::{HttpJudge, HttpJudgeOptions, JudgeKey};
pub use mcp::stdio::{serve_pipe, serve_stdio};
pub use metrics::{AuditStatus, Metrics, RecordStatus};
pub use routes::router;
pub use server::{Server, serve_connection};
pub use shutdown::Shutdown;
pub use trajectories::{EntriesPage, TrajectoryFilter, TrajectorySource};
