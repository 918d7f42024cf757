//! Which thread drives the runtime of this process: one that waits for a reply, or else the driver's own.
//!
//! Invariant: the runtime is driven again soon after it was last driven, so sockets are read and pings
//! answered between calls. A thread that waits drives it itself, which saves two changes of threads with
//! each step; it leaves it to the driver while something is under way that no thread waits for.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::Notify;

use crate::runtime::lock;

/// How long the runtime is not driven after a waiting thread has its reply; twice as long at most.
const TAKEOVER_DELAY: Duration = Duration::from_millis(100);

/// The state at a runtime.
pub(crate) struct RuntimeDriver {
    state: Mutex<DriverState>,
    changed: Condvar,
    /// Asks the driver's thread to leave the runtime to others.
    yield_runtime: Notify,
}

struct DriverState {
    /// Threads that wait for replies.
    waiting_threads: usize,
    /// The work under way without such a thread.
    background_tasks: usize,
    /// When the last thread stopped waiting.
    last_wait_ended: Instant,
    /// Whether the driver's thread drives the runtime.
    is_driving: bool,
}

/// Something that is under way without a thread that waits for it.
pub(crate) struct BackgroundTask(&'static RuntimeDriver);

/// A thread that waits.
struct WaitingThread<'a>(&'a RuntimeDriver);

impl RuntimeDriver {
    pub(crate) fn new() -> Self {
        let state = DriverState {
            waiting_threads: 0,
            background_tasks: 0,
            last_wait_ended: Instant::now(),
            is_driving: false,
        };
        RuntimeDriver { state: Mutex::new(state), changed: Condvar::new(), yield_runtime: Notify::new() }
    }

    /// The driver's thread: drives the runtime whenever no other thread does.
    pub(crate) fn drive(&self, runtime: &Runtime) -> ! {
        loop {
            let mut state = lock(&self.state);
            while !state.should_drive() {
                let waited = self.changed.wait_timeout(state, TAKEOVER_DELAY);
                state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            }
            state.is_driving = true;
            drop(state);
            runtime.block_on(self.yield_runtime.notified());
            lock(&self.state).is_driving = false;
        }
    }

    /// Waits for a future on this thread.
    pub(crate) fn block_on<F: Future>(&self, runtime: &Runtime, future: F) -> F::Output {
        let _waits = self.enter();
        runtime.block_on(future)
    }

    /// Notes work that no caller waits for, until the returned guard is dropped.
    pub(crate) fn background_task(&'static self) -> BackgroundTask {
        lock(&self.state).background_tasks += 1;
        self.changed.notify_one();
        BackgroundTask(self)
    }

    fn enter(&self) -> WaitingThread<'_> {
        let mut state = lock(&self.state);
        state.waiting_threads += 1;
        if state.is_driving && state.background_tasks == 0 {
            self.yield_runtime.notify_one();
        }
        WaitingThread(self)
    }
}

impl DriverState {
    /// Whether it is the driver's turn.
    fn should_drive(&self) -> bool {
        self.waiting_threads == 0
            && (self.background_tasks > 0 || self.last_wait_ended.elapsed() >= TAKEOVER_DELAY)
    }
}

impl Drop for WaitingThread<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.waiting_threads -= 1;
        state.last_wait_ended = Instant::now();
        // Else its thread looks by itself soon, and is not woken with each step.
        if state.waiting_threads == 0 && state.background_tasks > 0 {
            self.0.changed.notify_one();
        }
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        lock(&self.0.state).background_tasks -= 1;
    }
}
