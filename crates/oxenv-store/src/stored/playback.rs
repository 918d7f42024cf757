//! A recorded call as the tool's own result, for playing it back.
//!
//! Invariant: a result that is played back renders to the same bytes as it did when it was recorded.

use oxenv_wire::{ToolError, ToolResult};

use super::{StoredCall, StoredToolError};
use crate::error::LogError;

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
        match ToolResult::parse(raw.get()) {
            Ok(result) if self.wrapped => Ok(Ok(result.unwrapped())),
            Ok(result) => Ok(Ok(result)),
            Err(error) => {
                Err(json.fault(format!("the result of '{}' is not one of MCP: {error}", self.tool)))
            }
        }
    }
}
