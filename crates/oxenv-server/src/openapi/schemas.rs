//! The schemas of the OpenAPI document: bodies of requests and replies, by name.

use oxenv_core::EnvironmentSpec;
use oxenv_wire::ErrorCode;
use serde_json::{Map, Value, json};

use super::reference;

/// All schemas by name; those of the environment's own messages are at `/schema`.
pub(super) fn all(spec: &EnvironmentSpec) -> Value {
    let groups = [info(), tasks(), episodes(), sessions(), records(), messages(), environment(spec)];
    let all: Map<String, Value> =
        groups.into_iter().filter_map(|group| group.as_object().cloned()).flatten().collect();
    Value::Object(all)
}

/// Replies about the server and its environment.
fn info() -> Value {
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    let problems = problems();
    json!({
        "Any": {},
        "Page": text,
        "Events": text,
        "Names": { "type": "array", "items": text },
        "Health": {
            "type": "object", "required": ["status"],
            "properties": { "status": { "enum": ["healthy", "draining"] } }
        },
        "Ready": {
            "type": "object",
            "required": ["status", "active_sessions", "max_sessions", "stuck_environments"],
            "properties": {
                "status": { "enum": ["ready", "full", "draining", "unavailable"] },
                "active_sessions": natural, "max_sessions": natural, "stuck_environments": natural,
                "problems": problems,
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
                "properties": {
                    "name": text, "description": text, "inputSchema": { "type": "object" }, "toolset": text,
                    "annotations": { "type": ["object", "null"] },
                    "outputSchema": { "type": ["object", "null"] },
                },
            } }, "problems": problems },
        },
    })
}

/// The Task API.
fn tasks() -> Value {
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    json!({
        "Splits": { "type": "array", "items": {
            "type": "object",
            "required": ["name", "type"],
            "properties": { "name": text, "type": { "enum": ["train", "validation", "test"] } },
        } },
        "EnvironmentTasks": {
            "type": "object",
            "required": ["tasks", "env_name"],
            "properties": { "tasks": { "type": "array" }, "env_name": text },
        },
        "Tasks": { "type": "object", "required": ["tasks"], "properties": { "tasks": { "type": "array" } } },
        "OneTask": { "type": "object", "required": ["task"], "properties": { "task": {} } },
        "NumTasks": { "type": "object", "required": ["num_tasks"], "properties": { "num_tasks": natural } },
        "SplitRequest": { "type": "object", "required": ["split"], "properties": { "split": text } },
        "TaskRequest": {
            "type": "object", "required": ["split", "index"],
            "properties": { "split": text, "index": { "type": "integer" } },
        },
        "RangeRequest": {
            "type": "object", "required": ["split"],
            "properties": {
                "split": text, "start": { "type": ["integer", "null"] },
                "stop": { "type": ["integer", "null"] },
            },
        },
    })
}

/// Resets, steps and batches of them.
fn episodes() -> Value {
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    json!({
        "ResetRequest": {
            "type": "object",
            "properties": { "seed": { "type": ["integer", "null"], "minimum": 0 }, "episode_id": label() },
            "additionalProperties": true,
            "examples": [{}, { "seed": 7, "episode_id": "eval-1" }],
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
            "examples": [
                { "action": { "type": "list_tools" } },
                {
                    "action": {
                        "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": "hi" }
                    }
                },
            ],
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
            "examples": [{ "observation": { "position": [0, 1] }, "reward": 0.0, "done": false }],
        },
        "BatchRequest": {
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": { "type": "array", "minItems": 1, "maxItems": 4096, "items": { "type": "object" } },
                "timeout_s": seconds(),
            },
            "additionalProperties": false,
            "examples": [
                { "items": [{ "type": "step", "session": "9f1c", "data": { "type": "list_tools" } }] }
            ],
        },
        "BatchResponse": {
            "type": "object",
            "required": ["results"],
            "properties": { "results": { "type": "array", "items": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": text, "session": text, "seq": natural, "repeated": { "const": true }
                },
            } } },
        },
    })
}

/// Sessions, and copies of them.
fn sessions() -> Value {
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    json!({
        "SessionCreate": {
            "type": "object",
            "properties": {
                "seed": { "type": ["integer", "null"], "minimum": 0 }, "episode_id": label(),
                "resume_s": seconds(), "queue_s": seconds(),
            },
            "additionalProperties": false,
            "examples": [{ "seed": 7, "queue_s": 30 }],
        },
        "SessionCreated": {
            "type": "object",
            "required": ["session_id", "mcp_url", "agent_token"],
            "properties": {
                "session_id": text, "mcp_url": text, "agent_token": { "type": ["string", "null"] }
            },
        },
        "SessionProgress": {
            "type": "object",
            "required": ["seq", "epoch", "episode_id", "step_count", "done"],
            "properties": {
                "seq": natural, "epoch": natural, "episode_id": text, "step_count": natural,
                "done": { "type": "boolean" },
            },
        },
        "SessionList": {
            "type": "object",
            "required": ["sessions"],
            "properties": { "sessions": { "type": "array", "items": reference("SessionInfo") } },
        },
        "SessionInfo": {
            "type": "object",
            "required": [
                "session_id", "environment", "seed", "epoch", "episode_id", "step_count", "done",
                "episode_reward",
                "seq", "waited_ms", "attached", "idle_ms",
            ],
            "properties": {
                "session_id": text, "environment": text, "seed": natural, "epoch": natural,
                "episode_id": text,
                "step_count": natural, "done": { "type": "boolean" },
                "episode_reward": { "type": ["number", "null"] },
                "episode_scores": { "type": "object", "additionalProperties": { "type": "number" } },
                "seq": natural, "waited_ms": natural, "attached": natural, "idle_ms": natural,
            },
        },
        "SessionLog": {
            "type": "object",
            "required": ["session_id", "text", "dropped_bytes"],
            "properties": { "session_id": text, "text": text, "dropped_bytes": natural },
        },
        "SessionClosed": {
            "type": "object",
            "required": ["session_id", "closed"],
            "properties": { "session_id": text, "closed": { "const": true } },
        },
        "ForkRequest": {
            "type": "object",
            "properties": {
                "n": { "type": ["integer", "null"], "minimum": 1, "maximum": 1024 }, "resume_s": seconds(),
            },
            "additionalProperties": false,
            "examples": [{ "n": 8 }],
        },
        "Forked": {
            "type": "object",
            "required": ["sessions"],
            "properties": { "sessions": { "type": "array", "items": reference("SessionCreated") } },
        },
        "SessionSnapshot": {
            "type": "object",
            "required": ["snapshot", "key"],
            "properties": { "snapshot": text, "key": { "enum": ["file", "record", "process"] } },
        },
        "RestoreRequest": {
            "type": "object",
            "required": ["snapshot"],
            "properties": { "snapshot": text, "key": text, "resume_s": seconds() },
            "additionalProperties": false,
        },
    })
}

/// Recorded sessions.
fn records() -> Value {
    let text = json!({ "type": "string" });
    let natural = json!({ "type": "integer", "minimum": 0 });
    json!({
        "TrajectoryList": {
            "type": "object",
            "required": ["trajectories", "next"],
            "properties": {
                "trajectories": { "type": "array", "items": reference("Trajectory") },
                "next": { "type": ["string", "null"] },
            },
        },
        "Trajectory": {
            "type": "object",
            "required": [
                "session_id", "environment", "version", "seed", "opened_us", "epochs", "steps", "reward"
            ],
            "properties": {
                "session_id": text, "environment": text, "version": text, "seed": natural,
                "opened_us": natural,
                "closed_us": { "type": ["integer", "null"] }, "reason": { "type": ["string", "null"] },
                "origin": { "type": ["object", "null"] }, "epochs": natural, "steps": natural,
                "failures": natural,
                "reward": { "type": "number" }, "done": { "type": "boolean" }, "last_us": natural,
            },
        },
        "TrajectorySteps": {
            "type": "object",
            "required": ["steps", "next"],
            "properties": {
                "steps": { "type": "array", "items": {
                    "type": "object",
                    "required": ["seq", "epoch", "time_us", "event"],
                    "properties": { "seq": natural, "epoch": natural, "time_us": natural, "event": text },
                } },
                "next": { "type": ["integer", "null"] },
            },
        },
    })
}

/// JSON-RPC, and failures.
fn messages() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "JsonRpcRequest": {
            "type": "object",
            "required": ["jsonrpc", "method"],
            "properties": {
                "jsonrpc": { "const": "2.0" }, "id": { "type": ["string", "integer", "null"] },
                "method": text, "params": { "type": ["object", "null"] },
            },
            "additionalProperties": false,
            "examples": [{ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }],
        },
        "JsonRpcResponse": {
            "type": "object",
            "required": ["jsonrpc", "id"],
            "properties": {
                "jsonrpc": { "const": "2.0" }, "id": {}, "result": {}, "error": { "type": "object" }
            },
        },
        "RpcFailure": { "anyOf": [reference("JsonRpcResponse"), reference("Failure")] },
        "Failure": {
            "type": "object",
            "required": ["detail"],
            "properties": {
                "detail": { "description": "What happened, or the issues of a body that does not fit" },
                "oxenv": {
                    "type": "object",
                    "required": ["code", "kind", "phase", "delivered", "retryable"],
                    "properties": {
                        "code": { "enum": ErrorCode::ALL.as_slice() },
                        "kind": { "enum": ["action", "environment", "timeout", "infrastructure"] },
                        "phase": { "enum": ["boot", "reset", "step", "tool", "verify"] },
                        "delivered": { "enum": ["yes", "no", "maybe"] },
                        "retryable": { "type": "boolean" },
                    },
                },
            },
            "examples": [{
                "detail": "session 9f1c has ended: closed",
                "oxenv": {
                    "code": "SESSION_ENDED", "kind": "infrastructure", "phase": "step", "delivered": "no",
                    "retryable": false,
                },
            }],
        },
    })
}

/// The environment's own messages. Any JSON object is taken as an action before the environment looks at it,
/// so the environment's own schema is an annotation of it and its local references stay its own.
fn environment(spec: &EnvironmentSpec) -> Value {
    json!({
        "Action": { "type": "object", "title": spec.schemas.action["title"], "x-oxenv-schema": "/schema" },
        "State": { "type": "object", "x-oxenv-schema": "/schema" },
    })
}

/// Toolsets that do not work.
fn problems() -> Value {
    let toolset = json!({ "type": ["string", "null"] });
    let problem = json!({
        "type": "object",
        "required": ["toolset", "message", "required"],
        "properties": {
            "toolset": toolset, "message": { "type": "string" }, "required": { "type": "boolean" }
        },
    });
    json!({ "type": "array", "items": problem })
}

/// A text of the client's choice.
fn label() -> Value {
    json!({ "type": ["string", "null"], "maxLength": 255 })
}

/// A length of time.
fn seconds() -> Value {
    json!({ "type": ["number", "null"], "exclusiveMinimum": 0 })
}
