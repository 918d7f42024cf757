//! How much memory the process uses, against a budget.
//!
//! Invariant: the answer may be a moment old, and costs one look at a clock most of the time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How old an answer may be.
const MAX_READING_AGE: Duration = Duration::from_millis(20);

/// A budget, and the memory in use as it was seen last.
pub(super) struct MemoryGauge {
    budget: u64,
    seen: Mutex<Option<(Instant, u64)>>,
}

impl MemoryGauge {
    pub(super) fn new(budget: u64) -> Self {
        MemoryGauge { budget, seen: Mutex::new(None) }
    }

    /// The bytes in use and the budget, when there is no room left.
    pub(super) fn exceeded(&self) -> Option<(u64, u64)> {
        let used = self.used();
        (used >= self.budget).then_some((used, self.budget))
    }

    fn used(&self) -> u64 {
        let mut seen = self.seen.lock();
        match *seen {
            Some((at, used)) if at.elapsed() < MAX_READING_AGE => used,
            _ => {
                let used = resident().unwrap_or(0);
                *seen = Some((Instant::now(), used));
                used
            }
        }
    }
}

/// Bytes of the process that are in memory; nothing where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
