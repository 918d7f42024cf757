//! What sessions leave behind on disk.
//!
//! Invariant: what was acknowledged is in the log; what could not be written is reported, never
//! hidden.
//!
//! [`LogRecorder`] writes the log of what sessions did, [`LogReader`] reads it, [`Trajectories`] finds
//! sessions in it by way of an index, [`export_jsonl`] gives them to others. [`JsonlAudit`] writes the
//! audit record of every tool call as a line of JSON. The log's format is in `docs/records.md`.

mod error;
mod export;
mod index;
mod jsonl;
mod lines;
mod log;
mod stored;

pub use error::{LogError, Unlisted};
#[cfg(feature = "parquet")]
pub use export::export_parquet;
pub use export::{ExportError, Exported, LeftOut, export_jsonl};
pub use index::{Hole, Location, RefreshReport, SessionFilter, SessionSummary, Trajectories};
pub use jsonl::{AuditFileStatus, JsonlAudit};
pub use log::{Durability, LogOptions, LogReader, LogRecorder, Recovery, Retention, WriteLag};
pub use stored::{
    BlobRef, StoredCall, StoredEntry, StoredEvent, StoredFailure, StoredJson, StoredOrigin, StoredOutcome,
    StoredToolError,
};
