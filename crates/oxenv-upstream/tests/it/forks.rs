//! Sessions of tools, forked, saved and restored, each toolset as its entry says.

use oxenv_core::{
    CallRecord, EndReason, EnvironmentContext, EnvironmentFactory, EpisodeCall, ForkMode, Principal,
    SessionOptions, WorkspaceSource,
};
use oxenv_test_support::until;
use oxenv_wire::{ErrorCode, FailureKind, ToolError, ToolErrorType, ToolResult, raw};
use serde_json::json;

use crate::forks_support::*;

const WORKSPACE: &str = "    on_fork: workspace\n";
const REPLAY: &str = "    on_fork: replay\n    on_reset: restart\n";
const STATELESS: &str = "    on_fork: stateless\n";

#[tokio::test]
async fn a_fork_has_the_files_under_the_path_that_its_agent_knows() {
    let tools = Tools::new(&[functions("files", WORKSPACE)]);
    let session = tools.session().await;
    let folder = call(&session, "where", json!({})).await;
    let path = format!("{}/note.txt", folder.as_str().unwrap());
    call(&session, "write", json!({ "path": &path, "text": "before" })).await;
    let forks = tools.fork(&session, 3).await;
    for (number, fork) in forks.iter().enumerate() {
        assert_eq!(call(fork, "where", json!({})).await, folder);
        assert_eq!(call(fork, "read", json!({ "path": &path })).await, "before");
        call(fork, "write", json!({ "path": "note.txt", "text": format!("fork {number}") })).await;
    }
    call(&session, "write", json!({ "path": &path, "text": "original" })).await;
    for (number, fork) in forks.iter().enumerate() {
        assert_eq!(call(fork, "read", json!({ "path": &path })).await, format!("fork {number}"));
        assert_eq!((fork.info().epoch, fork.info().step_count), (1, 6));
    }
    assert_eq!(call(&session, "read", json!({ "path": &path })).await, "original");
    // What an error says is of that path too.
    let missing = json!({ "path": format!("{}/missing", folder.as_str().unwrap()) });
    let error = call(&forks[0], "read", missing.clone()).await;
    assert_eq!(error, call(&session, "read", missing).await);
    // A fork of a fork goes on from the fork.
    let again = tools.fork(&forks[1], 1).await.remove(0);
    forks[1].end(EndReason::Closed);
    assert_eq!(call(&again, "read", json!({ "path": &path })).await, "fork 1");
    reset(&again).await;
    assert!(call(&again, "read", json!({ "path": &path })).await.as_str().unwrap().contains("No such file"));
}

#[tokio::test]
async fn replay_brings_a_memory_back_and_forgets_what_was_never_run() {
    let limited = format!("{REPLAY}    deny: [\"where\"]\n    rate_limit: {{ rate: 4/h, per: session }}\n");
    let tools = Tools::new(&[functions("memory", &limited), functions("other", STATELESS)]);
    assert_eq!(tools.factory.spec().capabilities.fork, ForkMode::Native);
    let session = tools.session().await;
    assert_eq!(call(&session, "add", json!({ "n": 5 })).await, 5);
    assert_eq!(call(&session, "fail", json!({})).await, "ValueError: not today");
    // To others, to nobody, refused: none of them is repeated.
    assert_eq!(call(&session, "other__add", json!({ "n": 1 })).await, 1);
    assert!(call(&session, "nobodys", json!({})).await.as_str().unwrap().contains("nobodys"));
    assert!(call(&session, "add", json!({ "m": 1 })).await.as_str().unwrap().contains("add"));
    call(&session, "memory__where", json!({})).await;
    assert_eq!(call(&session, "add", json!({ "n": 1 })).await, 106);
    for _ in 0..3 {
        call(&session, "add", json!({ "n": 0 })).await;
    }
    assert!(call(&session, "add", json!({ "n": 1 })).await.as_str().unwrap().contains("so often"));
    let forks = tools.fork(&session, 2).await;
    assert_eq!(call(&forks[0], "add", json!({ "n": 10 })).await, 116);
    assert_eq!(call(&forks[1], "add", json!({ "n": 20 })).await, 126);
    assert_eq!(call(&forks[1], "other__add", json!({ "n": 1 })).await, 1);
    let again = tools.fork(&forks[1], 1).await.remove(0);
    assert_eq!(call(&again, "add", json!({ "n": 1 })).await, 127);
    // An epoch begins with a new instance, and so does what is repeated.
    reset(&again).await;
    let fresh = tools.fork(&again, 1).await.remove(0);
    assert_eq!(call(&fresh, "add", json!({ "n": 1 })).await, 1);
}

/// Three calls an hour for the whole server: the fork's repeats take none, or this would not come to its end.
#[tokio::test]
async fn repeats_are_recorded_and_take_nothing_of_a_rate_limit() {
    let limited = format!("{REPLAY}    rate_limit: {{ rate: 3/h, per: server }}\n");
    let tools = Tools::new(&[functions("memory", &limited)]);
    let session = tools.session().await;
    call(&session, "add", json!({ "n": 5 })).await;
    call(&session, "fail", json!({})).await;
    let before = tools.audit.records().len();
    let fork = tools.fork(&session, 1).await.remove(0);
    let snapshot = tools.store.snapshot(&session).await.unwrap();
    let restored = tools.store.restore(&snapshot, SessionOptions::default()).await.unwrap();
    let records = tools.audit.records().split_off(before);
    let made = |record: &serde_json::Value| {
        (record["session_id"].clone(), record["tool"].clone(), record["decision"].clone())
    };
    let repeat = |session: &str, tool: &str| (json!(session), json!(tool), json!("repeat"));
    let expected = [
        repeat(fork.id(), "add"),
        repeat(fork.id(), "fail"),
        repeat(restored.id(), "add"),
        repeat(restored.id(), "fail"),
    ];
    assert_eq!(records.iter().map(made).collect::<Vec<_>>(), expected);
    assert!(records.iter().all(|record| record["principal"] == "agent"), "{records:?}");
    // The third of three, and then no more.
    assert_eq!(call(&restored, "add", json!({ "n": 1 })).await, 106);
    assert!(call(&fork, "add", json!({ "n": 1 })).await.as_str().unwrap().contains("so often"));
}

#[tokio::test]
async fn another_result_than_the_first_time_is_a_failure_that_leaves_nothing() {
    let tools = Tools::new(&[functions("memory", REPLAY)]);
    let session = tools.session().await;
    call(&session, "add", json!({ "n": 5 })).await;
    call(&session, "lot", json!({})).await;
    let failure = tools.store.fork(&session, 2, SessionOptions::default()).await.map(drop).unwrap_err();
    assert_eq!((failure.code, failure.kind), (ErrorCode::ExecutionError, FailureKind::Environment));
    assert_eq!(
        failure.message,
        "toolset 'memory' cannot be forked by replay: call 2, of its tool 'lot', came to another result when \
         it was made again; declare another on_fork for tools that tell the time, draw lots, or keep \
         something beyond a restart"
    );
    assert_eq!(tools.store.status().active, 1);
    until("its folder is gone", || tools.workspaces() == 1).await;
    assert_eq!(call(&session, "add", json!({ "n": 1 })).await, 6);
}

#[tokio::test]
async fn what_is_known_of_no_call_is_not_repeated() {
    let tools = Tools::new(&[functions("memory", REPLAY)]);
    let mut instance = tools.instance().await;
    instance.toolbox.settled().await;
    let lost = ToolError::new(ToolErrorType::Timeout, "late").with_code(ErrorCode::DeadlineExceeded);
    let record = |tool: &str, outcome: Result<ToolResult, ToolError>| EpisodeCall {
        principal: Principal::Agent,
        record: CallRecord { tool: tool.to_owned(), arguments: raw(&json!({ "n": 1 })).ok(), outcome },
    };
    let done = || Ok(ToolResult::from_value(&1).unwrap());
    for (calls, says) in [
        (vec![record("add", Err(lost))], "nobody knows what call 1, of 'add' of toolset 'memory', has done"),
        (vec![record("gone", done())], "call 1 was of the tool 'gone', which no toolset offers any more"),
    ] {
        let (forked, saved) = tools.refused(&mut instance, &calls).await;
        for failure in [forked, saved] {
            assert_eq!(failure.code, ErrorCode::Unsupported);
            let expected = format!("the calls of this episode cannot be made again for a fork: {says}");
            assert_eq!(failure.message, expected);
        }
    }
}

#[tokio::test]
async fn what_cannot_be_forked_is_named_before_anything_is_made() {
    let shared = format!("{REPLAY}    scope: server\n").replace("    on_reset: restart\n", "");
    for (entries, says) in [
        (
            vec![functions("fine", WORKSPACE), functions("plain", "")],
            "toolset 'plain' can be neither forked nor saved",
        ),
        (
            vec![functions("all", &shared)],
            "toolset 'all' cannot be forked by replay, because all sessions share it",
        ),
    ] {
        let tools = Tools::new(&entries);
        assert_eq!(tools.factory.spec().capabilities.fork, ForkMode::None);
        assert!(!tools.factory.spec().capabilities.snapshot);
        let mut instance = tools.instance().await;
        let (forked, saved) = tools.refused(&mut instance, &[]).await;
        for failure in [forked, saved] {
            assert_eq!(failure.code, ErrorCode::Unsupported);
            assert!(failure.message.starts_with(says), "{failure}");
            assert!(failure.message.contains("on_fork"), "{failure}");
        }
        until("its folder is gone", || tools.workspaces() == 1).await;
        let session = tools.session().await;
        let failure = tools.store.fork(&session, 1, SessionOptions::default()).await.map(drop).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Unsupported);
    }
    let source = WorkspaceSource::Shared(env!("CARGO_TARGET_TMPDIR").into());
    let tools = Tools::with(&[functions("fine", STATELESS)], None, source);
    assert_eq!(tools.factory.spec().capabilities.fork, ForkMode::None);
    let mut instance = tools.instance().await;
    let (forked, saved) = tools.refused(&mut instance, &[]).await;
    assert_eq!(forked.code, ErrorCode::Unsupported);
    assert!(forked.message.starts_with("all sessions share the workspace "), "{forked}");
    assert_eq!(forked.message, saved.message);
}

#[tokio::test]
async fn toolsets_that_are_compiled_in_copy_themselves_or_are_shared() {
    let shared = "    scope: server\n    on_fork: stateless\n";
    let tools = Tools::new(&[tally("own", ""), tally("all", shared)]);
    let session = tools.session().await;
    assert_eq!(call(&session, "tick", json!({})).await, 1);
    assert_eq!(call(&session, "all__tick", json!({})).await, 1);
    let fork = tools.fork(&session, 1).await.remove(0);
    assert_eq!(call(&fork, "tick", json!({})).await, 2);
    assert_eq!(call(&fork, "tick", json!({})).await, 3);
    assert_eq!(call(&session, "tick", json!({})).await, 2);
    assert_eq!(call(&fork, "all__tick", json!({})).await, 2);
    assert!(!tools.factory.spec().capabilities.snapshot);
    let failure = tools.store.snapshot(&session).await.unwrap_err();
    assert_eq!(failure.message, "toolset 'own' can copy itself, but cannot be saved");
}

#[tokio::test]
async fn a_fork_that_is_given_up_leaves_nothing() {
    let tools = Tools::new(&[functions("memory", REPLAY)]);
    let session = tools.session().await;
    // Its second call is slow, and what is made again never comes that far.
    call(&session, "slow", json!({})).await;
    let outcome = Ok(ToolResult::from_value("done").unwrap());
    let record = CallRecord { tool: "slow".to_owned(), arguments: None, outcome };
    let slow = EpisodeCall { principal: Principal::Agent, record };
    let mut instance = tools.instance().await;
    let calls = [slow.clone(), slow];
    let boot = EnvironmentContext::new(uuid(), 1);
    let mut forking = Box::pin(tools.factory.fork(boot, original(&mut instance, &calls)));
    tokio::select! {
        _ = &mut forking => panic!("it does not end by itself"),
        () = until("its folder is there", || tools.workspaces() == 3) => {}
    }
    drop(forking);
    until("its folder is gone", || tools.workspaces() == 2).await;
    tools.manager.close().await;
}
