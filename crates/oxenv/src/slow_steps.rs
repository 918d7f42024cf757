//! A line in the log for each operation that took long.
//!
//! Invariant: a storm of slow operations fills no log: ten lines per second, and the next line has the number
//! of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oxenv_core::{Observer, Operation};

/// Maximum number of lines per second.
const MAX_LINES_PER_SECOND: u32 = 10;

/// Reports operations that took at least that long, waiting included.
pub(crate) struct SlowSteps {
    threshold: Duration,
    environment: String,
    /// Touched for slow operations only.
    second: Mutex<LogWindow>,
}

/// The second that lines are counted in.
struct LogWindow {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl SlowSteps {
    pub(crate) fn new(threshold: Duration, environment: impl Into<String>) -> Self {
        let second = LogWindow { began: Instant::now(), lines: 0, left_out: 0 };
        SlowSteps { threshold, environment: environment.into(), second: Mutex::new(second) }
    }
}

impl Observer for SlowSteps {
    fn operated(&self, operation: &Operation<'_>) {
        if operation.waited + operation.took < self.threshold {
            return;
        }
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left_out) = second.admit(Instant::now()) else { return };
        drop(second);
        tracing::warn!(
            kind = operation.kind.name(),
            session = operation.session_id,
            epoch = operation.epoch,
            waited = ?operation.waited,
            took = ?operation.took,
            environment = self.environment,
            code = operation.failure.map(|failure| tracing::field::debug(failure.code)),
            left_out = (left_out > 0).then_some(left_out),
            "slow operation"
        );
    }
}

impl LogWindow {
    /// Whether a line may be written now; if so, how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= Duration::from_secs(1) {
            (self.began, self.lines) = (now, 0);
        }
        if self.lines == MAX_LINES_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_per_second_and_the_next_tells_of_the_others() {
        let began = Instant::now();
        let mut second = LogWindow { began, lines: 0, left_out: 0 };
        let after = |millis| began + Duration::from_millis(millis);
        assert!((0..10).all(|_| second.admit(after(1)) == Some(0)));
        assert!((0..90).all(|_| second.admit(after(999)).is_none()));
        assert_eq!(second.admit(after(1000)), Some(90));
        assert_eq!(second.admit(after(1999)), Some(0));
    }
}
