//! How much memory the process uses, against a budget, and how many descriptors, against their limit.
//!
//! Invariant: an answer may be a moment old, and costs one look at a clock most of the time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::descriptors::{descriptor_limit, open_descriptors};

/// How old an answer may be.
const MAX_READING_AGE: Duration = Duration::from_millis(20);

/// Descriptors that a new session leaves to those that live and to connections; a quarter of a small limit.
const MIN_DESCRIPTORS_LEFT: usize = 16;
/// Least number of descriptors that a session takes: its folder's, and a tool's or a socket's.
const DESCRIPTORS_PER_SESSION: usize = 2;

/// The descriptors of the process as they were counted last.
#[derive(Default)]
pub(super) struct DescriptorGauge(Mutex<Option<(Instant, DescriptorUse)>>);

/// Descriptors that are open, and how many may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DescriptorUse {
    pub(crate) open: usize,
    pub(crate) limit: usize,
}

impl DescriptorGauge {
    /// What is in use, when too little is left for that number of sessions.
    pub(super) fn exceeded(&self, sessions: usize) -> Option<DescriptorUse> {
        let used = self.used()?;
        let left = MIN_DESCRIPTORS_LEFT.min(used.limit / 4);
        (used.open + sessions.saturating_mul(DESCRIPTORS_PER_SESSION) > used.limit - left).then_some(used)
    }

    /// Nothing where there is no limit, or where the system does not report it.
    fn used(&self) -> Option<DescriptorUse> {
        let mut seen = self.0.lock();
        if let Some((at, used)) = *seen
            && at.elapsed() < MAX_READING_AGE
        {
            return Some(used);
        }
        let used = DescriptorUse { open: open_descriptors()?, limit: descriptor_limit()? };
        *seen = Some((Instant::now(), used));
        Some(used)
    }
}

/// Bytes of memory that are in use, and how many may be.
pub(super) struct MemoryUse {
    pub(super) used: u64,
    pub(super) budget: u64,
}

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
    pub(super) fn exceeded(&self) -> Option<MemoryUse> {
        let used = self.used();
        (used >= self.budget).then_some(MemoryUse { used, budget: self.budget })
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

/// Bytes of the process that are in memory; nothing where the system does not report it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}
