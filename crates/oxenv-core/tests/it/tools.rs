//! Tool calls: their outcomes, their overlap, and the score of each.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Execution, NativeToolset, Toolbox};
use oxenv_test_support::soon;
use oxenv_wire::{ErrorCode, Reward, ToolErrorType};
use serde_json::json;

use crate::stage::{Scripted, Stage, eventually};
use crate::support::{
    Shown, call, close, code, open, settled, spawn_call, spawn_step, step, store, tool_step,
};

#[tokio::test]
async fn a_tools_own_failure_is_an_observation() {
    for concurrent in [true, false] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent).scoring());
        let session = open(&store).await;
        for (tool, error) in [
            ("no_such_tool", ToolErrorType::ToolNotFound),
            ("reset", ToolErrorType::ToolNotFound),
            ("", ToolErrorType::ToolNotFound),
            ("fail", ToolErrorType::ExecutionError),
        ] {
            // An error that is no result is not scored.
            let reply = call(&session, tool, json!({ "after": { "do": "panic" } })).await.unwrap();
            assert_eq!((reply.outcome.unwrap_err().error_type, reply.reward), (error, None), "{tool}");
        }
        let reply = call(&session, "complain", json!({})).await.unwrap();
        let result = reply.outcome.unwrap();
        assert!(result.is_error);
        assert_eq!((result.text(), reply.reward), ("cannot do that".to_owned(), Some(Reward::Int(1))));
        assert_eq!(session.info().step_count, 5);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_tool_that_does_not_answer_times_out() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(false));
    let session = open(&store).await;
    let started = tokio::time::Instant::now();
    let error = call(&session, "wait", json!({})).await.unwrap().outcome.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::Timeout);
    assert!(error.message.contains("within 30 s"), "{}", error.message);
    assert_eq!(started.elapsed(), Duration::from_secs(30));
    assert_eq!((stage.cancelled(), session.info().step_count), (1, 1));
    call(&session, "say", json!({})).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn calls_overlap_only_where_the_toolset_says_so() {
    for concurrent in [true, false] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent));
        let session = open(&store).await;
        let calls: Vec<_> =
            ["a", "b", "c"].into_iter().map(|at| spawn_call(&session, "wait", json!({ "at": at }))).collect();
        stage.entered().await;
        if concurrent {
            stage.entered().await;
            stage.entered().await;
            assert_eq!(stage.waiting(), 3);
            // A typed step does not wait for them either.
            soon(step(&session, json!({}))).await.unwrap();
        } else {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(stage.waiting(), 1);
        }
        for gate in ["c", "b", "a"] {
            stage.open(gate);
        }
        for call in calls {
            call.await.unwrap().unwrap();
        }
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn calls_are_scored_one_at_a_time_in_order_of_completion() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution).tools(true).scoring());
        let session = open(&store).await;
        let score = |name: &str| json!({ "at": name, "after": { "do": "note", "text": name } });
        let mut calls = Vec::new();
        for name in ["a", "b", "c"] {
            calls.push(spawn_call(&session, "wait", score(name)));
            stage.entered().await;
        }
        for gate in ["c", "a", "b"] {
            let scored = stage.notes().len() + 1;
            stage.open(gate);
            eventually("the call is scored", || stage.notes().len() == scored).await;
        }
        for call in calls {
            assert_eq!(call.await.unwrap().unwrap().reward, None);
        }
        assert_eq!(stage.notes(), ["c", "a", "b"], "{execution:?}");
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_score_is_a_reward_and_may_end_the_episode() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task).tools(true).scoring());
    let session = open(&store).await;
    let reply = call(&session, "say", json!({ "text": "hi", "after": { "do": "reward", "value": 5 } }))
        .await
        .unwrap();
    assert_eq!((reply.reward, reply.done), (Some(Reward::Int(5)), false));
    assert_eq!(reply.outcome.unwrap().data(), "\"hi\"");
    match step(&session, tool_step("say", &json!({ "after": { "do": "finish" } }))).await.unwrap() {
        Shown::Call(reply) => {
            assert_eq!((reply.reward, reply.done), (Some(Reward::Float(1.0)), true));
        }
        other => panic!("{other:?}"),
    }
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_dropped_call_cancels_its_tool_and_demands_nothing() {
    for concurrent in [true, false] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent));
        let session = open(&store).await;
        let calling = spawn_call(&session, "wait", json!({}));
        stage.entered().await;
        calling.abort();
        eventually("the tool is dropped", || stage.cancelled() == 1).await;
        // The environment was not touched, so its state is known.
        step(&session, json!({})).await.unwrap();
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn the_end_of_a_session_cancels_its_tools() {
    for concurrent in [true, false] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, Execution::Inline).tools(concurrent));
        let session = open(&store).await;
        let agents = spawn_call(&session, "wait", json!({}));
        stage.entered().await;
        let control = spawn_step(&session, tool_step("wait", &json!({})));
        tokio::task::yield_now().await;
        close(session);
        assert_eq!(code(soon(agents).await.unwrap()), ErrorCode::SessionEnded);
        assert_eq!(code(soon(control).await.unwrap()), ErrorCode::SessionEnded);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn two_toolsets_with_one_name_are_refused_with_both_owners() {
    let set = |name: &str| Arc::new(NativeToolset::new(name).tool("same", "", |(): ()| Ok(1)));
    let error = Toolbox::of(vec![set("one"), set("two")]).err().unwrap();
    assert!(error.contains("'same'") && error.contains("'one'") && error.contains("'two'"), "{error}");
}
