//! [`Capabilities`]: what an environment can do, and how its calls run.
//!
//! Invariant: doors publish exactly what is declared; it does not change while an environment
//! lives.

use serde::Serialize;

/// How an environment's calls run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// Finishes at once, on the caller's task.
    Inline,
    /// Suspends (awaits); runs in a task of its own.
    Task,
    /// Blocks its thread; runs on a thread of its own.
    Blocking,
}

/// How a session's environment can be forked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForkMode {
    /// There is nothing to copy.
    Stateless,
    /// All state is files of the workspace.
    Workspace,
    /// The environment copies itself.
    Native,
    /// Its process is forked; refused while it has what two processes cannot both have.
    Process,
    /// By replaying the recorded steps.
    Replay,
    /// Never.
    None,
}

/// What an environment can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// How its calls run.
    pub execution: Execution,
    /// Whether the same seed and actions give the same bytes.
    pub deterministic: bool,
    /// How it is forked.
    pub fork: ForkMode,
    /// Whether it can be snapshotted and restored.
    pub snapshot: bool,
    /// Whether it scores tool calls.
    pub observes_calls: bool,
    /// Whether its rewards have parts that [`Environment::scores`](crate::Environment::scores)
    /// reports.
    pub scored: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Capabilities {
            execution: Execution::Inline,
            deterministic: true,
            fork: ForkMode::None,
            snapshot: false,
            observes_calls: false,
            scored: false,
        }
    }
}
