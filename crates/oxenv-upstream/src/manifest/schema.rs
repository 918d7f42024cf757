//! The manifest's JSON Schema, for editors.
//!
//! Invariant: it has the same keys, words and limits as the reader, because it is made from the
//! reader's own tables; a test holds the keys against them, and `docs/tools.schema.json` against it.

use serde_json::{Value, json};

use crate::manifest::entry::{FORK_MODES, MAX_PREFIX, MAX_TIME_S, PREFIX_RULES, SCOPES, STARTUPS, VERSION};
use crate::manifest::name::MAX_NAME;
use crate::manifest::rules::RATE_SCOPES;
use crate::manifest::server::TRANSPORTS;

/// The schema, in draft 7, which editors know best.
#[must_use]
pub fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "tools.yaml",
        "description": "The toolsets of an oxenv environment.",
        "type": "object",
        "additionalProperties": false,
        "required": ["tools"],
        "properties": {
            "version": { "description": "The format's version.", "const": VERSION, "default": VERSION },
            "prefix": {
                "description": "What happens to tools of one name from several toolsets: prefix the later \
                    one as toolset__tool, prefix all tools, or refuse.",
                "enum": spellings(&PREFIX_RULES),
                "default": "conflict",
            },
            "tools": {
                "description": "The toolsets.",
                "type": "array",
                "items": { "$ref": "#/definitions/toolset" },
            },
        },
        "definitions": {
            "toolset": toolset(),
            "mcp_server": mcp_server(),
            "role": role(),
            "rate_limit": rate_limit(),
            "patterns": {
                "type": "array",
                "items": { "type": "string", "minLength": 1, "maxLength": 256 },
            },
        },
    })
}

fn toolset() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["name", "mcp_server"],
        "properties": {
            "name": {
                "description": "The toolset's name, unlike any other's.",
                "type": "string",
                "pattern": format!("^[A-Za-z0-9_.-]{{1,{MAX_NAME}}}$"),
            },
            "type": { "description": "Always mcp.", "const": "mcp", "default": "mcp" },
            "enabled": { "description": "Whether it is loaded.", "type": "boolean", "default": true },
            "mcp_server": { "$ref": "#/definitions/mcp_server" },
            "startup": {
                "description": "When it is started: when its tools are first needed, or with the server.",
                "enum": spellings(&STARTUPS),
                "default": "lazy",
            },
            "scope": {
                "description": "One per session, or one for the whole server. Default: session; for http, in \
                    simulation mode session if its server gives sessions of its own, else server.",
                "enum": spellings(&SCOPES),
            },
            "timeout_s": seconds("How long a call may take, in seconds.", 30),
            "start_timeout_s": seconds("How long a start may take, in seconds.", 60),
            "on_reset": {
                "description": "What a reset does: keep it, restart it, or call one of its tools. Default: \
                    restart if one of its texts holds ${seed}, else keep.",
                "type": "string",
                "pattern": "^(keep|restart|call:\\s*\\S+)$",
            },
            "on_fork": {
                "description": "How its state follows a fork of the session.",
                "enum": spellings(&FORK_MODES),
                "default": "none",
            },
            "prefix": {
                "description": "Prefix all its tools (true), none (false), or all with this text.",
                "anyOf": [
                    { "type": "boolean" },
                    { "type": "string", "pattern": format!("^[A-Za-z0-9_.-]{{1,{MAX_PREFIX}}}$") },
                ],
            },
            "required": {
                "description": "Whether the server refuses to work without it.",
                "type": "boolean",
                "default": false,
            },
            "allow": patterns("Only these tools may be called; * and ? are wildcards.", 1),
            "deny": patterns("These tools may not be called, whatever allow says.", 0),
            "roles": {
                "description": "What holds for a role besides.",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "control": { "$ref": "#/definitions/role" },
                    "agent": { "$ref": "#/definitions/role" },
                },
            },
            "rate_limit": { "$ref": "#/definitions/rate_limit" },
            "arguments": {
                "description": "By a pattern of tools, a JSON Schema that arguments must fit besides the \
                    tool's own.",
                "type": "object",
                "additionalProperties": { "type": ["object", "boolean"] },
            },
        },
    })
}

fn mcp_server() -> Value {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let described = |description: &str, schema: &Value| {
        let mut schema = schema.clone();
        schema["description"] = description.into();
        schema
    };
    let text = json!({ "type": "string", "minLength": 1 });
    json!({
        "description": "How the toolset is reached. Texts may hold ${VAR}, ${VAR:-default}, ${file:PATH}, \
            ${workspace} and ${seed}.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "transport": {
                "description": "Default: that of the key command, url, toolset or path.",
                "enum": spellings(&TRANSPORTS),
            },
            "command": described("stdio: the program to run.", &text),
            "args": {
                "description": "stdio: the program's arguments.",
                "type": "array",
                "items": { "type": "string" },
            },
            "env": described(
                "stdio, python: variables of the process, beside PATH, HOME, TMPDIR and LANG.",
                &texts,
            ),
            "cwd": described("stdio: the folder it runs in.", &text),
            "url": {
                "description": "http: the endpoint.",
                "type": "string",
                "pattern": "^([hH][tT][tT][pP][sS]?://|\\$\\{)",
            },
            "headers": described("http: headers of every request.", &texts),
            "toolset": described("builtin: the name of a toolset that is compiled in.", &text),
            "path": described("python: a file with functions.", &text),
        },
        "oneOf": [
            { "required": ["command"] },
            { "required": ["url"] },
            { "required": ["toolset"] },
            { "required": ["path"] },
        ],
        "dependencies": {
            "args": ["command"],
            "cwd": ["command"],
            "headers": ["url"],
            "env": { "anyOf": [{ "required": ["command"] }, { "required": ["path"] }] },
        },
    })
}

fn role() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "allow": patterns("Of the tools that everybody may call, only these.", 1),
            "deny": patterns("Not these.", 0),
            "rate_limit": { "$ref": "#/definitions/rate_limit" },
        },
    })
}

fn rate_limit() -> Value {
    let rate = json!({ "type": "string", "pattern": "^\\s*\\+?[0-9]+\\s*/\\s*[smh]\\s*$" });
    json!({
        "description": "How often calls may be made: 10/s, 100/m, 1000/h.",
        "anyOf": [
            rate,
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["rate"],
                "properties": {
                    "rate": rate,
                    "burst": {
                        "description": "Maximum number of calls at once after a quiet time. Default: that of \
                            the rate.",
                        "type": "integer",
                        "minimum": 1,
                        "maximum": u32::MAX,
                    },
                    "per": {
                        "description": "Who shares the limit.",
                        "enum": spellings(&RATE_SCOPES),
                        "default": "session",
                    },
                },
            },
        ],
    })
}

fn spellings<T>(choices: &[(&str, T)]) -> Vec<String> {
    choices.iter().map(|(word, _)| (*word).to_owned()).collect()
}

fn seconds(description: &str, default: u64) -> Value {
    json!({
        "description": description,
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": MAX_TIME_S,
        "default": default,
    })
}

fn patterns(description: &str, least: u64) -> Value {
    json!({ "description": description, "minItems": least, "allOf": [{ "$ref": "#/definitions/patterns" }] })
}
