//! What a rubric looks at: the act that was just finished, and the episode before it.
//!
//! Invariant: a tool call is the same act whichever door it came through, alone or in a graph.

use std::borrow::Cow;
use std::sync::Arc;

use oxenv_wire::{Reward, Structured, empty_object};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::environment::{CallRecord, Observed};

/// One thing that was done, with its outcome.
#[derive(Debug, Clone, Copy)]
pub enum EpisodeEvent<'a> {
    /// A typed action.
    Step {
        /// The action as it was sent.
        action: &'a RawValue,
        /// The environment's observation for it.
        observed: &'a Observed,
    },
    /// A tool call that reached its tool.
    Call(&'a CallRecord),
}

/// An earlier act of the episode, as short as rubrics need it. Copies share its texts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PastEvent {
    /// The tool's name; absent: it was a typed action.
    pub tool: Option<String>,
    /// The arguments or the action, an object.
    pub input: Arc<RawValue>,
    /// The result's value, or the observation's fields.
    pub output: Arc<RawValue>,
    /// Whether the tool reported that it failed.
    pub is_error: bool,
}

/// The input of a rubric.
#[derive(Debug, Clone, Copy)]
pub struct ScoringContext<'a> {
    /// The act that was just finished.
    pub act: EpisodeEvent<'a>,
    /// The acts before it; empty unless asked for by [`super::RubricNeeds::episode`].
    pub earlier: &'a [PastEvent],
    /// What the client sent to begin the episode: the place for a task.
    pub task: Option<&'a RawValue>,
    /// The environment's state after the act; absent unless asked for by [`super::RubricNeeds::state`].
    pub state: Option<&'a RawValue>,
    /// The reward of the environment itself.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
    /// The number of the act within its episode, counted from 1.
    pub step: u64,
}

impl<'a> EpisodeEvent<'a> {
    /// The tool that was called.
    #[must_use]
    pub fn tool(self) -> Option<&'a str> {
        match self {
            EpisodeEvent::Step { .. } => None,
            EpisodeEvent::Call(call) => Some(&call.tool),
        }
    }

    /// The action or the arguments as JSON, an object.
    #[must_use]
    pub fn input(self) -> &'a str {
        match self {
            EpisodeEvent::Step { action, .. } => action.get(),
            EpisodeEvent::Call(call) => call.arguments.as_deref().map_or("{}", RawValue::get),
        }
    }

    /// The observation's fields, or what the tool gave: its data, or else its text, as JSON.
    #[must_use]
    pub fn output(self) -> Cow<'a, str> {
        match self {
            EpisodeEvent::Step { observed, .. } => observed.fields.get().into(),
            EpisodeEvent::Call(call) => match &call.outcome {
                Ok(result) => result.value(),
                Err(_) => "null".into(),
            },
        }
    }

    /// The text of a tool that gave nothing but that.
    pub(super) fn only_text(self) -> Option<String> {
        match self {
            EpisodeEvent::Call(CallRecord { outcome: Ok(result), .. }) => {
                matches!(result.structured, Structured::None).then(|| result.text())
            }
            _ => None,
        }
    }

    /// Whether the tool reports that it failed.
    #[must_use]
    pub fn is_error(self) -> bool {
        match self {
            EpisodeEvent::Step { .. } => false,
            EpisodeEvent::Call(call) => call.outcome.as_ref().map_or(true, |result| result.is_error),
        }
    }

    /// The act as later ones look back on it.
    #[must_use]
    pub(crate) fn to_past(self) -> PastEvent {
        let json = |text: &str| RawValue::from_string(text.to_owned()).unwrap_or_else(|_| empty_object());
        PastEvent {
            tool: self.tool().map(str::to_owned),
            input: json(self.input()).into(),
            output: json(&self.output()).into(),
            is_error: self.is_error(),
        }
    }
}

impl PastEvent {
    /// Roughly how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let tool = self.tool.as_ref().map_or(0, String::len);
        128 + tool + self.input.get().len() + self.output.get().len()
    }
}
