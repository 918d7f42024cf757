//! What sessions leave behind on disk.
//!
//! Invariant: what was acknowledged is in the log; what could not be written is said, never hidden.
//!
//! [`JsonlAudit`] writes the audit record of every tool call as a line of JSON.

mod jsonl;
mod lines;

pub use jsonl::JsonlAudit;
