//! What a code action shows: the outcome of a program.
//!
//! Invariant: the fields of the tools RFC (`stdout`, `result`, `error`) are always there, whatever became of
//! the program.

use serde::Serialize;

use crate::json::{RawJson, raw};
use crate::tool::ToolError;

/// The outcome of a program that ran to its end, or to the limit that ended it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CodeOutcome {
    /// What it printed.
    pub stdout: String,
    /// What it wrote to stderr: the traceback of an exception that it did not catch.
    pub stderr: String,
    /// As of a process: 0, or 1 after an exception that it did not catch, or what it exited with.
    pub exit_code: i32,
    /// The value of its last expression: as JSON, or else its `repr` as a string; absent without one.
    pub result: Option<RawJson>,
    /// The exception that it did not catch.
    pub error: Option<CodeException>,
    /// The tool calls that it made, in order.
    pub calls: Vec<CodeCall>,
    /// The parts above that had more than the limit and are cut off.
    pub truncated: Vec<CodePart>,
}

/// An exception that ended a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeException {
    /// Its class: `ValueError`.
    pub error_type: String,
    /// Its message; may be empty.
    pub message: String,
    /// Where it was raised, as Python prints it.
    pub traceback: String,
}

/// A tool call of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CodeCall {
    /// The tool.
    pub tool_name: String,
    /// Why it gave no result, if so.
    pub error: Option<ToolError>,
}

/// A part of an outcome that may be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CodePart {
    /// [`CodeOutcome::stdout`].
    Stdout,
    /// [`CodeOutcome::result`], which is then the beginning of the value's `repr`.
    Result,
    /// [`CodeOutcome::error`], and with it [`CodeOutcome::stderr`].
    Error,
}

impl CodeOutcome {
    /// Roughly how many bytes it takes in a reply.
    #[must_use]
    pub fn size(&self) -> usize {
        let result = self.result.as_ref().map_or(0, |result| result.get().len());
        let error = self.error.as_ref().map_or(0, |error| error.message.len() + error.traceback.len());
        let calls = self.calls.iter().map(|call| {
            64 + call.tool_name.len() + call.error.as_ref().map_or(0, |error| error.message.len())
        });
        256 + self.stdout.len() + self.stderr.len() + result + error + calls.sum::<usize>()
    }
}

/// Appends the fields of a code action's observation.
pub fn write_code_fields(out: &mut String, outcome: &CodeOutcome) {
    // Texts and checked JSON always serialize.
    out.push_str(raw(outcome).unwrap_or_default().get());
}
