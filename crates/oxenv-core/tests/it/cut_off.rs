//! What was cut off: by a deadline, a lost caller, a reset, a close. Its effect is unknown, and everybody is
//! told so.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{
    EndReason, Execution, Failure, ForkMode, Idempotency, Principal, ResetOptions, Session, SessionOptions,
    SessionRequest, SessionStore,
};
use oxenv_wire::{Action, Delivered, ErrorCode, Phase, ToolErrorType, raw};
use serde_json::json;

use crate::records::{Tape, recorded};
use crate::stage::{Scripted, Stage, eventually};
use crate::support::{
    Shown, close, code, list, reset, settled, spawn_call, spawn_step, step, step_within, store, tool_step,
};

const FORKS: [ForkMode; 2] = [ForkMode::Native, ForkMode::Stateless];

fn forking(stage: &Stage, execution: Execution, tools: ForkMode) -> Scripted {
    let scripted = Scripted::new(stage, execution).tools_forked_by(true, tools);
    scripted.spec(|spec| {
        spec.capabilities.fork = ForkMode::Native;
        spec.capabilities.snapshot = true;
    })
}

async fn fork(store: &SessionStore, session: &Arc<Session>) -> Result<(), Failure> {
    let forks = store.fork(session, 1, SessionOptions::default()).await?;
    forks.into_iter().for_each(close);
    Ok(())
}

fn waits_at(gate: &str) -> serde_json::Value {
    tool_step("wait", &json!({ "at": gate }))
}

/// A toolset with a state has unknown effects, which a fork names; a reset ends that.
async fn copies_are_refused(store: &SessionStore, session: &Arc<Session>, tools: ForkMode) {
    if tools == ForkMode::Stateless {
        return fork(store, session).await.unwrap();
    }
    for failure in [fork(store, session).await.unwrap_err(), store.snapshot(session).await.unwrap_err()] {
        assert_eq!((failure.code, failure.delivered), (ErrorCode::ResetRequired, Delivered::No));
        assert!(failure.message.contains("a call of tool 'wait' was cut off"), "{failure}");
    }
    reset(session).await.unwrap();
    fork(store, session).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_past_the_deadline_of_its_step_is_a_result_and_the_episode_goes_on() {
    for tools in FORKS {
        let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
        let store = recorded(forking(&stage, Execution::Inline, tools).scoring(), &tape);
        let session = store.create(SessionOptions::default()).await.unwrap();
        let started = tokio::time::Instant::now();
        let shown = step_within(&session, waits_at("never"), Some(Duration::from_secs(2))).await.unwrap();
        let Shown::Call(reply) = shown else { panic!("{shown:?}") };
        let error = reply.outcome.unwrap_err();
        assert_eq!((error.error_type, error.delivered()), (ToolErrorType::Timeout, Delivered::Maybe));
        assert!(error.message.contains("did not answer within 2 s"), "{}", error.message);
        assert_eq!((started.elapsed(), stage.cancelled()), (Duration::from_secs(2), 1));
        assert_eq!((reply.reward, reply.done, session.seq(), session.info().step_count), (None, false, 1, 1));
        assert_eq!(*tape.calls.lock(), ["wait Some(DeadlineExceeded)"]);
        step(&session, tool_step("say", &json!({ "text": "on" }))).await.unwrap();
        copies_are_refused(&store, &session, tools).await;
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_is_counted_and_recorded() {
    for tools in FORKS {
        for agent in [true, false] {
            let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
            let store = recorded(forking(&stage, Execution::Inline, tools), &tape);
            let session = store.create(SessionOptions::default()).await.unwrap();
            if agent {
                let running = spawn_call(&session, "wait", json!({ "at": "never" }));
                stage.entered().await;
                running.abort();
            } else {
                let running = spawn_step(&session, waits_at("never"));
                stage.entered().await;
                running.abort();
            }
            eventually("it is counted", || session.seq() == 1).await;
            assert_eq!((stage.cancelled(), session.info().step_count), (1, 1));
            assert_eq!(*tape.calls.lock(), ["wait Some(Cancelled)"]);
            assert!(tape.lines.lock()[1].ends_with("calls 1 Cancelled"), "{:?}", tape.lines.lock());
            step(&session, tool_step("say", &json!({ "text": "on" }))).await.unwrap();
            copies_are_refused(&store, &session, tools).await;
            close(session);
            settled(&store, &stage).await;
        }
    }
}

#[tokio::test]
async fn an_environments_own_step_whose_caller_goes_away_is_recorded_and_demands_a_reset() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Task), &tape);
    let session = store.create(SessionOptions::default()).await.unwrap();
    let running = spawn_step(&session, json!({ "do": "wait", "at": "never" }));
    stage.entered().await;
    running.abort();
    eventually("it is counted", || session.seq() == 1).await;
    assert!(tape.lines.lock()[1].starts_with("0.1 step 0 control"), "{:?}", tape.lines.lock());
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    assert_eq!(session.seq(), 2);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn what_the_end_of_a_session_cuts_off_may_have_happened() {
    for (action, phase) in
        [(waits_at("never"), Phase::Tool), (json!({ "do": "wait", "at": "never" }), Phase::Step)]
    {
        for (reason, code) in [
            (EndReason::Closed, ErrorCode::SessionEnded),
            (EndReason::Expired, ErrorCode::SessionEnded),
            (EndReason::Drained, ErrorCode::Draining),
        ] {
            let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
            let store = recorded(forking(&stage, Execution::Task, ForkMode::Native), &tape);
            let session = store.create(SessionOptions::default()).await.unwrap();
            let running = spawn_step(&session, action.clone());
            stage.entered().await;
            let waiting = spawn_step(&session, action.clone());
            tokio::task::yield_now().await;
            session.end(reason.clone());
            let failure = running.await.unwrap().unwrap_err();
            assert_eq!((failure.code, failure.delivered), (code, Delivered::Maybe));
            assert_eq!(failure.phase, phase);
            let failure = waiting.await.unwrap().unwrap_err();
            assert_eq!((failure.code, failure.delivered), (code, Delivered::No));
            // The end comes last.
            let lines = tape.lines.lock().clone();
            assert!(
                lines[1].starts_with("0.1 step") && lines[1].ends_with(&format!("{code:?}")),
                "{lines:?}"
            );
            assert_eq!(lines[2..], [format!("0.2 closed {}", reason.name())]);
            drop(session);
            settled(&store, &stage).await;
        }
    }
}

#[tokio::test]
async fn a_reset_cuts_off_what_runs_and_comes_after_it() {
    for action in [waits_at("never"), json!({ "do": "wait", "at": "never" })] {
        let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
        let store = recorded(forking(&stage, Execution::Task, ForkMode::Native), &tape);
        let session = store.create(SessionOptions::default()).await.unwrap();
        let running = spawn_step(&session, action);
        stage.entered().await;
        reset(&session).await.unwrap();
        let failure = running.await.unwrap().unwrap_err();
        assert_eq!((failure.code, failure.delivered), (ErrorCode::Cancelled, Delivered::Maybe));
        let lines = tape.lines.lock().clone();
        assert!(lines[1].starts_with("0.1 step") && lines[2].starts_with("1.2 reset"), "{lines:?}");
        // Of the epoch before: this one is known.
        fork(&store, &session).await.unwrap();
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_step_does_not_overtake_a_fork_that_waits() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Task, ForkMode::Stateless));
    let session = store.create(SessionOptions::default()).await.unwrap();
    let running = spawn_call(&session, "wait", json!({ "at": "gate" }));
    stage.entered().await;
    let forking = tokio::spawn({
        let (store, session) = (Arc::clone(&store), Arc::clone(&session));
        async move { store.fork(&session, 1, SessionOptions::default()).await }
    });
    tokio::task::yield_now().await;
    let later = spawn_step(&session, json!({}));
    tokio::task::yield_now().await;
    stage.open("gate");
    running.await.unwrap().unwrap();
    let forks = forking.await.unwrap().unwrap();
    later.await.unwrap().unwrap();
    assert_eq!((forks[0].info().step_count, session.info().step_count), (1, 2));
    store.list().into_iter().for_each(close);
    drop((forks, session));
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_number_has_one_winner() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Task, ForkMode::Stateless));
    let session = store.create(SessionOptions::default()).await.unwrap();
    let expecting = |once: Idempotency, request: fn() -> SessionRequest<'static>| {
        let session = Arc::clone(&session);
        tokio::spawn(async move {
            session.submit(SessionRequest { once, ..request() }).await.into_outcome().map(drop)
        })
    };
    let listing = || {
        static LIST: &str = r#"{"type":"list_tools"}"#;
        let action: &'static _ =
            Box::leak(raw(&serde_json::from_str::<serde_json::Value>(LIST).unwrap()).unwrap());
        SessionRequest::step(Action::parse(action).unwrap())
    };
    let resetting = || SessionRequest::reset(ResetOptions::default());

    // An agent's call runs and will be number 1; who expects that number waits, and does not get it.
    let running = spawn_call(&session, "wait", json!({ "at": "gate" }));
    stage.entered().await;
    let others = [
        expecting(Idempotency { expected_step: Some(1), ..Idempotency::default() }, listing),
        expecting(Idempotency { seq: Some(1), ..Idempotency::default() }, resetting),
    ];
    tokio::task::yield_now().await;
    assert!(others.iter().all(|other| !other.is_finished()));
    stage.open("gate");
    running.await.unwrap().unwrap();
    for other in others {
        let failure = other.await.unwrap().unwrap_err();
        assert_eq!((failure.code, failure.delivered), (ErrorCode::StepConflict, Delivered::No));
    }
    assert_eq!((session.seq(), session.info().epoch), (1, 0));

    // A step runs that expects the number 2: lists and agents' calls do not take it.
    let waits = || {
        let action = raw(&json!({ "do": "wait", "at": "step" })).unwrap();
        SessionRequest::step(Action::parse(&*Box::leak(action)).unwrap())
    };
    let running = expecting(Idempotency { seq: Some(2), ..Idempotency::default() }, waits);
    stage.entered().await;
    let listed = tokio::spawn({
        let session = Arc::clone(&session);
        async move { list(&session, Principal::Control).await }
    });
    let called = spawn_call(&session, "say", json!({}));
    tokio::task::yield_now().await;
    assert_eq!((session.seq(), listed.is_finished(), called.is_finished()), (1, false, false));
    stage.open("step");
    running.await.unwrap().unwrap();
    listed.await.unwrap().unwrap();
    called.await.unwrap().unwrap();
    assert_eq!(session.seq(), 4);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn what_does_not_wait_has_no_number_that_an_agents_call_may_get() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Inline, ForkMode::Stateless));
    let session = store.create(SessionOptions::default()).await.unwrap();
    let running = spawn_call(&session, "wait", json!({ "at": "gate" }));
    stage.entered().await;
    let action = raw(&json!({})).unwrap();
    let once = Idempotency { expected_step: Some(1), ..Idempotency::default() };
    let request = SessionRequest { once, ..SessionRequest::step(Action::parse(&action).unwrap()) };
    assert!(session.try_submit(&request).is_none());
    stage.open("gate");
    running.await.unwrap().unwrap();
    let failure = session.submit(request).await.into_outcome().map(drop).unwrap_err();
    assert_eq!(failure.code, ErrorCode::StepConflict);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn what_a_call_came_to_is_known_though_its_score_is_cut_off() {
    for graph in [false, true] {
        let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
        let store = recorded(forking(&stage, Execution::Task, ForkMode::Stateless).scoring(), &tape);
        let session = store.create(SessionOptions::default()).await.unwrap();
        let arguments = json!({ "text": "hi", "after": { "do": "wait", "at": "never" } });
        let running = match graph {
            false => spawn_step(&session, tool_step("say", &arguments)),
            true => {
                let call = json!({ "id": "a", "tool_name": "say", "arguments": arguments });
                spawn_step(&session, json!({ "type": "call_tools", "calls": [call] }))
            }
        };
        stage.entered().await;
        running.abort();
        eventually("it is counted", || session.seq() == 1).await;
        assert_eq!(*tape.calls.lock(), ["say"], "{graph}");
        assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn a_reset_whose_caller_goes_away_while_it_waits_is_recorded() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Blocking), &tape);
    let session = store.create(SessionOptions::default()).await.unwrap();
    let blocked = spawn_step(&session, json!({ "do": "block" }));
    stage.entered().await;
    let waiting = tokio::spawn({
        let session = Arc::clone(&session);
        async move { reset(&session).await }
    });
    eventually("the step is cut off", || session.seq() == 1).await;
    assert_eq!(blocked.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    waiting.abort();
    eventually("the reset is counted", || session.seq() == 2).await;
    let lines = tape.lines.lock().clone();
    assert!(lines[2].starts_with("1.2 reset Cancelled"), "{lines:?}");
    stage.unblock();
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn calls_that_were_not_made_are_not_made_again() {
    let stage = Stage::default();
    let scripted =
        Scripted::new(&stage, Execution::Inline).tools_forked_by(true, ForkMode::Stateless).scoring();
    let store = store(scripted.spec(|spec| spec.capabilities.fork = ForkMode::Replay));
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    let calls = json!([
        { "id": "a", "tool_name": "fail", "arguments": {} },
        { "id": "b", "tool_name": "say", "arguments": { "after": {} }, "needs": ["a"] },
    ]);
    step(&session, json!({ "type": "call_tools", "calls": calls })).await.unwrap();
    let forks = store.fork(&session, 1, SessionOptions::default()).await.unwrap();
    assert_eq!(forks[0].state().await.unwrap(), session.state().await.unwrap());
    store.list().into_iter().for_each(close);
    drop((forks, session));
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_call_that_was_cut_off_has_taken_its_number_in_the_episode() {
    let stage = Stage::default();
    let store = store(forking(&stage, Execution::Inline, ForkMode::Native));
    let session = store.create(SessionOptions::default()).await.unwrap();
    let ask = || {
        let session = Arc::clone(&session);
        tokio::spawn(async move {
            let action = raw(&waits_at("gate")).unwrap();
            let once = Idempotency { expected_step: Some(1), ..Idempotency::default() };
            let request = SessionRequest { once, ..SessionRequest::step(Action::parse(&action).unwrap()) };
            session.submit(request).await.into_outcome().map(drop)
        })
    };
    let first = ask();
    stage.entered().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let failure = ask().await.unwrap().unwrap_err();
    assert_eq!((failure.code, failure.delivered), (ErrorCode::StepConflict, Delivered::No));
    assert_eq!((session.info().step_count, session.seq(), stage.cancelled()), (1, 1, 1));
    close(session);
    settled(&store, &stage).await;
}
