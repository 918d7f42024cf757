//! [`StepReply`]: the outcome of a step, independent of its caller and its spelling.
//!
//! Invariant: a failure is no reply; what a tool itself reports, an error too, is one.

use std::borrow::Cow;
use std::sync::Arc;

use oxenv_wire::{CodeOutcome, RawJson, Reward, Spelling, ToolError, ToolResult, ToolsetProblem};

use crate::environment::Observed;

/// The outcome of a call: it reached its tool, or failed to.
#[derive(Debug, Clone)]
pub struct CallReply {
    /// The result, or the typed error.
    pub outcome: Result<ToolResult, ToolError>,
    /// The reward; absent is null. Never shown to the agent.
    pub reward: Option<Reward>,
    /// What the environment adds, such as the parts of the reward: an object. Never shown to the
    /// agent.
    pub metadata: Option<RawJson>,
    /// Whether the episode is done now.
    pub done: bool,
}

/// The outcome of a `call_tools` action.
#[derive(Debug, Clone)]
pub struct GraphReply {
    /// The outcome of each call, by its id, in the order they were sent.
    pub results: Vec<(String, Result<ToolResult, ToolError>)>,
    /// The sum of the calls' rewards; absent is null.
    pub reward: Option<Reward>,
    /// What the environment added to the last call that it scored: an object.
    pub metadata: Option<RawJson>,
    /// Whether the episode is done now.
    pub done: bool,
}

/// The outcome of a code action.
#[derive(Debug, Clone)]
pub struct CodeReply {
    /// What became of the program.
    pub outcome: CodeOutcome,
    /// The sum of its calls' rewards; absent is null.
    pub reward: Option<Reward>,
    /// What the environment added to the last call that it scored: an object.
    pub metadata: Option<RawJson>,
    /// Whether the episode is done now.
    pub done: bool,
}

/// The tools, as one step's observation.
#[derive(Debug, Clone)]
pub struct ToolListing {
    /// The tools that a step may call, in order: a JSON array in the form of a step.
    pub tools: Arc<str>,
    /// What does not work at present, so that its tools may be missing.
    pub problems: Vec<ToolsetProblem>,
    /// Whether the episode is done.
    pub done: bool,
}

/// The observation of a step; the spelling is the request's.
#[derive(Debug, Clone)]
pub enum StepReply<'a> {
    /// The tools.
    Tools(Spelling, ToolListing),
    /// A tool call's outcome.
    Call {
        /// How the request was spelled.
        spelling: Spelling,
        /// The tool's name.
        name: Cow<'a, str>,
        /// The outcome.
        reply: CallReply,
    },
    /// The outcomes of a graph of calls.
    Graph(GraphReply),
    /// The outcome of a program.
    Code(CodeReply),
    /// The environment's own observation.
    Observed(Observed),
}

impl StepReply<'_> {
    /// Whether the episode is done, as far as the session knows it.
    pub(crate) fn set_done(&mut self, now: bool) {
        match self {
            StepReply::Tools(_, listing) => listing.done = now,
            StepReply::Call { reply, .. } => reply.done = now,
            StepReply::Graph(reply) => reply.done = now,
            StepReply::Code(reply) => reply.done = now,
            // What the environment itself reports stays.
            StepReply::Observed(_) => {}
        }
    }
}
