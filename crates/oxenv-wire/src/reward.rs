//! Rewards: absent, a boolean, an integer or a float, and that difference is kept on the wire.
//!
//! Invariant: only finite rewards reach the wire; a session turns any other into an error.

use serde::{Deserialize, Serialize};

/// A reward as an environment gave it. "No reward" is `Option::None`, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reward {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite number.
    Float(f64),
}

impl Reward {
    /// Whether JSON can say it: NaN and infinity it cannot.
    #[must_use]
    pub fn is_finite(self) -> bool {
        !matches!(self, Reward::Float(value) if !value.is_finite())
    }

    /// The reward as a float, as HTTP replies give it (`true` is 1.0).
    #[must_use]
    pub fn as_f64(self) -> f64 {
        match self {
            Reward::Bool(value) => f64::from(u8::from(value)),
            Reward::Int(value) => value as f64,
            Reward::Float(value) => value,
        }
    }
}

impl From<bool> for Reward {
    fn from(value: bool) -> Self {
        Reward::Bool(value)
    }
}

impl From<i64> for Reward {
    fn from(value: i64) -> Self {
        Reward::Int(value)
    }
}

impl From<f64> for Reward {
    fn from(value: f64) -> Self {
        Reward::Float(value)
    }
}
