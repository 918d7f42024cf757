//! A call that is made again, to bring back what a toolset kept of the session that is copied.
//!
//! Invariant: it is checked by names, schema and rules about arguments as any other call, leaves one
//! audit record, and takes no tokens of a rate limit, which counts what callers ask for.

use oxenv_wire::{ToolError, ToolResult};

use super::audit_record::Recording;
use super::catalogue::CatalogueEntry;
use super::checks::{self, Refusal};
use super::mount::Mount;
use super::request::CallRequest;
use super::resolved::ResolvedTool;
use crate::audit::Decision;

impl ResolvedTool<'_> {
    /// Calls the tool as [`ResolvedTool::call`] does, for a copy of the session in which the call was made
    /// first. The context's principal is its caller. Its result is not checked: the caller compares it with
    /// the first.
    ///
    /// # Errors
    /// Those of [`ResolvedTool::call`], but for [`RateLimited`](oxenv_wire::ErrorCode::RateLimited).
    pub async fn repeat(self, request: &CallRequest<'_>) -> Result<ToolResult, ToolError> {
        let mut recording = Recording::begin(self.toolbox.auditor.as_deref(), request, self.name).await?;
        recording.repeated();
        let outcome = match self.entry() {
            Some(entry) => {
                let mount = &self.toolbox.mounts[entry.mount];
                recording.owned_by(mount.toolset.name(), &entry.own);
                match self.judge_repeat(entry, mount, request).await {
                    Ok(()) => self.run(entry, mount, request).await,
                    Err(refusal) => {
                        recording.refused(refusal.decision, refusal.rule);
                        Err(refusal.error)
                    }
                }
            }
            None => {
                recording.refused(Decision::NotFound, None);
                Err(self.toolbox.not_offered(request.context.principal, self.name))
            }
        };
        recording.finish(&outcome);
        outcome
    }

    async fn judge_repeat(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        request: &CallRequest<'_>,
    ) -> Result<(), Refusal> {
        self.allowed(entry, request.context.principal)?;
        match checks::needs_argument_check(entry, mount) {
            true => self.check_arguments(entry, mount, request).await,
            false => Ok(()),
        }
    }
}
