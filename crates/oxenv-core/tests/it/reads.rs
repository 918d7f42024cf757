//! Reads that never wait for a step: the state, the tools, the numbers of a session.

use std::sync::Arc;

use oxenv_core::{Execution, Principal, Session};
use oxenv_test_support::soon;
use oxenv_wire::ErrorCode;
use serde_json::{Value, json};

use crate::stage::{Scripted, Stage, Unblock, at_once};
use crate::support::{
    close, code, list, observe, open, reset, reset_with, settled, spawn_step, step, store, tool_step,
};

fn read(session: &Session) -> Value {
    serde_json::from_str(&at_once(session.state()).unwrap()).unwrap()
}

fn listed(session: &Arc<Session>) -> usize {
    let tools = at_once(list(session, Principal::Control)).unwrap().tools;
    serde_json::from_str::<Vec<Value>>(&tools).unwrap().len()
}

/// Steps once, then reads everything while a second step hangs.
async fn reads_see_the_state_before(execution: Execution, hanging: Value, release: impl Fn(&Stage)) {
    let stage = Stage::default();
    let _unblock = Unblock(stage.clone());
    let store = store(Scripted::new(&stage, execution).tools(false));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    observe(&session, json!({})).await;
    let running = spawn_step(&session, hanging);
    stage.entered().await;
    for _ in 0..3 {
        let state = read(&session);
        assert_eq!((&state["count"], &state["step_count"]), (&json!(1), &json!(1)), "{execution:?}");
        assert_eq!(session.info().step_count, 1);
        assert_eq!(session.toolbox().tools(Principal::Agent).len(), 7);
        assert_eq!(store.list().len(), 1);
    }
    assert_eq!(listed(&session), 7);
    // A listing counts as a step, as in the reference.
    assert_eq!(read(&session)["step_count"], 2);
    release(&stage);
    running.await.unwrap().unwrap();
    assert_eq!(read(&session)["step_count"], 3);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn reads_do_not_wait_for_a_step_that_suspends() {
    reads_see_the_state_before(Execution::Task, json!({ "do": "wait" }), |stage| stage.open("")).await;
}

#[tokio::test]
async fn reads_do_not_wait_for_a_step_that_blocks() {
    reads_see_the_state_before(Execution::Blocking, json!({ "do": "block" }), Stage::unblock).await;
}

#[tokio::test]
async fn reads_do_not_wait_for_a_tool_that_suspends() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        reads_see_the_state_before(execution, tool_step("wait", &json!({})), |stage| stage.open("")).await;
    }
}

#[tokio::test]
async fn reads_do_not_wait_for_a_reset() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let resetting = tokio::spawn({
        let session = session.clone();
        async move { reset_with(&session, json!({ "do": "wait" })).await }
    });
    stage.entered().await;
    assert_eq!(read(&session)["count"], 0);
    stage.open("");
    resetting.await.unwrap().unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_state_that_cannot_be_told_is_an_error_and_no_wait() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    observe(&session, json!({ "do": "state", "how": "fail" })).await;
    assert_eq!(code(session.state().await), ErrorCode::ExecutionError);
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    assert_eq!(code(soon(session.state()).await), ErrorCode::ExecutionError);
    stage.open("");
    running.await.unwrap().unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn the_state_after_a_reset_is_the_reset_one_even_with_a_step_next_in_line() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    for _ in 0..5 {
        observe(&session, json!({})).await;
    }
    let resetting = tokio::spawn({
        let session = session.clone();
        async move {
            reset_with(&session, json!({ "do": "wait" })).await.unwrap();
            session.state().await.unwrap()
        }
    });
    stage.entered().await;
    let queued = spawn_step(&session, json!({ "do": "wait", "at": "next" }));
    tokio::task::yield_now().await;
    stage.open("");
    let state: Value = serde_json::from_str(&soon(resetting).await.unwrap()).unwrap();
    // A finished wait adds 100; before the reset the count was 5.
    assert_eq!(state["count"], 101, "{state}");
    stage.open("next");
    queued.await.unwrap().unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn the_state_after_a_failed_step_is_the_one_it_left() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    step(&session, json!({ "do": "refuse" })).await.unwrap_err();
    assert_eq!(read(&session)["count"], 1);
    assert_eq!(read(&session)["step_count"], 0);
    close(session);
    settled(&store, &stage).await;
}
