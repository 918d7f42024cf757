//! The HTTP routes.
//!
//! Invariant: a handler reads the body, calls a session, renders; nothing else. Bodies are bounded
//! in size and in time.

pub(crate) mod batch;
pub(crate) mod control;
pub(crate) mod docs;
pub(crate) mod fallback;
pub(crate) mod fork;
pub(crate) mod info;
pub(crate) mod metrics;
pub(crate) mod sessions;
pub(crate) mod tasks;
pub(crate) mod trajectories;

mod body;
mod idempotency;
mod params;

pub(crate) use body::bytes as read;
pub(crate) use params::{InPath, InQuery};
