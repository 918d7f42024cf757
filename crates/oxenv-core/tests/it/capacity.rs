//! Slots: never one too many, and each freed exactly once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{EndReason, Execution, SessionOptions, StoreLimits};
use oxenv_wire::{Delivered, ErrorCode, Phase};
use serde_json::json;

use crate::stage::{Booting, Scripted, Stage, eventually};
use crate::support::{close, code, observe, open, settled, store, store_with};

fn limits(max_sessions: usize) -> StoreLimits {
    StoreLimits { max_sessions, queue: Duration::ZERO, ..StoreLimits::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capacity_is_exact_under_two_hundred_at_once() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Task), limits(50));
    for round in 0..3 {
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.create(SessionOptions::default()).await })
            })
            .collect();
        let mut sessions = Vec::new();
        let mut refused = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(session) => sessions.push(session),
                Err(failure) => {
                    assert_eq!((failure.code, failure.phase), (ErrorCode::CapacityReached, Phase::Boot));
                    assert_eq!((failure.capacity, failure.retryable), (Some((50, 50)), true));
                    assert_eq!(failure.delivered, Delivered::No);
                    assert!(
                        failure.message.starts_with("Server at capacity: 50/50 sessions active."),
                        "{failure}"
                    );
                    refused += 1;
                }
            }
        }
        assert_eq!((sessions.len(), refused), (50, 150), "round {round}");
        assert_eq!((store.status().active, store.list().len(), stage.live()), (50, 50, 50));
        let ids: HashSet<&str> = sessions.iter().map(|session| session.id()).collect();
        assert_eq!(ids.len(), 50);
        for session in sessions {
            close(session);
        }
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_slot_is_taken_before_the_environment_is_made() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Task).booting(Booting::AtGate), limits(1));
    let booting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create(SessionOptions::default()).await }
    });
    stage.entered().await;
    assert_eq!((store.status().active, store.list().len()), (1, 0));
    assert_eq!(code(store.create(SessionOptions::default()).await.map(|_| ())), ErrorCode::CapacityReached);
    stage.open("boot");
    close(booting.await.unwrap().unwrap());
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_boot_that_is_dropped_frees_its_slot() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Task).booting(Booting::AtGate), limits(1));
    let booting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create(SessionOptions::default()).await }
    });
    stage.entered().await;
    booting.abort();
    eventually("the boot is dropped", || stage.cancelled() == 1).await;
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_never_finishes_has_a_deadline() {
    let stage = Stage::default();
    let limits = StoreLimits { boot: Duration::from_secs(2), ..limits(1) };
    let store = store_with(Scripted::new(&stage, Execution::Task).booting(Booting::Never), limits);
    for _ in 0..3 {
        let started = tokio::time::Instant::now();
        let failure = store.create(SessionOptions::default()).await.err().unwrap();
        assert_eq!((failure.code, failure.phase), (ErrorCode::FactoryError, Phase::Boot));
        assert!(failure.message.contains("not ready within 2 s"), "{failure}");
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }
    assert_eq!(stage.cancelled(), 3);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn the_default_session_takes_no_slot() {
    let stage = Stage::default();
    let store = store_with(Scripted::new(&stage, Execution::Inline), limits(1));
    let default = store.default_session(false).await.unwrap();
    assert_eq!(store.status().active, 0);
    let session = open(&store).await;
    assert_eq!((store.status().active, store.list().len()), (1, 2));
    observe(&default, json!({})).await;
    close(session);
    close(default);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_ended_id_is_remembered_and_an_unknown_one_is_not() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let unknown = store.get("no-such-id").err().unwrap();
    assert_eq!(unknown.code, ErrorCode::SessionNotFound);
    assert_eq!(unknown.message, "Unknown session_id: no-such-id");
    for (reason, says) in [
        (EndReason::Closed, "it was closed"),
        (EndReason::Expired, "its lease ran out"),
        (EndReason::Failed("boom".to_owned()), "its environment panicked: boom"),
        (EndReason::Drained, "the server is shutting down"),
    ] {
        let session = open(&store).await;
        let id = session.id().to_owned();
        assert!(store.get(&id).is_ok());
        session.end(reason);
        let failure = store.get(&id).err().unwrap();
        assert_eq!(failure.code, ErrorCode::SessionEnded);
        assert!(failure.message.contains(says), "{failure}");
    }
    settled(&store, &stage).await;
}

#[tokio::test]
async fn the_memory_of_ended_sessions_is_bounded() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let mut ids = Vec::new();
    for _ in 0..1500 {
        let session = open(&store).await;
        ids.push(session.id().to_owned());
        close(session);
    }
    assert_eq!(code(store.get(&ids[0]).map(|_| ())), ErrorCode::SessionNotFound);
    assert_eq!(code(store.get(&ids[1499]).map(|_| ())), ErrorCode::SessionEnded);
    settled(&store, &stage).await;
}
