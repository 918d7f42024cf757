//! A span, and how OTLP spells it in JSON: the protobuf JSON mapping, but ids are hexadecimal
//! (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>).
//!
//! Invariant: no arguments, observations, rewards or messages are in a span.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oxenv_core::TraceContext;
use serde_json::{Value as Json, json};

/// Something that was done, and when.
pub(super) struct Span {
    /// Its own place.
    pub(super) place: TraceContext,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: Kind,
    pub(super) ended: SystemTime,
    pub(super) took: Duration,
    pub(super) failed: bool,
    pub(super) attributes: Vec<(&'static str, Value)>,
}

/// Whether a span answers a request from outside; the numbers are OTLP's.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Internal = 1,
    Server = 2,
}

/// The value of an attribute.
pub(super) enum Value {
    Text(Box<str>),
    Shared(Arc<str>),
    Whole(u64),
    Real(f64),
}

/// OTLP's status of what failed; what did not has none.
const STATUS_ERROR: u8 = 2;

/// What is sent: spans, and their sender.
pub(super) fn request(spans: &[Span]) -> Json {
    let version = env!("CARGO_PKG_VERSION");
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            attribute("service.name", &json!({ "stringValue": "oxenv" })),
            attribute("service.version", &json!({ "stringValue": version })),
        ] },
        "scopeSpans": [{
            "scope": { "name": "oxenv", "version": version },
            "spans": spans.iter().map(Span::json).collect::<Vec<_>>(),
        }],
    }] })
}

impl Span {
    pub(super) fn json(&self) -> Json {
        let end = self.ended.duration_since(UNIX_EPOCH).unwrap_or_default();
        let attributes: Vec<Json> =
            self.attributes.iter().map(|(key, value)| attribute(key, &value.json())).collect();
        let mut span = json!({
            "traceId": format!("{:032x}", self.place.trace_id),
            "spanId": format!("{:016x}", self.place.span_id),
            "name": self.name,
            "kind": self.kind as u8,
            // Whole numbers of 64 bits are text.
            "startTimeUnixNano": end.saturating_sub(self.took).as_nanos().to_string(),
            "endTimeUnixNano": end.as_nanos().to_string(),
            "attributes": attributes,
        });
        if let Some(parent) = self.place.parent_id.filter(|parent| *parent != 0) {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        if self.failed {
            span["status"] = json!({ "code": STATUS_ERROR });
        }
        span
    }
}

impl Value {
    fn json(&self) -> Json {
        match self {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Shared(text) => json!({ "stringValue": &**text }),
            Value::Whole(number) => json!({ "intValue": number.to_string() }),
            Value::Real(number) => json!({ "doubleValue": number }),
        }
    }
}

fn attribute(key: &str, value: &Json) -> Json {
    json!({ "key": key, "value": value })
}
