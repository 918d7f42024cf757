//! Sums of a time and a length of time.
//!
//! Invariant: this is the one place that adds them, so no length, whoever named it, is too long for a clock.

use std::ops::Add;
use std::time::Duration;

use oxenv_wire::Seconds;

/// The time so much later, of any clock. A wait longer than [`Seconds::MAX`], which is 136 years, counts as
/// that long.
#[must_use]
pub fn after<T: Add<Duration, Output = T>>(time: T, wait: Duration) -> T {
    time + wait.min(Seconds::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_wait_without_an_end_panics_nobody() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::MAX) - now, Seconds::MAX);
        assert_eq!(after(now, Duration::from_millis(5)) - now, Duration::from_millis(5));
        assert!(after(std::time::Instant::now(), Duration::MAX) > std::time::Instant::now());
        assert!(after(SystemTime::now(), Duration::MAX) > SystemTime::now());
    }
}
