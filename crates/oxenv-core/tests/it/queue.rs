//! Waiting for a slot: in order, in turns among owners, for a bounded time, and never after leaving.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Execution, Failure, Session, SessionOptions, SessionStore, StoreLimits};
use oxenv_wire::ErrorCode;
use tokio::task::JoinHandle;

use crate::stage::{Scripted, Stage, eventually};
use crate::support::{close, code, open, settled, store_with};

fn waiting(store: &Arc<SessionStore>, owner: &str) -> JoinHandle<Result<Arc<Session>, Failure>> {
    let store = Arc::clone(store);
    let options = SessionOptions { owner: Some(owner.into()), ..SessionOptions::default() };
    tokio::spawn(async move { store.create(options).await })
}

async fn queued(store: &Arc<SessionStore>, n: usize) {
    eventually("they wait", || store.status().waiting == n).await;
}

#[tokio::test]
async fn a_freed_slot_goes_to_who_waits_and_the_wait_is_visible() {
    let stage = Stage::default();
    let store = store_with(
        Scripted::new(&stage, Execution::Inline),
        StoreLimits { max_sessions: 1, ..StoreLimits::default() },
    );
    let first = open(&store).await;
    let second = waiting(&store, "a");
    queued(&store, 1).await;
    close(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!((store.status().active, store.status().waiting), (1, 0));
    close(second);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn owners_take_turns_however_many_one_of_them_asks_for() {
    let stage = Stage::default();
    let store = store_with(
        Scripted::new(&stage, Execution::Inline),
        StoreLimits { max_sessions: 1, ..StoreLimits::default() },
    );
    let mut held = open(&store).await;
    let mut greedy = Vec::new();
    for n in 1..=4 {
        greedy.push(waiting(&store, "greedy"));
        queued(&store, n).await;
    }
    let modest = waiting(&store, "modest");
    queued(&store, 5).await;
    // The first of the greedy one came first; then it is the modest one's turn.
    close(held);
    held = greedy.remove(0).await.unwrap().unwrap();
    close(held);
    held = modest.await.unwrap().unwrap();
    for next in greedy {
        close(held);
        held = next.await.unwrap().unwrap();
    }
    close(held);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_its_deadline_with_a_hint() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 1, ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let held = open(&store).await;
    let began = tokio::time::Instant::now();
    let failure = store.create(SessionOptions::default()).await.err().unwrap();
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert_eq!((failure.code, failure.retryable), (ErrorCode::CapacityReached, true));
    assert!(failure.message.contains("Waited 20 s"), "{failure}");
    let impatient = SessionOptions { queue: Some(Duration::ZERO), ..SessionOptions::default() };
    assert_eq!(code(store.create(impatient).await.map(drop)), ErrorCode::CapacityReached);
    close(held);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn who_leaves_the_queue_takes_no_slot_with_it() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 1, ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    for _ in 0..50 {
        let held = open(&store).await;
        let (leaves, stays) = (waiting(&store, "a"), waiting(&store, "b"));
        queued(&store, 2).await;
        leaves.abort();
        close(held);
        close(stays.await.unwrap().unwrap());
        if let Ok(Ok(session)) = leaves.await {
            close(session);
        }
        settled(&store, &stage).await;
        assert_eq!(store.status().waiting, 0);
    }
}

#[tokio::test]
async fn an_owner_has_a_cap_of_its_own() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 4, max_per_owner: Some(1), ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let own = waiting(&store, "a").await.unwrap().unwrap();
    let options =
        SessionOptions { owner: Some("a".into()), queue: Some(Duration::ZERO), ..SessionOptions::default() };
    let failure = store.create(options).await.err().unwrap();
    assert!(failure.message.contains("your token has all 1 sessions"), "{failure}");
    let other = waiting(&store, "b").await.unwrap().unwrap();
    // Who waits for its own cap does not keep others from free slots.
    let blocked = waiting(&store, "a");
    queued(&store, 1).await;
    let third = waiting(&store, "c").await.unwrap().unwrap();
    close(own);
    let own = blocked.await.unwrap().unwrap();
    for session in [own, other, third] {
        close(session);
    }
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_memory_budget_refuses_new_sessions() {
    let stage = Stage::default();
    let limits = StoreLimits { memory: Some(1), ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let failure = store.create(SessionOptions::default()).await.err().unwrap();
    assert_eq!(failure.code, ErrorCode::CapacityReached);
    assert!(failure.message.contains("MiB of memory"), "{failure}");
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_drain_tells_everybody_who_waits() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 1, ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let held = open(&store).await;
    let waiting: Vec<_> = (0..10).map(|_| waiting(&store, "a")).collect();
    queued(&store, 10).await;
    store.drain();
    for task in waiting {
        assert_eq!(code(task.await.unwrap().map(drop)), ErrorCode::Draining);
    }
    close(held);
    settled(&store, &stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_exact_while_many_come_and_go() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 8, max_per_owner: Some(3), ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Task), limits);
    let tasks: Vec<_> = (0..400)
        .map(|n| {
            let (store, owner) = (Arc::clone(&store), format!("owner {}", n % 7));
            tokio::spawn(async move {
                let options = SessionOptions { owner: Some(owner.into()), ..SessionOptions::default() };
                if n % 5 == 0 {
                    // Some leave early. What one has got by then it gives back, or the slots would be gone.
                    let left = tokio::time::timeout(Duration::from_micros(n), store.create(options)).await;
                    left.ok().and_then(Result::ok).into_iter().for_each(close);
                    return;
                }
                let session = store.create(options).await.unwrap();
                assert!(store.status().active <= 8);
                tokio::task::yield_now().await;
                close(session);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for session in store.list() {
        close(session);
    }
    settled(&store, &stage).await;
    assert_eq!(store.status().waiting, 0);
}

/// A client may ask for a wait that no clock can hold.
#[tokio::test]
async fn the_longest_wait_is_one_without_an_end() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Inline), StoreLimits::default());
    let patient = SessionOptions { queue: Some(Duration::MAX), ..SessionOptions::default() };
    let session = store.create(patient).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}
