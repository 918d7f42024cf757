//! Counts and latencies of the requests.
//!
//! Invariant: each request of the measurement counts in exactly one of `requests`, `errors` and `unsent`, or
//! is still in flight when a closed loop ends. Errors count also outside the measurement.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::pacing::LoadWindow;

/// Longer latencies are recorded as this one: 100 s.
const MAX_LATENCY_NANOS: u64 = 100_000_000_000;

/// Counts of requests, and a histogram of their latencies in nanoseconds with three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) unsent: u64,
    latencies: Histogram<u64>,
}

/// Percentiles, maximum and mean of the latencies, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

/// Adds the requests of one session to the statistics of its thread.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    pub(crate) statistics: Arc<Mutex<Statistics>>,
    pub(crate) window: LoadWindow,
    /// Whether a request is in the measurement by when it was due (open loop) or by when its reply came
    /// (closed loop).
    pub(crate) open_loop: bool,
}

impl Statistics {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let latencies =
            Histogram::new_with_bounds(1, MAX_LATENCY_NANOS, 3).context("cannot build a histogram")?;
        Ok(Self { requests: 0, errors: 0, first_error: None, unsent: 0, latencies })
    }

    /// Adds the statistics of another thread.
    pub(crate) fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.requests += other.requests;
        self.errors += other.errors;
        self.unsent += other.unsent;
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
        self.latencies.add(&other.latencies).context("cannot add histograms")
    }

    /// A summary of all latencies; `None` if there are none.
    pub(crate) fn latency_summary(&self) -> Option<LatencySummary> {
        let at = |quantile| micros(self.latencies.value_at_quantile(quantile) as f64);
        (!self.latencies.is_empty()).then(|| LatencySummary {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: micros(self.latencies.max() as f64),
            mean: micros(self.latencies.mean()),
        })
    }

    /// Counts an error and keeps the text of the first one.
    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        if self.first_error.is_none() {
            self.first_error = Some(format!("{error:#}"));
        }
    }

    fn record_latency(&mut self, latency: Duration) {
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(MAX_LATENCY_NANOS));
    }
}

impl Recorder {
    /// Records a successful reply to a request whose latency counts from `due`.
    pub(crate) fn reply(&self, due: Instant) {
        self.replies(due, 1);
    }

    /// Records a successful reply to `requests` requests that were sent together.
    pub(crate) fn replies(&self, due: Instant, requests: u64) {
        let now = Instant::now();
        if self.window.contains(if self.open_loop { due } else { now }) {
            let mut statistics = self.lock();
            statistics.requests += requests;
            statistics.record_latency(now - due);
        }
    }

    /// Records the failure of a request or of a session.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.lock().error(error);
    }

    /// Records a request that was due but not sent. Its latency is counted up to the end of the load, at
    /// least.
    pub(crate) fn unsent(&self, due: Instant) {
        if self.window.contains(due) {
            let mut statistics = self.lock();
            statistics.unsent += 1;
            statistics.record_latency(self.window.end - due);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds as microseconds, rounded to tenths.
fn micros(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(open_loop: bool) -> Recorder {
        let start = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let window = LoadWindow::new(start, Duration::from_secs(1), Duration::from_secs(60));
        Recorder { statistics: Arc::new(Mutex::new(Statistics::new().unwrap())), window, open_loop }
    }

    #[test]
    fn percentiles_are_microseconds() {
        let mut statistics = Statistics::new().unwrap();
        assert_eq!(statistics.latency_summary(), None);
        for micros in 1..=1000 {
            statistics.record_latency(Duration::from_micros(micros));
        }
        let latency = statistics.latency_summary().unwrap();
        let close = |value: f64, wanted: f64| (value / wanted - 1.0).abs() < 0.001;
        assert!(close(latency.p50, 500.0) && close(latency.p99, 990.0), "{latency:?}");
        assert!(close(latency.max, 1000.0) && close(latency.mean, 500.5), "{latency:?}");
    }

    #[test]
    fn an_open_loop_counts_by_when_a_request_was_due() {
        let open = recorder(true);
        open.reply(open.window.start);
        assert_eq!(open.lock().requests, 0);
        let closed = recorder(false);
        closed.reply(closed.window.start);
        assert_eq!(closed.lock().requests, 1);
    }

    #[test]
    fn unsent_requests_show_in_the_latencies() {
        let recorder = recorder(true);
        recorder.unsent(recorder.window.measured_from);
        let statistics = recorder.lock();
        assert_eq!((statistics.requests, statistics.unsent), (0, 1));
        assert!(statistics.latency_summary().unwrap().max >= 59_900_000.0);
    }

    #[test]
    fn statistics_add_up_and_keep_the_first_error() {
        let (mut one, mut two) = (Statistics::new().unwrap(), Statistics::new().unwrap());
        two.error(&anyhow::anyhow!("inner").context("outer"));
        two.error(&anyhow::anyhow!("second"));
        one.add(&two).unwrap();
        assert_eq!((one.errors, one.first_error.as_deref()), (2, Some("outer: inner")));
    }
}
