//! How long things took, in buckets.
//!
//! Invariant: every histogram has the same buckets, so any two can be added and compared.

use std::time::Duration;

/// The upper ends of the buckets, as they are shown in seconds and in nanoseconds. They reach from an
/// inline step, which takes microseconds, to what no deadline of ours allows.
pub(super) const BOUNDS: [(&str, u64); 20] = [
    ("0.000005", 5_000),
    ("0.00001", 10_000),
    ("0.00005", 50_000),
    ("0.0001", 100_000),
    ("0.0005", 500_000),
    ("0.001", 1_000_000),
    ("0.0025", 2_500_000),
    ("0.005", 5_000_000),
    ("0.01", 10_000_000),
    ("0.025", 25_000_000),
    ("0.05", 50_000_000),
    ("0.1", 100_000_000),
    ("0.25", 250_000_000),
    ("0.5", 500_000_000),
    ("1", 1_000_000_000),
    ("2.5", 2_500_000_000),
    ("5", 5_000_000_000),
    ("10", 10_000_000_000),
    ("30", 30_000_000_000),
    ("60", 60_000_000_000),
];

/// Times, counted by bucket.
#[derive(Default, Clone)]
pub(super) struct Histogram {
    /// Each bucket's own, the last one without an end.
    buckets: [u64; BOUNDS.len() + 1],
    /// The sum of all times, in nanoseconds: it holds 584 years.
    nanos: u64,
}

impl Histogram {
    pub(super) fn observe(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|(_, bound)| *bound < nanos);
        self.buckets[bucket] += 1;
        self.nanos = self.nanos.saturating_add(nanos);
    }

    pub(super) fn add(&mut self, other: &Histogram) {
        for (mine, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += other;
        }
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    /// How many times were at most each bound, and at last how many there were.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let bounds = BOUNDS.iter().map(|(shown, _)| *shown).chain(["+Inf"]);
        let mut so_far = 0;
        bounds.zip(self.buckets).map(move |(bound, count)| {
            so_far += count;
            (bound, so_far)
        })
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
        for (index, (shown, bound)) in BOUNDS.iter().enumerate() {
            let seconds: f64 = shown.parse().unwrap();
            assert_eq!(Duration::from_secs_f64(seconds), Duration::from_nanos(*bound));
            let mut histogram = Histogram::default();
            histogram.observe(Duration::from_nanos(*bound));
            histogram.observe(Duration::from_nanos(*bound + 1));
            assert_eq!((histogram.buckets[index], histogram.buckets[index + 1]), (1, 1), "{shown}");
        }
    }

    #[test]
    fn the_longest_time_is_counted() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.cumulative().last(), Some(("+Inf", 2)));
        assert_eq!((histogram.count(), histogram.nanos), (2, u64::MAX));
    }
}
