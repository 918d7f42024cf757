//! The suite's resources, templates and prompts.
//!
//! Invariant: none of them changes what it holds.

use oxenv_core::{RequestError, ResourcesAndPrompts};
use oxenv_wire::{RawJson, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::rounds;
use crate::tools::{IMAGE, image, resource};

const INVALID_PARAMS: i32 = -32602;
const METHOD_NOT_FOUND: i32 = -32601;
const RESOURCE_NOT_FOUND: i32 = -32002;

/// Everything, and one prompt more if the list had none more before.
pub(crate) fn extras(before: usize) -> ResourcesAndPrompts {
    let argument =
        |name: &str| json!({ "name": name, "description": "Goes into the text", "required": true });
    let mut prompts = vec![
        json!({ "name": "test_simple_prompt", "description": "A prompt without arguments" }),
        json!({
            "name": "test_prompt_with_arguments",
            "description": "A prompt with arguments",
            "arguments": [argument("arg1"), argument("arg2")],
        }),
        json!({
            "name": "test_prompt_with_embedded_resource",
            "description": "A prompt with a resource in it",
            "arguments": [argument("resourceUri")],
        }),
        json!({ "name": "test_prompt_with_image", "description": "A prompt with an image in it" }),
        json!({
            "name": "test_input_required_result_prompt", "description": "A prompt that wants input first"
        }),
    ];
    if before == prompts.len() {
        prompts.push(json!({ "name": "test_changed_prompt", "description": "Comes and goes" }));
    }
    ResourcesAndPrompts {
        resources: vec![
            json!({ "uri": "test://static-text", "name": "Static text", "mimeType": "text/plain" }),
            json!({ "uri": "test://static-binary", "name": "Static binary", "mimeType": "image/png" }),
            json!({ "uri": "test://watched-resource", "name": "Watched", "mimeType": "text/plain" }),
        ],
        templates: vec![json!({
            "uriTemplate": "test://template/{id}/data", "name": "Template", "mimeType": "application/json",
        })],
        prompts,
    }
}

pub(crate) fn answer(method: &str, parameters: &RawValue) -> Result<RawJson, RequestError> {
    let parameters: Value = serde_json::from_str(parameters.get()).unwrap_or_default();
    let result = match method {
        "resources/read" => read(parameters["uri"].as_str().unwrap_or_default())?,
        "prompts/get" => prompt(&parameters)?,
        "completion/complete" => complete(&parameters),
        "resources/subscribe" | "resources/unsubscribe" => json!({}),
        _ => return Err(RequestError::new(METHOD_NOT_FOUND, format!("Method not found: {method}"))),
    };
    raw(&result).map_err(|error| RequestError::new(INVALID_PARAMS, error.to_string()))
}

fn read(uri: &str) -> Result<Value, RequestError> {
    let contents = match uri {
        "test://static-text" | "test://watched-resource" => {
            let text = "This is the content of the static text resource.";
            json!({ "uri": uri, "mimeType": "text/plain", "text": text })
        }
        "test://static-binary" => json!({ "uri": uri, "mimeType": "image/png", "blob": IMAGE }),
        _ => {
            let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
            let Some(id) = id else {
                let message = format!("Resource not found: {uri}");
                return Err(RequestError {
                    data: json!({ "uri": uri }),
                    ..RequestError::new(RESOURCE_NOT_FOUND, message)
                });
            };
            let text =
                json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") }).to_string();
            json!({ "uri": uri, "mimeType": "application/json", "text": text })
        }
    };
    Ok(json!({ "contents": [contents] }))
}

fn prompt(parameters: &Value) -> Result<Value, RequestError> {
    let arguments = &parameters["arguments"];
    let argument = |name: &str| arguments[name].as_str().unwrap_or_default().to_owned();
    let says = |text: &str| json!({ "role": "user", "content": { "type": "text", "text": text } });
    let messages = match parameters["name"].as_str().unwrap_or_default() {
        "test_simple_prompt" | "test_changed_prompt" => vec![says("This is a simple prompt for testing.")],
        "test_prompt_with_arguments" => {
            vec![says(&format!(
                "Prompt with arguments: arg1='{}', arg2='{}'",
                argument("arg1"),
                argument("arg2")
            ))]
        }
        "test_prompt_with_embedded_resource" => {
            let content =
                resource(&argument("resourceUri"), "text/plain", "Embedded resource content for testing.");
            vec![
                json!({ "role": "user", "content": content }),
                says("Please process the embedded resource above."),
            ]
        }
        "test_prompt_with_image" => {
            vec![json!({ "role": "user", "content": image() }), says("Please analyze the image above.")]
        }
        "test_input_required_result_prompt" => {
            let given = &parameters["inputResponses"]["user_context"]["content"]["context"];
            let Some(given) = given.as_str() else {
                let question =
                    rounds::elicitation("What context should the prompt use?", "context", "string");
                return Ok(
                    json!({ "resultType": "input_required", "inputRequests": { "user_context": question } }),
                );
            };
            vec![says(&format!("The context is: {given}"))]
        }
        other => return Err(RequestError::new(INVALID_PARAMS, format!("Unknown prompt: '{other}'"))),
    };
    Ok(json!({ "messages": messages }))
}

fn complete(parameters: &Value) -> Value {
    let begun = parameters["argument"]["value"].as_str().unwrap_or_default();
    let values: Vec<&str> =
        ["paris", "park", "party", "test"].into_iter().filter(|word| word.starts_with(begun)).collect();
    json!({ "completion": { "total": values.len(), "hasMore": false, "values": values } })
}
