//! A panic ends its own session and nothing else, and is told as what it is.

use std::sync::Arc;

use oxenv_core::{EndReason, Execution, Failure, SessionOptions};
use oxenv_test_support::soon;
use oxenv_wire::{ErrorCode, FailureKind, Phase, ToolErrorType};
use serde_json::json;

use crate::stage::{Booting, Scripted, Stage, Unblock, eventually};
use crate::support::{
    call, close, code, observe, open, reset, reset_with, settled, spawn_step, step, store, tool_step,
};

/// What must hold after a panic: a typed failure, a freed slot, a tombstone, an untouched neighbour.
async fn contained(execution: Execution, phase: Phase, script: &str) {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, execution).tools(true).scoring());
    let (session, neighbour) = (open(&store).await, open(&store).await);
    let script = json!({ "do": script });
    let failure: Failure = match phase {
        Phase::Reset => reset_with(&session, script).await.unwrap_err(),
        Phase::Step => step(&session, script).await.unwrap_err(),
        _ => call(&session, "say", json!({ "after": script })).await.unwrap_err(),
    };
    assert_eq!(failure.code, ErrorCode::EnvironmentPanicked, "{execution:?} {phase:?}");
    assert_eq!((failure.kind, failure.phase), (FailureKind::Environment, phase));
    assert!(failure.message.contains("made to panic"), "{failure}");
    assert_eq!(session.ended(), Some(EndReason::Failed("made to panic".to_owned())));
    assert_eq!(store.status().active, 1);
    let grave = store.get(session.id()).err().unwrap();
    assert_eq!(grave.code, ErrorCode::SessionEnded);
    assert!(grave.message.contains("made to panic"), "{grave}");
    let later = step(&session, json!({})).await.unwrap_err();
    assert_eq!(later.code, ErrorCode::SessionEnded);
    assert!(later.message.contains("made to panic"), "{later}");
    observe(&neighbour, json!({})).await;
    close(neighbour);
    drop(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_panic_ends_its_session_only() {
    for phase in [Phase::Reset, Phase::Step, Phase::Verify] {
        contained(Execution::Inline, phase, "panic").await;
        for execution in [Execution::Task, Execution::Blocking] {
            contained(execution, phase, "panic").await;
            contained(execution, phase, "panic_later").await;
        }
    }
}

#[tokio::test]
async fn a_panic_without_words_is_one_too() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let failure = step(&session, json!({ "do": "panic_with_a_number" })).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::EnvironmentPanicked);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_panic_wakes_the_steps_in_line() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(false).scoring());
    let session = open(&store).await;
    let first = spawn_step(&session, tool_step("wait", &json!({ "after": { "do": "panic" } })));
    stage.entered().await;
    let queued = spawn_step(&session, json!({ "do": "note", "text": "queued" }));
    tokio::task::yield_now().await;
    stage.open("");
    assert_eq!(code(first.await.unwrap()), ErrorCode::EnvironmentPanicked);
    assert_eq!(code(soon(queued).await.unwrap()), ErrorCode::SessionEnded);
    assert!(stage.notes().is_empty());
    drop(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_panic_in_the_factory_is_a_factory_error() {
    for booting in [Booting::Panics, Booting::PanicsLater, Booting::Fails] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).booting(booting));
        for _ in 0..3 {
            let failure = store.create(SessionOptions::default()).await.err().unwrap();
            assert_eq!((failure.code, failure.phase), (ErrorCode::FactoryError, Phase::Boot));
            assert_eq!(failure.factory.as_deref(), Some("scripted"));
            let expected = if booting == Booting::Fails { "no such file" } else { "made to panic in create" };
            assert!(failure.message.contains(expected), "{failure}");
            assert_eq!(code(store.default_session(true).await.map(|_| ())), ErrorCode::FactoryError);
        }
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_panic_in_a_drop_is_nobody_elses_affair() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let (session, neighbour) = (open(&store).await, open(&store).await);
        observe(&session, json!({ "do": "drop_panics" })).await;
        close(session);
        assert_eq!((store.status().active, stage.live()), (1, 1));
        observe(&neighbour, json!({})).await;
        close(neighbour);
        settled(&store, &stage).await;
    }
}

/// Whoever happens to hold the last reference to an ended session must not pay for its drop.
#[tokio::test]
async fn a_panic_in_a_drop_after_the_end_is_caught_too() {
    for execution in [Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let _unblock = Unblock(stage.clone());
        let store = store(Scripted::new(&stage, execution));
        let session = open(&store).await;
        observe(&session, json!({ "do": "drop_panics" })).await;
        let how = if execution == Execution::Task { "wait" } else { "block" };
        let running = spawn_step(&session, json!({ "do": how }));
        stage.entered().await;
        session.end(EndReason::Closed);
        let outcome = running.await.expect("the caller's task was torn down by the drop");
        assert_eq!(code(outcome), ErrorCode::SessionEnded);
        stage.unblock();
        eventually("the call has gone", || stage.waiting() == 0).await;
        let dropped = tokio::spawn(async move { drop(session) }).await;
        assert!(dropped.is_ok(), "dropping the last reference panicked");
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_panic_in_state_ends_the_session_with_a_failure() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let (session, neighbour) = (open(&store).await, open(&store).await);
        observe(&session, json!({ "do": "state", "how": "panic" })).await;
        let asked = tokio::spawn({
            let session = Arc::clone(&session);
            async move { session.state().await }
        });
        let failure = asked.await.expect("the panic reached the caller").unwrap_err();
        assert_eq!(failure.code, ErrorCode::EnvironmentPanicked);
        assert!(matches!(session.ended(), Some(EndReason::Failed(_))));
        assert_eq!(store.status().active, 1);
        observe(&neighbour, json!({})).await;
        close(neighbour);
        drop(session);
        settled(&store, &stage).await;
    }
}

/// The state is also taken before each step that suspends, for readers.
#[tokio::test]
async fn a_panic_in_state_before_a_step_does_not_reach_the_caller() {
    for execution in [Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let session = open(&store).await;
        observe(&session, json!({ "do": "state", "how": "panic" })).await;
        let outcome = spawn_step(&session, json!({})).await.expect("the panic reached the caller");
        if let Err(failure) = outcome {
            assert_eq!(failure.code, ErrorCode::EnvironmentPanicked);
        }
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_panic_in_a_tool_is_an_error_of_that_call() {
    for tool in ["panic", "panic_later"] {
        for concurrent in [true, false] {
            let stage = Stage::default();
            let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent));
            let session = open(&store).await;
            let calling = tokio::spawn({
                let session = Arc::clone(&session);
                async move { call(&session, tool, json!({})).await }
            });
            let reply = calling.await.expect("the panic reached the caller").unwrap();
            let error = reply.outcome.unwrap_err();
            assert_eq!(error.error_type, ToolErrorType::ExecutionError);
            assert!(error.message.contains(tool), "{}", error.message);
            reset(&session).await.unwrap();
            call(&session, "say", json!({ "text": "on" })).await.unwrap();
            close(session);
            settled(&store, &stage).await;
        }
    }
}
