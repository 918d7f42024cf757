//! The frames that a client sends, written key by key.
//!
//! Invariant: what is JSON already (an action, a quoted id) goes in as it is; nothing is read again.

use std::fmt::Write as _;
use std::time::Duration;

/// Bytes of a small request.
const INITIAL_CAPACITY: usize = 256;

/// A request that is being written.
pub(super) struct FrameWriter(String);

impl FrameWriter {
    /// A request with that id.
    pub(super) fn request(id: u64, kind: &str) -> Self {
        let mut text = String::with_capacity(INITIAL_CAPACITY);
        // Writing to a string does not fail.
        let _ = write!(text, "{{\"id\":{id},\"type\":\"{kind}\"");
        FrameWriter(text)
    }

    /// An item of a batch: a request without an id.
    pub(super) fn item(kind: &str) -> Self {
        let mut text = String::with_capacity(INITIAL_CAPACITY);
        let _ = write!(text, "{{\"type\":\"{kind}\"");
        FrameWriter(text)
    }

    /// With a key whose value is JSON.
    pub(super) fn with(mut self, key: &str, json: &str) -> Self {
        self.0.extend([",\"", key, "\":", json]);
        self
    }

    /// With a key whose value is text, if there is one.
    pub(super) fn with_text(self, key: &str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.with(key, &quote(text)),
            None => self,
        }
    }

    /// With a key whose value is a number, if there is one.
    pub(super) fn with_number(mut self, key: &str, number: Option<u64>) -> Self {
        if let Some(number) = number {
            let _ = write!(self.0, ",\"{key}\":{number}");
        }
        self
    }

    /// With a deadline in seconds.
    pub(super) fn with_deadline(mut self, timeout: Duration) -> Self {
        let _ = write!(self.0, ",\"timeout_s\":{}", timeout_seconds(timeout));
        self
    }

    /// The whole frame.
    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A deadline in seconds. One of 0 is refused by servers; one so near has passed anyhow.
pub(super) fn timeout_seconds(timeout: Duration) -> f64 {
    timeout.as_secs_f64().max(0.001)
}

/// A text as JSON.
pub(super) fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use oxenv_wire::{MultiFrame, MultiWork};

    use super::*;

    #[test]
    fn a_step_reads_as_what_it_is() {
        let text = FrameWriter::request(7, "step")
            .with("session", &quote("a\"b"))
            .with_text("key", Some("k"))
            .with_number("expected_step", Some(3))
            .with_deadline(Duration::from_millis(1500))
            .with("data", r#"{"x":1}"#)
            .finish();
        let frame = MultiFrame::parse(&text).expect(&text);
        assert_eq!(frame.id.get(), "7");
        let MultiWork::One(request) = frame.work else { panic!("{text}") };
        assert_eq!((&*request.session, request.key.as_deref()), ("a\"b", Some("k")));
        assert_eq!(
            (request.expected_step, request.timeout_s.map(oxenv_wire::Seconds::get)),
            (Some(3), Some(1.5))
        );
    }

    #[test]
    fn no_deadline_is_0_or_endless() {
        for timeout in [Duration::ZERO, Duration::MAX] {
            let text = FrameWriter::request(1, "step").with("session", "\"a\"").with_deadline(timeout);
            let text = text.with("data", "{}").finish();
            assert!(MultiFrame::parse(&text).is_ok(), "{text}");
        }
    }
}
