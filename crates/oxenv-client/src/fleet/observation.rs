//! Observations that the client makes: of resets, and of actions that are tool calls.
//!
//! Invariant: an observation has the shape of the spelling that it was asked in, as one of our servers gives
//! it; it has no reward, because Fleet reports none.

use oxenv_wire::{
    CallOutcome, ObservationParts, RawJson, Spelling, Tool, ToolCall, ToolError, ToolErrorType, ToolResult,
    call_metadata, write_call_fields, write_observation_data,
};
use serde_json::{Value, json};

use crate::error::{ClientError, Code, Result};
use crate::result::StepResult;

/// The observation of a reset: its message, the resources, the names of the tools.
pub(super) fn reset_observation(message: &str, resources: &Value, tools: &Value) -> Result<StepResult> {
    let fields = json!({ "message": message, "resources": resources, "tools": tools }).to_string();
    observation("{}", &fields)
}

/// The observation of `list_tools`.
pub(super) fn tools_observation(spelling: Spelling, tools: &[Tool]) -> Result<StepResult> {
    let tools: Vec<RawJson> = tools.iter().map(Tool::for_step).collect();
    let list = tools.iter().map(|tool| tool.get()).collect::<Vec<_>>().join(",");
    let list = format!("{{\"tools\":[{list}]}}");
    match spelling {
        Spelling::Journal => observation(&list, "{}"),
        Spelling::Stock | Spelling::Unified => observation("{}", &list),
    }
}

/// The observation of a call. An error of the agent or of the tool is an observation; where nothing is
/// known of the call, or the instance could not be reached, there is none.
///
/// # Errors
/// The failure, if it is not one of the call itself.
pub(super) fn call_observation(call: &ToolCall<'_>, outcome: Result<ToolResult>) -> Result<StepResult> {
    let outcome = match outcome {
        Ok(result) => Ok(result),
        Err(error) => Err(tool_error(&call.name, error)?),
    };
    let outcome = CallOutcome::new(outcome.as_ref());
    let mut fields = String::with_capacity(outcome.size());
    write_call_fields(&mut fields, call.spelling, &call.name, &outcome);
    observation(&call_metadata(call.spelling, &outcome), &fields)
}

fn tool_error(name: &str, error: ClientError) -> Result<ToolError> {
    match error.code() {
        Code::ToolNotFound => Ok(ToolError::not_found(name)),
        Code::InvalidArguments => Ok(ToolError::new(ToolErrorType::InvalidArgs, error.message())),
        Code::ToolFailed => Ok(ToolError::new(ToolErrorType::ExecutionError, error.message())),
        _ => Err(error),
    }
}

fn observation(metadata: &str, fields: &str) -> Result<StepResult> {
    let mut text = String::with_capacity(metadata.len() + fields.len() + 96);
    let parts = ObservationParts { metadata, reward: None, done: false };
    write_observation_data(&mut text, &parts, |out| out.push_str(fields));
    parse_step(&text)
}

/// A server's answer to a step.
pub(super) fn parse_step(text: &str) -> Result<StepResult> {
    serde_json::from_str(text).map_err(|error| {
        ClientError::new(Code::InvalidReply, format!("a step's answer cannot be read: {error}"))
    })
}
