//! The time of the simulated Fleet, which can be moved ahead.
//!
//! Invariant: it never goes back, and sleepers are woken when it jumps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The most that it is moved ahead, 136 years, so that a time can always be added to it.
const MAX_TIME: Duration = Duration::from_secs(1 << 32);

/// A clock that begins at 0.
pub(crate) struct SimulatedClock {
    began: Instant,
    /// When it began, since 1970.
    wall: Duration,
    ahead: Mutex<Duration>,
    changed: Notify,
}

impl SimulatedClock {
    pub(crate) fn new() -> Self {
        // A machine that lives before 1970 gets wrong dates and nothing worse.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SimulatedClock { began: Instant::now(), wall, ahead: Mutex::default(), changed: Notify::new() }
    }

    /// The time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed() + *self.ahead.lock()
    }

    pub(crate) fn advance(&self, time: Duration) {
        let mut ahead = self.ahead.lock();
        *ahead = ahead.saturating_add(time).min(MAX_TIME);
        drop(ahead);
        self.wake_sleepers();
    }

    /// Wakes all that sleep, so that they look again.
    pub(crate) fn wake_sleepers(&self) {
        self.changed.notify_waiters();
    }

    /// Sleeps until the time that `until` gives, or until a call of [`SimulatedClock::wake_sleepers`]
    /// after `until` was called; without a time only the latter.
    pub(crate) async fn sleep_until(&self, until: impl FnOnce() -> Option<Duration>) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        // From here on a change is not missed.
        changed.as_mut().enable();
        let Some(until) = until() else { return changed.await };
        let left = until.saturating_sub(self.now());
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = changed => {}
        }
    }

    /// Sleeps for a time of this clock.
    pub(crate) async fn sleep(&self, time: Duration) {
        let until = self.now().saturating_add(time);
        while self.now() < until {
            self.sleep_until(|| Some(until)).await;
        }
    }

    /// Seconds since 1970.
    pub(crate) fn unix_seconds(&self, at: Duration) -> f64 {
        (self.wall + at).as_secs_f64()
    }

    /// As `2026-11-21T03:50:23.656716+00:00`.
    pub(crate) fn timestamp(&self, at: Duration) -> String {
        let since = self.wall + at;
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let Date { year, month, day } = date(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let micros = since.subsec_micros();
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
    }
}

/// A date of the Gregorian calendar.
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

/// The date of a day since 1970.
fn date(days: u64) -> Date {
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    Date { year, month, day: left + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_jump_is_too_far() {
        let clock = SimulatedClock::new();
        for _ in 0..2 {
            clock.advance(Duration::from_secs(u64::MAX));
            assert!(clock.now() >= MAX_TIME && clock.timestamp(clock.now()).starts_with("21"));
        }
    }

    #[test]
    fn dates() {
        assert_eq!(
            [0, 59, 11_016, 20_778].map(date).map(|Date { year, month, day }| (year, month, day)),
            [(1970, 1, 1), (1970, 3, 1), (2000, 2, 29), (2026, 11, 21)]
        );
    }
}
