//! When the next request is due.
//!
//! The invariant of the open loop: the schedule is fixed before the first request and never waits for a
//! reply, so latency counted from it holds the time a request waited for a slow server (no coordinated
//! omission). In the closed loop a request is due as soon as the session is free.

use oxenv_core::after;
use oxenv_wire::Seconds;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Timers of the runtime are good to a millisecond, so the pacer sleeps short of the instant and then spins.
const SPIN: Duration = Duration::from_millis(2);

/// When the load runs, and which part of that is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// The fixed schedule of an open loop: request `k` is due `k / rate` seconds after the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    rate: f64,
}

/// The requests that are due on one session.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    due: Mutex<VecDeque<Instant>>,
    ended: AtomicBool,
    wake: Notify,
}

/// Tells one session when to send.
#[derive(Clone, Debug)]
pub(crate) enum Pace {
    Closed(Window),
    Open(Window, Arc<Lane>),
}

impl Window {
    pub(crate) fn new(start: Instant, warmup: Duration, duration: Duration) -> Self {
        let from = after(start, warmup);
        Self { start, from, until: after(from, duration) }
    }

    /// Whether an instant lies in the measured part.
    pub(crate) fn holds(&self, instant: Instant) -> bool {
        self.from <= instant && instant < self.until
    }
}

impl Schedule {
    pub(crate) fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate }
    }

    /// When request `k` of all sessions together is due.
    pub(crate) fn at(&self, k: u64) -> Instant {
        after(self.start, Seconds::new(k as f64 / self.rate).map(Duration::from).unwrap_or_default())
    }
}

impl Lane {
    fn push(&self, due: Instant) {
        self.queue().push_back(due);
        self.wake.notify_one();
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pace {
    /// The instant from which the latency of a request that can be sent now counts; `None` if none is due.
    pub(crate) fn take(&self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Closed(window) => (now < window.until).then_some(now),
            Self::Open(window, lane) if now < window.until => lane.queue().pop_front(),
            Self::Open(..) => None,
        }
    }

    /// Whether nothing will be due any more.
    pub(crate) fn over(&self) -> bool {
        match self {
            Self::Closed(window) => Instant::now() >= window.until,
            Self::Open(window, lane) => {
                Instant::now() >= window.until
                    || (lane.ended.load(Ordering::Acquire) && lane.queue().is_empty())
            }
        }
    }

    /// Waits until something may have become due; it may wake for nothing, so look again with `take`.
    pub(crate) async fn wait(&self) {
        match self {
            // In the closed loop nothing becomes due by waiting: it is, or the load is over.
            Self::Closed(_) => std::future::pending().await,
            Self::Open(_, lane) => lane.wake.notified().await,
        }
    }

    /// The next request for a session that has one in flight at a time; `None` once the load is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        loop {
            match self.take() {
                Some(due) => return Some(due),
                None if self.over() => return None,
                None => self.wait().await,
            }
        }
    }

    /// What was due and could not be sent before the end.
    pub(crate) fn leftover(&self) -> Vec<Instant> {
        match self {
            Self::Closed(_) => Vec::new(),
            Self::Open(_, lane) => lane.queue().drain(..).collect(),
        }
    }
}

/// Hands out the schedule of `total` sessions to those of one thread, the first of which has number `first`.
///
/// Spins between close instants, as this thread has a core to itself while it generates load.
pub(crate) async fn run(schedule: Schedule, until: Instant, lanes: &[Arc<Lane>], first: u64, total: u64) {
    let mut k = first;
    'schedule: loop {
        for (lane, number) in lanes.iter().zip(k..) {
            let due = schedule.at(number);
            if due >= until {
                break 'schedule;
            }
            wait_until(due).await;
            lane.push(due);
        }
        k += total;
    }
    for lane in lanes {
        lane.end();
    }
    // A session that waits with requests left over must see the end of the load.
    tokio::time::sleep_until(until.into()).await;
    for lane in lanes {
        lane.end();
    }
}

async fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN.saturating_add(Duration::from_millis(1)) {
            tokio::time::sleep(left - SPIN).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(lane: &Lane, start: Instant) -> Vec<u128> {
        lane.queue().iter().map(|due| (*due - start).as_millis()).collect()
    }

    #[test]
    fn the_schedule_does_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3.0);
        assert_eq!(schedule.at(0), start);
        assert_eq!(schedule.at(3_000_000) - start, Duration::from_secs(1_000_000));
    }

    #[tokio::test]
    async fn sessions_of_all_threads_share_one_schedule() {
        let start = Instant::now();
        let until = start + Duration::from_millis(50);
        let schedule = Schedule::new(start, 100.0);
        let lanes = [Arc::new(Lane::default()), Arc::new(Lane::default())];
        // The second thread of two: sessions 2 and 3 of 4, one request each 10 ms.
        run(schedule, until, &lanes, 2, 4).await;
        assert_eq!(offsets(&lanes[0], start), [20]);
        assert_eq!(offsets(&lanes[1], start), [30]);
    }

    #[tokio::test]
    async fn latency_counts_from_the_instant_a_request_was_due() {
        let start = Instant::now();
        let lane = Arc::new(Lane::default());
        let pace = Pace::Open(Window::new(start, Duration::ZERO, Duration::from_secs(60)), lane.clone());
        let due = start.checked_sub(Duration::from_millis(7)).unwrap();
        lane.push(due);
        lane.end();
        assert_eq!(pace.next().await, Some(due));
        assert_eq!(pace.next().await, None);
    }

    #[tokio::test]
    async fn what_is_due_after_the_end_is_left_over() {
        let now = Instant::now();
        let lane = Arc::new(Lane::default());
        let pace = Pace::Open(Window::new(now, Duration::ZERO, Duration::ZERO), lane.clone());
        lane.push(now);
        assert_eq!(pace.next().await, None);
        assert_eq!(pace.leftover(), [now]);
    }

    #[test]
    fn the_window_begins_after_the_warm_up() {
        let start = Instant::now();
        let window = Window::new(start, Duration::from_secs(1), Duration::from_secs(2));
        let inside = |ms| window.holds(start + Duration::from_millis(ms));
        assert_eq!([999, 1000, 2999, 3000].map(inside), [false, true, true, false]);
    }
}
