//! Tools through steps: how they are listed and called, and their results.
//!
//! Invariant: both spellings are read, those of the OpenEnv dialect and of MCP, since it depends on a
//! server's libraries which one it has. A tool that reports that it failed is a result; a call that did
//! not happen is a failure.

use oxenv_wire::{Content, Delivered, ErrorCode, Object, Phase, RawJson, Tool, ToolResult, raw};
use serde::Deserialize;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::error::{ClientError, Code, Result};
use crate::result::StepResult;
use crate::server_error::{self, excerpt};

/// The action that asks for the tools.
pub(crate) fn list_action() -> Result<RawJson> {
    raw(&json!({ "type": "list_tools" }))
        .map_err(|error| ClientError::new(Code::InvalidOptions, error.to_string()))
}

/// The arguments of a call.
pub(crate) struct EncodedArguments {
    /// The value to check against the tool's schema.
    pub(crate) value: Value,
    /// The value to send.
    pub(crate) json: RawJson,
}

/// Encodes arguments, which must be an object; null stands for an empty one.
pub(crate) fn encode_arguments(arguments: Value) -> Result<EncodedArguments> {
    let arguments = if arguments.is_null() { json!({}) } else { arguments };
    let text =
        raw(&arguments).map_err(|error| ClientError::new(Code::InvalidArguments, error.to_string()))?;
    if !arguments.is_object() {
        let message = format!("arguments must be an object, not {}", excerpt(text.get().as_bytes()));
        return Err(ClientError::new(Code::InvalidArguments, message));
    }
    Ok(EncodedArguments { value: arguments, json: text })
}

/// The action that calls a tool.
pub(crate) fn call_action(name: &str, arguments: &RawValue) -> Result<RawJson> {
    #[derive(Serialize)]
    struct CallToolAction<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        tool_name: &'a str,
        arguments: &'a RawValue,
    }
    raw(&CallToolAction { kind: "call_tool", tool_name: name, arguments })
        .map_err(|error| ClientError::new(Code::InvalidArguments, error.to_string()))
}

/// The tools of an observation, or of any object that has `tools`.
pub(crate) fn parse_tools(observation: &str) -> Result<Vec<Tool>> {
    let listing: ToolsObservation = serde_json::from_str(observation).map_err(|error| {
        let message =
            format!("the list of tools cannot be read: {error}: {}", excerpt(observation.as_bytes()));
        ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
    })?;
    if let (None, Some(error)) = (&listing.tools, &listing.error) {
        return Err(call_error(error, None));
    }
    Ok(listing.tools.unwrap_or_default().into_iter().map(Tool::from).collect())
}

/// The request for the tools in the MCP dialect, which is no step.
pub(crate) const LIST_TOOLS_RPC: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;

/// The tools that a JSON-RPC answer lists; none if it lists nothing.
pub(crate) fn parse_tools_rpc(answer: &str) -> Option<Vec<Tool>> {
    #[derive(Deserialize)]
    struct RpcResponse<'a> {
        #[serde(borrow)]
        result: &'a RawValue,
    }
    let answer: RpcResponse<'_> = serde_json::from_str(answer).ok()?;
    parse_tools(answer.result.get()).ok()
}

/// The result of a call, out of its step.
pub(crate) fn parse_call(step: &StepResult) -> Result<ToolResult> {
    let observation: CallObservation<'_> = serde_json::from_str(step.observation.get()).map_err(|error| {
        let message = format!(
            "what the tool gave cannot be read: {error}: {}",
            excerpt(step.observation.get().as_bytes())
        );
        ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
    })?;
    if let Some(error) = &observation.error {
        let ours = observation.oxenv();
        if let Some(result) = ours.as_ref().and_then(|ours| ours.result) {
            return read_result(result);
        }
        let code = ours.filter(|ours| ours.code.is_some());
        if error.error_type.as_deref() == Some("execution_error") && code.is_none() {
            return Ok(error_result(error.message.as_deref().unwrap_or("the tool failed")));
        }
        return Err(call_error(error, observation.metadata.and_then(|metadata| metadata.oxenv)));
    }
    match observation.result {
        Some(result) => read_result(result),
        None => Ok(ToolResult::default()),
    }
}

fn error_result(message: &str) -> ToolResult {
    ToolResult {
        content: std::iter::once(Content::Text(message.to_owned())).collect(),
        is_error: true,
        ..ToolResult::default()
    }
}

#[derive(Deserialize)]
struct ToolsObservation {
    tools: Option<Vec<ListedTool>>,
    #[serde(default)]
    error: Option<StepError>,
}

#[derive(Deserialize)]
struct ListedTool {
    name: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(alias = "inputSchema", alias = "parameters", default)]
    input_schema: Option<Value>,
    #[serde(alias = "outputSchema", default)]
    output_schema: Option<Value>,
    #[serde(default)]
    annotations: Option<Value>,
    #[serde(alias = "_meta", default)]
    meta: Option<Value>,
}

#[derive(Deserialize)]
struct CallObservation<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<StepError>,
    #[serde(borrow, default)]
    metadata: Option<CallMetadata<'a>>,
}

/// Our own part of the metadata of a call.
#[derive(Deserialize)]
struct CallMetadata<'a> {
    #[serde(borrow, default)]
    oxenv: Option<&'a RawValue>,
}

/// What our servers say of an error.
#[derive(Deserialize)]
struct OxenvMetadata<'a> {
    #[serde(borrow, default)]
    code: Option<&'a RawValue>,
    /// The result of a tool that reported that it failed.
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

/// The error of a call as a step reports it.
#[derive(Deserialize)]
struct StepError {
    error_type: Option<String>,
    message: Option<String>,
}

impl From<ListedTool> for Tool {
    fn from(listed: ListedTool) -> Self {
        Tool {
            name: listed.name.into(),
            title: listed.title,
            description: listed.description.unwrap_or_default(),
            input_schema: listed.input_schema.unwrap_or_else(|| json!({ "type": "object" })),
            output_schema: listed.output_schema,
            annotations: listed.annotations,
            meta: listed.meta,
        }
    }
}

impl<'a> CallObservation<'a> {
    fn oxenv(&self) -> Option<OxenvMetadata<'a>> {
        serde_json::from_str(self.metadata.as_ref()?.oxenv?.get()).ok()
    }
}

/// Why a call did not happen, or nothing is known of it.
fn call_error(error: &StepError, ours: Option<&RawValue>) -> ClientError {
    let message = error.message.clone().unwrap_or_else(|| "the call of the tool failed".to_owned());
    let ours = ours.and_then(|ours| serde_json::from_str::<Value>(ours.get()).ok());
    if let Some(error) = ours.and_then(|ours| server_error::from_metadata(&ours, &message)) {
        return error;
    }
    let (code, delivered) = match error.error_type.as_deref() {
        Some("tool_not_found") => (Code::ToolNotFound, Delivered::No),
        Some("invalid_args") => (Code::InvalidArguments, Delivered::Yes),
        Some("timeout") => (Code::Server(ErrorCode::DeadlineExceeded), Delivered::Maybe),
        Some("transport_error") => (Code::Server(ErrorCode::UpstreamLost), Delivered::Maybe),
        _ => (Code::Server(ErrorCode::ExecutionError), Delivered::Yes),
    };
    ClientError::new(code, message).with_delivered(delivered).with_phase(Phase::Tool)
}

/// Reads a result of a call. What is no such result is the value itself: some environments give it bare.
fn read_result(text: &RawValue) -> Result<ToolResult> {
    let has_content = Object::from_raw(text).is_ok_and(|result| result.get("content").is_some());
    match ToolResult::parse_dialect(text.get()) {
        Ok(result) if has_content => Ok(result),
        _ => value_result(text),
    }
}

fn value_result(value: &RawValue) -> Result<ToolResult> {
    ToolResult::from_value(value).map_err(|error| {
        ClientError::new(Code::InvalidReply, error.to_string()).with_delivered(Delivered::Yes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(observation: &Value) -> StepResult {
        serde_json::from_value(json!({ "observation": observation })).unwrap()
    }

    #[test]
    fn a_result_in_both_spellings() {
        let snake = json!({"tool_name": "t", "error": null, "result": {
            "content": [{"type": "text", "text": "hi", "annotations": null, "meta": null}],
            "structured_content": {"result": "hi"}, "meta": {"fastmcp": {"wrap_result": true}},
            "data": "hi", "is_error": false}});
        let camel = json!({"result": {"content": [{"type": "text", "text": "hi"}],
            "structuredContent": {"n": 2}, "_meta": {"k": 1}, "isError": true}});
        let snake = parse_call(&step(&snake)).unwrap();
        assert_eq!((snake.text().as_str(), snake.data(), snake.is_error), ("hi", "\"hi\"", false));
        let camel = parse_call(&step(&camel)).unwrap();
        assert_eq!((camel.text().as_str(), camel.data(), camel.is_error), ("hi", "{\"n\":2}", true));
    }

    #[test]
    fn a_value_without_an_envelope() {
        assert_eq!(parse_call(&step(&json!({"result": [1]}))).unwrap().data(), "[1]");
        assert_eq!(parse_call(&step(&json!({"result": null}))).unwrap().data(), "null");
    }

    #[test]
    fn errors_by_their_type() {
        let outcome_of = |kind: &str| {
            parse_call(&step(&json!({"result": null, "error": {"error_type": kind, "message": "no"}})))
        };
        let failed = outcome_of("execution_error").unwrap();
        assert_eq!((failed.is_error, failed.text().as_str()), (true, "no"));
        let error = outcome_of("tool_not_found").unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::ToolNotFound, Delivered::No));
        let error = outcome_of("invalid_args").unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidArguments, Delivered::Yes));
        assert_eq!(outcome_of("timeout").unwrap_err().code(), Code::Server(ErrorCode::DeadlineExceeded));
        assert_eq!(outcome_of("transport_error").unwrap_err().code(), Code::Server(ErrorCode::UpstreamLost));
    }

    #[test]
    fn a_tool_that_failed_keeps_all_that_it_gave() {
        let observation = json!({"result": null, "error": {"error_type": "execution_error", "message": "no"},
            "metadata": {"oxenv": {"scores": {"a": 0.0}, "result": {
                "content": [{"type": "text", "text": "no"},
                    {"type": "image", "data": "AA==", "mimeType": "image/png"}],
                "structured_content": {"at": 7},
                "meta": null, "data": {"at": 7}, "is_error": true}}}});
        let failed = parse_call(&step(&observation)).unwrap();
        assert_eq!((failed.is_error, failed.data(), failed.content.len()), (true, "{\"at\":7}", 2));
        // A native tool's error has nothing beside its message, though a rubric may have scored the step.
        let observation = json!({"result": null, "error": {"error_type": "execution_error", "message": "no"},
            "metadata": {"oxenv": {"scores": {"a": 0.0}}}});
        assert!(parse_call(&step(&observation)).unwrap().is_error);
    }

    #[test]
    fn what_our_servers_say_besides_goes_first() {
        let observation = json!({"result": null,
            "error": {"error_type": "transport_error", "message": "down"},
            "metadata": {"oxenv": {"code": "UPSTREAM_UNAVAILABLE", "kind": "infrastructure", "phase": "tool",
                                   "delivered": "no", "retryable": true}}});
        let error = parse_call(&step(&observation)).unwrap_err();
        assert_eq!(error.code(), Code::Server(ErrorCode::UpstreamUnavailable));
        assert_eq!((error.delivered(), error.is_retryable()), (Delivered::No, true));
    }

    #[test]
    fn tools_in_both_spellings() {
        let tools = parse_tools(
            r#"{"tools":[{"name":"a","description":null,"input_schema":{"type":"object"}},
            {"name":"b","inputSchema":{"x":1},"_meta":{}}],"done":false}"#,
        )
        .unwrap();
        assert_eq!(tools[0].description, "");
        assert_eq!((tools[1].name.as_ref(), &tools[1].input_schema), ("b", &json!({"x":1})));
        assert_eq!(parse_tools("[]").unwrap_err().code(), Code::InvalidReply);
    }
}
