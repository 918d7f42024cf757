//! [`MatchCost`]: the steps that a match of a pattern is charged, before it begins.
//!
//! Invariant: no match takes longer than what it is charged.

/// The cost of a match.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MatchCost {
    /// States of the automata.
    pub(crate) states: u64,
    /// Whether one of the patterns needs the engine that backtracks.
    pub(crate) backtracks: bool,
}

impl MatchCost {
    /// Nothing is matched.
    pub(crate) const NO_COST: MatchCost = MatchCost { states: 0, backtracks: false };

    /// The steps of one match, at the worst.
    pub(crate) fn steps(self, text: &str) -> u64 {
        let bytes = text.len() as u64;
        let steps = bytes.saturating_mul(self.states) / 16;
        match self.backtracks {
            // Each place may be tried anew, and each try may read what is left.
            true => (500 + bytes.saturating_mul(bytes) / 64).saturating_add(steps),
            false => steps,
        }
    }

    /// The cost of matching both.
    pub(crate) fn and(self, other: MatchCost) -> MatchCost {
        let states = self.states.saturating_add(other.states);
        MatchCost { states, backtracks: self.backtracks || other.backtracks }
    }
}
