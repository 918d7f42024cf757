//! What sessions report about their work, for counters and measurements.
//!
//! Invariant: without an observer nothing is measured, not even the time.

use std::time::Duration;

use oxenv_wire::ErrorCode;

use crate::end_reason::EndReason;
use crate::failure::Failure;

/// Counts and measures the work of sessions.
///
/// # Behavior
/// Every method is called from the thread that did the work, from several at once; it must not wait.
#[expect(unused_variables, reason = "the names say what an implementation gets")]
pub trait Observer: Send + Sync {
    /// An operation begins, for a caller with that place in a trace. Returns the operation's own
    /// place, which [`Operation::trace`] and the [`ObservedCall::trace`] of its calls repeat.
    fn begins(&self, caller: Option<TraceContext>) -> Option<TraceContext> {
        caller
    }

    /// A session was made, after waiting that long for a free slot.
    fn opened(&self, waited: Duration) {}

    /// A session could not be made.
    fn refused(&self, failure: &Failure) {}

    /// A session ended.
    fn ended(&self, reason: &EndReason) {}

    /// A session finished an operation.
    fn operated(&self, operation: &Operation<'_>);

    /// A tool call ended; calls of unknown tools are not reported.
    fn called(&self, call: &ObservedCall<'_>) {}
}

/// The operation of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// To begin an episode.
    Reset,
    /// To take a step.
    Step,
    /// To call a tool for an agent.
    AgentCall,
    /// To fork.
    Fork,
    /// To save a snapshot.
    Snapshot,
}

impl OperationKind {
    /// Its name in metrics and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OperationKind::Reset => "reset",
            OperationKind::Step => "step",
            OperationKind::AgentCall => "agent_call",
            OperationKind::Fork => "fork",
            OperationKind::Snapshot => "snapshot",
        }
    }
}

/// A finished operation of a session.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Its kind.
    pub kind: OperationKind,
    /// The session.
    pub session_id: &'a str,
    /// The session's epoch at the end.
    pub epoch: u64,
    /// How long it waited for earlier steps of its session.
    pub waited: Duration,
    /// How long it took after that.
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<&'a Failure>,
    /// The trace that it is part of, if its caller named one.
    pub trace: Option<TraceContext>,
}

/// A tool call that came to its end.
#[derive(Debug, Clone, Copy)]
pub struct ObservedCall<'a> {
    /// The session, if the call belongs to one.
    pub session_id: Option<&'a str>,
    /// The tool's name as it is offered.
    pub tool: &'a str,
    /// The toolset that owns it.
    pub toolset: &'a str,
    /// How long it took.
    pub took: Duration,
    /// Whether it gave a result in which the tool reports that it failed.
    pub tool_error: bool,
    /// Why it gave no result, if it gave none.
    pub error: Option<CallError>,
    /// The trace that it is part of, if its caller named one.
    pub trace: Option<TraceContext>,
}

/// Why a tool call gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallError {
    /// The category that stock clients know.
    pub error_type: oxenv_wire::ToolErrorType,
    /// The precise code, where there is one.
    pub code: Option<ErrorCode>,
}

/// A place in a trace (W3C Trace Context, level 1): the caller's, or one that an observer gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// In a place that an observer gave out: the span above it, or 0 where there is none. Absent in a
    /// caller's place.
    pub parent_id: Option<u64>,
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` when it is not one of a known shape.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let shaped =
            lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(span, 16) && lower_hex(flags, 2);
        // A later version may add parts; version 00 has none, and ff is never used.
        if !shaped || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(TraceContext { trace_id, span_id, parent_id: None, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_contexts_are_read_as_the_recommendation_says() {
        let good = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!((good.span_id, good.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert!(TraceContext::parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x").is_some());
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }
}
