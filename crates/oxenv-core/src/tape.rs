//! What an episode was made of, for environments and toolsets that are forked by replay.
//!
//! Invariant: half an episode is none. A tape that is too long for its bound is dropped as a whole, and
//! so is one whose beginning is not known; either says so.

use oxenv_wire::{RawJson, ToolError, ToolResult};

use crate::environment::{CallRecord, Reset};

/// Bytes that one session's tape may take.
const LONGEST: usize = 16 << 20;

/// One thing that was done in an episode.
#[derive(Debug, Clone)]
pub(crate) enum Taped {
    /// It was begun.
    Reset(Reset),
    /// A typed action was taken, or refused by the environment.
    Action(RawJson),
    /// A tool was called.
    Call(CallRecord),
}

/// An episode so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tape {
    entries: Vec<Taped>,
    bytes: usize,
    broken: bool,
}

impl Tape {
    /// The tape of an episode whose beginning is not known.
    pub(crate) fn unknown() -> Self {
        Tape { broken: true, ..Tape::default() }
    }

    pub(crate) fn beginning(reset: Reset) -> Self {
        let mut tape = Tape::default();
        tape.push(Taped::Reset(reset));
        tape
    }

    pub(crate) fn push(&mut self, entry: Taped) {
        if self.broken {
            return;
        }
        self.bytes += weight(&entry);
        self.entries.push(entry);
        if self.bytes > LONGEST {
            *self = Tape::unknown();
        }
    }

    /// The episode, or nothing when it is not known as a whole.
    pub(crate) fn entries(&self) -> Option<&[Taped]> {
        (!self.broken).then_some(&self.entries)
    }
}

fn weight(entry: &Taped) -> usize {
    let raw = |json: &Option<RawJson>| json.as_ref().map_or(0, |json| json.get().len());
    let outcome = |outcome: &Result<ToolResult, ToolError>| match outcome {
        Ok(result) => result.text().len() + 2 * result.data().len(),
        Err(error) => error.message.len(),
    };
    64 + match entry {
        Taped::Reset(reset) => raw(&reset.arguments),
        Taped::Action(action) => action.get().len(),
        Taped::Call(call) => call.tool.len() + raw(&call.arguments) + outcome(&call.outcome),
    }
}
