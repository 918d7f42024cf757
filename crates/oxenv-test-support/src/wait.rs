//! Waits that end: for a future, or for what nobody tells of.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen before it says that it did not.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause between two looks at a condition that nobody tells of.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// The result of a future that must not take long.
pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WAIT_TIMEOUT, future).await.expect("it took too long")
}

/// Waits for a condition that others bring about.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WAIT_TIMEOUT, "never came true: {what}");
        // The condition is what is waited for; this only leaves the processor to others meanwhile.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits as [`until`] does, and blocks the thread.
#[track_caller]
pub fn block_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WAIT_TIMEOUT, "never came true: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}
