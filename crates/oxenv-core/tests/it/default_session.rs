//! The session of requests that name none: one, outside the count, and never silently replaced.

use std::sync::Arc;

use oxenv_core::{EndReason, Execution};
use oxenv_wire::ErrorCode;
use serde_json::json;

use crate::stage::{Booting, Scripted, Stage, Unblock, eventually};
use crate::support::{close, code, observe, reset, settled, spawn_step, step, store};

#[tokio::test]
async fn everybody_gets_the_same_one() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task).booting(Booting::AtGate));
    let asking: Vec<_> = [true, false, true, false]
        .into_iter()
        .map(|for_reset| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.default_session(for_reset).await })
        })
        .collect();
    stage.entered().await;
    stage.open("boot");
    let mut sessions = Vec::new();
    for asked in asking {
        sessions.push(asked.await.unwrap().unwrap());
    }
    assert!(sessions.iter().all(|session| session.id() == sessions[0].id()));
    assert_eq!((store.list().len(), stage.live()), (1, 1));
    close(sessions.remove(0));
    drop(sessions);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn whoever_gives_up_waiting_for_it_does_not_spoil_it_for_the_next() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task).booting(Booting::AtGate));
    let asking = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.default_session(true).await }
    });
    stage.entered().await;
    asking.abort();
    eventually("the boot is dropped", || stage.cancelled() == 1).await;
    stage.open("boot");
    close(store.default_session(true).await.unwrap());
    settled(&store, &stage).await;
}

#[tokio::test]
async fn after_a_failure_a_step_is_an_error_until_a_reset() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let first = store.default_session(false).await.unwrap();
    assert_eq!(code(step(&first, json!({ "do": "panic" })).await), ErrorCode::EnvironmentPanicked);
    for _ in 0..2 {
        let session = store.default_session(false).await.unwrap();
        let failure = step(&session, json!({})).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::SessionEnded);
        assert!(failure.message.contains("made to panic"), "{failure}");
        assert_eq!(code(session.state().await), ErrorCode::SessionEnded);
    }
    let second = store.default_session(true).await.unwrap();
    assert_ne!(first.id(), second.id());
    reset(&second).await.unwrap();
    let third = store.default_session(false).await.unwrap();
    observe(&third, json!({})).await;
    close(third);
    settled(&store, &stage).await;
}

/// The store keeps the ended default session to say why it ended, but not its environment.
#[tokio::test]
async fn one_that_ends_under_a_call_lets_its_environment_go() {
    for (execution, how) in [(Execution::Task, "wait"), (Execution::Blocking, "block")] {
        let stage = Stage::default();
        let _unblock = Unblock(stage.clone());
        let store = store(Scripted::new(&stage, execution));
        let session = store.default_session(false).await.unwrap();
        let running = spawn_step(&session, json!({ "do": how }));
        stage.entered().await;
        session.end(EndReason::Closed);
        assert_eq!(code(running.await.unwrap()), ErrorCode::SessionEnded);
        drop(session);
        stage.unblock();
        settled(&store, &stage).await;
    }
}
