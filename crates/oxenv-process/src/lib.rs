//! Child processes that end with everything they started, and secrets kept out of what they write.
//!
//! Invariant: this crate alone starts processes (held by `tidy.rs`), and nothing that it started survives this
//! process, unless it was started to.

pub mod child;
pub mod run;
pub mod secret;
pub mod supervise;
