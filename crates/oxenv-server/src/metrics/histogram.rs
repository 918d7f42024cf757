//! How long things took, in buckets.
//!
//! Invariant: every histogram has the same buckets, so any two can be added and compared.

use std::time::Duration;

/// The upper ends of the buckets, in nanoseconds. They reach from an inline step, which takes microseconds,
/// to what no deadline of ours allows.
pub(super) const BUCKETS: [u64; 20] = [
    5_000,
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Times, counted by bucket.
#[derive(Debug, Default, Clone)]
pub(super) struct Histogram {
    /// Each bucket's own, the last one without an end.
    buckets: [u64; BUCKETS.len() + 1],
    /// The sum of all times, in nanoseconds: it holds 584 years.
    nanos: u64,
}

impl Histogram {
    pub(super) fn observe(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|bound| *bound < nanos);
        self.buckets[bucket] += 1;
        self.nanos = self.nanos.saturating_add(nanos);
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        for (mine, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += other;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    /// The upper end of each bucket in seconds, and how many times are in that bucket alone.
    pub(super) fn buckets(&self) -> [(f64, u64); BUCKETS.len() + 1] {
        let mut bounds = BUCKETS.iter().map(|nanos| *nanos as f64 / 1e9);
        self.buckets.map(|count| (bounds.next().unwrap_or(f64::INFINITY), count))
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (index, bound) in BUCKETS.iter().enumerate() {
            let mut histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(*bound));
            histogram.observe(Duration::from_nanos(*bound + 1));
            let ((end, within), (_, beyond)) = (histogram.buckets()[index], histogram.buckets()[index + 1]);
            assert_eq!((Duration::from_secs_f64(end), within, beyond), (Duration::from_nanos(*bound), 1, 1));
        }
    }

    #[test]
    fn the_longest_time_is_counted() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.buckets().last(), Some(&(f64::INFINITY, 2)));
        assert_eq!((histogram.count(), histogram.nanos), (2, u64::MAX));
    }
}
