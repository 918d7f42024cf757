//! The tools of both MCP servers.
//!
//! Invariant: one name, `search`, is a tool of both, with another schema and another answer in each; every
//! answer of it names its server.

use serde_json::{Value, json};

use super::database::Databases;
use crate::fault::{Effect, RequestFaults};

/// One grey pixel, as PNG in base64.
const SCREENSHOT: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg==";

/// What `computer` can do.
const ACTIONS: [&str; 8] =
    ["screenshot", "left_click", "right_click", "double_click", "type", "key", "scroll", "wait"];

/// An MCP server of an instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum McpServerKind {
    /// The environment's own, `/mcp`.
    Environment,
    /// `/api/v1/mcp`.
    Aggregator,
}

impl McpServerKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            McpServerKind::Environment => "mcp",
            McpServerKind::Aggregator => "api/v1/mcp",
        }
    }
}

/// An error of JSON-RPC.
pub(super) struct RpcError {
    pub(super) code: i32,
    pub(super) message: String,
}

impl RpcError {
    pub(super) fn new(code: i32, message: impl Into<String>) -> Self {
        RpcError { code, message: message.into() }
    }
}

pub(super) fn list(kind: McpServerKind) -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    match kind {
        McpServerKind::Environment => json!([
            tool("create_issue", "Creates an issue", &json!({"title": text, "assignee": text}), &["title"]),
            tool("get_issue", "One issue", &json!({"id": number}), &["id"]),
            tool("list_issues", "All issues, or those with a status", &json!({"status": text}), &[]),
            tool("search", "Issues whose title contains a text", &json!({"query": text}), &["query"]),
            tool(
                "set_status",
                "Gives an issue another status",
                &json!({"id": number, "status": {"type": "string", "enum": ["open", "done", "closed"]}}),
                &["id", "status"]
            ),
        ]),
        McpServerKind::Aggregator => json!([
            tool(
                "computer",
                "Uses the browser's screen, mouse and keyboard",
                &json!({
                    "action": {"type": "string", "enum": ACTIONS},
                    "coordinate": {"type": "array", "items": number, "minItems": 2, "maxItems": 2},
                    "text": text,
                }),
                &["action"]
            ),
            tool(
                "search",
                "Finds text on the page",
                &json!({"query": text, "limit": number}),
                &["query", "limit"]
            ),
        ]),
    }
}

fn tool(name: &str, description: &str, properties: &Value, required: &[&str]) -> Value {
    json!({"name": name, "description": description,
        "inputSchema": {"type": "object", "properties": properties, "required": required}})
}

/// Calls a tool. Wrong arguments are an error of the tool, an unknown tool one of the protocol.
pub(super) async fn call(
    kind: McpServerKind,
    databases: &Databases,
    name: &str,
    arguments: &Value,
    faults: &RequestFaults,
) -> Result<Value, RpcError> {
    let text = |key: &str| arguments[key].as_str().map(|text| json!(text));
    let number = |key: &str| arguments[key].as_i64().map(|number| json!(number));
    let (sql, args) = match (kind, name) {
        (McpServerKind::Environment, "create_issue") => (
            "INSERT INTO issues (title, status, assignee) VALUES (?, 'open', ?) RETURNING *",
            vec![text("title"), Some(text("assignee").unwrap_or_default())],
        ),
        (McpServerKind::Environment, "get_issue") => {
            ("SELECT * FROM issues WHERE id = ?", vec![number("id")])
        }
        (McpServerKind::Environment, "list_issues") => {
            let status = Some(text("status").unwrap_or_default());
            ("SELECT * FROM issues WHERE ?1 IS NULL OR status = ?1 ORDER BY id", vec![status])
        }
        (McpServerKind::Environment, "search") => (
            "SELECT 'mcp' AS answered_by, * FROM issues WHERE instr(title, ?) ORDER BY id",
            vec![text("query")],
        ),
        (McpServerKind::Environment, "set_status") => {
            ("UPDATE issues SET status = ? WHERE id = ? RETURNING *", vec![text("status"), number("id")])
        }
        (McpServerKind::Aggregator, "computer") => return Ok(computer(arguments, faults)),
        (McpServerKind::Aggregator, "search") => (
            "SELECT 'api/v1/mcp' AS answered_by, title FROM issues WHERE instr(title, ?) ORDER BY id LIMIT ?",
            vec![text("query"), number("limit")],
        ),
        _ => return Err(RpcError::new(-32602, format!("Unknown tool: {name}"))),
    };
    let Some(args) = args.into_iter().collect::<Option<Vec<Value>>>() else {
        return Ok(result(&format!("{name}: an argument is missing or of a wrong type"), true));
    };
    Ok(match databases.execute(sql, args).await {
        Ok(rows) => result(&json!(rows).to_string(), false),
        Err(error) => result(&error.to_string(), true),
    })
}

fn computer(arguments: &Value, faults: &RequestFaults) -> Value {
    let action = arguments["action"].as_str().unwrap_or_default();
    if !ACTIONS.contains(&action) {
        return result(&format!("'{action}' is no action; use one of {ACTIONS:?}"), true);
    }
    if action != "screenshot" {
        return result(&json!({"output": format!("{action} done"), "base64_image": null}).to_string(), false);
    }
    if faults.has(&Effect::McpImage) {
        return json!({"content": [{"type": "image", "data": SCREENSHOT, "mimeType": "image/png"}],
            "isError": false});
    }
    let image = (!faults.has(&Effect::NullImage)).then(|| format!("data:image/png;base64,{SCREENSHOT}"));
    result(&json!({ "base64_image": image }).to_string(), false)
}

fn result(text: &str, is_error: bool) -> Value {
    json!({"content": [{"type": "text", "text": text}], "isError": is_error})
}
