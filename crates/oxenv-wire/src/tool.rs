//! A tool's declaration, and why a call of one gave no result.
//!
//! Invariant: stock shapes are exact. `ToolError` has two fields and five types, because a stock
//! client refuses anything more; `description` is never null, because one swallows that as "no tools".

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Delivered, ErrorCode, ErrorTraits, Phase, ToolErrorType};
use crate::json::{RawJson, raw};
use crate::preview::preview;
use crate::reply::ErrorData;
use crate::result::ToolResult;

/// Names that no tool may have: they are orchestration, which an agent must not reach.
pub const RESERVED_TOOL_NAMES: [&str; 5] = ["reset", "step", "state", "close", "fork"];

/// A function that is offered to the agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its unique name, 64 characters at most.
    pub name: Cow<'static, str>,
    /// A title for people.
    pub title: Option<String>,
    /// Its description, for the model; may be empty.
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

/// The spelling in which tools are listed.
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
    /// The tool in that spelling; `toolset` is where it comes from.
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

    /// Adds a precise code.
    #[must_use]
    pub fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = Some(code);
        self
    }

    /// Our own part of the error, for `metadata.oxenv` of an observation and `data.oxenv` of a
    /// JSON-RPC error; nothing when the category is enough.
    #[must_use]
    pub fn data(&self) -> Option<ErrorData> {
        let code = self.code?;
        let ErrorTraits { kind, delivered, retryable } = code.traits();
        Some(ErrorData { code, kind, phase: Phase::Tool, delivered, retryable })
    }

    /// Whether the call reached its tool, by the code, or else by the category.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        match (self.code, self.error_type) {
            (Some(code), _) => code.traits().delivered,
            (None, ToolErrorType::InvalidArgs | ToolErrorType::ToolNotFound) => Delivered::No,
            (None, ToolErrorType::ExecutionError) => Delivered::Yes,
            (None, ToolErrorType::TransportError | ToolErrorType::Timeout) => Delivered::Maybe,
        }
    }

    /// The result of a tool that failed, for readers that take any result as a success.
    pub(crate) fn of_failed(result: &ToolResult) -> Self {
        let text = result.text();
        let message =
            if text.is_empty() { "the tool returned an error without a text".to_owned() } else { text };
        Self::new(ToolErrorType::ExecutionError, message)
    }

    /// The tool wants input before it goes on, and its caller cannot be asked.
    #[must_use]
    pub fn input_required() -> Self {
        let message = "the tool asks for input before it goes on, and only a client of MCP 2026-07-28 can \
                       be asked for it: call the tool with such a client";
        Self::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::InputRequired)
    }

    /// No tool has that name.
    #[must_use]
    pub fn not_found(name: &str) -> Self {
        Self::new(ToolErrorType::ToolNotFound, format!("Unknown tool: '{}'", preview(name)))
    }
}

fn listed(tool: &Value) -> RawJson {
    // Parsed JSON always serializes.
    raw(tool).unwrap_or_default()
}
