//! At most once: a repeat gets the first reply, another request with its key is refused, and nothing
//! runs twice.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use oxenv_core::{
    Execution, Idempotency, IdempotentReply, OpenKey, ResetOptions, Session, SessionOptions, SessionRequest,
    SessionSource, StepReply,
};
use oxenv_wire::{Action, ErrorCode, raw};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::stage::{Scripted, Stage, eventually};
use crate::support::{close, open, reset, settled, state, step, store};

fn key(name: &str) -> Idempotency {
    Idempotency { key: Some(name.to_owned()), ..Idempotency::default() }
}

fn number(seq: u64) -> Idempotency {
    Idempotency { seq: Some(seq), ..Idempotency::default() }
}

/// The action outlives its request, as the reply that is kept for repeats does.
async fn once(
    session: &Arc<Session>,
    action: Value,
    once: &Idempotency,
) -> IdempotentReply<StepReply<'static>> {
    let action: &'static RawValue = Box::leak(raw(&action).unwrap());
    let step = SessionRequest::step(Action::parse(action).unwrap());
    session.submit(SessionRequest { once: once.clone(), ..step }).await
}

async fn reset_once(
    session: &Arc<Session>,
    seed: u64,
    once: Idempotency,
) -> IdempotentReply<StepReply<'static>> {
    let options = ResetOptions { seed: Some(seed), ..ResetOptions::default() };
    session.submit(SessionRequest { once, ..SessionRequest::reset(options) }).await
}

fn fields(answer: &IdempotentReply<StepReply<'_>>) -> String {
    match answer.outcome() {
        Ok(StepReply::Observed(observed)) => observed.fields.get().to_owned(),
        other => panic!("no observation: {other:?}"),
    }
}

fn refusal<T: std::fmt::Debug>(answer: &IdempotentReply<T>) -> ErrorCode {
    answer.outcome().unwrap_err().code
}

#[tokio::test]
async fn a_repeat_gets_the_first_reply_and_does_not_run() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let session = open(&store).await;
        reset(&session).await.unwrap();
        let first = once(&session, json!({}), &key("a")).await;
        let again = once(&session, json!({}), &key("a")).await;
        assert_eq!((first.repeated, again.repeated), (false, true));
        assert_eq!((first.seq, again.seq), (2, 2));
        assert_eq!(fields(&first), fields(&again));
        assert_eq!(state(&session).await["step_count"], 1);
        let other = once(&session, json!({ "do": "finish" }), &key("a")).await;
        assert_eq!(refusal(&other), ErrorCode::KeyConflict);
        assert_eq!(fields(&once(&session, json!({}), &key("b")).await).len(), fields(&first).len());
        assert_eq!(state(&session).await["step_count"], 2);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_repeat_waits_for_the_first_and_the_first_outlives_its_caller() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let slow = json!({ "do": "wait", "at": "gate" });
    let first = tokio::spawn({
        let (session, slow) = (Arc::clone(&session), slow.clone());
        async move { once(&session, slow, &key("a")).await }
    });
    stage.entered().await;
    first.abort();
    assert!(first.await.is_err());
    let repeat = tokio::spawn({
        let session = Arc::clone(&session);
        async move { once(&session, slow, &key("a")).await }
    });
    stage.open("gate");
    let answer = repeat.await.unwrap();
    assert!(answer.repeated && answer.outcome().is_ok());
    assert_eq!(stage.notes(), ["gate"]);
    assert_eq!((state(&session).await["step_count"].as_u64(), stage.cancelled()), (Some(1), 0));
    close(session);
    settled(&store, &stage).await;
}

/// A repeat has the deadline that it names, whatever the first named.
#[tokio::test(start_paused = true)]
async fn a_repeat_waits_no_longer_than_its_own_deadline() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let slow = json!({ "do": "wait", "at": "gate" });
    let first = tokio::spawn({
        let (session, slow) = (Arc::clone(&session), slow.clone());
        async move { once(&session, slow, &key("a")).await }
    });
    stage.entered().await;
    let action: &'static RawValue = Box::leak(raw(&slow).unwrap());
    let step = SessionRequest::step(Action::parse(action).unwrap());
    let (began, timeout) = (tokio::time::Instant::now(), Some(Duration::from_millis(500)));
    let repeat = session.submit(SessionRequest { once: key("a"), timeout, ..step }).await;
    assert_eq!((refusal(&repeat), Some(began.elapsed())), (ErrorCode::DeadlineExceeded, timeout));
    stage.open("gate");
    assert!(first.await.unwrap().outcome().is_ok());
    assert!(once(&session, slow, &key("a")).await.repeated);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn resets_are_run_once_too() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    reset_once(&session, 7, key("r")).await.outcome().unwrap();
    step(&session, json!({})).await.unwrap();
    assert!(reset_once(&session, 7, key("r")).await.repeated);
    assert_eq!((session.info().epoch, session.info().step_count), (1, 1));
    assert_eq!(refusal(&reset_once(&session, 8, key("r")).await), ErrorCode::KeyConflict);
    // No arguments are an object without any.
    let options = ResetOptions { seed: Some(7), arguments: raw(&json!({})).ok(), ..ResetOptions::default() };
    let again = session.submit(SessionRequest { once: key("r"), ..SessionRequest::reset(options) }).await;
    assert!(again.repeated);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn numbers_tell_new_repeated_and_forgotten_apart() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let first = once(&session, json!({}), &number(2)).await;
    assert_eq!((first.seq, session.seq()), (2, 2));
    assert_eq!(fields(&once(&session, json!({}), &number(2)).await), fields(&first));
    // The reset had no number, so its reply was not kept.
    assert_eq!(refusal(&once(&session, json!({}), &number(1)).await), ErrorCode::ReplyForgotten);
    let ahead = once(&session, json!({}), &number(9)).await;
    assert_eq!(refusal(&ahead), ErrorCode::StepConflict);
    assert_eq!(session.seq(), 2);
    // What was refused before it ran may be asked for again.
    assert!(once(&session, json!({}), &number(3)).await.outcome().is_ok());
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn an_expected_step_is_compared_before_it_is_taken() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let expected = Idempotency { expected_step: Some(1), ..Idempotency::default() };
    assert!(once(&session, json!({}), &expected).await.outcome().is_ok());
    let late = once(&session, json!({}), &expected).await;
    let failure = late.outcome().unwrap_err();
    assert_eq!((failure.code, late.seq), (ErrorCode::StepConflict, 0));
    assert!(failure.message.contains("the episode's next is 2"), "{failure}");
    assert_eq!(state(&session).await["step_count"], 1);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_failure_is_a_reply_like_any_other() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let action = json!({ "do": "fail", "code": "EXECUTION_ERROR" });
    let first = once(&session, action.clone(), &key("a")).await;
    let again = once(&session, action, &key("a")).await;
    assert!(again.repeated && again.outcome().is_err());
    assert_eq!((first.seq, again.seq), (2, 2));
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_repeats_at_once_run_one_step() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    for round in 0..20 {
        let name = format!("round {round}");
        let repeats: Vec<_> = (0..100)
            .map(|_| {
                let (session, name) = (Arc::clone(&session), name.clone());
                tokio::spawn(async move { once(&session, json!({}), &key(&name)).await })
            })
            .collect();
        let mut firsts = 0;
        for repeat in repeats {
            firsts += usize::from(!repeat.await.unwrap().repeated);
        }
        assert_eq!((firsts, session.info().step_count), (1, round + 1));
    }
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn sessions_are_made_once_for_a_key() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let key = OpenKey { key: "k", ends_with_caller: false };
    let open = async |options| store.open(SessionSource::Environment, options, Some(key)).await;
    let first = open(SessionOptions::default()).await;
    let again = open(SessionOptions::default()).await;
    assert_eq!(first.outcome().unwrap(), again.outcome().unwrap());
    assert_eq!((again.repeated, store.status().active), (true, 1));
    let other = open(SessionOptions { seed: Some(1), ..SessionOptions::default() }).await;
    assert_eq!(refusal(&other), ErrorCode::KeyConflict);
    store.list().into_iter().for_each(close);
    eventually("it is gone", || store.status().active == 0).await;
    settled(&store, &stage).await;
}

/// Whoever asks and goes away, again and again, leaves a bounded number of requests behind.
#[tokio::test]
async fn requests_that_run_on_without_their_callers_are_bounded() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let long = "x".repeat(100);
    let mut refused = 0;
    for number in 0..1100 {
        let action = json!({ "do": "wait", "text": long });
        let asked = key(&number.to_string());
        // Polled once, and then dropped.
        if let Some(answer) = once(&session, action, &asked).now_or_never() {
            assert_eq!(refusal(&answer), ErrorCode::CapacityReached, "{number}");
            refused += 1;
        }
    }
    assert_eq!(refused, 1100 - 1024);
    // What needs no key is not held up by them, and one of them may be asked for again.
    let again = key("7");
    let repeat = once(&session, json!({ "do": "wait", "text": long }), &again);
    assert!(repeat.now_or_never().is_none());
    close(session);
    settled(&store, &stage).await;
}

/// A key is remembered for a number of later ones; what had a number is known for ever.
#[tokio::test]
async fn how_long_a_key_is_remembered() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    reset(&session).await.unwrap();
    let action: &'static RawValue = Box::leak(raw(&json!({})).unwrap());
    let ask = async |name: u64, seq: Option<u64>| {
        let once = Idempotency { seq, ..key(&name.to_string()) };
        let step = SessionRequest::step(Action::parse(action).unwrap());
        session.submit(SessionRequest { once, ..step }).await
    };
    // Each reply counts as 512 bytes at the least, so no more than 2,048 are kept.
    let last = 2_048 + 2 * 25_000;
    for name in 1..=last {
        assert_eq!(ask(name, Some(name + 1)).await.seq, name + 1);
    }
    assert!(ask(last, None).await.repeated);
    for remembered in [25_001, 40_000] {
        assert_eq!(refusal(&ask(remembered, None).await), ErrorCode::ReplyForgotten);
    }
    for known_by_number in [1, 100, 25_000] {
        let answer = ask(known_by_number, Some(known_by_number + 1)).await;
        assert_eq!(refusal(&answer), ErrorCode::ReplyForgotten);
    }
    // A new key with a number that is taken has not run.
    assert_eq!(refusal(&ask(last + 1, Some(40_000)).await), ErrorCode::StepConflict);
    assert_eq!(session.seq(), last + 1);
    let alone = once(&session, json!({}), &number(7)).await;
    assert_eq!(refusal(&alone), ErrorCode::ReplyForgotten);
    // One that is older and has nothing but its key counts as new.
    assert_eq!(ask(25_000, None).await.seq, last + 2);
    close(session);
    settled(&store, &stage).await;
}
