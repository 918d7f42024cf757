//! Writes an entry as the JSON of its record.
//!
//! Invariant: texts pass through `redact` before they are written or hashed; raw JSON keeps its bytes
//! otherwise. A value over the limit becomes a blob, and its key shows it, so that a reference can
//! never be taken for data.

use std::fmt::Display;
use std::io::Write;

use oxenv_core::{CallEntry, Failure, RecordEntry, RecordEvent, RecordedOutcome, Redact, SessionOrigin};
use oxenv_wire::{Reward, Structured, ToolError, ToolResult};
use serde::Serialize;
use serde_json::value::RawValue;

use super::blobs::Blob;

/// The version of the entries, which each of them carries as `v`.
pub(crate) const ENTRY_VERSION: u64 = 1;

/// How values are written.
pub(super) struct ValueStyle<'a> {
    pub(super) redact: Option<&'a Redact>,
    /// Longer values become blobs.
    pub(super) inline: usize,
}

/// Appends the entry; returns the blobs that it names.
pub(super) fn write(out: &mut Vec<u8>, entry: &RecordEntry<'_>, style: &ValueStyle<'_>) -> Vec<Blob> {
    let mut object = ObjectWriter { out, style, blobs: Vec::new() };
    object.out.extend_from_slice(b"{\"v\":");
    object.display(ENTRY_VERSION);
    object.text("session", entry.session_id);
    object.number("seq", entry.seq);
    object.number("epoch", entry.epoch);
    object.number("time_us", entry.time_us);
    match &entry.event {
        RecordEvent::Opened { .. } => opened(&mut object, &entry.event),
        RecordEvent::Reset { .. } => reset(&mut object, &entry.event),
        RecordEvent::Step { .. } => step(&mut object, &entry.event),
        RecordEvent::Closed { reason } => {
            object.text("event", "closed");
            object.text("reason", reason);
            object.number("entries", entry.seq);
        }
    }
    object.out.push(b'}');
    object.blobs
}

fn opened(object: &mut ObjectWriter<'_>, event: &RecordEvent<'_>) {
    let RecordEvent::Opened { environment, version, deterministic, seed, episode_id, origin } = event else {
        return;
    };
    object.text("event", "opened");
    object.text("environment", environment);
    object.text("version", version);
    object.number("deterministic", deterministic);
    object.number("seed", seed);
    object.foreign_text("episode_id", episode_id);
    let (kind, session_id, seq) = match origin {
        None => return,
        Some(SessionOrigin::Fork { session_id, seq }) => ("fork", session_id, seq),
        Some(SessionOrigin::Snapshot { session_id, seq }) => ("snapshot", session_id, seq),
    };
    object.open("origin");
    object.text("kind", kind);
    object.text("session", session_id);
    object.number("seq", seq);
    object.out.push(b'}');
}

fn reset(object: &mut ObjectWriter<'_>, event: &RecordEvent<'_>) {
    let RecordEvent::Reset { seed, seed_given, episode_id, arguments, outcome, duration_us } = event else {
        return;
    };
    object.text("event", "reset");
    object.number("seed", seed);
    object.number("seed_given", seed_given);
    object.foreign_text("episode_id", episode_id);
    object.number("duration_us", duration_us);
    if let Some(arguments) = arguments {
        object.json(["arguments", "arguments_blob"], arguments.get());
    }
    outcome_of(object, outcome);
}

fn step(object: &mut ObjectWriter<'_>, event: &RecordEvent<'_>) {
    let RecordEvent::Step { step, principal, action, calls, outcome, duration_us } = event else { return };
    object.text("event", "step");
    object.number("step", step);
    object.key("principal");
    object.display(format_args!("\"{principal}\""));
    object.number("duration_us", duration_us);
    object.json(["action", "action_blob"], action.get());
    if !calls.is_empty() {
        object.key("calls");
        object.out.push(b'[');
        for call in *calls {
            call_of(object, call);
        }
        object.out.push(b']');
    }
    outcome_of(object, outcome);
}

fn outcome_of(object: &mut ObjectWriter<'_>, outcome: &RecordedOutcome<'_>) {
    match outcome {
        RecordedOutcome::Answered { reply, reward, done } => {
            match reward {
                None => object.null("reward"),
                Some(Reward::Bool(value)) => object.number("reward", value),
                Some(Reward::Int(value)) => object.number("reward", value),
                Some(reward @ Reward::Float(_)) => object.member("reward", reward),
            }
            object.number("done", done);
            object.json(["reply", "reply_blob"], reply);
        }
        RecordedOutcome::Failed(failure) => failure_of(object, failure),
    }
}

fn failure_of(object: &mut ObjectWriter<'_>, failure: &Failure) {
    object.open("failure");
    object.member("code", &failure.code);
    object.member("kind", &failure.kind);
    object.member("phase", &failure.phase);
    object.member("delivered", &failure.delivered);
    object.number("retryable", failure.retryable);
    object.foreign_text("message", &failure.message);
    if !failure.issues.is_empty()
        && let Ok(issues) = serde_json::value::to_raw_value(&failure.issues)
    {
        object.json(["issues", "issues_blob"], issues.get());
    }
    object.out.push(b'}');
}

fn call_of(object: &mut ObjectWriter<'_>, call: &CallEntry<'_>) {
    object.begin();
    if let Some(id) = call.id {
        object.foreign_text("id", id);
    }
    object.foreign_text("tool", call.tool);
    if let Some(arguments) = call.arguments {
        object.json(["arguments", "arguments_blob"], arguments.get());
    }
    match call.outcome {
        Ok(result) => result_of(object, result),
        Err(error) => error_of(object, error),
    }
    object.out.push(b'}');
}

fn result_of(object: &mut ObjectWriter<'_>, result: &ToolResult) {
    if let Some(asks) = &result.input_required {
        object.json(["input_required", "input_required_blob"], asks.get());
        return;
    }
    let mut text = String::new();
    result.write_mcp(&mut text);
    object.json(["result", "result_blob"], &text);
    // MCP has only objects; a value that was wrapped in one to be sent is unwrapped by the reader.
    if matches!(result.structured, Structured::Wrapped(_)) {
        object.number("wrapped", true);
    }
}

fn error_of(object: &mut ObjectWriter<'_>, error: &ToolError) {
    object.open("error");
    object.member("error_type", &error.error_type);
    object.foreign_text("message", &error.message);
    if let Some(code) = &error.code {
        object.member("code", code);
    }
    object.out.push(b'}');
}

/// Appends the members of objects.
struct ObjectWriter<'a> {
    out: &'a mut Vec<u8>,
    style: &'a ValueStyle<'a>,
    blobs: Vec<Blob>,
}

impl ObjectWriter<'_> {
    fn begin(&mut self) {
        if !matches!(self.out.last(), Some(b'[')) {
            self.out.push(b',');
        }
        self.out.push(b'{');
    }

    fn key(&mut self, key: &str) {
        if !matches!(self.out.last(), Some(b'{')) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Begins an object below that key, which the caller ends.
    fn open(&mut self, key: &str) {
        self.key(key);
        self.out.push(b'{');
    }

    fn display(&mut self, value: impl Display) {
        // Writing to a vector cannot fail.
        let _ = write!(self.out, "{value}");
    }

    /// A number or a boolean.
    fn number(&mut self, key: &str, value: impl Display) {
        self.key(key);
        self.display(value);
    }

    fn null(&mut self, key: &str) {
        self.number(key, "null");
    }

    /// A value of our own that serde writes.
    fn member(&mut self, key: &str, value: &impl Serialize) {
        self.key(key);
        if serde_json::to_writer(&mut *self.out, value).is_err() {
            self.display("null");
        }
    }

    /// A text that we chose.
    fn text(&mut self, key: &str, value: &str) {
        self.member(key, &value);
    }

    /// A text of unknown origin, which may hold a secret.
    fn foreign_text(&mut self, key: &str, value: &str) {
        match self.style.redact {
            None => self.text(key, value),
            Some(redact) => self.text(key, &redact(value)),
        }
    }

    /// Raw JSON below the first key, or a reference to it below the second.
    fn json(&mut self, [key, blob_key]: [&str; 2], json: &str) {
        let redacted = self.style.redact.map(|redact| keep_valid_json(redact(json), json));
        let json = redacted.as_deref().unwrap_or(json);
        if json.len() <= self.style.inline {
            self.key(key);
            self.out.extend_from_slice(json.as_bytes());
            return;
        }
        let blob = Blob::of(json);
        self.open(blob_key);
        self.text("sha256", &blob.sha256);
        self.number("bytes", json.len());
        self.out.push(b'}');
        self.blobs.push(blob);
    }
}

/// A secret within a string leaves JSON behind; a secret that is a number does not, and then the
/// whole value is dropped.
fn keep_valid_json(redacted: String, original: &str) -> String {
    let kept = redacted == original || serde_json::from_str::<&RawValue>(&redacted).is_ok();
    if kept { redacted } else { "\"***\"".to_owned() }
}
