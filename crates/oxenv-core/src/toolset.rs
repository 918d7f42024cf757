//! The trait of a source of tools.
//!
//! Invariant: a toolset never repeats a call and never guesses: what it cannot tell is an error of
//! one of the five types that stock clients know.

use std::sync::Arc;

use oxenv_wire::{Tool, ToolError, ToolResult};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::work::Work;

/// Whom a toolset's tools belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One for the whole server: no state of a session is in it.
    Server,
    /// One per session.
    Session,
}

/// Who calls, for tools that want to know.
#[derive(Debug, Clone, Copy)]
pub struct CallContext<'a> {
    /// The session, if the call belongs to one.
    pub session_id: Option<&'a str>,
    /// The session's epoch.
    pub epoch: u64,
}

/// A source of tools.
///
/// # Behavior
/// - `list` is cheap and gives the same order every time until it changes.
/// - `call` of a name that is not in `list` is `tool_not_found`.
/// - Arguments that do not fit the tool's schema are `invalid_args`, and nothing has run.
/// - Dropping the work cancels the call.
pub trait Toolset: Send + Sync {
    /// Its name, which becomes the prefix where names conflict.
    fn name(&self) -> &str;

    /// Its tools.
    fn list(&self) -> Arc<[Tool]>;

    /// Whom its tools belong to.
    fn scope(&self) -> Scope {
        Scope::Server
    }

    /// Whether its calls may overlap within one session.
    fn concurrent(&self) -> bool {
        true
    }

    /// Calls a tool.
    fn call<'a>(
        &'a self,
        context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>>;
}
