//! Upstreams that crash, hang, lie and flood: what breaks is told, what does not goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oxenv_core::Toolset;
use oxenv_test_support::until;
use oxenv_upstream::UpstreamState;
use oxenv_wire::{ErrorCode, ToolErrorType};
use serde_json::{Value, json};

use crate::forks_support::{Tools, call as call_in, functions};
use crate::upstream_support::*;

#[tokio::test]
async fn a_server_that_crashes_at_its_start_is_named_with_its_last_words() {
    let stage = Stage::new(&[odd("bad", "crash", "    required: true\n"), odd("good", "plain", "")]);
    let toolsets = stage.session(1);
    for toolset in &toolsets {
        toolset.ready().await;
    }
    assert_eq!(toolsets[0].problem().unwrap(), "exited with code 7: cannot work with ***");
    assert!(toolsets[0].list().is_empty());
    let status = stage.manager.status();
    assert_eq!((status[0].state, status[0].required), (UpstreamState::Failed, true));
    assert_eq!(status[0].error.as_deref(), Some("exited with code 7: cannot work with ***"));
    assert_eq!(status[1].state, UpstreamState::Ready);
    assert_eq!(say(&toolsets[1], "echo").await, "");
    let error = call(&toolsets[0], "echo", json!({})).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::TransportError);
    assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
    let start =
        "toolset 'bad' is not available: exited with code 7: cannot work with ***; the next try is in ";
    assert!(error.message.starts_with(start), "{}", error.message);
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_named() {
    let entry = "  - name: none\n    mcp_server: { command: no-such-command-here }\n".to_owned();
    let stage = Stage::new(&[entry]);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let problem = toolset.problem().unwrap();
    assert!(problem.contains("command 'no-such-command-here' was not found on PATH"), "{problem}");
}

#[tokio::test]
async fn a_server_that_hangs_at_its_greeting_is_given_up() {
    let stage = Stage::new(&[odd("slow", "hang", "    start_timeout_s: 0.5\n")]);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let problem = toolset.problem().unwrap();
    assert_eq!(problem, "it did not answer its greeting within 0.5 s; raise start_timeout_s if it is slow");
    stage.manager.close().await;
    stage.emptied().await;
}

#[tokio::test]
async fn a_server_that_cannot_list_settles_too() {
    for scope in ["session", "server"] {
        let more = format!("    scope: {scope}\n    start_timeout_s: 5\n");
        let stage = Stage::new(&[odd("listless", "listless", &more), odd("dying", "dies_listing", &more)]);
        stage.manager.start();
        let toolsets = stage.session(1);
        for (toolset, expected) in toolsets.iter().zip(["no list today", "exited with code 4"]) {
            toolset.ready().await;
            assert_eq!(toolset.problem().as_deref(), Some(expected), "{scope}");
        }
    }
}

#[tokio::test]
async fn a_call_during_which_its_server_dies_is_lost_and_the_next_one_works() {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let waiting = call(&toolset, "wait", json!({}));
    let dying = call(&toolset, "die", json!({}));
    let (waiting, dying) = tokio::join!(waiting, dying);
    for error in [waiting.unwrap_err(), dying.unwrap_err()] {
        assert_eq!(error.code, Some(ErrorCode::UpstreamLost));
        assert_eq!(error.error_type, ToolErrorType::TransportError);
        assert_eq!(
            error.message,
            "toolset 'odd' went away during the call: exited with code 3: it hurts, ***"
        );
    }
    assert!(!toolset.list().is_empty());
    assert_eq!(toolset.problem().as_deref(), Some("exited with code 3: it hurts, ***"));
    assert_eq!(say(&toolset, "count").await, "1");
    assert_eq!(toolset.problem(), None);
}

#[tokio::test]
async fn a_server_that_closes_its_output_is_ended() {
    let stage = Stage::with(&[odd("odd", "plain", "")], 4, 0);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let error = call(&toolset, "close_output", json!({})).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamLost));
    // Its input closes in turn, at which it may exit before it is ended.
    let ends = ["closed its output", "exited with code 0"];
    assert!(ends.iter().any(|end| error.message.ends_with(end)), "{}", error.message);
    stage.emptied().await;
}

#[tokio::test]
async fn floods_and_garbage_disturb_nobody() {
    for mode in ["flooding", "printing"] {
        let stage = Stage::new(&[odd("odd", mode, "")]);
        let toolset = stage.session(1).remove(0);
        toolset.ready().await;
        assert_eq!(toolset.problem(), None);
        assert_eq!(say(&toolset, "flood").await, "dry");
        assert_eq!(say(&toolset, "garbage").await, "clean");
        assert_eq!(say(&toolset, "echo").await, "");
    }
}

#[tokio::test]
async fn long_and_paged_lists_are_whole() {
    let stage = Stage::new(&[odd("many", "thousand", ""), odd("paged", "pages", ""), odd("old", "old", "")]);
    let toolsets = stage.session(1);
    for toolset in &toolsets {
        toolset.ready().await;
    }
    assert_eq!(toolsets[0].list().len(), 1000);
    assert_eq!(toolsets[1].list().len(), toolsets[2].list().len());
    assert_eq!(say(&toolsets[2], "echo").await, "");
}

#[tokio::test]
async fn starts_that_keep_failing_come_ever_later() {
    let stage = Stage::with(&[odd("odd", "crash", "")], 4, 0);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        call(&toolset, "echo", json!({})).await.unwrap_err();
        waits.push(start.elapsed());
    }
    // The second and the third call wait for their try: 0.2 s, 0.4 s.
    assert!(waits[1] >= Duration::from_millis(150) && waits[2] >= Duration::from_millis(350), "{waits:?}");
    // From there on, the next try is told and not waited for.
    call(&toolset, "echo", json!({})).await.unwrap_err();
    let start = Instant::now();
    let error = call(&toolset, "echo", json!({})).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    assert!(error.message.contains("the next try is in 1."), "{}", error.message);
}

#[tokio::test]
async fn the_shared_instance_is_started_again_by_itself() {
    let stage = Stage::new(&[odd("odd", "plain", "    scope: server\n")]);
    stage.manager.start();
    let toolset = stage.session(1).remove(0);
    let other = stage.session(2).remove(0);
    toolset.ready().await;
    assert_eq!((say(&toolset, "count").await, say(&other, "count").await), ("1".into(), "2".into()));
    let pid: i32 = say(&toolset, "pid").await.parse().unwrap();
    kill(pid);
    until("it was started again", || stage.manager.status()[0].restarts == 1).await;
    assert_eq!(stage.manager.status()[0].state, UpstreamState::Ready);
    assert_eq!(say(&toolset, "count").await, "1");
    // What ends with a session is not the instance that all share.
    toolset.close();
    drop(toolset);
    assert_eq!(say(&other, "count").await, "2");
    stage.manager.close().await;
    stage.emptied().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_under_load_costs_only_what_was_in_flight() {
    let entries = [odd("victim", "plain", ""), odd("other", "plain", "    scope: server\n")];
    let stage = Stage::new(&entries);
    let toolsets = stage.session(1);
    for toolset in &toolsets {
        toolset.ready().await;
    }
    let pid: i32 = say(&toolsets[0], "pid").await.parse().unwrap();
    // In flight when it is killed, wherever the others are.
    let waiting = tokio::spawn({
        let victim = toolsets[0].clone();
        async move { call(&victim, "wait", json!({})).await }
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let load = |toolset: Arc<dyn Toolset>| {
        let calls = calls.clone();
        tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for number in 0..400 {
                outcomes.push(call(&toolset, "echo", json!({"text": number.to_string()})).await);
                calls.fetch_add(1, Ordering::Relaxed);
            }
            outcomes
        })
    };
    let victims: Vec<_> = (0..4).map(|_| load(toolsets[0].clone())).collect();
    let others: Vec<_> = (0..4).map(|_| load(toolsets[1].clone())).collect();
    until("calls are in flight", || calls.load(Ordering::Relaxed) > 100).await;
    kill(pid);
    for other in others {
        assert!(other.await.unwrap().iter().all(Result::is_ok));
    }
    let mut lost = 0;
    let mut ended = vec![vec![waiting.await.unwrap()]];
    for victim in victims {
        ended.push(victim.await.unwrap());
    }
    for outcomes in ended {
        for error in outcomes.into_iter().filter_map(Result::err) {
            assert_eq!(error.code, Some(ErrorCode::UpstreamLost), "{}", error.message);
            assert!(error.message.contains("was ended by signal 9"), "{}", error.message);
            lost += 1;
        }
    }
    assert!((1..=5).contains(&lost), "{lost} calls were lost");
}

#[tokio::test]
async fn nothing_outlives_close_or_drop() {
    let modes = ["plain", "slow_exit", "hang"];
    let entries: Vec<String> = modes.iter().map(|mode| odd(mode, mode, "    startup: eager\n")).collect();
    for by_close in [true, false] {
        let mut stage = Stage::new(&entries);
        stage.manager.start();
        let toolsets = stage.session(1);
        toolsets[0].ready().await;
        toolsets[1].ready().await;
        assert!(stage.processes() >= 4);
        if by_close {
            let start = Instant::now();
            stage.manager.close().await;
            assert!(start.elapsed() < Duration::from_millis(3200), "{:?}", start.elapsed());
            assert_eq!(stage.commands(), Vec::<String>::new());
        } else {
            drop(toolsets);
            stage.manager = Stage::new(&[]).manager.clone();
        }
        stage.emptied().await;
        until("all folders are gone", || std::fs::read_dir(&stage.folder).unwrap().count() == 1).await;
    }
}

/// The folder that a server works in is the server's to fill.
#[tokio::test]
async fn a_folder_that_a_server_made_deep_is_removed() {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    let toolsets = stage.session(1);
    call(&toolsets[0], "nest", json!({ "levels": 30_000 })).await.unwrap();
    stage.manager.close().await;
    until("its folder is gone", || std::fs::read_dir(&stage.folder).unwrap().count() == 1).await;
}

#[tokio::test]
async fn a_hundred_servers_start_a_few_at_a_time() {
    let entries: Vec<String> = (0..100).map(|number| odd(&format!("odd{number}"), "plain", "")).collect();
    let stage = Stage::with(&entries, 3, 0);
    stage.manager.start();
    let toolsets = stage.manager.server_toolsets();
    let mut most = 0;
    until("all lists are known", || {
        let starting =
            stage.commands().iter().filter(|command| command.starts_with("mcp-supervisor")).count();
        most = most.max(starting);
        toolsets.iter().all(|toolset| !toolset.list().is_empty())
    })
    .await;
    // A supervisor that starts its command is two processes for a moment.
    assert!((2..=6).contains(&most), "{most} at once");
    let error = call(&toolsets[0], "echo", json!({})).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
    assert!(error.message.contains("call it within a session"), "{}", error.message);
}

#[tokio::test]
async fn a_server_that_answers_again_is_found() {
    // Its first start works, the second fails, the third works.
    let marker = "@FOLDER@/marker";
    let entry =
        odd("odd", "once", "    scope: server\n").replace("\"once\"]", &format!("\"once\", \"{marker}\"]"));
    let stage = Stage::new(&[entry]);
    stage.manager.start();
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let list = toolset.list();
    let pid: i32 = say(&toolset, "pid").await.parse().unwrap();
    kill(pid);
    until("a start failed", || toolset.problem().is_some_and(|problem| problem.contains("code 9"))).await;
    assert!(Arc::ptr_eq(&list, &toolset.list()));
    std::fs::remove_file(stage.folder.join("marker")).unwrap();
    until("it works again", || stage.manager.status()[0].state == UpstreamState::Ready).await;
    assert_eq!(toolset.problem(), None);
    assert_eq!(say(&toolset, "count").await, "1");
    let where_it_is: Value = serde_json::from_str(&say(&toolset, "where").await).unwrap();
    assert_eq!(where_it_is["cwd"], stage.folder.to_str().unwrap());
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn calls_of_what_could_not_start_name_it_until_it_can() {
    let entry = functions("late", "    on_fork: stateless\n").replace("tools.py", "late.py");
    let tools = Tools::new(&[entry, functions("files", "    on_fork: stateless\n")]);
    let session = tools.session().await;
    session.toolbox().settled().await;
    for (tool, begins) in [
        ("hello", "tool 'hello' is not offered at present: toolset 'late' is not available: "),
        ("late__hello", "toolset 'late' is not available: "),
    ] {
        let says = call_in(&session, tool, json!({})).await;
        let says = says.as_str().unwrap();
        assert!(says.starts_with(begins) && says.contains("late.py"), "{says}");
    }
    let problems = session.toolbox().problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].toolset.as_deref(), Some("late"));
    assert_eq!(call_in(&session, "files__hello", json!({})).await, "Unknown tool: 'files__hello'");
    // A call that finds it broken lets it be tried again, so the session need not be given up.
    std::fs::write(tools.folder.join("late.py"), "def hello():\n    return 'hello'\n").unwrap();
    let start = Instant::now();
    while call_in(&session, "hello", json!({})).await != "hello" {
        assert!(start.elapsed() < Duration::from_secs(20), "it is not tried again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(session.toolbox().problems(), []);
}
