//! Who drives the runtime of this process: the thread that waits for a reply, or else the keeper's own.
//!
//! Invariant: the runtime is driven soon after anybody last drove it, so sockets are read and pings answered while
//! nobody calls. A thread that waits drives it itself, which saves two changes of threads with each step; it leaves it
//! to the keeper while something is under way that no thread waits for.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::runtime::lock;

/// For how long nobody drives the runtime after a thread that waited has its reply; twice as long at most.
const PAUSE: Duration = Duration::from_millis(100);

/// The turns at a runtime.
pub(crate) struct Keeper {
    turns: Mutex<Turns>,
    changed: Condvar,
    /// Asks the keeper's thread to leave the runtime to others.
    relieved: Notify,
}

struct Turns {
    /// Threads that wait for replies.
    waiting: usize,
    /// What is under way without such a thread.
    started: usize,
    /// When the last thread stopped waiting.
    left: Instant,
    /// Whether the keeper's thread drives the runtime.
    keeping: bool,
}

/// Something that is under way without a thread that waits for it.
pub(crate) struct Started(&'static Keeper);

/// A thread that waits.
struct Waits<'a>(&'a Keeper);

impl Keeper {
    pub(crate) fn new() -> Self {
        let turns = Turns { waiting: 0, started: 0, left: Instant::now(), keeping: false };
        Keeper { turns: Mutex::new(turns), changed: Condvar::new(), relieved: Notify::new() }
    }

    /// The keeper's thread: drives the runtime whenever nobody else does.
    pub(crate) fn run(&self, runtime: &Runtime) -> ! {
        loop {
            let mut turns = lock(&self.turns);
            while !turns.free() {
                let waited = self.changed.wait_timeout(turns, PAUSE);
                turns = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            }
            turns.keeping = true;
            drop(turns);
            runtime.block_on(self.relieved.notified());
            lock(&self.turns).keeping = false;
        }
    }

    /// Waits for a future on this thread.
    pub(crate) fn wait<F: Future>(&self, runtime: &Runtime, future: F) -> F::Output {
        let _waits = self.begin();
        runtime.block_on(future)
    }

    /// Notes something that nobody waits for, until what is given back is dropped.
    pub(crate) fn started(&'static self) -> Started {
        lock(&self.turns).started += 1;
        self.changed.notify_one();
        Started(self)
    }

    fn begin(&self) -> Waits<'_> {
        let mut turns = lock(&self.turns);
        turns.waiting += 1;
        if turns.keeping && turns.started == 0 {
            self.relieved.notify_one();
        }
        Waits(self)
    }
}

impl Turns {
    /// Whether it is the keeper's turn.
    fn free(&self) -> bool {
        self.waiting == 0 && (self.started > 0 || self.left.elapsed() >= PAUSE)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.0.turns);
        turns.waiting -= 1;
        turns.left = Instant::now();
        // Else its thread looks by itself soon, and is not woken with each step.
        if turns.waiting == 0 && turns.started > 0 {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        lock(&self.0.turns).started -= 1;
    }
}
