//! The schemas of an environment whose actions are tool calls, as OpenEnv's MCP environments
//! publish them.
//!
//! Invariant: titles, required keys and types are the reference's, because trainers look at them
//! (verifiers reads `action.title`).

use oxenv_wire::Schemas;
use serde_json::{Value, json};

/// The schemas of `CallToolAction`, `CallToolObservation` and the plain `State`.
#[must_use]
pub fn tool_schemas() -> Schemas {
    Schemas { action: action(), observation: observation(), state: state(), reset_observation: observation() }
}

fn action() -> Value {
    json!({
        "additionalProperties": false,
        "description": "Calls one tool by name. Send {\"type\": \"list_tools\"} to learn the names.",
        "properties": {
            "metadata": {
                "additionalProperties": true, "description": "Anything the sender wants to note",
                "title": "Metadata", "type": "object",
            },
            "type": {
                "const": "call_tool", "default": "call_tool", "description": "Kind of action",
                "title": "Type", "type": "string",
            },
            "tool_name": { "description": "Name of the tool", "title": "Tool Name", "type": "string" },
            "arguments": {
                "additionalProperties": true,
                "description": "Arguments of the tool, as its input_schema says",
                "title": "Arguments", "type": "object",
            },
        },
        "required": ["tool_name"],
        "title": "CallToolAction",
        "type": "object",
    })
}

fn observation() -> Value {
    json!({
        "$defs": {
            "ToolError": {
                "additionalProperties": false,
                "description": "Why a call gave no result.",
                "properties": {
                    "error_type": { "$ref": "#/$defs/ToolErrorType", "description": "Category of the error" },
                    "message": { "description": "What happened", "title": "Message", "type": "string" },
                },
                "required": ["error_type", "message"],
                "title": "ToolError",
                "type": "object",
            },
            "ToolErrorType": {
                "description": "Categories of tool errors.",
                "enum": ["execution_error", "invalid_args", "transport_error", "tool_not_found", "timeout"],
                "title": "ToolErrorType",
                "type": "string",
            },
        },
        "additionalProperties": false,
        "description": "The outcome of a tool call: a result or an error.",
        "properties": {
            "done": {
                "default": false, "description": "Whether the episode has ended", "title": "Done",
                "type": "boolean",
            },
            "reward": {
                "anyOf": [
                    { "type": "boolean" }, { "type": "integer" }, { "type": "number" }, { "type": "null" },
                ],
                "default": null, "description": "Reward of the last action", "title": "Reward",
            },
            "metadata": {
                "additionalProperties": true, "description": "What else there is to know",
                "title": "Metadata", "type": "object",
            },
            "tool_name": {
                "description": "Name of the tool that was called", "title": "Tool Name", "type": "string",
            },
            "result": { "default": null, "description": "What the tool returned", "title": "Result" },
            "error": {
                "anyOf": [{ "$ref": "#/$defs/ToolError" }, { "type": "null" }],
                "default": null, "description": "Why there is no result",
            },
        },
        "required": ["tool_name"],
        "title": "CallToolObservation",
        "type": "object",
    })
}

fn state() -> Value {
    json!({
        "additionalProperties": true,
        "description": "What an orchestrator can see of the episode.",
        "properties": {
            "episode_id": {
                "anyOf": [{ "type": "string" }, { "type": "null" }],
                "default": null, "description": "Identifier of the current episode", "title": "Episode Id",
            },
            "step_count": {
                "default": 0, "description": "Steps taken in the current episode", "minimum": 0,
                "title": "Step Count", "type": "integer",
            },
        },
        "title": "State",
        "type": "object",
    })
}
