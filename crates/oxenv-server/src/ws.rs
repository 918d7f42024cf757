//! The WebSocket doors: `/ws` for control, `/mcp` for agents.
//!
//! Invariant: one socket, one reply per request, in order; `oxenv.1` alone has several in flight. A socket is
//! always read, also while a step runs, so pings are answered and a gone client is noticed.

pub(crate) mod control;
pub(crate) mod mcp;
mod multi;
mod socket;
