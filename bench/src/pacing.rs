//! When the next request is due.
//!
//! In the closed loop a request is due when the session is free. Invariant of the open loop: the schedule is
//! fixed before the first request and never waits for a reply. Latency counts from the schedule, so it
//! includes the time that a request waits for a slow server (no coordinated omission).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oxenv_wire::{Seconds, after};
use tokio::sync::Notify;

/// Tokio's timers have a resolution of 1 ms: this long before a request is due, the pacer yields instead of
/// sleeping.
const SPIN_TIME: Duration = Duration::from_millis(2);

/// When the load runs, and which part of it is measured: from `measured_from` to `end`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadWindow {
    pub(crate) start: Instant,
    pub(crate) measured_from: Instant,
    pub(crate) end: Instant,
}

/// The fixed schedule of an open loop: request `k` is due `k / rate` seconds after the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    start: Instant,
    rate: f64,
}

/// The requests that are due on one session and not yet sent.
#[derive(Debug, Default)]
pub(crate) struct DueQueue {
    due: Mutex<VecDeque<Instant>>,
    closed: AtomicBool,
    wake: Notify,
}

/// Decides when one session sends its next request.
#[derive(Clone, Debug)]
pub(crate) enum Pacer {
    Closed(LoadWindow),
    Open(LoadWindow, Arc<DueQueue>),
}

impl LoadWindow {
    pub(crate) fn new(start: Instant, warmup: Duration, duration: Duration) -> Self {
        let measured_from = after(start, warmup);
        Self { start, measured_from, end: after(measured_from, duration) }
    }

    /// Whether an instant is in the measured part.
    pub(crate) fn contains(&self, instant: Instant) -> bool {
        self.measured_from <= instant && instant < self.end
    }
}

impl Schedule {
    pub(crate) fn new(start: Instant, rate: f64) -> Self {
        Self { start, rate }
    }

    /// When request `k` is due, counted over all sessions.
    pub(crate) fn at(&self, k: u64) -> Instant {
        after(self.start, Seconds::new(k as f64 / self.rate).map(Duration::from).unwrap_or_default())
    }
}

impl DueQueue {
    fn push(&self, due: Instant) {
        self.lock().push_back(due);
        self.wake.notify_one();
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacer {
    /// Takes a request that is due now: the instant from which its latency counts. `None` if none is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        match self {
            Self::Closed(window) => (now < window.end).then_some(now),
            Self::Open(window, queue) if now < window.end => queue.lock().pop_front(),
            Self::Open(..) => None,
        }
    }

    /// Whether no more requests will be due.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Closed(window) => Instant::now() >= window.end,
            Self::Open(window, queue) => {
                Instant::now() >= window.end
                    || (queue.closed.load(Ordering::Acquire) && queue.lock().is_empty())
            }
        }
    }

    /// Waits until a request may be due. Wake-ups can be spurious: call [`Pacer::next_due`] afterwards.
    pub(crate) async fn wait_for_due(&self) {
        match self {
            // In the closed loop a request is due at once, or never again.
            Self::Closed(_) => std::future::pending().await,
            Self::Open(_, queue) => queue.wake.notified().await,
        }
    }

    /// Waits for the next request that is due; `None` when the load is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        loop {
            match self.next_due() {
                Some(due) => return Some(due),
                None if self.is_over() => return None,
                None => self.wait_for_due().await,
            }
        }
    }

    /// Takes the requests that were due but not sent before the end.
    pub(crate) fn take_unsent(&self) -> Vec<Instant> {
        match self {
            Self::Closed(_) => Vec::new(),
            Self::Open(_, queue) => queue.lock().drain(..).collect(),
        }
    }
}

/// Puts the requests of a schedule into the queues of one thread's sessions when they are due.
///
/// The schedule goes round `total` sessions; `first` is the index of this thread's first one. Between
/// requests that are close in time the task yields in a loop: the thread has a core of its own.
pub(crate) async fn run_schedule(
    schedule: Schedule,
    end: Instant,
    queues: &[Arc<DueQueue>],
    first: u64,
    total: u64,
) {
    let mut k = first;
    'schedule: loop {
        for (queue, number) in queues.iter().zip(k..) {
            let due = schedule.at(number);
            if due >= end {
                break 'schedule;
            }
            wait_until(due).await;
            queue.push(due);
        }
        k += total;
    }
    for queue in queues {
        queue.close();
    }
    // Wakes sessions that wait, so that they see the end of the load.
    tokio::time::sleep_until(end.into()).await;
    for queue in queues {
        queue.close();
    }
}

async fn wait_until(due: Instant) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        if left > SPIN_TIME.saturating_add(Duration::from_millis(1)) {
            tokio::time::sleep(left - SPIN_TIME).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(queue: &DueQueue, start: Instant) -> Vec<u128> {
        queue.lock().iter().map(|due| (*due - start).as_millis()).collect()
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
        let end = start + Duration::from_millis(50);
        let schedule = Schedule::new(start, 100.0);
        let queues = [Arc::new(DueQueue::default()), Arc::new(DueQueue::default())];
        // The second thread of two: sessions 2 and 3 of 4, one request each 10 ms.
        run_schedule(schedule, end, &queues, 2, 4).await;
        assert_eq!(offsets(&queues[0], start), [20]);
        assert_eq!(offsets(&queues[1], start), [30]);
    }

    #[tokio::test]
    async fn latency_counts_from_the_instant_a_request_was_due() {
        let start = Instant::now();
        let queue = Arc::new(DueQueue::default());
        let pacer =
            Pacer::Open(LoadWindow::new(start, Duration::ZERO, Duration::from_secs(60)), queue.clone());
        let due = start.checked_sub(Duration::from_millis(7)).unwrap();
        queue.push(due);
        queue.close();
        assert_eq!(pacer.next().await, Some(due));
        assert_eq!(pacer.next().await, None);
    }

    #[tokio::test]
    async fn what_is_due_after_the_end_is_left_over() {
        let now = Instant::now();
        let queue = Arc::new(DueQueue::default());
        let pacer = Pacer::Open(LoadWindow::new(now, Duration::ZERO, Duration::ZERO), queue.clone());
        queue.push(now);
        assert_eq!(pacer.next().await, None);
        assert_eq!(pacer.take_unsent(), [now]);
    }

    #[test]
    fn the_window_begins_after_the_warm_up() {
        let start = Instant::now();
        let window = LoadWindow::new(start, Duration::from_secs(1), Duration::from_secs(2));
        let inside = |ms| window.contains(start + Duration::from_millis(ms));
        assert_eq!([999, 1000, 2999, 3000].map(inside), [false, true, true, false]);
    }
}
