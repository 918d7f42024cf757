//! Runs long checks outside the runtime's worker threads.
//!
//! Invariant: at most half as many checks run at once as there are processors; others wait for their turn.
//! Dropping the future cancels its work.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

/// Half of the processors.
static BLOCKING_PERMITS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(available_parallelism().map_or(1, NonZero::get).div_ceil(2)));

/// Sets the flag when it is dropped.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs work on a thread that may block. The work is given a flag that is set when the future is dropped, see
/// [`CheckBudget::cancelled_by`](crate::CheckBudget::cancelled_by). `None` if the work panicked, or the
/// runtime has ended.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce(Arc<AtomicBool>) -> T + Send + 'static,
) -> Option<T> {
    let turn = BLOCKING_PERMITS.acquire().await.ok()?;
    let dropped = SetOnDrop(Arc::default());
    let flag = Arc::clone(&dropped.0);
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(flag)
    });
    work.await.inspect_err(|error| tracing::error!(%error, "the check of a JSON Schema failed")).ok()
}
