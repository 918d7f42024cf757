//! Durations as they come from outside, and sums of a time and a duration.
//!
//! Invariant: [`Seconds`] holds no duration that is too long for a clock, and [`after`] is the one place
//! that adds a duration to a time, so no duration, wherever it comes from, makes a clock overflow.

use std::ops::Add;
use std::time::Duration;

use serde::Serialize;

/// A length of time in seconds: above 0, and at most [`Seconds::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Seconds(f64);

impl Seconds {
    /// The longest finite time: 2^32 seconds, which are 136 years. Longer ones count as endless.
    pub const MAX: Duration = Duration::from_secs(1 << 32);

    /// That many seconds. A number that is not above 0 gives `None`; a longer time than [`Seconds::MAX`],
    /// also one without an end, is taken as that one.
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

/// The time that much later, of any clock. A wait longer than [`Seconds::MAX`], which is 136 years, counts
/// as that long.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// let now = Instant::now();
/// assert_eq!(oxenv_wire::after(now, Duration::from_secs(5)) - now, Duration::from_secs(5));
/// assert_eq!(oxenv_wire::after(now, Duration::MAX) - now, oxenv_wire::Seconds::MAX);
/// ```
#[must_use]
pub fn after<T: Add<Duration, Output = T>>(time: T, wait: Duration) -> T {
    time + wait.min(Seconds::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;

    #[test]
    fn a_wait_without_an_end_panics_nobody() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::MAX) - now, Seconds::MAX);
        assert_eq!(after(now, Duration::from_millis(5)) - now, Duration::from_millis(5));
        assert!(after(SystemTime::now(), Duration::MAX) > SystemTime::now());
    }

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
