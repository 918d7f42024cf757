//! Programs that agents write: the traits of what runs them, and of what they reach.
//!
//! Invariant: a program reaches its host through [`CodeTools`] alone.

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{CodeOutcome, RawJson, Tool, ToolError, ToolResult};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::work::Work;

/// What one code action may use. What goes beyond it is an exception in the program, or is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeLimits {
    /// Wall time, with that of its tool calls. Past it the program is interrupted: its variables stay.
    /// Default 30 s.
    pub time: Duration,
    /// Bytes of memory of all values of the session's programs. Default 256 MiB.
    pub memory: usize,
    /// Depth of function calls. Default 1000.
    pub recursion: usize,
    /// Bytes of each part of the outcome; what is more is cut off, and marked so. Default 256 KiB.
    pub output: usize,
    /// Tool calls. Default 1000.
    pub calls: usize,
}

impl Default for CodeLimits {
    fn default() -> Self {
        CodeLimits {
            time: Duration::from_secs(30),
            memory: 256 << 20,
            recursion: 1000,
            output: 256 << 10,
            calls: 1000,
        }
    }
}

/// What a new interpreter gets.
#[derive(Debug, Clone, Copy)]
pub struct CodeContext {
    /// The episode's seed, from which its randomness comes.
    pub seed: u64,
    /// What each of its programs may use.
    pub limits: CodeLimits,
}

/// What the interpreters of an engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeAbilities {
    /// Whether one can be copied with its variables.
    pub fork: bool,
    /// Whether one can be saved as bytes.
    pub snapshot: bool,
}

/// The tools of a program.
pub trait CodeTools: Send + Sync {
    /// The tools, with their schemas. The same list, by pointer, until it changes.
    fn list(&self) -> Arc<[Tool]>;

    /// Calls one; the arguments are an object. Calls do not overlap.
    fn call<'a>(&'a self, tool: &'a str, arguments: RawJson) -> Work<'a, Result<ToolResult, ToolError>>;
}

/// A program to run.
#[derive(Clone, Copy)]
pub struct Program<'a> {
    /// Its source text.
    pub code: &'a str,
    /// When it is interrupted, if [`CodeLimits::time`] does not do that before.
    pub deadline: Option<Instant>,
    /// What it may call.
    pub tools: &'a dyn CodeTools,
}

/// A way to run programs.
pub trait CodeEngine: Send + Sync {
    /// Its name: `monty`.
    fn name(&self) -> &str;

    /// What its interpreters can do.
    fn abilities(&self) -> CodeAbilities;

    /// The format of what its interpreters save, with its version. What was saved in another is not restored.
    fn saved_format(&self) -> &str;

    /// Opens an interpreter without variables.
    fn open(&self, context: CodeContext) -> Work<'_, Result<Box<dyn Interpreter>, Failure>>;

    /// Opens one that goes on from what another has saved. The caller has checked that the bytes are those,
    /// and of the present format: no others may get here.
    fn restore<'a>(
        &'a self,
        context: CodeContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<Box<dyn Interpreter>, Failure>>;
}

/// A session's interpreter: variables persist from program to program.
///
/// # Behavior
/// - An exception of the program, and what a limit ends, is an outcome, and variables are kept.
/// - A failure means that the interpreter is lost with its variables; it is dropped then.
/// - Dropping a pending run ends the interpreter, and what the program did is unknown.
/// - Nothing that a program does ends this process, or blocks its thread.
pub trait Interpreter: Send {
    /// Runs a program.
    fn run<'a>(&'a mut self, program: Program<'a>) -> Work<'a, Result<CodeOutcome, Failure>>;

    /// A copy that goes on independently.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] if the engine's abilities do not include it.
    fn fork(&mut self) -> Work<'_, Result<Box<dyn Interpreter>, Failure>>;

    /// Its variables as bytes for [`CodeEngine::restore`]. What has more than `room` bytes is refused.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] if the engine's abilities do not include it.
    fn snapshot(&mut self, room: u64) -> Work<'_, Result<Vec<u8>, Failure>>;
}
