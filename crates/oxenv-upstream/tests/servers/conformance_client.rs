//! The client of MCP's conformance suite: `upstream-conformance URL` offers the server at that URL as a
//! toolset, calls each of its tools, and answers what they ask. The suite names the scenario in its own way;
//! this does the same in all of them.
//!
//! Invariant: it exits with 0 when the toolset could be listed.

use std::process::ExitCode;
use std::sync::Arc;

use oxenv_core::{CallContext, CallNotification, CallerChannel, Principal, RequestError, Toolset, Work};
use oxenv_process::child::Supervisor;
use oxenv_upstream::manifest::Manifest;
use oxenv_upstream::{ManagerOptions, UpstreamManager};
use oxenv_wire::{RawJson, Tool, raw};
use serde_json::{Map, Value, json};

/// A caller that accepts every question with the defaults of what is asked for.
struct Agreeable;

impl CallerChannel for Agreeable {
    fn tell(&self, _: CallNotification) {}

    fn ask<'a>(&'a self, method: &'a str, parameters: Value) -> Work<'a, Result<Value, RequestError>> {
        Work::done(Ok(answer(method, &parameters)))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = std::env::args().next_back().unwrap_or_default();
    let text = format!("tools: [{{ name: web, mcp_server: {{ transport: http, url: \"{url}\" }} }}]");
    let (manifest, _) = Manifest::parse(&text, None, &|_| None).expect("the manifest is written here");
    let options = ManagerOptions {
        supervisor: Supervisor::new("/nowhere", Vec::<String>::new()),
        base_environment: Vec::new(),
        concurrency: 1,
        warm: 0,
        discover_scope: false,
        reload: false,
        builtin: Arc::new(|_| None),
    };
    let manager = UpstreamManager::new(manifest, options);
    manager.start();
    let toolset = manager.server_toolsets().remove(0);
    toolset.ready().await;
    let tools = toolset.list();
    for tool in tools.iter() {
        for arguments in calls_of(tool, &tools) {
            call(&*toolset, tool, &arguments).await;
        }
    }
    let problem = toolset.problem();
    manager.close().await;
    match problem {
        None => ExitCode::SUCCESS,
        Some(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Calls a tool, again with the input that it asks for until it has enough.
async fn call(toolset: &dyn Toolset, tool: &Tool, arguments: &RawJson) {
    let mut request = json!({});
    for _ in 0..4 {
        let parameters = raw(&request).unwrap_or_default();
        let context = CallContext {
            caller: Some(&Agreeable),
            request: Some(&parameters),
            ..CallContext::sessionless(Principal::Agent)
        };
        let outcome = toolset.call(context, &tool.name, Some(arguments)).await;
        eprintln!("{}: {outcome:?}", tool.name);
        let Some(wanted) = outcome.ok().and_then(|result| result.input_required) else { return };
        let wanted: Value = serde_json::from_str(wanted.get()).unwrap_or_default();
        let mut answers = Map::new();
        for (key, question) in wanted["inputRequests"].as_object().into_iter().flatten() {
            let method = question["method"].as_str().unwrap_or_default();
            answers.insert(key.clone(), answer(method, &question["params"]));
        }
        request = json!({ "inputResponses": answers });
        if let Some(state) = wanted.get("requestState") {
            request["requestState"] = state.clone();
        }
    }
}

fn answer(method: &str, parameters: &Value) -> Value {
    match method {
        "elicitation/create" => {
            let mut content = Map::new();
            for (name, property) in
                parameters["requestedSchema"]["properties"].as_object().into_iter().flatten()
            {
                content.insert(
                    name.clone(),
                    property.get("default").cloned().unwrap_or_else(|| example(property)),
                );
            }
            json!({ "action": "accept", "content": content })
        }
        "sampling/createMessage" => {
            json!({ "role": "assistant", "model": "none", "content": { "type": "text", "text": "yes" } })
        }
        _ => json!({ "roots": [] }),
    }
}

/// The calls that the suite wants of a tool, or one with examples of what its schema asks for.
fn calls_of(tool: &Tool, tools: &[Tool]) -> Vec<RawJson> {
    if tool.name == "json_schema_echo" {
        // It wants to see what became of another tool's schema on its way.
        let other = tools.iter().find(|other| other.name != tool.name);
        return other
            .and_then(|other| raw(&json!({ "schema": other.input_schema })).ok())
            .into_iter()
            .collect();
    }
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").unwrap_or_default();
    let context: Value = serde_json::from_str(&context).unwrap_or_default();
    let wanted = context["toolCalls"].as_array().into_iter().flatten();
    let wanted: Vec<RawJson> = wanted
        .filter(|call| call["name"] == *tool.name)
        .filter_map(|call| raw(&call["arguments"]).ok())
        .collect();
    if !wanted.is_empty() {
        return wanted;
    }
    let properties = tool.input_schema["properties"].as_object();
    let examples = properties.into_iter().flatten().map(|(name, schema)| (name.clone(), example(schema)));
    raw(&examples.collect::<Map<_, _>>()).into_iter().collect()
}

fn example(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => json!({}),
        Some("null") => Value::Null,
        _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("text")),
    }
}
