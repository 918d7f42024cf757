//! What a server sends on a socket of `oxenv.1`, and the results of a batch.
//!
//! Invariant: the keys come in one order: `id`, `session`, `seq`, `type`, `repeated`, `data`. A failure
//! is a reply of the type `error` in the place of the requested one, and carries no reward.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Delivered, ErrorCode, FailureKind, Phase};
use crate::issue::ValidationIssue;
use crate::json::{Json, RawJson, raw};
use crate::reply::{ErrorData, push_integer};
use crate::result::push_string;

/// The kind of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyKind {
    /// The observation of a reset or a step.
    Observation,
    /// The state.
    State,
    /// A session was made.
    Opened,
    /// A session is this socket's now.
    Attached,
    /// Sessions were made of another's present state.
    Forked,
    /// A session was saved.
    Snapshot,
    /// A session was ended.
    Closed,
    /// The tools.
    Tools,
    /// The request had no outcome.
    Error,
    /// The results of a batch, or the first of them.
    Batch,
    /// One later result of a batch.
    BatchMore,
    /// The lease of a session begins anew.
    KeptAlive,
    /// Another socket has taken a session; this frame was not requested.
    Taken,
}

impl ReplyKind {
    /// Every kind.
    pub const ALL: [ReplyKind; 13] = [
        ReplyKind::Observation,
        ReplyKind::State,
        ReplyKind::Opened,
        ReplyKind::Attached,
        ReplyKind::Forked,
        ReplyKind::Snapshot,
        ReplyKind::Closed,
        ReplyKind::Tools,
        ReplyKind::Error,
        ReplyKind::Batch,
        ReplyKind::BatchMore,
        ReplyKind::KeptAlive,
        ReplyKind::Taken,
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ReplyKind::Observation => "observation",
            ReplyKind::State => "state",
            ReplyKind::Opened => "opened",
            ReplyKind::Attached => "attached",
            ReplyKind::Forked => "forked",
            ReplyKind::Snapshot => "snapshot",
            ReplyKind::Closed => "closed",
            ReplyKind::Tools => "tools",
            ReplyKind::Error => "error",
            ReplyKind::Batch => "batch",
            ReplyKind::BatchMore => "batch_more",
            ReplyKind::KeptAlive => "kept_alive",
            ReplyKind::Taken => "taken",
        }
    }
}

/// What stands around the data of a reply.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReplyHead<'a> {
    /// The request's id; absent within a batch and in an unrequested frame.
    pub id: Option<Json<'a>>,
    /// The session that it is about, if it is about one.
    pub session: Option<&'a str>,
    /// The number that the request got within its session, or the session's last.
    pub seq: Option<u64>,
    /// Whether this is the first reply to a request that was repeated.
    pub repeated: bool,
}

/// A reply as a client reads it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiReply {
    /// The request's id.
    pub id: Option<Value>,
    /// The session that it is about.
    pub session: Option<String>,
    /// The number that the request got within its session.
    pub seq: Option<u64>,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: ReplyKind,
    /// Whether it is the first reply to a request that was repeated.
    #[serde(default)]
    pub repeated: bool,
    /// Its content; only an event has none.
    pub data: Option<RawJson>,
}

/// The data of an error as a client reads it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MultiError {
    /// What happened and what to do about it.
    pub message: String,
    /// The precise code.
    pub code: ErrorCode,
    /// Where the fault lies.
    pub kind: FailureKind,
    /// In which phase it happened.
    pub phase: Phase,
    /// Whether the request reached the environment.
    pub delivered: Delivered,
    /// Whether a repeat is worth it.
    pub retryable: bool,
    /// Seconds after which a repeat is worth it.
    pub retry_after_s: Option<u64>,
    /// What is wrong with the request, where that is the reason.
    #[serde(default)]
    pub errors: Vec<Value>,
}

/// Appends a reply; `data` appends its data.
pub fn write_multi_reply(
    out: &mut String,
    head: &ReplyHead<'_>,
    kind: ReplyKind,
    data: impl FnOnce(&mut String),
) {
    out.push('{');
    if let Some(id) = head.id {
        out.extend(["\"id\":", id.get(), ","]);
    }
    if let Some(session) = head.session {
        out.push_str("\"session\":");
        push_string(out, session);
        out.push(',');
    }
    if let Some(seq) = head.seq {
        out.push_str("\"seq\":");
        push_integer(out, seq);
        out.push(',');
    }
    out.extend(["\"type\":\"", kind.name(), "\""]);
    if head.repeated {
        out.push_str(",\"repeated\":true");
    }
    if kind != ReplyKind::Taken {
        out.push_str(",\"data\":");
        data(out);
    }
    out.push('}');
}

/// Appends a reply of the type `error`.
pub fn write_multi_error(
    out: &mut String,
    head: &ReplyHead<'_>,
    message: &str,
    ours: &ErrorData,
    retry_after_s: Option<u64>,
    issues: &[ValidationIssue],
) {
    write_multi_reply(out, head, ReplyKind::Error, |out| {
        out.push_str("{\"message\":");
        push_string(out, message);
        // The rest is an object of its own; its brace becomes a comma.
        let at = out.len();
        out.push_str(raw(ours).unwrap_or_default().get());
        out.replace_range(at..=at, ",");
        out.pop();
        if let Some(seconds) = retry_after_s {
            out.push_str(",\"retry_after_s\":");
            push_integer(out, seconds);
        }
        if !issues.is_empty() {
            out.push_str(",\"errors\":");
            out.push_str(raw(issues).unwrap_or_default().get());
        }
        out.push('}');
    });
}

/// Appends the data of a batch: each result as it was written, `null` for one that is still to come. The
/// indices of those are listed with `pending`.
pub fn write_batch_data<'a>(
    out: &mut String,
    results: impl Iterator<Item = Option<&'a str>>,
    list_pending: bool,
) {
    let mut pending: Vec<usize> = Vec::new();
    out.push_str("{\"results\":[");
    for (index, result) in results.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(result.unwrap_or("null"));
        if result.is_none() {
            pending.push(index);
        }
    }
    out.push(']');
    if list_pending {
        out.push_str(",\"pending\":");
        out.push_str(raw(&pending).unwrap_or_default().get());
    }
    out.push('}');
}
