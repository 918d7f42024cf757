//! Writing replies: observations, states and errors, one buffer each.
//!
//! Invariant: these are the only places where a reply's envelope is spelled. OpenEnv 0.10's form is
//! written always; older clients ignore its additions. `metadata` stands inside the observation
//! always, and at the top when it is not empty (over HTTP: null when empty; on the socket: absent).

use serde::Serialize;
use serde_json::Value;

use crate::error::{Delivered, ErrorCode, FailureKind, Phase};
use crate::issue::ValidationIssue;
use crate::json::raw;
use crate::result::push_string;
use crate::reward::Reward;

/// The parts of an observation beside its own fields.
#[derive(Debug, Clone, Copy)]
pub struct ObservationParts<'a> {
    /// The metadata as JSON text, an object; `{}` when there is none.
    pub metadata: &'a str,
    /// The reward; none is null.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
}

/// Appends an `observation` frame around what [`write_observation_data`] appends.
///
/// ```
/// use oxenv_wire::{ObservationParts, Reward, write_observation_frame};
///
/// let mut frame = String::new();
/// let parts = ObservationParts { metadata: "{}", reward: Some(Reward::Int(1)), done: false };
/// write_observation_frame(&mut frame, &parts, |fields| fields.push_str(r#"{"board":[]}"#));
/// let frame: serde_json::Value = serde_json::from_str(&frame).unwrap();
/// assert_eq!((&frame["type"], &frame["data"]["reward"]), (&"observation".into(), &1.into()));
/// ```
pub fn write_observation_frame(
    out: &mut String,
    parts: &ObservationParts<'_>,
    fields: impl FnOnce(&mut String),
) {
    out.push_str("{\"type\":\"observation\",\"data\":");
    write_observation_data(out, parts, fields);
    out.push('}');
}

/// Appends the data of an `observation` frame. The reward keeps its JSON type. `fields` appends the
/// observation's own fields: an object without `metadata`, `reward` and `done`.
pub fn write_observation_data(
    out: &mut String,
    parts: &ObservationParts<'_>,
    fields: impl FnOnce(&mut String),
) {
    out.push('{');
    write_inner(out, parts.metadata, fields);
    match parts.reward {
        None => out.push_str("null"),
        Some(Reward::Bool(value)) => out.push_str(if value { "true" } else { "false" }),
        Some(Reward::Int(value)) => push_integer(out, value),
        Some(Reward::Float(value)) => push_float(out, value),
    }
    push_done(out, parts.done);
    if !is_empty(parts.metadata) {
        out.push_str(",\"metadata\":");
        out.push_str(parts.metadata);
    }
    out.push('}');
}

/// Appends the body of an HTTP reply to reset or step. The reward becomes a float. `fields` is as
/// for [`write_observation_data`].
pub fn write_observation_body(
    out: &mut String,
    parts: &ObservationParts<'_>,
    fields: impl FnOnce(&mut String),
) {
    out.push('{');
    write_inner(out, parts.metadata, fields);
    match parts.reward {
        None => out.push_str("null"),
        Some(reward) => push_float(out, reward.as_f64()),
    }
    push_done(out, parts.done);
    out.push_str(",\"metadata\":");
    out.push_str(if is_empty(parts.metadata) { "null" } else { parts.metadata });
    out.push('}');
}

/// Appends a `state` frame around a state object.
pub fn write_state_frame(out: &mut String, state: &str) {
    out.push_str("{\"type\":\"state\",\"data\":");
    out.push_str(state);
    out.push('}');
}

/// Appends an `mcp` frame; `write` appends its data.
pub fn write_mcp_frame(out: &mut String, write: impl FnOnce(&mut String)) {
    out.push_str("{\"type\":\"mcp\",\"data\":");
    write(out);
    out.push('}');
}

/// Our own part of an error: `data.oxenv` on the socket, `oxenv` in an HTTP body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ErrorData {
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
}

/// Appends an `error` frame. `extra` holds stock fields of the code (`active_sessions`, …).
pub fn write_error_frame(
    out: &mut String,
    code: ErrorCode,
    message: &str,
    issues: &[ValidationIssue],
    extra: &[(&str, Value)],
    ours: Option<&ErrorData>,
) {
    out.push_str("{\"type\":\"error\",\"data\":{\"message\":");
    push_string(out, message);
    out.push_str(",\"code\":");
    push_json(out, &code.stock());
    if !issues.is_empty() {
        out.push_str(",\"errors\":");
        push_json(out, &issues);
    }
    for (key, value) in extra {
        out.push(',');
        push_string(out, key);
        out.push(':');
        push_json(out, value);
    }
    if let Some(ours) = ours {
        out.push_str(",\"oxenv\":");
        push_json(out, ours);
    }
    out.push_str("}}");
}

/// `"observation":{"metadata":M,…fields},"reward":` with the reward to follow.
fn write_inner(out: &mut String, metadata: &str, fields: impl FnOnce(&mut String)) {
    out.push_str("\"observation\":{\"metadata\":");
    out.push_str(metadata);
    let at = out.len();
    fields(out);
    // The fields' object goes on where the metadata ends, so its brace becomes a comma.
    if is_empty(&out[at..]) {
        out.truncate(at);
        out.push('}');
    } else {
        out.replace_range(at..=at, ",");
    }
    out.push_str(",\"reward\":");
}

/// Whether an object's text holds nothing; another program may write that as `{ }`.
fn is_empty(object: &str) -> bool {
    object.strip_prefix('{').is_none_or(|rest| rest.trim_ascii_start().starts_with('}'))
}

fn push_done(out: &mut String, done: bool) {
    out.push_str(if done { ",\"done\":true" } else { ",\"done\":false" });
}

fn push_float(out: &mut String, value: f64) {
    // No float that JSON can say is longer, and a reply's own buffer needs no other for it.
    let mut text = [0_u8; 32];
    let mut rest = &mut text[..];
    let _ = serde_json::to_writer(&mut rest, &value);
    let left = rest.len();
    out.push_str(str::from_utf8(&text[..32 - left]).unwrap_or("null"));
}

/// Appends a whole number.
pub(crate) fn push_integer(out: &mut String, value: impl std::fmt::Display) {
    use std::fmt::Write as _;
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

fn push_json<T: Serialize + ?Sized>(out: &mut String, value: &T) {
    // Only numbers, strings and parsed JSON come here, and those always serialize.
    out.push_str(raw(value).unwrap_or_default().get());
}
