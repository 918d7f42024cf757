//! What an episode was made of, for environments and toolsets that are forked by replay.
//!
//! Invariant: a tape holds a whole episode or nothing. A tape that is too long for its bound is dropped
//! as a whole, and so is one whose beginning is not known; either case is reported. Forks share what came
//! before them: a copy of a tape copies none of its entries.

use std::sync::Arc;

use oxenv_wire::{RawJson, ToolError, ToolResult};

use crate::environment::Reset;
use crate::spec::EpisodeCall;

/// Bytes that one session's tape may take.
const MAX_TAPE_BYTES: usize = 16 << 20;

/// One thing that was done in an episode.
#[derive(Debug, Clone)]
pub(crate) enum Taped {
    /// It was begun.
    Reset(Reset),
    /// A typed action was taken, or refused by the environment.
    Action(RawJson),
    /// A tool was called.
    Call(EpisodeCall),
}

/// An episode so far.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    /// What other tapes have as well, in order.
    shared: Vec<Arc<Vec<Taped>>>,
    /// What came behind it.
    own: Vec<Taped>,
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
        self.own.push(entry);
        if self.bytes > MAX_TAPE_BYTES {
            *self = Tape::unknown();
        }
    }

    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = Taped>) {
        entries.into_iter().for_each(|entry| self.push(entry));
    }

    /// A tape of the same entries, which goes on independently.
    pub(crate) fn copy(&mut self) -> Self {
        if !self.own.is_empty() {
            self.shared.push(Arc::new(std::mem::take(&mut self.own)));
        }
        Tape { shared: self.shared.clone(), own: Vec::new(), ..*self }
    }

    /// The episode, or nothing when it is not known as a whole.
    pub(crate) fn entries(&self) -> Option<impl Iterator<Item = &Taped>> {
        let shared = self.shared.iter().flat_map(|entries| entries.iter());
        (!self.broken).then(|| shared.chain(&self.own))
    }
}

fn weight(entry: &Taped) -> usize {
    let raw = |json: &Option<RawJson>| json.as_ref().map_or(0, |json| json.get().len());
    let outcome = |outcome: &Result<ToolResult, ToolError>| match outcome {
        Ok(result) => result.weight() + result.data().len(),
        Err(error) => error.message.len(),
    };
    64 + match entry {
        Taped::Reset(reset) => raw(&reset.arguments),
        Taped::Action(action) => action.get().len(),
        Taped::Call(EpisodeCall { record, .. }) => {
            record.tool.len() + raw(&record.arguments) + outcome(&record.outcome)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(text: &str) -> Taped {
        Taped::Action(oxenv_wire::raw(text).unwrap())
    }

    fn texts(tape: &Tape) -> Vec<&str> {
        let entries = tape.entries().unwrap();
        entries
            .filter_map(|entry| if let Taped::Action(action) = entry { Some(action.get()) } else { None })
            .collect()
    }

    #[test]
    fn copies_go_on_independently_and_share_what_came_before() {
        let mut original = Tape::default();
        original.push(action("a"));
        let mut copy = original.copy();
        let mut second = copy.copy();
        original.push(action("b"));
        copy.push(action("c"));
        let third = original.copy();
        assert_eq!(texts(&original), ["\"a\"", "\"b\""]);
        assert_eq!(texts(&copy), ["\"a\"", "\"c\""]);
        assert_eq!(texts(&second), ["\"a\""]);
        assert_eq!(texts(&third), texts(&original));
        // The entries themselves are there once.
        assert!(Arc::ptr_eq(&original.shared[0], &second.shared[0]));
        second.push(action(&"x".repeat(MAX_TAPE_BYTES)));
        assert!(second.entries().is_none() && second.copy().entries().is_none());
        assert_eq!(texts(&copy).len(), 2);
    }
}
