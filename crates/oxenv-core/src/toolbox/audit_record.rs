//! What is reported of a finished call: one audit record, and its measure.
//!
//! Invariant: a call begins when its record has a place. It is reported when the recording is
//! finished or dropped: a call that was cancelled leaves a record too.

use std::borrow::Cow;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use oxenv_wire::{ErrorCode, RawJson, ToolError, ToolErrorType, ToolResult};
use serde_json::value::RawValue;

use super::request::CallRequest;
use super::shortened;
use crate::audit::{AuditOutcome, AuditRecord, AuditSink, Decision, utc_micros};
use crate::observe::{CallError, ObservedCall};
use crate::toolset::RequestError;
use crate::work::Work;

/// Removes what must not be written down.
pub type Redact = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// How long a call waits for a place before it is refused.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

/// Where records go, and what is in them.
pub struct Auditor {
    sink: Arc<dyn AuditSink>,
    arguments: bool,
    redact: Redact,
    calls: AtomicU64,
}

impl Auditor {
    /// Records to `sink`, with arguments only if asked; `redact` takes secrets out of arguments and
    /// messages.
    #[must_use]
    pub fn new(sink: Arc<dyn AuditSink>, arguments: bool, redact: Redact) -> Self {
        Auditor { sink, arguments, redact, calls: AtomicU64::new(0) }
    }

    /// Takes a place for the record of a call.
    async fn place(&self) -> Result<(), ToolError> {
        let place = self.sink.take_place();
        if matches!(place, Work::Done(_)) {
            return Ok(());
        }
        let refusal = Refusal(&*self.sink);
        // Boxed, because the timer is large.
        match Box::pin(tokio::time::timeout(PLACE_TIMEOUT, place)).await {
            Ok(()) => {
                mem::forget(refusal);
                Ok(())
            }
            Err(_) => {
                let message = "the call was not made, because it cannot be audited: the server's audit file \
                               takes no more records; repeat it later";
                let error = ToolError::new(ToolErrorType::TransportError, message);
                Err(error.with_code(ErrorCode::AuditUnavailable))
            }
        }
    }
}

/// A call that has no place, also if its caller goes away.
struct Refusal<'a>(&'a dyn AuditSink);

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        self.0.refused();
    }
}

/// One call that is being made.
pub(super) struct Recording<'a>(Option<OpenRecord<'a>>);

struct OpenRecord<'a> {
    auditor: Option<&'a Auditor>,
    request: &'a CallRequest<'a>,
    tool: &'a str,
    owner: Option<(&'a str, &'a str)>,
    decision: Decision,
    rule: Option<String>,
    began: SystemTime,
    clock: Instant,
}

impl<'a> Recording<'a> {
    /// Begins one; if there is no receiver it costs nothing.
    ///
    /// # Errors
    /// [`ErrorCode::AuditUnavailable`] if its record has no place within a second.
    pub(super) async fn begin(
        auditor: Option<&'a Auditor>,
        request: &'a CallRequest<'a>,
        tool: &'a str,
    ) -> Result<Self, ToolError> {
        if let Some(auditor) = auditor {
            auditor.place().await?;
        }
        let wanted = auditor.is_some() || request.observer.is_some();
        Ok(Recording(wanted.then(|| OpenRecord {
            auditor,
            request,
            tool,
            owner: None,
            decision: Decision::Allowed,
            rule: None,
            began: SystemTime::now(),
            clock: Instant::now(),
        })))
    }

    /// Sets the tool's toolset and name.
    pub(super) fn owned_by(&mut self, toolset: &'a str, own: &'a str) {
        if let Some(open) = &mut self.0 {
            open.owner = Some((toolset, own));
        }
    }

    /// Marks that it is made again for a copy of its session.
    pub(super) fn repeated(&mut self) {
        if let Some(open) = &mut self.0 {
            open.decision = Decision::Repeat;
        }
    }

    /// Marks that the call is not made, and by which rule.
    pub(super) fn refused(&mut self, decision: Decision, rule: Option<String>) {
        if let Some(open) = &mut self.0 {
            (open.decision, open.rule) = (decision, rule);
        }
    }

    pub(super) fn finish(mut self, outcome: &Result<ToolResult, ToolError>) {
        let Some(mut open) = self.0.take() else { return };
        match outcome {
            Ok(result) if result.is_error => {
                open.finish_with(AuditOutcome::ToolError, || Some(result.text().into()));
            }
            Ok(_) => open.finish_with(AuditOutcome::Ok, || None),
            Err(error) => {
                // A toolset that validates is the judge of its arguments; nothing has run.
                if error.error_type == ToolErrorType::InvalidArgs && open.decision == Decision::Allowed {
                    open.decision = Decision::Invalid;
                }
                let outcome = AuditOutcome::Error { error_type: error.error_type, code: error.code };
                // Errors of arguments quote their values.
                let hidden = error.error_type == ToolErrorType::InvalidArgs
                    && !open.auditor.is_some_and(|auditor| auditor.arguments);
                open.finish_with(outcome, || (!hidden).then(|| error.message.as_str().into()));
            }
        }
    }

    /// Ends the record of a request that is not a call.
    pub(super) fn answered(mut self, answer: &Result<RawJson, RequestError>) {
        let Some(open) = self.0.take() else { return };
        match answer {
            Ok(_) => open.finish_with(AuditOutcome::Ok, || None),
            Err(fault) => {
                let outcome = AuditOutcome::Error { error_type: ToolErrorType::ExecutionError, code: None };
                open.finish_with(outcome, || Some(fault.message.as_str().into()));
            }
        }
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let code = Some(ErrorCode::Cancelled);
            let outcome = AuditOutcome::Error { error_type: ToolErrorType::ExecutionError, code };
            open.finish_with(outcome, || Some("cancelled before it was finished".into()));
        }
    }
}

impl<'a> OpenRecord<'a> {
    fn finish_with<'m>(self, outcome: AuditOutcome, message: impl FnOnce() -> Option<Cow<'m, str>>) {
        if let (Some(observer), Some((toolset, _))) = (self.request.observer, self.owner) {
            let error = match outcome {
                AuditOutcome::Error { error_type, code } => Some(CallError { error_type, code }),
                AuditOutcome::Ok | AuditOutcome::ToolError => None,
            };
            observer.called(&ObservedCall {
                session_id: self.request.context.session_id,
                tool: self.tool,
                toolset,
                took: self.clock.elapsed(),
                tool_error: outcome == AuditOutcome::ToolError,
                error,
                trace: self.request.trace,
            });
        }
        if let Some(auditor) = self.auditor {
            self.write(auditor, outcome, message());
        }
    }

    fn write(self, auditor: &Auditor, outcome: AuditOutcome, message: Option<Cow<'_, str>>) {
        let context = self.request.context;
        // In this order, or a part of a secret might stay.
        let message = message.map(|message| shortened((auditor.redact)(&message)));
        let arguments = self.request.arguments.filter(|_| auditor.arguments);
        let arguments = arguments.and_then(|arguments| {
            // A secret within JSON text leaves JSON behind, because `***` needs no escape.
            RawValue::from_string((auditor.redact)(arguments.get())).ok()
        });
        let record = AuditRecord {
            time_us: utc_micros(self.began),
            call_id: &auditor.calls.fetch_add(1, Ordering::Relaxed).to_string(),
            principal: context.principal,
            session_id: context.session_id,
            epoch: context.epoch,
            step: context.session_id.map(|_| context.step),
            parent: None,
            tool: self.tool,
            toolset: self.owner.map(|(toolset, _)| toolset),
            upstream_tool: self.owner.map(|(_, own)| own),
            decision: self.decision,
            rule: self.rule.as_deref(),
            duration_us: u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX),
            outcome,
            message: message.as_deref(),
            arguments: arguments.as_deref(),
        };
        auditor.sink.record(&record);
    }
}
