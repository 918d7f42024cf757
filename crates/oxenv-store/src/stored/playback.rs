//! A recorded call as the tool's own result, for whoever plays it back.
//!
//! Invariant: a result that is played back renders to the same bytes as it did when it was recorded.

use oxenv_wire::{Content, RawJson, Structured, ToolError, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{StoredCall, StoredToolError};
use crate::error::LogError;

/// A result as MCP spells it.
#[derive(Deserialize)]
struct McpResult<'a> {
    #[serde(borrow, default)]
    content: Vec<&'a RawValue>,
    #[serde(borrow, default, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(default, rename = "isError")]
    is_error: bool,
}

/// A block of text and nothing else; other keys make it a block that is passed on as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextBlock {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

/// What a value that is no object was put into.
#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow)]
    result: &'a RawValue,
}

impl StoredCall {
    /// The result or the error as the tool gave it.
    ///
    /// # Errors
    /// When a blob is missing or damaged, or holds no result.
    pub fn played_back(&self) -> Result<Result<ToolResult, ToolError>, LogError> {
        let json = match &self.outcome {
            Ok(json) => json,
            Err(StoredToolError { error_type, message, code }) => {
                let message = message.clone();
                return Ok(Err(ToolError { error_type: *error_type, message, code: *code }));
            }
        };
        let raw = json.raw()?;
        if self.asks_input {
            return Ok(Ok(ToolResult { input_required: Some(raw), ..ToolResult::default() }));
        }
        match result(&raw, self.wrapped) {
            Ok(result) => Ok(Ok(result)),
            Err(error) => {
                Err(json.fault(format!("the result of '{}' is not one of MCP: {error}", self.tool)))
            }
        }
    }
}

fn result(raw: &RawJson, wrapped: bool) -> serde_json::Result<ToolResult> {
    let read: McpResult<'_> = serde_json::from_str(raw.get())?;
    let content =
        read.content.into_iter().map(|block| match serde_json::from_str::<TextBlock>(block.get()) {
            Ok(TextBlock { kind, text }) if kind == "text" => Content::Text(text),
            _ => Content::Raw(block.to_owned()),
        });
    let structured = match read.structured {
        None => Structured::None,
        Some(object) if wrapped => {
            Structured::Wrapped(serde_json::from_str::<Wrapper<'_>>(object.get())?.result.to_owned())
        }
        Some(object) => Structured::Object(object.to_owned()),
    };
    Ok(ToolResult {
        content: content.collect(),
        structured,
        meta: read.meta.map(ToOwned::to_owned),
        is_error: read.is_error,
        input_required: None,
    })
}
