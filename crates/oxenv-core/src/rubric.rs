//! What computes a reward from tool calls.
//!
//! Invariant: a rubric sees finished calls only, one at a time in order of completion; a call that
//! failed on its way to the tool is never scored.

use oxenv_wire::Reward;

use crate::environment::{CallRecord, Reset};

/// What a call was worth.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// The reward; absent is null on the wire.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
}

/// Scores the tool calls of one session.
pub trait Rubric: Send {
    /// Begins an episode.
    fn reset(&mut self, reset: &Reset);

    /// Scores a finished call.
    fn score(&mut self, call: &CallRecord) -> Score;
}

/// Makes a rubric per session.
pub type RubricFactory = std::sync::Arc<dyn Fn() -> Box<dyn Rubric> + Send + Sync>;
