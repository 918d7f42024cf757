//! The tools of the suite, as they are listed.
//!
//! Invariant: names and schemas are the suite's; what they do is in `tools.rs`.

use oxenv_wire::Tool;
use serde_json::{Value, json};

/// Every tool, and one more if the list did not have it before.
pub(crate) fn tools(before: usize) -> Vec<Tool> {
    let mut tools: Vec<Tool> = PLAIN.iter().map(|(name, about)| tool(name, about, none())).collect();
    tools.push(tool("test_sampling", "Asks the client's model", one("prompt", "What to ask it")));
    tools.push(tool("test_elicitation", "Asks the client's person", one("message", "What to ask them")));
    tools.push(tool("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", schema_2020_12()));
    tools.push(tool(
        "test_header_parameter",
        "Takes a parameter that is repeated as a header",
        with_header(),
    ));
    if before == tools.len() {
        tools.push(tool("test_changed_tool", "Comes and goes with test_trigger_tool_change", none()));
    }
    tools
}

const PLAIN: [(&str, &str); 24] = [
    ("test_simple_text", "Gives text"),
    ("test_image_content", "Gives an image"),
    ("test_audio_content", "Gives audio"),
    ("test_embedded_resource", "Gives a resource"),
    ("test_multiple_content_types", "Gives text, an image and a resource"),
    ("test_tool_with_logging", "Writes three lines to its log"),
    ("test_logging_tool", "Writes a line to its log"),
    ("test_error_handling", "Always fails"),
    ("test_tool_with_progress", "Says how far it is"),
    ("test_reconnection", "Takes a while"),
    ("test_elicitation_sep1034_defaults", "Asks with defaults"),
    ("test_elicitation_sep1330_enums", "Asks for one or some of a list"),
    ("test_streaming_elicitation", "Says how far it is, then asks"),
    ("test_missing_capability", "Needs a client with a model"),
    ("test_trigger_tool_change", "Changes the list of tools"),
    ("test_trigger_prompt_change", "Changes the list of prompts"),
    ("test_input_required_result_elicitation", "Wants a name first"),
    ("test_input_required_result_sampling", "Wants a model's answer first"),
    ("test_input_required_result_list_roots", "Wants the client's roots first"),
    ("test_input_required_result_request_state", "Wants a confirmation first, and its state back"),
    ("test_input_required_result_multiple_inputs", "Wants three things first"),
    ("test_input_required_result_tampered_state", "Wants a confirmation first, and its state untouched"),
    ("test_input_required_result_multi_round", "Wants a name first, then a colour"),
    ("test_input_required_result_capabilities", "Wants what the client can give"),
];

fn tool(name: &str, about: &str, input_schema: Value) -> Tool {
    Tool {
        name: name.to_owned().into(),
        title: None,
        description: about.to_owned(),
        input_schema,
        output_schema: None,
        annotations: None,
        meta: None,
    }
}

fn none() -> Value {
    json!({ "type": "object", "properties": {} })
}

fn one(name: &str, about: &str) -> Value {
    json!({
        "type": "object",
        "properties": { name: { "type": "string", "description": about } },
        "required": [name],
    })
}

fn with_header() -> Value {
    json!({
        "type": "object",
        "properties": { "region": { "type": "string", "x-mcp-header": "Region" } },
        "required": ["region"],
    })
}

/// Every keyword whose way through the endpoint the suite looks at.
fn schema_2020_12() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": { "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": { "street": { "type": "string" }, "city": { "type": "string" } },
        } },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" },
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}
