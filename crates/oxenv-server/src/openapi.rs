//! `/openapi.json`: the routes of this server in OpenAPI 3.1, made from its spec and mode.
//!
//! Invariant: lists exactly the routes that [`crate::router`] has in that mode; a test compares them.

use oxenv_core::EnvironmentSpec;
use serde_json::{Map, Value, json};

use crate::config::{Mode, ServerConfig};

/// One route in a table: method, path, summary, tag, request schema, response schema.
type Row = (&'static str, &'static str, &'static str, &'static str, Option<&'static str>, &'static str);

const COMMON: [Row; 14] = [
    ("get", "/health", "Whether the server is alive", "Health", None, "Health"),
    ("get", "/ready", "Whether the server can take one more session", "Health", None, "Ready"),
    ("get", "/metadata", "What the environment is", "Environment Info", None, "Metadata"),
    ("get", "/schema", "JSON Schemas of actions, observations and state", "Schema", None, "Schemas"),
    ("get", "/tools", "The environment's tools", "Environment Info", None, "Tools"),
    ("get", "/openapi.json", "This document", "Environment Info", None, "Any"),
    ("get", "/docs", "This document for people", "Environment Info", None, "Page"),
    ("get", "/redoc", "The same page", "Environment Info", None, "Page"),
    ("get", "/list_environments", "The environment's name", "Task API", None, "Names"),
    ("get", "/{environment}/splits", "The environment's task splits", "Task API", None, "Splits"),
    ("post", "/{environment}/tasks", "All tasks of a split", "Task API", Some("SplitRequest"), "Any"),
    (
        "post",
        "/{environment}/num_tasks",
        "How many tasks a split has",
        "Task API",
        Some("SplitRequest"),
        "Any",
    ),
    ("post", "/{environment}/task", "One task", "Task API", Some("TaskRequest"), "Any"),
    ("post", "/{environment}/task_range", "A range of tasks", "Task API", Some("RangeRequest"), "Any"),
];

/// Only where it is counted.
const METRICS: Row = ("get", "/metrics", "The server in numbers, for Prometheus", "Health", None, "Page");

const MCP: [Row; 6] = [
    (
        "post",
        "/mcp",
        "One message of MCP or of its OpenEnv dialect",
        "MCP",
        Some("JsonRpcRequest"),
        "JsonRpcResponse",
    ),
    ("get", "/mcp", "The events of an MCP session", "MCP", None, "Events"),
    ("delete", "/mcp", "The end of an MCP session", "MCP", None, "Any"),
    (
        "post",
        "/sessions/{id}/mcp",
        "The same to the tools of one session",
        "MCP",
        Some("JsonRpcRequest"),
        "JsonRpcResponse",
    ),
    ("get", "/sessions/{id}/mcp", "The events of an MCP session", "MCP", None, "Events"),
    ("delete", "/sessions/{id}/mcp", "The end of an MCP session", "MCP", None, "Any"),
];

const CONTROL: [Row; 15] = [
    (
        "post",
        "/reset",
        "Begin an episode of the default session",
        "Environment Control",
        Some("ResetRequest"),
        "StepResponse",
    ),
    (
        "post",
        "/step",
        "Take one action in the default session",
        "Environment Control",
        Some("StepRequest"),
        "StepResponse",
    ),
    ("get", "/state", "The default session's state", "State Management", None, "State"),
    ("post", "/sessions", "Make a session", "Sessions", Some("SessionCreate"), "SessionCreated"),
    ("get", "/sessions", "All sessions", "Sessions", None, "Any"),
    ("get", "/sessions/{id}", "One session in numbers", "Sessions", None, "Any"),
    ("delete", "/sessions/{id}", "Close a session", "Sessions", None, "Any"),
    (
        "post",
        "/sessions/{id}/reset",
        "Begin an episode of a session",
        "Sessions",
        Some("ResetRequest"),
        "StepResponse",
    ),
    (
        "post",
        "/sessions/{id}/step",
        "Take one action in a session",
        "Sessions",
        Some("StepRequest"),
        "StepResponse",
    ),
    ("get", "/sessions/{id}/state", "A session's state", "Sessions", None, "State"),
    (
        "post",
        "/sessions/{id}/fork",
        "Make sessions that go on from a session's present state",
        "Sessions",
        Some("ForkRequest"),
        "Forked",
    ),
    ("post", "/sessions/{id}/snapshot", "Save a session", "Sessions", None, "SessionSnapshot"),
    (
        "post",
        "/sessions/{id}/keepalive",
        "Let a session's lease begin anew",
        "Sessions",
        None,
        "SessionProgress",
    ),
    (
        "post",
        "/restore",
        "Make a session of a snapshot",
        "Sessions",
        Some("RestoreRequest"),
        "SessionCreated",
    ),
    ("post", "/batch", "Many requests to many sessions", "Sessions", Some("BatchRequest"), "BatchResponse"),
];

/// Only while sessions are recorded.
const RECORDS: [Row; 3] = [
    ("get", "/trajectories", "Recorded sessions", "Records", None, "Any"),
    ("get", "/trajectories/{id}", "One recorded session", "Records", None, "Any"),
    ("get", "/trajectories/{id}/steps", "What a recorded session did", "Records", None, "Any"),
];

/// The document of a server with that configuration.
pub(crate) fn document(spec: &EnvironmentSpec, config: &ServerConfig) -> Value {
    let mut paths = Map::new();
    let control: &[Row] = if config.mode == Mode::Simulation { &CONTROL } else { &[] };
    let metrics = config.metrics.as_ref().map(|_| &METRICS);
    let records: &[Row] = if config.trajectories.is_some() && !control.is_empty() { &RECORDS } else { &[] };
    for row in COMMON.iter().chain(metrics).chain(control).chain(records).chain(&MCP) {
        let path = paths.entry(row.1).or_insert_with(|| json!({}));
        path[row.0] = operation(row);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "OpenEnv Environment HTTP API",
            "version": "1.0.0",
            "description": format!("{} - {}", spec.title, spec.description),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas(spec) },
    })
}

fn operation(row: &Row) -> Value {
    let (method, path, summary, tag, request, response) = *row;
    let media = match response {
        "Page" if path == METRICS.1 => "text/plain",
        "Page" => "text/html",
        "Events" => "text/event-stream",
        _ => "application/json",
    };
    let success = match (method, path) {
        ("post", "/sessions" | "/sessions/{id}/fork" | "/restore") => "201",
        ("delete", "/mcp" | "/sessions/{id}/mcp") => "202",
        _ => "200",
    };
    let mut operation = json!({
        "summary": summary,
        "tags": [tag],
        "operationId": operation_id(method, path),
        "responses": {
            success: { "description": "Success", "content": { media: { "schema": reference(response) } } },
            "default": { "description": "Failure", "content": { "application/json": { "schema": reference("Failure") } } },
        },
    });
    if let Some(request) = request {
        // A reset, and the making of a session, need no body; one fork is made without.
        let required = !matches!(request, "ResetRequest" | "SessionCreate" | "ForkRequest");
        operation["requestBody"] = json!({ "required": required, "content": { "application/json": { "schema": reference(request) } } });
    }
    let parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}

fn operation_id(method: &str, path: &str) -> String {
    let words: Vec<&str> = path.split(['/', '.', '{', '}', '_']).filter(|word| !word.is_empty()).collect();
    format!("{method}_{}", words.join("_"))
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn schemas(spec: &EnvironmentSpec) -> Value {
    let label = || json!({ "type": ["string", "null"], "maxLength": 255 });
    let seconds = || json!({ "type": ["number", "null"], "exclusiveMinimum": 0 });
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    let mut all = json!({
        "Any": {},
        "Page": text,
        "Events": text,
        "Names": { "type": "array", "items": text },
        "Health": { "type": "object", "required": ["status"], "properties": { "status": { "enum": ["healthy", "draining"] } } },
        "Ready": {
            "type": "object",
            "required": ["status", "active_sessions", "max_sessions", "stuck_environments"],
            "properties": {
                "status": { "enum": ["ready", "full", "draining"] },
                "active_sessions": natural, "max_sessions": natural, "stuck_environments": natural,
            },
        },
        "Metadata": {
            "type": "object",
            "required": ["name", "description"],
            "properties": {
                "name": text, "description": text,
                "readme_content": { "type": ["string", "null"] }, "version": { "type": ["string", "null"] },
                "author": { "type": ["string", "null"] }, "documentation_url": { "type": ["string", "null"] },
            },
        },
        "Schemas": {
            "type": "object",
            "required": ["action", "observation", "state", "reset_observation"],
            "properties": { "action": {}, "observation": {}, "state": {}, "reset_observation": {} },
        },
        "Tools": {
            "type": "object",
            "required": ["tools"],
            "properties": { "tools": { "type": "array", "items": {
                "type": "object",
                "required": ["name", "description", "inputSchema"],
                "properties": { "name": text, "description": text, "inputSchema": { "type": "object" } },
            } } },
        },
        "Splits": { "type": "array", "items": { "type": "object", "properties": { "name": text, "type": text } } },
        "SplitRequest": { "type": "object", "required": ["split"], "properties": { "split": text } },
        "TaskRequest": {
            "type": "object", "required": ["split", "index"],
            "properties": { "split": text, "index": { "type": "integer" } },
        },
        "RangeRequest": {
            "type": "object", "required": ["split"],
            "properties": {
                "split": text, "start": { "type": ["integer", "null"] }, "stop": { "type": ["integer", "null"] },
            },
        },
        "ResetRequest": {
            "type": "object",
            "properties": { "seed": { "type": ["integer", "null"], "minimum": 0 }, "episode_id": label() },
            "additionalProperties": true,
        },
        "StepRequest": {
            "type": "object",
            "required": ["action"],
            "properties": {
                "action": reference("Action"),
                "timeout_s": seconds(),
                "request_id": label(), "key": label(),
                "expected_step": { "type": ["integer", "null"], "minimum": 0 },
                "seq": { "type": ["integer", "null"], "minimum": 1 },
            },
            "additionalProperties": true,
        },
        "StepResponse": {
            "type": "object",
            "required": ["observation", "reward", "done"],
            "properties": {
                "observation": { "type": "object" },
                "reward": { "type": ["number", "null"] },
                "done": { "type": "boolean" },
                "metadata": { "type": ["object", "null"] },
            },
        },
        "SessionCreate": {
            "type": "object",
            "properties": {
                "seed": { "type": ["integer", "null"], "minimum": 0 }, "episode_id": label(),
                "resume_s": seconds(), "queue_s": seconds(),
            },
            "additionalProperties": false,
        },
        "SessionCreated": {
            "type": "object",
            "required": ["session_id", "mcp_url", "agent_token"],
            "properties": { "session_id": text, "mcp_url": text, "agent_token": { "type": ["string", "null"] } },
        },
        "SessionProgress": {
            "type": "object",
            "required": ["seq", "epoch", "episode_id", "step_count", "done"],
            "properties": {
                "seq": natural, "epoch": natural, "episode_id": text, "step_count": natural,
                "done": { "type": "boolean" },
            },
        },
        "ForkRequest": {
            "type": "object",
            "properties": {
                "n": { "type": ["integer", "null"], "minimum": 1, "maximum": 1024 }, "resume_s": seconds(),
            },
            "additionalProperties": false,
        },
        "Forked": {
            "type": "object",
            "required": ["sessions"],
            "properties": { "sessions": { "type": "array", "items": reference("SessionCreated") } },
        },
        "SessionSnapshot": { "type": "object", "required": ["snapshot"], "properties": { "snapshot": text } },
        "RestoreRequest": {
            "type": "object",
            "required": ["snapshot"],
            "properties": { "snapshot": text, "resume_s": seconds() },
            "additionalProperties": false,
        },
        "BatchRequest": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": { "type": "array", "minItems": 1, "maxItems": 4096, "items": { "type": "object" } },
                "timeout_s": seconds(),
            },
            "additionalProperties": false,
        },
        "BatchResponse": {
            "type": "object",
            "required": ["results"],
            "properties": { "results": { "type": "array", "items": { "type": "object" } } },
        },
        "JsonRpcRequest": {
            "type": "object",
            "required": ["jsonrpc", "method"],
            "properties": {
                "jsonrpc": { "const": "2.0" }, "id": { "type": ["string", "integer", "null"] },
                "method": text, "params": { "type": ["object", "null"] },
            },
            "additionalProperties": false,
        },
        "JsonRpcResponse": {
            "type": "object",
            "required": ["jsonrpc", "id"],
            "properties": { "jsonrpc": { "const": "2.0" }, "id": {}, "result": {}, "error": { "type": "object" } },
        },
        "Failure": {
            "type": "object",
            "required": ["detail"],
            "properties": { "detail": {}, "oxenv": { "type": "object" } },
        },
    });
    // Any JSON object is taken as an action before the environment looks at it, so the environment's
    // own schema is an annotation of it and its local references stay its own.
    all["Action"] =
        json!({ "type": "object", "title": spec.schemas.action["title"], "x-oxenv-schema": "/schema" });
    all["State"] = json!({ "type": "object", "x-oxenv-schema": "/schema" });
    all
}
