//! Traces of operations and tool calls, for OpenTelemetry.
//!
//! Invariant: a span is handed over without waiting. What finds the queue full is dropped and
//! counted, so a receiver that is slow or away costs sessions nothing.
//!
//! `traces/span.rs` is a span and its JSON, `traces/export.rs` sends them.

mod export;
mod span;

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use oxenv_core::{ObservedCall, Observer, Operation, TraceContext};
use serde::Serialize;
use tokio::sync::mpsc;

pub(crate) use export::{Endpoint, Exporter};
use span::{Kind, Span, Value};

/// Maximum number of spans that wait for sending.
const MAX_QUEUED_SPANS: usize = 8192;

/// Makes spans of what sessions do.
pub(crate) struct Traces {
    environment: Arc<str>,
    ids: Ids,
    /// A trace of our own is recorded if half of its id is below this.
    below: u64,
    spans: mpsc::Sender<Span>,
    dropped: Arc<AtomicU64>,
}

impl Traces {
    /// Begins to send spans to a receiver. `sample` is the part of the traces without a caller's that is
    /// recorded, from 0 to 1.
    ///
    /// # Errors
    /// When there is no way to send anything.
    pub(crate) fn start(
        endpoint: &Endpoint,
        sample: f64,
        environment: &str,
    ) -> anyhow::Result<(Arc<Self>, Exporter)> {
        let (spans, queue) = mpsc::channel(MAX_QUEUED_SPANS);
        let dropped = Arc::new(AtomicU64::new(0));
        let exporter = Exporter::start(endpoint, queue, Arc::clone(&dropped))?;
        Ok((Arc::new(Self::new(sample, environment, spans, dropped)), exporter))
    }

    fn new(sample: f64, environment: &str, spans: mpsc::Sender<Span>, dropped: Arc<AtomicU64>) -> Self {
        // As casts do, 1 becomes the largest number.
        let below = (sample * u64::MAX as f64) as u64;
        Traces { environment: environment.into(), ids: Ids::default(), below, spans, dropped }
    }

    /// A place below another, or at the root of a trace of our own. A place that we gave out stands
    /// for what it was given to, and so for nothing else.
    fn place(&self, above: Option<TraceContext>) -> TraceContext {
        let span_id = self.ids.span();
        match above {
            Some(TraceContext { trace_id, span_id: parent, sampled, .. }) => {
                TraceContext { trace_id, span_id, parent_id: Some(parent), sampled }
            }
            None => {
                let trace_id = self.ids.trace();
                let sampled = self.below == u64::MAX || (trace_id as u64) < self.below;
                TraceContext { trace_id, span_id, parent_id: Some(0), sampled }
            }
        }
    }

    fn queue(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Observer for Traces {
    fn begins(&self, caller: Option<TraceContext>) -> Option<TraceContext> {
        Some(self.place(caller))
    }

    fn operated(&self, operation: &Operation<'_>) {
        let place = match operation.trace {
            Some(own) if own.parent_id.is_some() => own,
            caller => self.place(caller),
        };
        if !place.sampled {
            return;
        }
        let mut attributes = vec![
            ("oxenv.session.id", Value::Text(operation.session_id.into())),
            ("oxenv.epoch", Value::Whole(operation.epoch)),
            ("oxenv.environment", Value::Shared(Arc::clone(&self.environment))),
            ("oxenv.wait_seconds", Value::Real(operation.waited.as_secs_f64())),
        ];
        if let Some(failure) = operation.failure {
            attributes.push(("error.type", word(&failure.code)));
            attributes.push(("oxenv.failure.kind", word(&failure.kind)));
            attributes.push(("oxenv.failure.phase", word(&failure.phase)));
        }
        self.queue(Span {
            place,
            name: Cow::Borrowed(operation.kind.name()),
            kind: Kind::Server,
            ended: SystemTime::now(),
            took: operation.waited + operation.took,
            failed: operation.failure.is_some(),
            attributes,
        });
    }

    fn called(&self, call: &ObservedCall<'_>) {
        let place = self.place(call.trace);
        if !place.sampled {
            return;
        }
        let mut attributes = vec![
            ("gen_ai.operation.name", Value::Text("execute_tool".into())),
            ("gen_ai.tool.name", Value::Text(call.tool.into())),
            ("oxenv.toolset", Value::Text(call.toolset.into())),
        ];
        if let Some(session_id) = call.session_id {
            attributes.push(("oxenv.session.id", Value::Text(session_id.into())));
        }
        match call.error {
            Some(error) => {
                let code = error.code.map(|code| word(&code));
                attributes.push(("error.type", code.unwrap_or_else(|| word(&error.error_type))));
            }
            None if call.tool_error => attributes.push(("error.type", Value::Text("reported".into()))),
            None => {}
        }
        self.queue(Span {
            place,
            name: Cow::Owned(format!("execute_tool {}", call.tool)),
            kind: Kind::Internal,
            ended: SystemTime::now(),
            took: call.took,
            failed: call.error.is_some() || call.tool_error,
            attributes,
        });
    }
}

/// Unique ids: a counter, scattered by a function with a key of this process's own.
#[derive(Default)]
struct Ids {
    key: RandomState,
    next: AtomicU64,
}

impl Ids {
    fn trace(&self) -> u128 {
        u128::from(self.span()) << 64 | u128::from(self.span())
    }

    fn span(&self) -> u64 {
        // 0 is no id.
        self.key.hash_one(self.next.fetch_add(1, Ordering::Relaxed)).max(1)
    }
}

/// The name of a code, a kind or a phase on the wire.
fn word(of: &impl Serialize) -> Value {
    let word = serde_json::to_value(of).unwrap_or_default();
    Value::Text(word.as_str().unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oxenv_core::{Failure, OperationKind};
    use oxenv_wire::ErrorCode;
    use serde_json::json;

    use super::*;

    fn traces(sample: f64, queue: usize) -> (Traces, mpsc::Receiver<Span>) {
        let (spans, received) = mpsc::channel(queue);
        (Traces::new(sample, "echo", spans, Arc::default()), received)
    }

    fn operation(trace: Option<TraceContext>, failure: Option<&Failure>) -> Operation<'_> {
        let (waited, took) = (Duration::from_millis(250), Duration::from_millis(500));
        Operation { kind: OperationKind::Step, session_id: "s", epoch: 3, waited, took, failure, trace }
    }

    fn call(trace: Option<TraceContext>) -> ObservedCall<'static> {
        let took = Duration::from_millis(5);
        let (tool, toolset, session_id) = ("read", "files", Some("s"));
        ObservedCall { session_id, tool, toolset, took, tool_error: false, error: None, trace }
    }

    fn caller(flags: &str) -> Option<TraceContext> {
        TraceContext::parse(&format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"))
    }

    #[test]
    fn a_call_is_within_its_operation_and_that_within_the_callers_span() {
        let (traces, mut spans) = traces(0.0, 8);
        let place = traces.begins(caller("01"));
        traces.called(&call(place));
        traces.operated(&operation(place, None));
        let (tool, step) = (spans.try_recv().unwrap().json(), spans.try_recv().unwrap().json());
        assert_eq!((&tool["name"], &step["name"]), (&json!("execute_tool read"), &json!("step")));
        for span in [&tool, &step] {
            assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        }
        assert_eq!(step["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(tool["parentSpanId"], step["spanId"]);
        assert_ne!(tool["spanId"], step["spanId"]);
    }

    #[test]
    fn the_caller_decides_what_is_recorded_of_its_trace() {
        let (traces, mut spans) = traces(1.0, 8);
        let place = traces.begins(caller("00"));
        traces.called(&call(place));
        traces.operated(&operation(place, None));
        traces.operated(&operation(caller("00"), None));
        assert!(spans.try_recv().is_err());
        // A place that was not given out here stands above the reported span.
        traces.operated(&operation(caller("01"), None));
        assert_eq!(spans.try_recv().unwrap().json()["parentSpanId"], "00f067aa0ba902b7");
    }

    #[test]
    fn a_part_of_our_own_traces_is_recorded() {
        for (sample, expected) in [(0.0, 0..=0), (0.25, 800..=1200), (1.0, 4000..=4000)] {
            let (traces, mut spans) = traces(sample, 8000);
            for _ in 0..4000 {
                let place = traces.begins(None);
                traces.called(&call(place));
                traces.operated(&operation(place, None));
            }
            let mut roots = 0;
            while let Ok(tool) = spans.try_recv() {
                let (tool, step) = (tool.json(), spans.try_recv().unwrap().json());
                assert_eq!((&tool["traceId"], &tool["parentSpanId"]), (&step["traceId"], &step["spanId"]));
                assert!(step.get("parentSpanId").is_none(), "{step}");
                roots += 1;
            }
            assert!(expected.contains(&roots), "{sample}: {roots}");
        }
    }

    #[test]
    fn a_full_queue_is_not_waited_for() {
        let (traces, spans) = traces(1.0, 2);
        (0..5).for_each(|_| traces.operated(&operation(None, None)));
        assert_eq!((spans.len(), traces.dropped.load(Ordering::Relaxed)), (2, 3));
    }

    #[test]
    fn a_span_says_how_long_and_what_failed() {
        let (traces, mut spans) = traces(1.0, 8);
        let late = Failure::new(ErrorCode::DeadlineExceeded, "what the client reads");
        traces.operated(&operation(None, Some(&late)));
        let span = spans.try_recv().unwrap().json();
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert_eq!(time("endTimeUnixNano") - time("startTimeUnixNano"), 750_000_000);
        assert_eq!(span["kind"], 2);
        assert_eq!(span["status"], json!({ "code": 2 }));
        let attributes = span["attributes"].as_array().unwrap();
        for (key, value) in [
            ("oxenv.session.id", json!({ "stringValue": "s" })),
            ("oxenv.epoch", json!({ "intValue": "3" })),
            ("oxenv.environment", json!({ "stringValue": "echo" })),
            ("oxenv.wait_seconds", json!({ "doubleValue": 0.25 })),
            ("error.type", json!({ "stringValue": "DEADLINE_EXCEEDED" })),
            ("oxenv.failure.kind", json!({ "stringValue": "timeout" })),
            ("oxenv.failure.phase", json!({ "stringValue": "step" })),
        ] {
            assert!(attributes.contains(&json!({ "key": key, "value": value })), "{key}: {span}");
        }
        assert!(!span.to_string().contains("what the client reads"));
    }
}
