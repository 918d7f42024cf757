//! [`RubricError`]: why a declared rubric cannot be taken.
//!
//! Invariant: it names the place in the declaration.

use std::fmt;

/// Why a declaration cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RubricError {
    /// Where: `rubric.parts[1].schema`; empty: the whole.
    pub place: String,
    /// What is wrong there, and what to write instead.
    pub problem: String,
}

impl fmt::Display for RubricError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.is_empty() {
            true => f.write_str(&self.problem),
            false => write!(f, "{}: {}", self.place, self.problem),
        }
    }
}

impl std::error::Error for RubricError {}
