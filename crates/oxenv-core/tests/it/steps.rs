//! One step at a time: order, cancellation, deadlines, and environments that hang.

use std::time::Duration;

use oxenv_core::{Execution, StoreLimits};
use oxenv_test_support::soon;
use oxenv_wire::{Delivered, ErrorCode, FailureKind, Reward};
use serde_json::json;

use crate::stage::{Scripted, Stage, Unblock, at_once, eventually};
use crate::support::{
    Shown, close, code, observe, open, reset, settled, spawn_step, state, step, step_within, store,
    store_with,
};

#[tokio::test]
async fn steps_run_first_in_first_out() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution).tools(false));
        let session = open(&store).await;
        // A tool suspends whatever the environment is, and holds the lock meanwhile.
        let first = spawn_step(&session, json!({ "type": "call_tool", "tool_name": "wait" }));
        stage.entered().await;
        let mut queued = Vec::new();
        for name in ["a", "b", "c", "d", "e"] {
            queued.push(spawn_step(&session, json!({ "do": "note", "text": name })));
            // Runs the new task up to the lock.
            tokio::task::yield_now().await;
        }
        assert_eq!(stage.notes(), [""; 0]);
        stage.open("");
        first.await.unwrap().unwrap();
        for step in queued {
            step.await.unwrap().unwrap();
        }
        assert_eq!(stage.notes(), ["a", "b", "c", "d", "e"], "{execution:?}");
        assert_eq!(session.info().step_count, 6);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_dropped_step_is_cancelled_and_demands_a_reset() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    running.abort();
    eventually("the call is dropped", || stage.cancelled() == 1).await;
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    assert_eq!(session.info().step_count, 0);
    reset(&session).await.unwrap();
    assert_eq!(observe(&session, json!({})).await.reward, Some(Reward::Int(1)));
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_step_dropped_in_the_queue_never_runs_and_demands_nothing() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    let queued = spawn_step(&session, json!({ "do": "note", "text": "queued" }));
    tokio::task::yield_now().await;
    queued.abort();
    assert!(queued.await.unwrap_err().is_cancelled());
    stage.open("");
    running.await.unwrap().unwrap();
    observe(&session, json!({ "do": "note", "text": "after" })).await;
    assert_eq!(stage.notes(), ["", "after"]);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cuts_a_step_off_and_a_reset_heals_it() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let started = tokio::time::Instant::now();
    let failure =
        step_within(&session, json!({ "do": "wait" }), Some(Duration::from_secs(3))).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    assert_eq!((failure.code, failure.kind), (ErrorCode::DeadlineExceeded, FailureKind::Timeout));
    assert_ne!(failure.delivered, Delivered::No);
    eventually("the call is dropped", || stage.cancelled() == 1).await;
    for _ in 0..2 {
        assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    }
    reset(&session).await.unwrap();
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_counts_the_wait_for_an_earlier_step() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    let failure =
        step_within(&session, json!({ "do": "note" }), Some(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!((failure.code, failure.delivered), (ErrorCode::DeadlineExceeded, Delivered::No));
    stage.open("");
    running.await.unwrap().unwrap();
    // Nothing was cut off, so nothing is demanded.
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_timeout_beyond_every_clock_is_no_timeout() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let session = open(&store).await;
        for timeout in [Duration::MAX, Duration::from_secs(1 << 62), Duration::from_secs(u64::MAX)] {
            let action = json!({ "do": "count" });
            assert!(soon(step_within(&session, action, Some(timeout))).await.is_ok(), "{timeout:?}");
        }
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn an_abandoned_blocking_step_is_counted_until_it_comes_back() {
    let stage = Stage::default();
    let _unblock = Unblock(stage.clone());
    let store = store(Scripted::new(&stage, Execution::Blocking));
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "block" }));
    stage.entered().await;
    assert_eq!(store.status().stuck, 0);
    running.abort();
    eventually("it counts as stuck", || store.status().stuck == 1).await;
    // Its session still takes its slot, and its last state can still be read.
    assert_eq!(store.status().active, 1);
    assert_eq!(state(&session).await["step_count"], 0);
    stage.unblock();
    eventually("it came back", || store.status().stuck == 0).await;
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_reset_waits_for_a_blocked_thread_no_longer_than_its_deadline() {
    let stage = Stage::default();
    let _unblock = Unblock(stage.clone());
    let limits = StoreLimits { reset: Duration::from_millis(30), ..StoreLimits::default() };
    let store = store_with(Scripted::new(&stage, Execution::Blocking), limits);
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "block" }));
    stage.entered().await;
    assert_eq!(code(soon(reset(&session)).await), ErrorCode::DeadlineExceeded);
    assert_eq!(code(running.await.unwrap()), ErrorCode::Cancelled);
    assert_eq!(store.status().stuck, 1);
    stage.unblock();
    eventually("it came back", || store.status().stuck == 0).await;
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    observe(&session, json!({})).await;
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_session_that_ends_under_a_blocked_thread_frees_its_slot_at_once() {
    let stage = Stage::default();
    let _unblock = Unblock(stage.clone());
    let store = store(Scripted::new(&stage, Execution::Blocking));
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "block" }));
    stage.entered().await;
    close(session);
    assert_eq!(store.status().active, 0);
    assert_eq!(code(running.await.unwrap()), ErrorCode::SessionEnded);
    assert_eq!((store.status().stuck, stage.live()), (1, 1));
    stage.unblock();
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_inline_environment_that_suspends_is_told_so() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let failure = at_once(step(&session, json!({ "do": "wait" }))).unwrap_err();
    assert_eq!((failure.code, failure.kind), (ErrorCode::ExecutionError, FailureKind::Environment));
    assert!(failure.message.contains("task execution"), "{failure}");
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_inline_step_neither_waits_nor_hops() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let session = open(&store).await;
    at_once(reset(&session)).unwrap();
    at_once(step(&session, json!({}))).unwrap();
    at_once(step(&session, json!({ "type": "call_tool", "tool_name": "say" }))).unwrap();
    at_once(session.state()).unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn done_stays_done_and_control_may_step_on() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let session = open(&store).await;
    assert!(observe(&session, json!({ "do": "finish" })).await.done);
    assert!(session.info().done);
    assert!(
        !observe(&session, json!({})).await.done,
        "what a step after done shows is the environment's affair"
    );
    assert!(session.info().done);
    let reply =
        step(&session, json!({ "type": "call_tool", "tool_name": "say", "arguments": { "text": "hi" } }));
    match reply.await.unwrap() {
        Shown::Call(reply) => assert!(reply.done),
        other => panic!("{other:?}"),
    }
    reset(&session).await.unwrap();
    assert!(!session.info().done);
    close(session);
    settled(&store, &stage).await;
}
