//! Graphs of calls: what is refused before anything runs, what runs together, what comes back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oxenv_core::{
    Failure, GraphReply, Mount, Policy, Rules, Session, SessionOptions, SessionStore, Toolbox, Work,
};
use oxenv_wire::{Delivered, ErrorCode, Loc, Reward, ToolErrorType};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::{Barrier, oneshot};

use crate::stage::{eventually, soon};
use crate::support::{Shown, code, reset_as, step, step_within};
use crate::toolbox_support::{Host, Outcome, Set, broken, done, mounts, value};

/// Calls written as `[id, tool, arguments, needs…]`, the last two as far as they are wanted.
pub(crate) fn graph(calls: &[Value]) -> Value {
    let calls: Vec<Value> = calls
        .iter()
        .map(|call| {
            let call = call.as_array().unwrap();
            let arguments = call.get(2).cloned().unwrap_or_else(|| json!({}));
            let needs: Vec<&Value> = call.iter().skip(3).collect();
            json!({ "id": call[0], "tool_name": call[1], "arguments": arguments, "needs": needs })
        })
        .collect();
    json!({ "type": "call_tools", "calls": calls })
}

pub(crate) async fn session_of(toolbox: Toolbox) -> (SessionStore, Arc<Session>) {
    opened(Host::new(toolbox).store()).await
}

async fn opened(store: SessionStore) -> (SessionStore, Arc<Session>) {
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, None, None, None).await.unwrap();
    (store, session)
}

pub(crate) async fn run(session: &Arc<Session>, calls: &[Value]) -> Result<GraphReply, Failure> {
    match step(session, graph(calls)).await? {
        Shown::Graph(reply) => Ok(reply),
        other => panic!("no graph: {other:?}"),
    }
}

/// What came of the call of that id.
pub(crate) fn of<'a>(reply: &'a GraphReply, id: &str) -> &'a Outcome {
    &reply.results.iter().find(|(other, _)| other == id).unwrap().1
}

fn echo() -> Arc<Set> {
    Arc::new(Set::new("echo", &["echo", "fail"]).answering(|tool, arguments| match tool {
        "fail" => broken("it broke"),
        _ => done(&arguments),
    }))
}

#[tokio::test]
async fn what_is_wrong_with_a_graph_is_told_before_anything_runs() {
    let set = echo();
    let (_store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
    for (calls, kind, loc, says) in [
        (vec![], "list_length", "calls", "1 to 256"),
        (vec![json!(["a", "echo"]), json!(["a", "echo"])], "duplicate_id", "calls.1.id", "'a' appears twice"),
        (vec![json!(["a", "echo"]), json!(["b", "echo", {}, "c"])], "unknown_id", "calls.1.needs", "'c'"),
        (
            vec![json!(["ok", "echo"]), json!(["a", "echo", { "x": ["${b.c}"] }])],
            "unknown_reference",
            "calls.1.arguments",
            "'${b.c}' refers to no call",
        ),
        (vec![json!(["a", "echo", { "x": "${}" }])], "unknown_reference", "calls.0.arguments", "'${}'"),
        (vec![json!(["a", "echo", {}, "a"])], "cycle", "calls", "a → a"),
        (vec![json!(["a", "echo", { "x": "${a}" }])], "cycle", "calls", "a → a"),
        (
            vec![
                json!(["a", "echo", {}, "c"]),
                json!(["free", "echo"]),
                json!(["b", "echo", { "x": "is ${a.x}" }]),
                json!(["c", "echo", {}, "free", "b"]),
            ],
            "cycle",
            "calls",
            "a → c → b → a",
        ),
    ] {
        let failure = run(&session, &calls).await.unwrap_err();
        assert_eq!(failure.code, ErrorCode::ValidationError);
        assert_eq!(failure.issues.len(), 1, "{:?}", failure.issues);
        let issue = &failure.issues[0];
        assert_eq!((issue.kind.as_ref(), issue.path().as_str()), (kind, loc));
        assert!(issue.msg.contains(says), "{}", issue.msg);
    }
    assert!(set.calls().is_empty());
    assert_eq!(session.info().step_count, 0);
}

#[tokio::test]
async fn every_issue_of_a_graph_is_told_up_to_a_number() {
    let (_store, session) = session_of(Toolbox::new(mounts(&[&echo()]))).await;
    let calls = [json!(["a", "echo", { "x": "${no.1} ${no.2}" }, "b", "c"]), json!(["a", "echo"])];
    let failure = run(&session, &calls).await.unwrap_err();
    let kinds: Vec<&str> = failure.issues.iter().map(|issue| issue.kind.as_ref()).collect();
    let expected = ["duplicate_id", "unknown_id", "unknown_id", "unknown_reference", "unknown_reference"];
    assert_eq!(kinds, expected);
    assert_eq!(failure.issues[0].loc, [Loc::from("calls"), Loc::Index(1), Loc::from("id")]);
    let mut call = vec![json!("a"), json!("echo"), json!({})];
    call.extend((0..200).map(|need| json!(format!("no such call {need}"))));
    let failure = run(&session, &[Value::from(call)]).await.unwrap_err();
    assert_eq!(failure.issues.len(), 64);
}

/// However many references and needs lead nowhere, there are 64 issues, and no more are made.
#[tokio::test]
async fn a_call_has_no_more_than_so_many_references() {
    let (_store, session) = session_of(Toolbox::new(mounts(&[&echo()]))).await;
    let calls = [json!(["a", "echo", { "x": "${no}".repeat(1025) }])];
    let failure = run(&session, &calls).await.unwrap_err();
    assert_eq!((failure.issues.len(), failure.issues[0].kind.as_ref()), (1, "too_many_references"));
    let calls = [json!(["no", "echo"]), json!(["a", "echo", { "x": "${no}".repeat(1024) }])];
    run(&session, &calls).await.unwrap();
}

#[tokio::test]
async fn arguments_that_no_reader_takes_are_an_issue() {
    let (_store, session) = session_of(Toolbox::new(mounts(&[&echo()]))).await;
    for arguments in [
        r#"{"x": "\ud800!"}"#,
        r#"{"x": 1e999}"#,
        &format!("{{\"x\": {}1{}}}", "[".repeat(200), "]".repeat(200)),
    ] {
        let text = format!(
            r#"{{"type": "call_tools", "calls": [{{"id": "a", "tool_name": "echo", "arguments": {arguments}}}]}}"#
        );
        let text = serde_json::value::RawValue::from_string(text).unwrap();
        let action = oxenv_wire::Action::parse(&text).unwrap();
        let failure =
            session.submit(oxenv_core::SessionRequest::step(action)).await.into_outcome().err().unwrap();
        assert_eq!(failure.code, ErrorCode::ValidationError);
        assert_eq!(
            (failure.issues[0].kind.as_ref(), failure.issues[0].path().as_str()),
            ("json_invalid", "calls.0.arguments")
        );
        assert!(failure.issues[0].msg.len() < 200);
    }
}

#[tokio::test]
async fn calls_that_need_nothing_run_together() {
    let barrier = Arc::new(Barrier::new(3));
    let set = Set::new("set", &["meet"]).answering(move |_, arguments| {
        let barrier = Arc::clone(&barrier);
        Work::pending(async move {
            barrier.wait().await;
            done(&arguments).await
        })
    });
    let (_store, session) = session_of(Toolbox::new(mounts(&[&Arc::new(set)]))).await;
    let calls: Vec<Value> = (0..3).map(|id| json!([id.to_string(), "meet", { "n": id }])).collect();
    let reply = soon(run(&session, &calls)).await.unwrap();
    for id in 0..3 {
        assert_eq!(value(of(&reply, &id.to_string())), json!({ "n": id }));
    }
    assert_eq!(session.info().step_count, 1, "a graph is one step");
}

#[tokio::test]
async fn results_stand_in_the_order_of_the_calls() {
    let (_store, session) = session_of(Toolbox::new(mounts(&[&echo()]))).await;
    let calls =
        [json!(["z", "echo", { "from": "${a}" }]), json!(["a", "echo", { "n": 1 }]), json!(["m", "fail"])];
    let reply = run(&session, &calls).await.unwrap();
    let ids: Vec<&str> = reply.results.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["z", "a", "m"]);
    assert_eq!(value(of(&reply, "z")), json!({ "from": { "n": 1 } }));
    assert_eq!((reply.reward, reply.done), (None, false));
}

#[tokio::test]
async fn what_needs_a_call_that_failed_is_not_called_and_says_so() {
    let set = echo();
    let rules = Rules { deny: vec!["denied".to_owned()], ..Rules::default() };
    let other = Arc::new(Set::new("other", &["denied"]));
    let policy = Arc::new(Policy::compile(rules).unwrap());
    let denied = Mount { policy, ..Mount::new(Arc::clone(&other) as Arc<_>) };
    let complaining = Arc::new(Set::new("complaining", &["complain"]).answering(|_, _| {
        Work::done(Ok(oxenv_wire::ToolResult { is_error: true, ..oxenv_wire::ToolResult::default() }))
    }));
    let mut all = mounts(&[&set, &complaining]);
    all.push(denied);
    let (_store, session) = session_of(Toolbox::new(all)).await;
    let calls = [
        json!(["last", "echo", {}, "after"]),
        json!(["after", "echo", { "x": "${bad.x}" }]),
        json!(["bad", "fail"]),
        json!(["after denied", "echo", {}, "refused"]),
        json!(["refused", "denied"]),
        json!(["after nobody", "echo", {}, "nobody"]),
        json!(["nobody", "no_such_tool"]),
        json!(["after complaint", "echo", {}, "complaint"]),
        json!(["complaint", "complain"]),
        json!(["free", "echo"]),
    ];
    let reply = run(&session, &calls).await.unwrap();
    for (id, needed) in [
        ("after", "bad"),
        ("last", "after"),
        ("after denied", "refused"),
        ("after nobody", "nobody"),
        ("after complaint", "complaint"),
    ] {
        let error = of(&reply, id).as_ref().unwrap_err();
        assert_eq!(error.error_type, ToolErrorType::ExecutionError);
        assert_eq!(error.message, format!("not called: '{needed}', which it needs, gave no result"));
    }
    assert_eq!(of(&reply, "refused").as_ref().unwrap_err().code, Some(ErrorCode::Denied));
    assert_eq!(of(&reply, "nobody").as_ref().unwrap_err().error_type, ToolErrorType::ToolNotFound);
    assert!(of(&reply, "complaint").as_ref().unwrap().is_error);
    of(&reply, "free").as_ref().unwrap();
    assert_eq!(set.calls().len(), 2);
    assert!(other.calls().is_empty());
}

/// A tool that notes how many calls run while it does.
fn counting(name: &str, tool: &str, running: &Arc<AtomicUsize>, most: &Arc<AtomicUsize>) -> Set {
    let (running, most) = (Arc::clone(running), Arc::clone(most));
    Set::new(name, &[tool]).answering(move |_, _| {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        Work::pending(async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            running.fetch_sub(1, Ordering::SeqCst);
            done(&json!(null)).await
        })
    })
}

#[tokio::test]
async fn a_toolset_that_cannot_overlap_has_the_session_to_itself() {
    let (running, alone, together) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let single = counting("single", "one", &running, &alone).with(|set| set.concurrent = false);
    let free = counting("free", "many", &running, &together);
    let (_store, session) = session_of(Toolbox::new(mounts(&[&Arc::new(single), &Arc::new(free)]))).await;
    let calls: Vec<Value> =
        (0..12).map(|id| json!([id.to_string(), if id % 3 == 0 { "one" } else { "many" }])).collect();
    let reply = soon(run(&session, &calls)).await.unwrap();
    assert!(reply.results.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(alone.load(Ordering::SeqCst), 1);
    assert!(together.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn rewards_are_summed_and_calls_scored_in_order_of_completion() {
    let gates: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>> = Arc::default();
    let shared = Arc::clone(&gates);
    let set = Set::new("set", &["a", "b", "c"]).answering(move |tool, arguments| {
        let (sender, receiver) = oneshot::channel();
        shared.lock().unwrap().insert(tool.to_owned(), sender);
        Work::pending(async move {
            receiver.await.unwrap();
            done(&arguments).await
        })
    });
    let (host, notes) = Host::new(Toolbox::new(mounts(&[&Arc::new(set)]))).scored();
    let (_store, session) = opened(host.store()).await;
    let calls = [
        json!(["1", "a", { "score": 2 }]),
        json!(["2", "b", { "score": 0.5, "done": true }]),
        json!(["3", "c", { "score": null }]),
    ];
    let (shared, action) = (Arc::clone(&session), graph(&calls));
    let running = tokio::spawn(async move { step(&shared, action).await });
    eventually("all have begun", || gates.lock().unwrap().len() == 3).await;
    for (place, tool) in ["c", "a", "b"].iter().enumerate() {
        let gate = gates.lock().unwrap().remove(*tool);
        gate.unwrap().send(()).unwrap();
        eventually("it is scored", || notes.lock().unwrap().len() == place + 2).await;
    }
    let Shown::Graph(reply) = running.await.unwrap().unwrap() else { panic!("no graph") };
    assert_eq!((reply.reward, reply.done), (Some(Reward::Float(2.5)), true));
    assert_eq!(notes.lock().unwrap()[1..], ["c", "a", "b"]);
}

#[tokio::test]
async fn whole_rewards_stay_whole_and_none_stays_none() {
    let (host, notes) = Host::new(Toolbox::new(mounts(&[&echo()]))).scored();
    let (_store, session) = opened(host.store()).await;
    for (scores, sum) in [
        (vec![json!(2), json!(3)], Some(Reward::Int(5))),
        (vec![json!(2), json!(null)], Some(Reward::Int(2))),
        (vec![json!(null), json!(null)], None),
        (vec![json!(1), json!(0.25)], Some(Reward::Float(1.25))),
        (vec![json!(i64::MAX), json!(1)], Some(Reward::Int(i64::MAX))),
    ] {
        let calls: Vec<Value> = scores
            .iter()
            .enumerate()
            .map(|(id, score)| json!([id.to_string(), "echo", { "score": score }]))
            .collect();
        assert_eq!(run(&session, &calls).await.unwrap().reward, sum);
    }
    // A call that failed, or was never made, is not scored.
    let scored = notes.lock().unwrap().len();
    let failing = [json!(["a", "fail", { "score": 1 }]), json!(["b", "echo", { "score": 1 }, "a"])];
    assert_eq!(run(&session, &failing).await.unwrap().reward, None);
    assert_eq!(notes.lock().unwrap().len(), scored);
}

#[tokio::test]
async fn a_sum_that_is_no_finite_number_is_a_failure() {
    let (host, _) = Host::new(Toolbox::new(mounts(&[&echo()]))).scored();
    let (_store, session) = opened(host.store()).await;
    let calls = [json!(["a", "echo", { "score": 1.7e308 }]), json!(["b", "echo", { "score": 1.7e308 }])];
    assert_eq!(code(run(&session, &calls).await), ErrorCode::NonFiniteReward);
    run(&session, &[json!(["a", "echo", { "score": 1.7e308 }])]).await.unwrap();
}

/// A set whose calls never end, and which counts those that were dropped.
fn endless() -> (Arc<Set>, Arc<AtomicUsize>) {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&dropped);
    let set = Set::new("set", &["wait", "quick"]).answering(move |tool, arguments| match tool {
        "quick" => done(&arguments),
        _ => {
            let mark = Dropped(Arc::clone(&shared));
            Work::pending(async move {
                let _mark = mark;
                std::future::pending().await
            })
        }
    });
    (Arc::new(set), dropped)
}

fn waiting() -> [Value; 4] {
    [
        json!(["a", "wait"]),
        json!(["b", "quick"]),
        json!(["c", "wait", {}, "b"]),
        json!(["d", "quick", {}, "a"]),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_step_is_that_of_the_whole_graph() {
    let (set, dropped) = endless();
    let (_store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
    let started = tokio::time::Instant::now();
    let shown = step_within(&session, graph(&waiting()), Some(Duration::from_secs(2))).await.unwrap();
    let Shown::Graph(reply) = shown else { panic!("{shown:?}") };
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    for id in ["a", "c"] {
        let error = of(&reply, id).as_ref().unwrap_err();
        assert_eq!((error.error_type, error.delivered()), (ToolErrorType::Timeout, Delivered::Maybe));
    }
    of(&reply, "b").as_ref().unwrap();
    assert!(of(&reply, "d").as_ref().unwrap_err().message.contains("not called: 'a'"));
    assert_eq!((dropped.load(Ordering::SeqCst), set.calls().len()), (2, 3));
    assert_eq!((session.info().step_count, reply.reward), (1, None));
    run(&session, &[json!(["a", "quick"])]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_is_its_own() {
    let (set, dropped) = endless();
    let deadline = Some(Duration::from_secs(1));
    let mount = Mount { deadline, ..Mount::new(Arc::clone(&set) as Arc<_>) };
    let (_store, session) = session_of(Toolbox::new(vec![mount])).await;
    let reply = run(&session, &waiting()).await.unwrap();
    for id in ["a", "c"] {
        assert_eq!(of(&reply, id).as_ref().unwrap_err().error_type, ToolErrorType::Timeout);
    }
    of(&reply, "b").as_ref().unwrap();
    assert!(of(&reply, "d").as_ref().unwrap_err().message.contains("not called: 'a'"));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_reset_and_an_end_cancel_the_whole_graph() {
    for ends in [false, true] {
        let (set, dropped) = endless();
        let (_store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
        let shared = Arc::clone(&session);
        let running = tokio::spawn(async move { step(&shared, graph(&waiting())).await });
        eventually("all that can have begun", || set.calls().len() == 3).await;
        // Readers are shown the state before it.
        assert!(session.state().await.unwrap().contains("\"step_count\":0"));
        let expected = if ends {
            session.end(oxenv_core::EndReason::Closed);
            ErrorCode::SessionEnded
        } else {
            soon(reset_as(&session, None, None, None)).await.unwrap();
            ErrorCode::Cancelled
        };
        assert_eq!(code(soon(running).await.unwrap()), expected);
        assert_eq!((dropped.load(Ordering::SeqCst), set.calls().len()), (2, 3));
        if !ends {
            run(&session, &[json!(["a", "quick"])]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_dropped_step_drops_every_call() {
    let (set, dropped) = endless();
    let (_store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
    let shared = Arc::clone(&session);
    let running = tokio::spawn(async move { step(&shared, graph(&waiting())).await });
    eventually("all that can have begun", || set.calls().len() == 3).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    run(&session, &[json!(["a", "quick"])]).await.unwrap();
}

/// As many calls as there may be, one after the other, and all at once.
#[tokio::test]
async fn a_graph_may_be_as_deep_as_it_is_wide() {
    let set = echo();
    let (_store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
    let mut chain: Vec<Value> =
        (1..256).map(|id| json!([id.to_string(), "echo", { "n": format!("${{{}.n}}", id - 1) }])).collect();
    chain.push(json!(["0", "echo", { "n": 7 }]));
    chain.reverse();
    let reply = run(&session, &chain).await.unwrap();
    assert_eq!(value(of(&reply, "255")), json!({ "n": 7 }));
    chain.reverse();
    assert_eq!(value(of(&run(&session, &chain).await.unwrap(), "255")), json!({ "n": 7 }));
    let wide: Vec<Value> = (0..256).map(|id| json!([id.to_string(), "echo", { "n": id }])).collect();
    assert!(run(&session, &wide).await.unwrap().results.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(set.calls().len(), 3 * 256);
}

/// For each call, how often its tool suspends, and which of the calls before it (in some order that
/// is not the order of sending) it needs.
fn graphs() -> impl Strategy<Value = Vec<(u8, Vec<bool>, u32)>> {
    prop::collection::vec(
        (0..4_u8, prop::collection::vec(prop::bool::weighted(0.2), 24), any::<u32>()),
        1..24,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn every_call_of_a_graph_runs_once_and_after_what_it_needs(nodes in graphs(), single in any::<bool>()) {
        let needs: Vec<Vec<usize>> = nodes
            .iter()
            .enumerate()
            .map(|(node, (_, edges, _))| (0..node).filter(|other| edges[*other]).collect())
            .collect();
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        order.sort_by_key(|node| nodes[*node].2);
        let calls: Vec<Value> = order
            .iter()
            .map(|node| {
                // Half of the needs are said, half are referred to.
                let (said, referred): (Vec<usize>, Vec<usize>) =
                    needs[*node].iter().copied().partition(|need| need % 2 == 0);
                let values: Vec<String> = referred.iter().map(|need| format!("${{n{need}.node}}")).collect();
                let arguments = json!({ "node": node, "suspends": nodes[*node].0, "values": values });
                let mut call = vec![json!(format!("n{node}")), json!("tool"), arguments];
                call.extend(said.iter().map(|need| json!(format!("n{need}"))));
                Value::from(call)
            })
            .collect();
        let log: Arc<Mutex<Vec<(bool, usize)>>> = Arc::default();
        let shared = Arc::clone(&log);
        let set = Set::new("set", &["tool"]).with(|set| set.concurrent = !single).answering(move |_, arguments| {
            let log = Arc::clone(&shared);
            let number = |key: &str| usize::try_from(arguments[key].as_u64().unwrap()).unwrap();
            let (node, suspends) = (number("node"), number("suspends"));
            log.lock().unwrap().push((true, node));
            Work::pending(async move {
                for _ in 0..suspends {
                    tokio::task::yield_now().await;
                }
                log.lock().unwrap().push((false, node));
                done(&arguments).await
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reply = runtime.block_on(async {
            let (_store, session) = session_of(Toolbox::new(mounts(&[&Arc::new(set)]))).await;
            soon(run(&session, &calls)).await.unwrap()
        });
        let log = log.lock().unwrap();
        let at = |began, node| log.iter().position(|entry| *entry == (began, node)).unwrap();
        prop_assert_eq!(log.len(), 2 * nodes.len());
        for (node, needs) in needs.iter().enumerate() {
            let referred: Vec<usize> = needs.iter().copied().filter(|need| need % 2 == 1).collect();
            prop_assert_eq!(&value(of(&reply, &format!("n{node}")))["values"], &json!(referred));
            for need in needs {
                prop_assert!(at(false, *need) < at(true, node), "{} began before {} was done", node, need);
            }
        }
        if single {
            prop_assert!(log.chunks(2).all(|pair| pair[0].1 == pair[1].1), "calls overlapped: {:?}", log);
        }
    }
}
