//! Resets: they cancel what is in flight and begin a new epoch.

use std::sync::Arc;

use oxenv_core::{Execution, Principal};
use oxenv_test_support::soon;
use oxenv_wire::{Delivered, ErrorCode, FailureKind};
use serde_json::json;

use crate::stage::{Scripted, Stage, Unblock, eventually};
use crate::support::{
    call, call_in, close, code, list, observe, open, reset, reset_as, reset_with, settled, spawn_call,
    spawn_step, state, step, store, tool_step,
};

#[tokio::test]
async fn a_reset_cancels_the_running_step_and_the_ones_in_line() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    let queued = spawn_step(&session, json!({ "do": "note", "text": "queued" }));
    tokio::task::yield_now().await;
    soon(reset(&session)).await.unwrap();
    let running = running.await.unwrap().unwrap_err();
    assert_eq!((running.code, running.kind), (ErrorCode::Cancelled, FailureKind::Infrastructure));
    assert_eq!(running.delivered, Delivered::Maybe);
    let queued = queued.await.unwrap().unwrap_err();
    assert_eq!((queued.code, queued.delivered), (ErrorCode::Cancelled, Delivered::No));
    assert_eq!((stage.cancelled(), stage.notes().len()), (1, 0));
    assert_eq!((session.info().epoch, session.info().step_count), (2, 0));
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_reset_cancels_tools_in_flight() {
    for concurrent in [true, false] {
        for execution in [Execution::Inline, Execution::Task] {
            let stage = Stage::default();
            let store = store(Scripted::new(&stage, execution).tools(concurrent).scoring());
            let session = open(&store).await;
            let agents = spawn_call(&session, "wait", json!({}));
            stage.entered().await;
            let control = spawn_step(&session, tool_step("wait", &json!({})));
            if concurrent {
                stage.entered().await;
            } else {
                tokio::task::yield_now().await;
            }
            soon(reset(&session)).await.unwrap();
            assert_eq!(code(agents.await.unwrap()), ErrorCode::Cancelled);
            assert_eq!(code(control.await.unwrap()), ErrorCode::Cancelled);
            eventually("no tool runs on", || stage.waiting() == 0).await;
            assert_eq!((session.info().epoch, session.info().step_count), (1, 0));
            call(&session, "say", json!({ "text": "on" })).await.unwrap();
            close(session);
            settled(&store, &stage).await;
        }
    }
}

/// The tool keeps its thread until the reset is over and suspends only then: its call is one of the
/// epoch before all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_cancels_a_tool_that_had_not_suspended_yet() {
    let stage = Stage::default();
    let _unblock = Unblock(stage.clone());
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let session = open(&store).await;
    let held = spawn_call(&session, "hold", json!({}));
    stage.entered().await;
    soon(reset(&session)).await.unwrap();
    stage.unblock();
    assert_eq!(code(soon(held).await.unwrap()), ErrorCode::Cancelled);
    assert_eq!(session.info().step_count, 0);
    close(session);
    settled(&store, &stage).await;
}

/// The tool is done, but its task has not seen that yet when the reset comes.
#[tokio::test]
async fn a_call_whose_epoch_has_ended_is_not_scored_in_the_next() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution).tools(true).scoring());
        let session = open(&store).await;
        let calling = spawn_call(&session, "wait", json!({ "after": { "do": "note", "text": "scored" } }));
        stage.entered().await;
        stage.open("");
        reset(&session).await.unwrap();
        assert_eq!(code(calling.await.unwrap()), ErrorCode::Cancelled);
        assert_eq!((stage.notes().len(), session.info().step_count), (0, 0), "{execution:?}");
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn of_two_resets_the_later_one_counts() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let first = tokio::spawn({
        let session = Arc::clone(&session);
        async move { reset_as(&session, Some(1), Some("first".to_owned()), Some(script("wait"))).await }
    });
    stage.entered().await;
    reset_as(&session, Some(2), Some("second".to_owned()), None).await.unwrap();
    assert_eq!(code(first.await.unwrap()), ErrorCode::Cancelled);
    let state = state(&session).await;
    assert_eq!((&state["episode_id"], &state["seed"]), (&json!("second"), &json!(2)));
    assert_eq!(session.info().epoch, 2);
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn calls_of_another_epoch_are_refused() {
    for concurrent in [true, false] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent));
        let session = open(&store).await;
        call_in(&session, "say", json!({}), Some(0)).await.unwrap();
        reset(&session).await.unwrap();
        for wrong in [0, 2, u64::MAX] {
            let failure = call_in(&session, "say", json!({}), Some(wrong)).await.unwrap_err();
            assert_eq!((failure.code, failure.kind), (ErrorCode::WrongEpoch, FailureKind::Action));
            assert_eq!(failure.delivered, Delivered::No);
        }
        call_in(&session, "say", json!({}), Some(1)).await.unwrap();
        call_in(&session, "say", json!({}), None).await.unwrap();
        assert_eq!(session.info().step_count, 2);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn after_done_an_agent_is_refused_until_the_next_reset() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true).scoring());
    let session = open(&store).await;
    assert!(call(&session, "say", json!({ "after": { "do": "finish" } })).await.unwrap().done);
    let failure = call(&session, "say", json!({})).await.unwrap_err();
    assert_eq!((failure.code, failure.delivered), (ErrorCode::EpisodeDone, Delivered::No));
    step(&session, tool_step("say", &json!({}))).await.unwrap();
    reset(&session).await.unwrap();
    assert!(!call(&session, "say", json!({})).await.unwrap().done);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_failed_reset_demands_another() {
    for script in ["refuse", "fail_reward"] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
        let session = open(&store).await;
        let script = match script {
            "refuse" => json!({ "do": "refuse" }),
            _ => json!({ "do": "reward", "value": "NaN" }),
        };
        reset_with(&session, script).await.unwrap_err();
        let refused = step(&session, json!({})).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::ResetRequired);
        assert!(refused.message.contains("the last reset failed"), "{refused}");
        assert_eq!(code(call(&session, "say", json!({})).await), ErrorCode::ResetRequired);
        reset(&session).await.unwrap();
        observe(&session, json!({})).await;
        assert_eq!(session.info().epoch, 2);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_dropped_reset_is_cancelled() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let resetting = tokio::spawn({
        let session = Arc::clone(&session);
        async move { reset_with(&session, json!({ "do": "wait" })).await }
    });
    stage.entered().await;
    resetting.abort();
    eventually("the reset is dropped", || stage.cancelled() == 1).await;
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_has_a_deadline() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let started = tokio::time::Instant::now();
    assert_eq!(code(reset_with(&session, json!({ "do": "wait" })).await), ErrorCode::DeadlineExceeded);
    assert_eq!(started.elapsed().as_secs(), 60);
    reset(&session).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_ended_session_refuses_everything_and_says_why() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let session = open(&store).await;
    close(Arc::clone(&session));
    // Ending twice is nothing, and the first reason stays.
    session.end(oxenv_core::EndReason::Expired);
    let failures = [
        reset(&session).await.unwrap_err(),
        step(&session, json!({})).await.unwrap_err(),
        step(&session, json!({ "type": "list_tools" })).await.unwrap_err(),
        step(&session, tool_step("say", &json!({}))).await.unwrap_err(),
        call(&session, "say", json!({})).await.unwrap_err(),
        session.state().await.unwrap_err(),
        list(&session, Principal::Control).await.unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.code, ErrorCode::SessionEnded);
        assert!(failure.message.contains("closed"), "{failure}");
    }
    settled(&store, &stage).await;
}

fn script(what: &str) -> oxenv_wire::RawJson {
    oxenv_wire::raw(&json!({ "do": what })).unwrap()
}
