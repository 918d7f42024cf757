//! The doors: HTTP, WebSocket and MCP, over sessions of `oxenv-core`.
//!
//! Invariant: no environment logic here. A handler translates a request, calls a session, and
//! translates the reply; `error.rs` is the one place that maps failures to statuses and codes.
//!
//! Entry points: [`Server::run`] accepts connections until a stop is requested; [`serve_connection`] serves
//! one that the caller has accepted; [`serve_stdio`] serves MCP to one client over standard input and output.
//!
//! ```
//! use oxenv_core::{SessionStore, StoreLimits};
//! use oxenv_server::{Server, ServerConfig};
//!
//! # #[tokio::main]
//! # async fn main() -> std::io::Result<()> {
//! let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
//! let server = Server::bind(([127, 0, 0, 1], 0).into(), store, ServerConfig::default()).await?;
//! println!("serving on http://{}", server.address()?);
//! # let stop = std::future::ready(());
//! server.run(stop).await;
//! # Ok(())
//! # }
//! ```

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
pub use server::{Server, serve_connection};
pub use shutdown::Shutdown;
pub use trajectories::{EntriesPage, TrajectoryFilter, TrajectorySource};
