//! Leases, on a clock that the test turns: they run only without a socket and without a call.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{
    CallContext, EndReason, Execution, RequestError, ResourcesAndPrompts, Session, SessionOptions,
    SessionStore, StoreLimits, Toolbox, Toolset, Work,
};
use oxenv_wire::{ErrorCode, RawJson, Tool, ToolError, ToolResult, raw};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;
use tokio::time::{advance, timeout};

use crate::stage::{Scripted, Stage, at_once, eventually};
use crate::support::{close, code, observe, open, reset, settled, spawn_step, step, store, store_with};

const MINUTE: Duration = Duration::from_secs(60);

fn reaper(store: &Arc<SessionStore>) -> JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move { store.reap().await })
}

/// Turns the clock on, in steps that let the reaper see each second.
async fn pass(time: Duration) {
    for _ in 0..time.as_secs() {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
}

fn expired(session: &Session) -> bool {
    session.ended() == Some(EndReason::Expired)
}

#[tokio::test(start_paused = true)]
async fn a_session_expires_after_its_lease_and_not_before() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let reaper = reaper(&store);
    let session = open(&store).await;
    pass(MINUTE * 15 - Duration::from_secs(2)).await;
    assert_eq!(session.ended(), None);
    pass(Duration::from_secs(4)).await;
    assert!(expired(&session));
    let failure = store.get(session.id()).err().unwrap();
    assert!(failure.message.contains("lease ran out"), "{failure}");
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn every_call_renews_the_lease() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let reaper = reaper(&store);
    let session = open(&store).await;
    for action in ["reset", "step", "state", "call", "list"] {
        pass(MINUTE * 14).await;
        match action {
            "reset" => drop(reset(&session).await.unwrap()),
            "step" => drop(observe(&session, json!({})).await),
            "state" => drop(session.state().await.unwrap()),
            "call" => drop(crate::support::call(&session, "say", json!({})).await.unwrap()),
            _ => drop(step(&session, json!({ "type": "list_tools" })).await.unwrap()),
        }
        assert_eq!(session.ended(), None, "{action}");
    }
    pass(MINUTE * 15 + Duration::from_secs(2)).await;
    assert!(expired(&session));
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_run_while_a_socket_is_attached() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let reaper = reaper(&store);
    let session = open(&store).await;
    let attachment = session.attach();
    assert_eq!(session.info().attached, 1);
    pass(MINUTE * 60).await;
    assert_eq!(session.ended(), None);
    drop(attachment);
    assert_eq!(session.info().attached, 0);
    // It runs from the moment the socket left.
    pass(MINUTE * 14).await;
    assert_eq!(session.ended(), None);
    pass(MINUTE * 2).await;
    assert!(expired(&session));
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_run_while_a_call_is_in_flight() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let reaper = reaper(&store);
    let session = open(&store).await;
    let running = spawn_step(&session, json!({ "do": "wait" }));
    stage.entered().await;
    pass(MINUTE * 40).await;
    assert_eq!(session.ended(), None);
    stage.open("");
    running.await.unwrap().unwrap();
    pass(MINUTE * 14).await;
    assert_eq!(session.ended(), None);
    pass(MINUTE * 2).await;
    assert!(expired(&session));
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_dropped_no_longer_holds_the_lease() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let reaper = reaper(&store);
    let session = open(&store).await;
    let waiting = spawn_step(&session, json!({ "type": "call_tool", "tool_name": "wait" }));
    stage.entered().await;
    waiting.abort();
    eventually("the call is dropped", || stage.cancelled() == 1).await;
    pass(MINUTE * 16).await;
    assert!(expired(&session));
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn a_session_may_have_a_lease_of_its_own() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let reaper = reaper(&store);
    let with = |lease| SessionOptions { lease: Some(lease), ..SessionOptions::default() };
    let short = store.create(with(Duration::from_secs(30))).await.unwrap();
    let long = store.create(with(MINUTE * 60)).await.unwrap();
    let endless = store.create(with(Duration::MAX)).await.unwrap();
    pass(Duration::from_secs(33)).await;
    assert!(expired(&short));
    pass(MINUTE * 59).await;
    assert_eq!(long.ended(), None);
    pass(MINUTE).await;
    assert!(expired(&long));
    assert_eq!(endless.ended(), None);
    close(endless);
    settled(&store, &stage).await;
    reaper.abort();
}

#[tokio::test(start_paused = true)]
async fn the_default_session_has_no_lease_unless_one_is_set() {
    let stage = Stage::default();
    let endless = store(Scripted::new(&stage, Execution::Inline));
    let limits = StoreLimits { default_idle: Some(MINUTE), ..StoreLimits::default() };
    let limited = store_with(Scripted::new(&stage, Execution::Inline), limits);
    let reapers = [reaper(&endless), reaper(&limited)];
    let stays = endless.default_session(true).await.unwrap();
    let goes = limited.default_session(true).await.unwrap();
    pass(MINUTE * 100).await;
    assert_eq!(stays.ended(), None);
    assert!(expired(&goes));
    // Never a silent fresh environment: only a reset makes another.
    let same = limited.default_session(false).await.unwrap();
    assert_eq!(code(step(&same, json!({})).await), ErrorCode::SessionEnded);
    let next = limited.default_session(true).await.unwrap();
    assert_ne!(next.id(), goes.id());
    reset(&next).await.unwrap();
    close(stays);
    close(next);
    settled(&endless, &stage).await;
    settled(&limited, &stage).await;
    reapers.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn the_last_attach_wins() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let first = session.attach();
    let superseded = first.superseded();
    assert!(timeout(Duration::ZERO, first.superseded()).await.is_err());
    let second = session.attach();
    at_once(superseded);
    assert!(timeout(Duration::ZERO, second.superseded()).await.is_err());
    // The one that lost must not detach the one that won.
    drop(first);
    assert_eq!(session.info().attached, 1);
    drop(second);
    assert_eq!(session.info().attached, 0);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_close_waits_for_the_attached_socket_to_go() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let first = session.attach();
    assert!(!session.close());
    observe(&session, json!({})).await;
    let second = session.attach();
    drop(first);
    assert_eq!(session.ended(), None);
    drop(second);
    assert_eq!(session.ended(), Some(EndReason::Closed));
    let unattached = open(&store).await;
    assert!(unattached.close());
    assert_eq!(unattached.ended(), Some(EndReason::Closed));
    settled(&store, &stage).await;
}

/// An attachment that goes away at the same moment as another comes must not take that one along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_and_detaching_at_once_keeps_the_later_one() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    for _ in 0..20_000 {
        let leaving = session.attach();
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let there = Arc::clone(&barrier);
        let gone = tokio::task::spawn_blocking(move || {
            there.wait();
            drop(leaving);
        });
        barrier.wait();
        let staying = session.attach();
        gone.await.unwrap();
        assert_eq!(session.info().attached, 1);
        drop(staying);
    }
    close(session);
    settled(&store, &stage).await;
}

/// Tools that take their time for their list, and for a resource.
struct Slow;

const LONG: Duration = Duration::from_secs(25);

impl Toolset for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::default()
    }

    fn ready(&self) -> Work<'_, ()> {
        Work::pending(tokio::time::sleep(LONG))
    }

    fn call<'a>(
        &'a self,
        _: CallContext<'a>,
        _: &'a str,
        _: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::done(Ok(ToolResult::default()))
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        let resources = vec![json!({ "uri": "slow://it", "name": "it" })];
        Arc::new(ResourcesAndPrompts { resources, ..ResourcesAndPrompts::default() })
    }

    fn request<'a>(
        &'a self,
        _: CallContext<'a>,
        _: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        Work::pending(async {
            tokio::time::sleep(LONG).await;
            Ok(parameters.to_owned())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_run_while_lists_or_resources_are_waited_for() {
    let stage = Stage::default();
    let toolbox = Toolbox::of(vec![Arc::new(Slow)]).unwrap();
    let store = store(Scripted::new(&stage, Execution::Inline).toolbox(toolbox));
    let reaper = reaper(&store);
    let short = SessionOptions { lease: Some(Duration::from_secs(5)), ..SessionOptions::default() };
    for first in ["list", "resource"] {
        let session = store.create(short.clone()).await.unwrap();
        match first {
            "list" => session.settled().await,
            _ => {
                let asked = raw(&json!({ "uri": "slow://it" })).unwrap();
                session.request("resources/read", &asked).await.unwrap();
            }
        }
        assert_eq!(session.ended(), None, "{first}");
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(expired(&session), "{first}");
    }
    settled(&store, &stage).await;
    reaper.abort();
}
