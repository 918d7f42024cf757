//! [`ChangeCounter`]: counting, and waking who waits.

use std::sync::Arc;

use oxenv_core::ChangeCounter;
use oxenv_test_support::soon;

use crate::stage::at_once;

#[test]
fn a_change_that_was_missed_is_seen_at_once() {
    let changes = ChangeCounter::default();
    assert_eq!(changes.count(), 0);
    changes.bump();
    changes.clone().bump();
    assert_eq!(at_once(changes.after(0)), 2);
    assert_eq!(at_once(changes.after(1)), 2);
}

#[tokio::test]
async fn everybody_who_waits_is_woken() {
    let changes = ChangeCounter::default();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let changes = changes.clone();
            tokio::spawn(async move { changes.after(0).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    changes.bump();
    for waiting in waiting {
        assert_eq!(soon(waiting).await.unwrap(), 1);
    }
}

/// No bump is lost between looking and waiting, whichever thread is quicker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_missed_under_load() {
    const BUMPS: u64 = 20_000;
    let changes = Arc::new(ChangeCounter::default());
    let watching = tokio::spawn({
        let changes = Arc::clone(&changes);
        async move {
            let mut seen = 0;
            while seen < BUMPS {
                let now = changes.after(seen).await;
                assert!(now > seen);
                seen = now;
            }
        }
    });
    let bumping = tokio::task::spawn_blocking(move || (0..BUMPS).for_each(|_| changes.bump()));
    soon(watching).await.unwrap();
    soon(bumping).await.unwrap();
}
