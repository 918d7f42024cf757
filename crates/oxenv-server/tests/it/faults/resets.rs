//! Resets that come down on agents' calls in flight.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oxenv_core::{
    Execution, Failure, Principal, RecordEntry, RecordEvent, RecordedOutcome, Recorder, SessionStore,
    StoreLimits, Work,
};
use oxenv_server::ServerConfig;
use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::{http, post, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::served::Served;
use crate::stage::{Scripted, Stage};

const AGENTS: usize = 8;
/// A reward that is found wherever it shows.
const REWARD: u64 = 7_654_321;

/// What the session did, by the calls' own texts: their epochs, those that were answered, and their sum.
#[derive(Default)]
struct Book(Mutex<Written>);

#[derive(Default)]
struct Written {
    calls: HashMap<String, (u64, bool)>,
    twice: usize,
}

impl Recorder for Book {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        if let RecordEvent::Step { principal: Principal::Agent, action, outcome, .. } = entry.event {
            let action: Value = serde_json::from_str(action.get()).unwrap();
            let text = action["arguments"]["text"].as_str().unwrap().to_owned();
            let answered = matches!(outcome, RecordedOutcome::Answered { .. });
            let mut written = self.0.lock().unwrap();
            let before = written.calls.insert(text, (entry.epoch, answered));
            written.twice += usize::from(before.is_some());
        }
        Work::done(Ok(()))
    }
}

/// What the agents got.
#[derive(Default)]
struct Got {
    made: AtomicUsize,
    answered: Mutex<HashSet<String>>,
    refused: Mutex<HashMap<String, usize>>,
    leaks: Mutex<Vec<String>>,
}

#[tokio::test]
async fn each_call_is_answered_once_while_resets_rain() {
    let resets = tries(100, 1_000);
    let (stage, book) = (Stage::default(), Arc::new(Book::default()));
    let factory = Scripted::new(&stage, Execution::Task).tools(true).scoring();
    let recorder: Arc<dyn Recorder> = Arc::clone(&book) as _;
    let store = SessionStore::new(Arc::new(factory), StoreLimits::default()).with_recorder(recorder);
    let address = "127.0.0.1:0".parse().unwrap();
    let served = Arc::new(Served::over(address, &stage, store, ServerConfig::default()).await);
    let created = post(served.address, "/sessions", &json!({})).await.json();
    let session = created["session_id"].as_str().unwrap().to_owned();
    let (epoch, over, got) =
        (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)), Arc::new(Got::default()));
    let reset = async || {
        let reply = post(served.address, &format!("/sessions/{session}/reset"), &json!({})).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        epoch.fetch_add(1, Ordering::SeqCst);
    };
    reset().await;
    let mut agents = JoinSet::new();
    for agent in 0..AGENTS {
        let (served, session) = (Arc::clone(&served), session.clone());
        let (epoch, over, got) = (Arc::clone(&epoch), Arc::clone(&over), Arc::clone(&got));
        agents.spawn(async move {
            let mut calls: usize = 0;
            while !over.load(Ordering::SeqCst) {
                // Now and then an agent that still believes in the epoch before.
                let epoch = epoch.load(Ordering::SeqCst) - u64::from(calls % 10 == 4);
                got.made.fetch_add(1, Ordering::SeqCst);
                call(&served, &session, epoch, &format!("{epoch}.{agent}.{calls}"), &got).await;
                calls += 1;
            }
        });
    }
    for _ in 0..resets {
        // Each reset finds at least one call in flight: those that wait end by a reset alone.
        until("a call is in flight", || stage.waiting() > 0).await;
        reset().await;
    }
    over.store(true, Ordering::SeqCst);
    // Calls of the last epoch that still wait are let go by one more.
    while !agents.is_empty() {
        reset().await;
        while let Some(agent) = agents.try_join_next() {
            agent.unwrap();
        }
    }
    judge(resets, &book, &got);
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{session}"), &[], b"").await.status, 200);
    Arc::into_inner(served).unwrap().end().await;
}

/// One call of an agent that believes in that epoch; every other one waits until a reset cancels it.
async fn call(served: &Served, session: &str, epoch: u64, text: &str, got: &Got) {
    let waits = text.ends_with(['1', '3', '5', '7', '9']);
    let arguments = json!({ "text": text, "at": "never", "after": { "do": "reward", "value": REWARD } });
    let params = json!({ "name": if waits { "wait" } else { "say" }, "arguments": arguments });
    let request = json!({ "jsonrpc": "2.0", "id": text, "method": "tools/call", "params": params });
    let reply = post(served.address, &format!("/sessions/{session}/mcp?epoch={epoch}"), &request).await;
    let said = reply.json();
    assert_eq!((reply.status, &said["id"]), (200, &json!(text)), "{said}");
    if reply.text().contains("reward") || reply.text().contains(&REWARD.to_string()) {
        got.leaks.lock().unwrap().push(reply.text());
    }
    let shown = &said["result"]["data"];
    if shown == text {
        assert!(got.answered.lock().unwrap().insert(text.to_owned()), "answered twice");
        return;
    }
    let why = match said["error"]["data"]["oxenv"]["code"].as_str() {
        Some(code) => code.to_owned(),
        None => panic!("neither a result nor a typed error: {said}"),
    };
    *got.refused.lock().unwrap().entry(why).or_default() += 1;
}

fn judge(resets: usize, book: &Book, got: &Got) {
    let written = book.0.lock().unwrap();
    let (answered, refused) = (got.answered.lock().unwrap(), got.refused.lock().unwrap());
    assert_eq!(written.twice, 0, "a call was run twice");
    for (text, (epoch, _)) in &written.calls {
        assert!(text.starts_with(&format!("{epoch}.")), "call {text} was run in epoch {epoch}");
    }
    let recorded: HashSet<&String> =
        written.calls.iter().filter(|(_, (_, answered))| *answered).map(|(text, _)| text).collect();
    assert!(answered.iter().all(|text| recorded.contains(text)), "an answer is not in the record");
    assert_eq!(*got.leaks.lock().unwrap(), Vec::<String>::new(), "an agent saw a reward");
    let refusals: usize = refused.values().sum();
    let known = ["CANCELLED", "WRONG_EPOCH"];
    assert!(refused.keys().all(|code| known.contains(&code.as_str())), "{refused:?}");
    let note = format!(
        "calls of {AGENTS} agents under {resets} resets: {} answered in their epoch, the rest refused with a \
         typed error ({refused:?}); none run twice, none with a reward",
        answered.len()
    );
    report(
        "reset storms with calls in flight",
        got.made.load(Ordering::SeqCst),
        answered.len() + refusals,
        &note,
    );
}
