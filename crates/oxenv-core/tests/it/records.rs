//! What is recorded: everything that was acknowledged, in order; and what happens when it cannot be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_core::{
    Execution, Failure, RecordEntry, RecordEvent, RecordedOutcome, Recorder, SessionOptions, SessionStore,
    StoreLimits, Work,
};
use oxenv_wire::ErrorCode;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::stage::{Scripted, Stage};
use crate::support::{call, close, code, reset, reset_as, settled, spawn_step, state, step, tool_step};

/// Keeps entries as lines; fails or waits as a test says.
#[derive(Default)]
pub(crate) struct Tape {
    pub(crate) lines: Mutex<Vec<String>>,
    /// Tool calls by name, each with the code of its error.
    pub(crate) calls: Mutex<Vec<String>>,
    broken: AtomicBool,
    slow: Mutex<Option<Arc<Semaphore>>>,
}

impl Recorder for Tape {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        if self.broken.load(Ordering::SeqCst) {
            return Work::done(Err(Failure::new(ErrorCode::RecordFailed, "the disk is full")));
        }
        let what = match entry.event {
            RecordEvent::Opened { origin, .. } => format!("opened {}", origin.is_some()),
            RecordEvent::Reset { outcome, .. } => format!("reset {}", outcome_text(outcome)),
            RecordEvent::Step { step, principal, action, calls, outcome, .. } => {
                self.calls.lock().extend(calls.iter().map(|call| match call.outcome {
                    Ok(_) => call.tool.to_owned(),
                    Err(error) => format!("{} {:?}", call.tool, error.code),
                }));
                format!("step {step} {principal} {action} calls {} {}", calls.len(), outcome_text(outcome))
            }
            RecordEvent::Closed { reason } => format!("closed {reason}"),
        };
        self.lines.lock().push(format!("{}.{} {what}", entry.epoch, entry.seq));
        match self.slow.lock().clone() {
            None => Work::done(Ok(())),
            Some(gate) => Work::pending(async move {
                gate.acquire().await.unwrap().forget();
                Ok(())
            }),
        }
    }
}

fn outcome_text(outcome: RecordedOutcome<'_>) -> String {
    match outcome {
        RecordedOutcome::Answered { reply, .. } => reply.to_owned(),
        RecordedOutcome::Failed(failure) => format!("{:?}", failure.code),
    }
}

pub(crate) fn recorded(factory: Scripted, tape: &Arc<Tape>) -> Arc<SessionStore> {
    let recorder: Arc<dyn Recorder> = Arc::clone(tape) as _;
    let limits = StoreLimits { seed: Some(1), ..StoreLimits::default() };
    Arc::new(SessionStore::new(Arc::new(factory), limits).with_recorder(recorder))
}

#[tokio::test]
async fn everything_that_was_acknowledged_is_there_in_order() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Inline).tools(true).scoring(), &tape);
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, Some(5), None, None).await.unwrap();
    step(&session, json!({})).await.unwrap();
    step(&session, json!({ "do": "refuse" })).await.unwrap_err();
    step(&session, tool_step("say", &json!({ "text": "hi", "after": { "do": "reward", "value": 2 } })))
        .await
        .unwrap();
    call(&session, "say", json!({ "text": "ho", "after": { "do": "finish" } })).await.unwrap();
    assert_eq!(code(call(&session, "say", json!({})).await), ErrorCode::EpisodeDone);
    close(session);
    expect_test::expect![[r#"
        0.0 opened false
        1.1 reset {"observation":{"metadata":{},"count":0,"seed":5},"reward":0.0,"done":false}
        1.2 step 1 control {} calls 0 {"observation":{"metadata":{},"count":1,"seed":5},"reward":1,"done":false}
        1.3 step 1 control {"do":"refuse"} calls 0 ExecutionError
        1.4 step 2 control {"type":"call_tool","tool_name":"say","arguments":{"text":"hi","after":{"do":"reward","value":2}}} calls 1 {"observation":{"metadata":{},"tool_name":"say","result":{"content":[{"type":"text","text":"hi","annotations":null,"meta":null}],"structured_content":{"result":"hi"},"meta":{"fastmcp":{"wrap_result":true}},"data":"hi","is_error":false},"error":null},"reward":2,"done":false}
        1.5 step 3 agent {"type":"call_tool","tool_name":"say","arguments":{"text":"ho","after":{"do":"finish"}}} calls 1 {"observation":{"metadata":{},"tool_name":"say","result":{"content":[{"type":"text","text":"ho","annotations":null,"meta":null}],"structured_content":{"result":"ho"},"meta":{"fastmcp":{"wrap_result":true}},"data":"ho","is_error":false},"error":null},"reward":1.0,"done":true}
        1.6 closed closed"#]]
    .assert_eq(&tape.lines.lock().join("\n"));
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_step_that_cannot_be_recorded_is_not_acknowledged() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Inline), &tape);
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    tape.broken.store(true, Ordering::SeqCst);
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::RecordFailed);
    assert_eq!(code(store.create(SessionOptions::default()).await.map(drop)), ErrorCode::RecordFailed);
    tape.broken.store(false, Ordering::SeqCst);
    // The record has a gap, so this episode is over.
    assert_eq!(code(step(&session, json!({})).await), ErrorCode::ResetRequired);
    reset(&session).await.unwrap();
    step(&session, json!({})).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_slow_record_keeps_its_own_reply_back_and_nobody_else() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Inline), &tape);
    let slow = store.create(SessionOptions::default()).await.unwrap();
    let other = store.create(SessionOptions::default()).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    *tape.slow.lock() = Some(Arc::clone(&gate));
    let waiting = tokio::spawn({
        let slow = Arc::clone(&slow);
        async move { step(&slow, json!({})).await }
    });
    crate::stage::eventually("it is taken down", || tape.lines.lock().len() == 3).await;
    *tape.slow.lock() = None;
    step(&other, json!({})).await.unwrap();
    assert_eq!(state(&slow).await["step_count"], 1);
    assert!(!waiting.is_finished());
    gate.add_permits(1);
    waiting.await.unwrap().unwrap();
    close(slow);
    close(other);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn calls_of_a_graph_are_recorded_in_the_order_in_which_they_ended() {
    let (stage, tape) = (Stage::default(), Arc::new(Tape::default()));
    let store = recorded(Scripted::new(&stage, Execution::Inline).tools(true), &tape);
    let session = store.create(SessionOptions::default()).await.unwrap();
    let calls = json!([
        { "id": "a", "tool_name": "wait", "arguments": { "at": "gate" } },
        { "id": "b", "tool_name": "say", "arguments": {} },
        { "id": "c", "tool_name": "nobody", "arguments": {} },
        { "id": "d", "tool_name": "say", "arguments": {}, "needs": ["a", "c"] },
    ]);
    let running = spawn_step(&session, json!({ "type": "call_tools", "calls": calls }));
    stage.entered().await;
    stage.open("gate");
    running.await.unwrap().unwrap();
    let mut ended = tape.calls.lock().clone();
    ended[..2].sort();
    assert_eq!(ended, ["nobody None", "say", "wait", "say None"]);
    close(session);
    settled(&store, &stage).await;
}
