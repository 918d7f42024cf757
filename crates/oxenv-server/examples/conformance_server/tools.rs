//! What the suite's tools do.
//!
//! Invariant: what a tool needs from its client it asks for through its call's context, as any
//! toolset does.

use std::time::Duration;

use oxenv_core::{CallContext, CallNotification};
use oxenv_wire::{Content, ToolError, ToolErrorType, ToolResult, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Fixture;
use crate::rounds;

/// A red dot.
pub(crate) const IMAGE: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";
/// Silence.
const AUDIO: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";

/// How long a tool takes that is to take a while.
const A_WHILE: Duration = Duration::from_millis(50);

pub(crate) async fn call(
    fixture: &Fixture,
    context: CallContext<'_>,
    tool: &str,
    arguments: Option<&RawValue>,
) -> Result<ToolResult, ToolError> {
    let arguments: Value =
        arguments.and_then(|text| serde_json::from_str(text.get()).ok()).unwrap_or_default();
    if let Some(result) = rounds::call(&fixture.seal, context, tool) {
        return result;
    }
    match tool {
        "test_simple_text" => Ok(text("This is a simple text response for testing.")),
        "test_image_content" => Ok(blocks(&[image()])),
        "test_audio_content" => {
            Ok(blocks(&[json!({ "type": "audio", "data": AUDIO, "mimeType": "audio/wav" })]))
        }
        "test_embedded_resource" => Ok(blocks(&[resource(
            "test://embedded-resource",
            "text/plain",
            "This is an embedded resource content.",
        )])),
        "test_multiple_content_types" => Ok(blocks(&[
            json!({ "type": "text", "text": "Multiple content types test:" }),
            image(),
            resource(
                "test://mixed-content-resource",
                "application/json",
                "{\"test\":\"data\",\"value\":123}",
            ),
        ])),
        "test_tool_with_logging" => {
            log(&context, "Tool execution started");
            tokio::time::sleep(A_WHILE).await;
            log(&context, "Tool processing data");
            tokio::time::sleep(A_WHILE).await;
            log(&context, "Tool execution completed");
            Ok(text("the log has three lines more"))
        }
        "test_logging_tool" => {
            log(&context, "Tool execution started");
            Ok(text("the log has one line more"))
        }
        "test_error_handling" => {
            Ok(ToolResult { is_error: true, ..text("This tool intentionally returns an error for testing") })
        }
        "test_tool_with_progress" => {
            for progress in [0.0, 50.0, 100.0] {
                report(&context, progress);
                tokio::time::sleep(A_WHILE).await;
            }
            Ok(text("it was a way of a hundred"))
        }
        "test_streaming_elicitation" => {
            report(&context, 50.0);
            tokio::time::sleep(A_WHILE).await;
            Ok(rounds::wants(&json!({ "confirm": rounds::confirm() }), None))
        }
        "test_reconnection" => {
            tokio::time::sleep(2 * A_WHILE).await;
            Ok(text("still there"))
        }
        "test_sampling" => {
            let content = json!({ "type": "text", "text": arguments["prompt"] });
            let parameters =
                json!({ "messages": [{ "role": "user", "content": content }], "maxTokens": 100 });
            let answer = ask(&context, "sampling/createMessage", parameters).await?;
            Ok(text(&format!("LLM response: {}", answer["content"]["text"].as_str().unwrap_or_default())))
        }
        "test_elicitation" => elicit(&context, arguments["message"].clone(), person()).await,
        "test_elicitation_sep1034_defaults" => {
            elicit(&context, "Please check these".into(), defaults()).await
        }
        "test_elicitation_sep1330_enums" => elicit(&context, "Please choose".into(), choices()).await,
        "test_trigger_tool_change" => {
            fixture.change_tools();
            Ok(text("the list of tools is another"))
        }
        "test_trigger_prompt_change" => {
            fixture.change_prompts();
            Ok(text("the list of prompts is another"))
        }
        "json_schema_2020_12_tool" | "test_header_parameter" | "test_changed_tool" => {
            Ok(text(&format!("called with {arguments}")))
        }
        _ => Err(ToolError::not_found(tool)),
    }
}

pub(crate) fn text(text: &str) -> ToolResult {
    ToolResult { content: [Content::Text(text.to_owned())].into_iter().collect(), ..ToolResult::default() }
}

pub(crate) fn image() -> Value {
    json!({ "type": "image", "data": IMAGE, "mimeType": "image/png" })
}

pub(crate) fn resource(uri: &str, kind: &str, text: &str) -> Value {
    json!({ "type": "resource", "resource": { "uri": uri, "mimeType": kind, "text": text } })
}

fn blocks(blocks: &[Value]) -> ToolResult {
    let content = blocks.iter().filter_map(|block| raw(block).ok()).map(Content::Raw).collect();
    ToolResult { content, ..ToolResult::default() }
}

fn log(context: &CallContext<'_>, line: &str) {
    if let Some(caller) = context.caller {
        caller.tell(CallNotification::Log {
            level: "info".to_owned(),
            logger: Some("fixture".to_owned()),
            data: line.into(),
        });
    }
}

fn report(context: &CallContext<'_>, progress: f64) {
    if let Some(caller) = context.caller {
        let message = Some(format!("{progress} of 100"));
        caller.tell(CallNotification::Progress { progress, total: Some(100.0), message });
    }
}

async fn ask(context: &CallContext<'_>, method: &str, parameters: Value) -> Result<Value, ToolError> {
    let failed = |message: String| ToolError::new(ToolErrorType::ExecutionError, message);
    let caller = context.caller.ok_or_else(|| failed("there is no client to ask".to_owned()))?;
    caller.ask(method, parameters).await.map_err(|fault| failed(fault.message))
}

async fn elicit(context: &CallContext<'_>, message: Value, schema: Value) -> Result<ToolResult, ToolError> {
    let answer =
        ask(context, "elicitation/create", json!({ "message": message, "requestedSchema": schema })).await?;
    Ok(text(&format!("User response: action={}, content={}", answer["action"], answer["content"])))
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "username": { "type": "string", "description": "How to call them" },
            "email": { "type": "string", "description": "Where to write to" },
        },
        "required": ["username", "email"],
    })
}

fn defaults() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "default": "John Doe" },
            "age": { "type": "integer", "default": 30 },
            "score": { "type": "number", "default": 95.5 },
            "status": { "type": "string", "enum": ["active", "inactive", "pending"], "default": "active" },
            "verified": { "type": "boolean", "default": true },
        },
        "required": [],
    })
}

fn choices() -> Value {
    let titled = json!([
        { "const": "value1", "title": "First" },
        { "const": "value2", "title": "Second" },
        { "const": "value3", "title": "Third" },
    ]);
    let plain = json!(["option1", "option2", "option3"]);
    json!({
        "type": "object",
        "properties": {
            "untitledSingle": { "type": "string", "enum": plain },
            "titledSingle": { "type": "string", "oneOf": titled },
            "legacyEnum": {
                "type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"],
            },
            "untitledMulti": { "type": "array", "items": { "type": "string", "enum": plain } },
            "titledMulti": { "type": "array", "items": { "anyOf": titled } },
        },
        "required": [],
    })
}
