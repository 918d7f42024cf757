//! The doors, through real sockets on port 0: what clients do, what they do wrong, and what is left
//! of it afterwards.
//!
//! Every test that opens a socket ends with [`served::Served::end`]: no session, no environment, no
//! connection task, no descriptor is left, and the server stops. Descriptors are those of the
//! process, so they are counted only under nextest, which runs each test in a process of its own.

mod attach;
mod attacks;
mod auth;
mod batch;
mod churn;
mod documented;
mod drain;
mod faults;
mod floods;
mod fork;
mod golden;
mod half_open;
mod hosts;
mod isolation;
mod judge;
mod lost_peers;
mod malformed_frames;
mod malformed_http;
mod malformed_rpc;
mod mcp_clients;
mod mcp_sessions;
mod mcp_short;
mod mcp_statuses;
mod mcp_wire;
mod metrics;
mod multi;
mod multi_support;
mod once;
mod opened;
mod production;
mod resume;
mod routes;
mod served;
mod sessions;
mod shutdown;
mod sockets;
// The same environments as the core's tests use.
#[allow(dead_code)]
#[path = "../../../oxenv-core/tests/it/stage.rs"]
mod stage;
mod statuses;
mod talker;
mod task_api;
