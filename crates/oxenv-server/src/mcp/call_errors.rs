//! Which outcomes of a call are errors of the protocol to a client of MCP.
//!
//! Invariant: a tool that fails is a result; what the client asked for wrongly is an error.

use oxenv_core::Failure;
use oxenv_wire::{ErrorCode, McpEra, RawJson, RpcCode, RpcError, ToolError, ToolErrorType, ToolResult};
use serde_json::{Value, json};

use super::tool_access::CallResult;
use crate::error;

/// The reply of MCP to an outcome. Errors of the protocol are a tool that does not
/// exist, a request that its tool refuses as malformed, a capability that the client lacks and a
/// session that cannot run the call; all else is a result.
pub(super) fn error_response(
    outcome: Result<CallResult, Failure>,
    era: McpEra,
    declared: impl FnOnce() -> Value,
) -> Result<CallResult, RpcError> {
    let outcome = outcome.map_err(|failure| error::rpc(&failure))?;
    match &outcome {
        Err(error)
            if error.error_type == ToolErrorType::ToolNotFound
                || error.code == Some(ErrorCode::ValidationError) =>
        {
            Err(RpcError::new(RpcCode::InvalidParams, error.message.as_str()))
        }
        Ok(ToolResult { input_required: Some(_), .. }) if era == McpEra::Handshake => {
            Ok(Err(ToolError::input_required()))
        }
        Ok(ToolResult { input_required: Some(wanted), .. }) => match lacking(wanted, &declared()) {
            Some(lacking) => Err(RpcError {
                code: RpcCode::MissingCapability,
                message: "the tool asks for what the client did not declare that it can do".to_owned(),
                data: json!({ "requiredCapabilities": lacking }),
            }),
            None => Ok(outcome),
        },
        _ => Ok(outcome),
    }
}

/// The capabilities that a client needs to give the wanted input and did not declare.
fn lacking(wanted: &RawJson, declared: &Value) -> Option<Value> {
    let wanted: Value = serde_json::from_str(wanted.get()).unwrap_or_default();
    let asked = wanted["inputRequests"].as_object()?.values();
    let needed = asked.filter_map(|request| match request["method"].as_str()? {
        "elicitation/create" => Some("elicitation"),
        "sampling/createMessage" => Some("sampling"),
        "roots/list" => Some("roots"),
        _ => None,
    });
    let lacking: serde_json::Map<String, Value> = needed
        .filter(|capability| declared.get(capability).is_none())
        .map(|capability| (capability.to_owned(), json!({})))
        .collect();
    (!lacking.is_empty()).then_some(Value::Object(lacking))
}
