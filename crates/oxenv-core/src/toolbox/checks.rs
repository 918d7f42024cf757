//! Whether a call may be made, and whether its result is what was declared.
//!
//! Invariant: what costs the least comes first, so that a caller past a rate limit cannot have arguments
//! checked. Arguments and results of ordinary size are checked at once; what takes longer is checked on a
//! thread for such work, held to the deadline of the call.

use std::sync::Arc;

use oxenv_schema::{
    CheckBudget, MAX_INLINE_BYTES, TooDeep, explain_unreadable, general_issue, issues, run_blocking,
};
use oxenv_wire::{
    ErrorCode, Structured, ToolError, ToolErrorType, ToolResult, ValidationIssue, empty_object, read,
    render_issues,
};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::catalogue::CatalogueEntry;
use super::mount::Mount;
use super::request::{CallRequest, end_of, until};
use super::resolved::ResolvedTool;
use crate::audit::Decision;
use crate::principal::Principal;
use crate::toolset::CallContext;

/// The message for arguments that do not fit, where the schema gives none.
const ARGUMENTS_DO_NOT_FIT: &str = "the arguments do not fit the tool's schema";

/// Why a call is not made.
pub(super) struct Refusal {
    pub(super) decision: Decision,
    pub(super) rule: Option<String>,
    pub(super) error: ToolError,
}

impl Refusal {
    fn denied(rule: &str, message: String) -> Self {
        let error = ToolError::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::Denied);
        Refusal { decision: Decision::Denied, rule: Some(rule.to_owned()), error }
    }

    fn invalid(error_type: ToolErrorType, message: String) -> Self {
        Refusal { decision: Decision::Invalid, rule: None, error: ToolError::new(error_type, message) }
    }

    fn invalid_arguments(tool: &str, issues: &[ValidationIssue]) -> Self {
        Self::invalid(ToolErrorType::InvalidArgs, render_issues(&format!("call[{tool}]"), issues))
    }
}

/// Whether the tool's schema or a rule restricts the arguments of a call.
pub(super) fn needs_argument_check(entry: &CatalogueEntry, mount: &Mount) -> bool {
    !mount.toolset.validates() || mount.policy.has_argument_rules(&entry.own)
}

/// Whether a result is checked against a schema.
pub(super) fn needs_result_check(entry: &CatalogueEntry, mount: &Mount, result: &ToolResult) -> bool {
    let declared = entry.tool.output_schema.is_some() && !mount.toolset.validates();
    declared && !result.is_error && result.input_required.is_none()
}

impl ResolvedTool<'_> {
    /// Whether a caller may call the tool at all.
    #[inline]
    pub(super) fn allowed(&self, entry: &CatalogueEntry, principal: Principal) -> Result<(), Refusal> {
        let Some(rule) = entry.denied_to(principal) else { return Ok(()) };
        Err(Refusal::denied(rule, format!("tool '{}' is not allowed here: {rule}", self.name)))
    }

    /// Whether a caller may call the tool now. Takes a token of its rate limits.
    pub(super) fn admit(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        context: CallContext<'_>,
    ) -> Result<(), Refusal> {
        self.allowed(entry, context.principal)?;
        let tool = self.name;
        let (session, server) = (&self.toolbox.buckets[entry.mount], &mount.server_buckets);
        mount.policy.admit(context.principal, session, server, std::time::Instant::now()).map_err(|early| {
            let message = format!(
                "tool '{tool}' may not be called so often ({}): try again in {:.1} s",
                early.rule,
                early.wait.as_secs_f64().max(0.1)
            );
            let error =
                ToolError::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::RateLimited);
            Refusal { decision: Decision::RateLimited, rule: Some(early.rule.to_owned()), error }
        })
    }

    /// Whether the arguments of a call fit its tool's schema and every rule about them.
    pub(super) async fn check_arguments(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        request: &CallRequest<'_>,
    ) -> Result<(), Refusal> {
        let tool = self.name;
        let arguments = request.arguments;
        let empty = empty_object();
        let arguments = arguments.unwrap_or(&empty);
        let bytes = arguments.get().len();
        if bytes <= MAX_INLINE_BYTES
            && (mount.toolset.validates() || entry.has_input())
            && let Ok(outcome) = judge_arguments(entry, mount, tool, arguments, &CheckBudget::inline())
        {
            return outcome;
        }
        let (catalogue, position, mount) = (Arc::clone(&self.catalogue), self.entry, mount.clone());
        let limit = mount.deadline.unwrap_or(self.toolbox.deadline);
        let began = Instant::now();
        let end = end_of(began, limit, request.deadline);
        let (name, arguments) = (tool.to_owned(), arguments.to_owned());
        let check = run_blocking(move |gone| {
            let budget = CheckBudget::full(bytes).cancelled_by(gone);
            let entry = catalogue.entry(position?);
            Some(judge_arguments(entry, &mount, &name, &arguments, &budget))
        });
        match until(end, check).await {
            Some(Some(Some(Ok(outcome)))) => outcome,
            Some(_) => {
                let message = format!("the arguments of tool '{tool}' are {TooDeep}");
                Err(Refusal::invalid(ToolErrorType::InvalidArgs, message))
            }
            None => {
                let seconds = began.elapsed().as_secs_f64();
                let message =
                    format!("the arguments of tool '{tool}' were not checked within {seconds:.1} s");
                Err(Refusal::invalid(ToolErrorType::Timeout, message))
            }
        }
    }

    /// A result that fits what its tool's server declared.
    pub(super) async fn check_result(
        &self,
        entry: &CatalogueEntry,
        mount: &Mount,
        request: &CallRequest<'_>,
        result: ToolResult,
    ) -> Result<ToolResult, ToolError> {
        let tool = self.name;
        let why = match result.structured {
            Structured::None => match entry.output() {
                Ok(Some(_)) => Some("it has no structured content".to_owned()),
                Ok(None) => None,
                Err(why) => Some(why),
            },
            Structured::Object(_) | Structured::Wrapped(_) => {
                let text = result.structured_object();
                let inline = text.len() <= MAX_INLINE_BYTES && entry.has_output();
                match inline.then(|| judge_result(entry, &text, &CheckBudget::inline())) {
                    Some(Ok(why)) => why,
                    _ => {
                        let (catalogue, position, text) =
                            (Arc::clone(&self.catalogue), self.entry, text.to_string());
                        let check = run_blocking(move |gone| {
                            let budget = CheckBudget::full(text.len()).cancelled_by(gone);
                            judge_result(catalogue.entry(position?), &text, &budget)
                                .unwrap_or_else(|why| Some(format!("it is {why}")))
                        });
                        let limit = mount.deadline.unwrap_or(self.toolbox.deadline);
                        match until(end_of(Instant::now(), limit, request.deadline), check).await {
                            Some(Some(why)) => why,
                            Some(None) => Some("it could not be checked".to_owned()),
                            None => {
                                Some("it could not be checked before the deadline of the call".to_owned())
                            }
                        }
                    }
                }
            }
        };
        match why {
            None => Ok(result),
            Some(why) => {
                let message = format!(
                    "the result of tool '{tool}' does not fit the output schema of its server: {why}"
                );
                let error = ToolError::new(ToolErrorType::ExecutionError, message);
                Err(error.with_code(ErrorCode::InvalidResult))
            }
        }
    }
}

/// # Errors
/// [`TooDeep`] when that could not be found out; the inner error when the call is refused.
fn judge_arguments(
    entry: &CatalogueEntry,
    mount: &Mount,
    tool: &str,
    arguments: &RawValue,
    budget: &CheckBudget,
) -> Result<Result<(), Refusal>, TooDeep> {
    let value = match read::<Value>(arguments) {
        Ok(value) => value,
        Err(error) => {
            return Ok(Err(Refusal::invalid_arguments(tool, &explain_unreadable(&error, arguments))));
        }
    };
    if !mount.toolset.validates() {
        match entry.input() {
            Err(why) => {
                let rule = "its schema is past what can be checked";
                return Ok(Err(Refusal::denied(rule, format!("tool '{tool}' cannot be called: {why}"))));
            }
            Ok(Some(schema)) if !schema.is_valid(&value, budget)? => {
                let issues = match issues(schema, &value, budget, ARGUMENTS_DO_NOT_FIT) {
                    Err(TooDeep) if budget.is_inline() => return Err(TooDeep),
                    Err(TooDeep) => {
                        general_issue(&value, &format!("{ARGUMENTS_DO_NOT_FIT}; where, is too deep to check"))
                    }
                    Ok(issues) => issues,
                };
                return Ok(Err(Refusal::invalid_arguments(tool, &issues)));
            }
            Ok(_) => {}
        }
    }
    Ok(mount.policy.check_within(&entry.own, &value, budget)?.map_err(|refusal| {
        let message = format!("these arguments of tool '{tool}' are not allowed here: {}", refusal.message);
        Refusal::denied(refusal.rule, message)
    }))
}

/// Why a structured result is not what its tool declared.
fn judge_result(entry: &CatalogueEntry, text: &str, budget: &CheckBudget) -> Result<Option<String>, TooDeep> {
    match (entry.output(), serde_json::from_str::<Value>(text)) {
        (Err(why), _) => Ok(Some(why)),
        (Ok(None), _) => Ok(None),
        (_, Err(error)) => Ok(Some(error.to_string())),
        (Ok(Some(schema)), Ok(value)) => schema.first_error(&value, budget),
    }
}
