//! The one path of a tool call: resolved once, checked once, made, reported once.
//!
//! Invariant: a call sees one catalogue. It has a place for its audit record first; it is checked in the
//! order owner, name, rate, arguments; then come the call, the check of its result, and its report: its audit
//! record and its measure.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use oxenv_wire::{ErrorCode, ToolError, ToolErrorType, ToolResult};
use tokio::time::Instant;

use super::audit_record::Recording;
use super::catalogue::CatalogueEntry;
use super::mount::Mount;
use super::request::{CallRequest, end_of, until};
use super::resolved::ResolvedTool;
use super::{checks, contained, shortened};
use crate::audit::Decision;
use crate::work::Work;

impl ResolvedTool<'_> {
    /// Calls the tool. Dropping the future cancels the call.
    ///
    /// # Errors
    /// One of the five types of tool error, with a code of ours where that does not say enough:
    /// [`ErrorCode::Denied`], [`ErrorCode::RateLimited`], [`ErrorCode::InvalidResult`],
    /// [`ErrorCode::UpstreamUnavailable`], [`ErrorCode::UpstreamLost`], [`ErrorCode::DeadlineExceeded`],
    /// [`ErrorCode::AuditUnavailable`].
    pub async fn call(mut self, request: &CallRequest<'_>) -> Result<ToolResult, ToolError> {
        let mut recording = Recording::begin(self.toolbox.auditor.as_deref(), request, self.name).await?;
        if self.entry.is_none() {
            // Boxed, because it is rare and its future is large.
            Box::pin(self.wait_for_owner(request.deadline)).await;
        }
        let outcome = match self.entry() {
            Some(entry) => {
                let mount = &self.toolbox.mounts[entry.mount];
                recording.owned_by(mount.toolset.name(), &entry.own);
                self.judge_and_run(entry, mount, request, &mut recording).await
            }
            None => {
                recording.refused(Decision::NotFound, None);
                Err(self.toolbox.not_offered(request.context.principal, self.name))
            }
        };
        recording.finish(&outcome);
        outcome.map_err(|error| ToolError { message: shortened(error.message), ..error })
    }

    /// Waits until all toolsets have started, for as long as a call may take. A toolset that is not there
    /// then has no tools.
    async fn wait_for_owner(&mut self, deadline: Option<Instant>) {
        let mut settled = pin!(self.toolbox.settled());
        if poll_fn(|context| Poll::Ready(settled.as_mut().poll(context))).await.is_pending() {
            let _ = until(end_of(Instant::now(), self.toolbox.deadline, deadline), settled).await;
        }
        *self = Self::of(self.toolbox, self.name);
    }

    async fn judge_and_run(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        request: &CallRequest<'_>,
        recording: &mut Recording<'_>,
    ) -> Result<ToolResult, ToolError> {
        let mut allowed = self.admit(entry, mount, request.context);
        if allowed.is_ok() && checks::needs_argument_check(entry, mount) {
            allowed = Box::pin(self.check_arguments(entry, mount, request)).await;
        }
        if let Err(refusal) = allowed {
            recording.refused(refusal.decision, refusal.rule);
            return Err(refusal.error);
        }
        let result = self.run(entry, mount, request).await?;
        match checks::needs_result_check(entry, mount, &result) {
            true => Box::pin(self.check_result(entry, mount, request, result)).await,
            false => Ok(result),
        }
    }

    /// The call itself, held to its deadline, its panics contained.
    pub(super) async fn run(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        request: &CallRequest<'_>,
    ) -> Result<ToolResult, ToolError> {
        let name = self.name;
        let ran = match contained(|| mount.toolset.call(request.context, &entry.own, request.arguments)) {
            // A tool that finished at once needs no timer.
            Work::Done(Some(outcome)) => outcome,
            pending => {
                let limit = mount.deadline.unwrap_or(self.toolbox.deadline);
                let began = Instant::now();
                let end = end_of(began, limit, request.deadline);
                // Boxed, because the timer is large.
                match Box::pin(until(end, pending)).await {
                    Some(outcome) => outcome,
                    None => {
                        let waited = end.map_or(limit, |end| end - began);
                        let message = format!("tool '{name}' did not answer within {} s", rounded(waited));
                        let error = ToolError::new(ToolErrorType::Timeout, message);
                        return Err(error.with_code(ErrorCode::DeadlineExceeded));
                    }
                }
            }
        };
        ran.unwrap_or_else(|panic| {
            tracing::error!(tool = name, toolset = mount.toolset.name(), panic, "tool panicked");
            let message = format!("tool '{name}' panicked; its server's log says where");
            Err(ToolError::new(ToolErrorType::ExecutionError, message))
        })
    }
}

/// Seconds as people read them, to the millisecond.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}
