//! A tool's declaration and how a call's outcome is spelled in an observation.
//!
//! Invariant: stock shapes are exact. `ToolError` has two fields and five types, because a stock
//! client refuses anything more; `description` is never null, because one swallows that as "no tools".

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Delivered, ErrorCode, FailureKind, Phase, ToolErrorType};
use crate::json::{RawJson, raw};
use crate::preview::preview;
use crate::reply::ErrorData;
use crate::result::{ToolResult, push_string};

/// Names that no tool may have: they are orchestration, which an agent must not reach.
pub const RESERVED_TOOL_NAMES: [&str; 5] = ["reset", "step", "state", "close", "fork"];

/// A function that is offered to the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its unique name, 64 characters at most.
    pub name: Cow<'static, str>,
    /// A title for people.
    pub title: Option<String>,
    /// What it does, for the model; may be empty.
    pub description: String,
    /// JSON Schema (2020-12) of its arguments.
    pub input_schema: Value,
    /// JSON Schema of its structured result.
    pub output_schema: Option<Value>,
    /// MCP's hints about its behaviour.
    pub annotations: Option<Value>,
    /// Metadata of its server.
    pub meta: Option<Value>,
}

/// In whose words tools are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolSpelling {
    /// As a step's observation lists them.
    Step,
    /// As `GET /tools` lists them.
    Rest,
    /// As the MCP dialect lists them.
    Dialect,
    /// As MCP itself lists them.
    Mcp,
}

impl Tool {
    /// The tool in those words; `toolset` is where it comes from.
    #[must_use]
    pub fn spelled(&self, spelling: ToolSpelling, toolset: &str) -> RawJson {
        match spelling {
            ToolSpelling::Step => self.for_step(),
            ToolSpelling::Rest => self.for_rest(toolset),
            ToolSpelling::Dialect => self.for_dialect(),
            ToolSpelling::Mcp => self.for_mcp(),
        }
    }

    /// The tool as `list_tools` gives it through a step: name, description, `input_schema`.
    #[must_use]
    pub fn for_step(&self) -> RawJson {
        listed(&json!({
            "name": self.name,
            "description": self.description,
            "input_schema": self.input_schema,
        }))
    }

    /// The tool as `GET /tools` gives it: the tools RFC's name, description, `inputSchema`, and of
    /// ours the toolset that it comes from, MCP's hints and the schema of its result.
    #[must_use]
    pub fn for_rest(&self, toolset: &str) -> RawJson {
        listed(&json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
            "toolset": toolset,
            "annotations": self.annotations,
            "outputSchema": self.output_schema,
        }))
    }

    /// The tool as MCP's own `tools/list` gives it: what is absent is left out.
    #[must_use]
    pub fn for_mcp(&self) -> RawJson {
        let mut tool = json!({ "name": self.name });
        let optional = [
            ("title", self.title.clone().map(Value::from)),
            ("description", Some(Value::from(self.description.as_str()))),
            ("inputSchema", Some(self.input_schema.clone())),
            ("outputSchema", self.output_schema.clone()),
            ("annotations", self.annotations.clone()),
            ("_meta", self.meta.clone()),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                tool[key] = value;
            }
        }
        listed(&tool)
    }

    /// The tool as the MCP dialect's `tools/list` gives it: every field, nulls kept.
    #[must_use]
    pub fn for_dialect(&self) -> RawJson {
        listed(&json!({
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
            "icons": null,
            "annotations": self.annotations,
            "meta": self.meta.clone().unwrap_or_else(|| json!({ "fastmcp": { "tags": [] } })),
            "execution": null,
        }))
    }
}

/// Why a call gave no result: the transport or the framework failed, not the tool's own logic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ToolError {
    /// The category.
    pub error_type: ToolErrorType,
    /// What happened, for people and models.
    pub message: String,
    /// The precise code, where the category does not say enough. It travels beside the error, never
    /// inside, because a stock client refuses anything more.
    #[serde(skip)]
    pub code: Option<ErrorCode>,
}

impl ToolError {
    /// An error of that category.
    #[must_use]
    pub fn new(error_type: ToolErrorType, message: impl Into<String>) -> Self {
        ToolError { error_type, message: message.into(), code: None }
    }

    /// The same with a precise code.
    #[must_use]
    pub fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = Some(code);
        self
    }

    /// What is ours in the error, for `metadata.oxenv` of an observation and `data.oxenv` of a
    /// JSON-RPC error; nothing when the category says it all.
    #[must_use]
    pub fn data(&self) -> Option<ErrorData> {
        let code = self.code?;
        let (kind, delivered, retryable) = match code {
            ErrorCode::Denied | ErrorCode::InputRequired => (FailureKind::Action, Delivered::No, false),
            ErrorCode::RateLimited => (FailureKind::Action, Delivered::No, true),
            ErrorCode::UpstreamUnavailable => (FailureKind::Infrastructure, Delivered::No, true),
            ErrorCode::UpstreamLost | ErrorCode::Cancelled => {
                (FailureKind::Infrastructure, Delivered::Maybe, false)
            }
            ErrorCode::DeadlineExceeded => (FailureKind::Timeout, Delivered::Maybe, false),
            _ => (FailureKind::Environment, Delivered::Yes, false),
        };
        Some(ErrorData { code, kind, phase: Phase::Tool, delivered, retryable })
    }

    /// Whether the call reached its tool: unknown where it was cut off.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        self.data().map_or(Delivered::Yes, |data| data.delivered)
    }

    /// No tool has that name.
    #[must_use]
    pub fn not_found(name: &str) -> Self {
        Self::new(ToolErrorType::ToolNotFound, format!("Unknown tool: '{}'", preview(name)))
    }
}

/// Appends the fields of the stock observation of a call: `tool_name`, `result`, `error`.
pub fn write_call_fields(out: &mut String, name: &str, outcome: Result<&ToolResult, &ToolError>) {
    out.push_str("{\"tool_name\":");
    push_string(out, name);
    out.push(',');
    write_outcome(out, outcome);
}

/// Appends the fields of the tools RFC's observation: `stdout`, `result`, `error`.
pub fn write_unified_fields(out: &mut String, outcome: Result<&ToolResult, &ToolError>) {
    out.push_str("{\"stdout\":");
    push_string(out, &outcome.map(ToolResult::text).unwrap_or_default());
    out.push(',');
    write_outcome(out, outcome);
}

/// Appends the fields of a `call_tools` observation: `results`, an object with each call's `result`
/// and `error` under its id.
pub fn write_graph_fields<'a>(
    out: &mut String,
    results: impl IntoIterator<Item = (&'a str, Result<&'a ToolResult, &'a ToolError>)>,
) {
    out.push_str("{\"results\":{");
    for (index, (id, outcome)) in results.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(out, id);
        out.push_str(":{");
        write_outcome(out, outcome);
    }
    out.push_str("}}");
}

/// Appends the journal's metadata of a call: `result` (the result's data, or its text where it has
/// none) or `error` (its message).
pub fn write_call_metadata(out: &mut String, outcome: Result<&ToolResult, &ToolError>) {
    match outcome {
        Ok(result) if result.is_error => {
            out.push_str("{\"error\":");
            push_string(out, &result.text());
        }
        Ok(result) => {
            out.push_str("{\"result\":");
            out.push_str(&result.value());
        }
        Err(error) => {
            out.push_str("{\"error\":");
            push_string(out, &error.message);
        }
    }
    out.push('}');
}

fn write_outcome(out: &mut String, outcome: Result<&ToolResult, &ToolError>) {
    out.push_str("\"result\":");
    match outcome {
        Ok(result) => {
            result.write_dialect(out);
            out.push_str(",\"error\":null}");
        }
        Err(error) => {
            out.push_str("null,\"error\":");
            out.push_str(raw(error).unwrap_or_default().get());
            out.push('}');
        }
    }
}

fn listed(tool: &Value) -> RawJson {
    // Parsed JSON always serializes.
    raw(tool).unwrap_or_default()
}
