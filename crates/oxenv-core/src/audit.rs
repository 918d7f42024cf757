//! Audit: one record for each tool call, whatever its outcome, and where records go.
//!
//! Invariant: a record holds no secret values. The code that fills it in redacts `message` and
//! `arguments`, and sets `arguments` only when they were requested.

use std::time::{SystemTime, UNIX_EPOCH};

use oxenv_wire::{ErrorCode, ToolErrorType};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::principal::Principal;
use crate::work::Work;

/// Where audit records go.
///
/// # Behavior
/// - Each call takes a place before it is made or judged, and fills it with exactly one `record` when its
///   outcome is known, from any thread and from several at once.
/// - Neither waits for the medium on the thread of its caller, which runs sessions.
/// - A record that cannot be kept although it has a place is counted and logged, never lost silently.
pub trait AuditSink: Send + Sync {
    /// Takes a place for one record: at once, or when there is one. Dropping the work before takes none.
    fn take_place(&self) -> Work<'_, ()> {
        Work::done(())
    }

    /// Reports that a call was not made because the log had no place for its record in time.
    fn refused(&self) {}

    /// Keeps a record, in the place that its call has.
    fn record(&self, record: &AuditRecord<'_>);
}

/// The trace of one call. Absent parts are left out when it is written.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRecord<'a> {
    /// When the call began: microseconds of UTC since 1970.
    pub time_us: u64,
    /// The call's own id.
    pub call_id: &'a str,
    /// The caller.
    #[serde(serialize_with = "role")]
    pub principal: Principal,
    /// The session; absent for a call that needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// The session's epoch, 0 without a session.
    pub epoch: u64,
    /// The number of the step that the call was, or was part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The id of the call that made this one, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<&'a str>,
    /// The tool's name as the caller gave it.
    pub tool: &'a str,
    /// The toolset that owns it; absent if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toolset: Option<&'a str>,
    /// The tool's name in its toolset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_tool: Option<&'a str>,
    /// Whether the call was let through.
    pub decision: Decision,
    /// The rule that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<&'a str>,
    /// How long it took, in microseconds.
    pub duration_us: u64,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: AuditOutcome,
    /// For an error: the message that the caller got, redacted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// The arguments, redacted; only when records are asked to have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<&'a RawValue>,
}

/// Whether a call was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was.
    Allowed,
    /// It was, as one that is made again for a fork or a restored session: no rate limit counts it.
    Repeat,
    /// A rule about names or arguments refused it.
    Denied,
    /// It came too early.
    RateLimited,
    /// The arguments do not fit the tool's own schema.
    Invalid,
    /// There is no tool of that name.
    NotFound,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum AuditOutcome {
    /// A result.
    Ok,
    /// A result in which the tool reports that it failed.
    ToolError,
    /// No result.
    Error {
        /// The category that stock clients know.
        error_type: ToolErrorType,
        /// The precise code, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<ErrorCode>,
    },
}

/// A sink that keeps records in memory, as the JSON that they would be written as.
#[derive(Debug, Default)]
pub struct MemoryAudit(Mutex<Vec<Value>>);

/// Microseconds of UTC since 1970, for [`AuditRecord::time_us`].
#[must_use]
pub fn utc_micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl MemoryAudit {
    /// The records so far, in the order in which they came.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        self.0.lock().clone()
    }
}

impl AuditSink for MemoryAudit {
    fn record(&self, record: &AuditRecord<'_>) {
        let record = serde_json::to_value(record)
            .unwrap_or_else(|error| Value::String(format!("not writable as JSON: {error}")));
        self.0.lock().push(record);
    }
}

fn role<S: Serializer>(principal: &Principal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(principal)
}
