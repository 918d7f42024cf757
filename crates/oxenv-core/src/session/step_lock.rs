//! [`StepLock`]: what an operation has of its environment while it runs.
//!
//! Invariant: an environment's task whose operation ends before it is aborted, and counts as stuck until it
//! comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::OwnedMutexGuard;
use tokio::task::AbortHandle;

use super::Cell;

pub(super) type CellGuard = OwnedMutexGuard<Cell>;

/// What an operation has of its environment.
#[derive(Default)]
pub(super) struct StepLock {
    /// The environment's task, which is aborted when the operation is over.
    pub(super) in_flight: Option<InFlight>,
    /// The lock itself, while neither that task nor another operation has it.
    pub(super) guard: Option<CellGuard>,
}

/// The task of an environment: aborted if its operation ends before it is done.
pub(super) struct InFlight {
    pub(super) abort: AbortHandle,
    pub(super) watch: Arc<StuckWatch>,
    pub(super) armed: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.armed {
            self.abort.abort();
            self.watch.abandon();
        }
    }
}

/// Counts a call as stuck from the moment it was abandoned until it comes back.
pub(super) struct StuckWatch {
    stuck: Arc<AtomicUsize>,
    state: AtomicU8,
}

const RUNNING: u8 = 0;
const ABANDONED: u8 = 1;

impl StuckWatch {
    pub(super) fn new(stuck: Arc<AtomicUsize>) -> Self {
        StuckWatch { stuck, state: AtomicU8::new(RUNNING) }
    }

    fn abandon(&self) {
        if self.state.swap(ABANDONED, Ordering::AcqRel) == RUNNING {
            self.stuck.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for StuckWatch {
    /// The last reference goes when both the caller and the task are through with the call.
    fn drop(&mut self) {
        if *self.state.get_mut() == ABANDONED {
            self.stuck.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
