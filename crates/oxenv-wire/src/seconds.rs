//! Lengths of time as somebody outside writes them.
//!
//! Invariant: one that is too long for a clock cannot be held, so whoever adds it to a time needs no care.

use std::time::Duration;

use serde::Serialize;

/// A length of time in seconds: above 0, and at most [`Seconds::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seconds(f64);

impl Seconds {
    /// The longest time that is told from one without an end: 2^32 seconds, which are 136 years.
    pub const MAX: Duration = Duration::from_secs(1 << 32);

    /// That many seconds. A number that is not above 0 is none; a longer time than [`Seconds::MAX`], also one
    /// without an end, is taken as that one.
    #[must_use]
    pub fn new(seconds: f64) -> Option<Self> {
        (seconds > 0.0).then(|| Seconds(seconds.min(Self::MAX.as_secs_f64())))
    }

    /// The number of seconds.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Self {
        Duration::from_secs_f64(seconds.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_one_that_a_clock_can_hold() {
        for endless in [5e9, 1e19, 1e300, f64::MAX, f64::INFINITY] {
            assert_eq!(Seconds::new(endless).map(Duration::from), Some(Seconds::MAX), "{endless}");
        }
        for wrong in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(Seconds::new(wrong), None, "{wrong}");
        }
        assert_eq!(Seconds::new(0.5).map(Duration::from), Some(Duration::from_millis(500)));
    }
}
