//! Code actions of sessions, with the engine `monty`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use oxenv_core::{
    CallContext, CodeLimits, CodeReply, EnvironmentFactory, Failure, Judges, Mount, NativeToolset,
    RecordEntry, RecordEvent, Recorder, ResetOptions, RubricSpec, Session, SessionOptions, SessionRequest,
    SessionStore, StepReply, StoreLimits, Toolset, Work, tool_environment,
};
use oxenv_test_support::until;
use oxenv_wire::{Action, ErrorCode, FailureKind, Reward, Tool, ToolError, ToolResult, raw};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::code_engine::{kill, monty, workers};

#[derive(Deserialize, JsonSchema)]
struct Add {
    a: i64,
    b: i64,
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

fn math() -> NativeToolset {
    NativeToolset::new("math").tool("add", "Adds.", |add: Add| Ok(add.a + add.b))
}

fn factory() -> Arc<dyn EnvironmentFactory> {
    tool_environment("math", "Adds numbers.", vec![Mount::new(Arc::new(math()))], None)
}

async fn store_of(factory: Arc<dyn EnvironmentFactory>, limits: CodeLimits) -> SessionStore {
    let store = SessionStore::new(factory, StoreLimits { seed: Some(1), ..StoreLimits::default() });
    store.with_code_engine(Arc::new(monty().await), limits)
}

async fn open(store: &SessionStore) -> Arc<Session> {
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await;
    session
}

async fn reset(session: &Arc<Session>) {
    let options = ResetOptions { seed: Some(7), ..ResetOptions::default() };
    session.submit(SessionRequest::reset(options)).await.into_outcome().unwrap();
}

async fn run(session: &Arc<Session>, code: &str) -> Result<CodeReply, Failure> {
    run_within(session, code, None).await
}

async fn run_within(
    session: &Arc<Session>,
    code: &str,
    timeout: Option<Duration>,
) -> Result<CodeReply, Failure> {
    let action = raw(&json!({ "action_type": "code", "code": code })).unwrap();
    let request = SessionRequest { timeout, ..SessionRequest::step(Action::parse(&action).unwrap()) };
    match session.submit(request).await.into_outcome()? {
        StepReply::Code(reply) => Ok(reply),
        other => panic!("no outcome of a program: {other:?}"),
    }
}

/// What a program's last expression gives.
async fn value(session: &Arc<Session>, code: &str) -> Value {
    let outcome = run(session, code).await.unwrap().outcome;
    assert_eq!(outcome.error, None, "{code}");
    outcome.result.map_or(Value::Null, |result| serde_json::from_str(result.get()).unwrap())
}

#[tokio::test]
async fn variables_live_until_the_reset_and_each_program_is_one_step() {
    let store = store_of(factory(), CodeLimits::default()).await;
    let (one, other) = (open(&store).await, open(&store).await);
    assert_eq!(value(&one, "x = add(1, 2)").await, Value::Null);
    assert_eq!(value(&one, "x + add(a=x, b=1)").await, json!(7));
    assert_eq!(one.info().step_count, 2);
    let error = run(&other, "x").await.unwrap().outcome.error.unwrap();
    assert_eq!(error.error_type, "NameError");
    reset(&one).await;
    assert_eq!(run(&one, "x").await.unwrap().outcome.error.unwrap().error_type, "NameError");
    assert_eq!(one.info().step_count, 1);
    let drawn = value(&one, "random()").await;
    reset(&other).await;
    assert_eq!(value(&other, "random()").await, drawn, "the seed of both episodes is 7");
}

#[tokio::test]
async fn a_worker_ends_with_its_session_and_with_its_episode() {
    let store = store_of(factory(), CodeLimits::default()).await;
    let session = open(&store).await;
    let first = workers();
    value(&session, "x = 1").await;
    reset(&session).await;
    until("the worker of the last episode has ended", || !workers().contains(&first[0])).await;
    value(&session, "x = 1").await;
    let session_and_spare = workers();
    session.end(oxenv_core::EndReason::Closed);
    let left = || workers().iter().filter(|pid| session_and_spare.contains(pid)).count();
    until("the worker of the session has ended", || left() < session_and_spare.len()).await;
}

#[tokio::test]
async fn without_an_engine_a_program_is_refused_with_a_hint() {
    let session = open(&SessionStore::new(factory(), StoreLimits::default())).await;
    let refusal = run(&session, "1").await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Unsupported);
    assert!(refusal.message.contains("--code monty"), "{refusal}");
    assert_eq!(session.info().step_count, 0);
}

#[tokio::test]
async fn a_fork_and_a_snapshot_have_the_variables() {
    let store = store_of(factory(), CodeLimits::default()).await;
    let original = open(&store).await;
    value(&original, "x = [1]\ndef f(n):\n    return add(n, len(x))").await;
    let forks = store.fork(&original, 2, SessionOptions::default()).await.unwrap();
    for fork in &forks {
        assert_eq!(value(fork, "x.append(2)\nf(10)").await, json!(12));
    }
    assert_eq!(value(&original, "f(10)").await, json!(11));
    let saved = store.snapshot(&original).await.unwrap();
    let restored = store.restore(saved.as_str(), SessionOptions::default()).await.unwrap();
    assert_eq!(value(&restored, "f(20)").await, json!(21));
    let unchanged = store.snapshot(&restored).await.unwrap();
    reset(&restored).await;
    assert!(store.restore(unchanged, SessionOptions::default()).await.is_ok());

    // Another server with the same key, and no engine.
    let key = || oxenv_core::SnapshotKey::new(&[7; 32], oxenv_core::SnapshotKeySource::File);
    let with = store_of(factory(), CodeLimits::default()).await.with_snapshot_key(key());
    let without = SessionStore::new(factory(), StoreLimits::default()).with_snapshot_key(key());
    let session = open(&with).await;
    let plain = with.snapshot(&session).await.unwrap();
    assert!(without.restore(plain, SessionOptions::default()).await.is_ok());
    value(&session, "x = 1").await;
    let saved = with.snapshot(&session).await.unwrap();
    let refusal = without.restore(saved.as_str(), SessionOptions::default()).await.err().unwrap();
    assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
    assert!(refusal.message.contains("code engine 'monty'"), "{refusal}");
    let mut forged = saved.into_bytes();
    let at = forged.len() - 100;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();
    let refusal = with.restore(forged, SessionOptions::default()).await.err().unwrap();
    assert_eq!(refusal.code, ErrorCode::SnapshotInvalid);
}

#[tokio::test]
async fn a_program_is_interrupted_at_the_deadline_of_its_step_and_its_session_goes_on() {
    let store = store_of(factory(), CodeLimits::default()).await;
    let session = open(&store).await;
    let timeout = Some(Duration::from_millis(500));
    let reply = run_within(&session, "x = 3\nwhile True:\n    add(1, 1)", timeout).await.unwrap();
    let error = reply.outcome.error.unwrap();
    let interrupted =
        error.message.contains("at the deadline of its step") || error.message.contains("tool calls");
    assert!(interrupted, "{error:?}");
    assert_eq!(reply.reward, None);
    let reply = run_within(&session, "while True:\n    pass", timeout).await.unwrap();
    assert!(reply.outcome.error.unwrap().message.contains("at the deadline of its step"));
    assert_eq!(value(&session, "x").await, json!(3));
}

/// A tool that tells that it was called, and waits.
struct Waiting {
    called: Arc<Notify>,
}

impl Toolset for Waiting {
    fn name(&self) -> &'static str {
        "waiting"
    }

    fn list(&self) -> Arc<[Tool]> {
        Arc::new([Tool {
            name: "wait".into(),
            title: None,
            description: String::new(),
            input_schema: json!({ "type": "object" }),
            output_schema: None,
            annotations: None,
            meta: None,
        }])
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        _tool: &'a str,
        _arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(async {
            self.called.notify_one();
            std::future::pending().await
        })
    }
}

/// A store whose tool `wait` never answers, and what tells that it was called.
struct WaitingStore {
    store: Arc<SessionStore>,
    called: Arc<Notify>,
}

impl WaitingStore {
    async fn new() -> Self {
        let called = Arc::new(Notify::new());
        let waiting = Waiting { called: Arc::clone(&called) };
        let mounts = vec![Mount::new(Arc::new(math())), Mount::new(Arc::new(waiting))];
        let factory = tool_environment("waiting", "Waits.", mounts, None);
        let limits = CodeLimits { time: Duration::from_secs(20), ..CodeLimits::default() };
        WaitingStore { store: Arc::new(store_of(factory, limits).await), called }
    }

    /// A session with a program that waits for its tool.
    async fn stuck(&self) -> Stuck {
        let session = open(&self.store).await;
        assert_eq!(value(&session, "x = 1").await, Value::Null);
        let its = Arc::clone(&session);
        let running = tokio::spawn(async move { run(&its, "x = 2\nadd(1, 1)\nwait()").await });
        self.called.notified().await;
        Stuck { session, running }
    }
}

struct Stuck {
    session: Arc<Session>,
    running: tokio::task::JoinHandle<Result<CodeReply, Failure>>,
}

#[tokio::test]
async fn a_reset_cancels_a_program_with_its_call_and_clears_its_variables() {
    let waiting = WaitingStore::new().await;
    let Stuck { session, running } = waiting.stuck().await;
    assert!(session.state().await.is_ok(), "readers do not wait for a program");
    reset(&session).await;
    assert_eq!(running.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(run(&session, "x").await.unwrap().outcome.error.unwrap().error_type, "NameError");
}

#[tokio::test]
async fn a_program_whose_caller_goes_away_demands_a_reset() {
    let waiting = WaitingStore::new().await;
    let Stuck { session, running } = waiting.stuck().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    assert_eq!(run(&session, "x").await.unwrap_err().code, ErrorCode::ResetRequired);
    let refusal = waiting.store.fork(&session, 1, SessionOptions::default()).await.err().unwrap();
    assert_eq!(refusal.code, ErrorCode::ResetRequired);
    reset(&session).await;
    assert_eq!(value(&session, "1").await, json!(1));
}

#[tokio::test]
async fn a_killed_worker_ends_its_own_episode_alone() {
    let waiting = WaitingStore::new().await;
    // The only worker is the spare, which the first program takes.
    let its = workers();
    let Stuck { session, running } = waiting.stuck().await;
    let other = open(&waiting.store).await;
    assert_eq!(value(&other, "x = 'other'").await, Value::Null);
    kill(its[0]);
    let failure = running.await.unwrap().unwrap_err();
    assert_eq!(
        (failure.kind, failure.code),
        (FailureKind::Infrastructure, ErrorCode::ExecutionError),
        "{failure}"
    );
    assert!(failure.message.contains("signal 9 (SIGKILL)"), "{failure}");
    assert_eq!(run(&session, "1").await.unwrap_err().code, ErrorCode::ResetRequired);
    reset(&session).await;
    assert_eq!(value(&session, "add(20, 1)").await, json!(21));
    assert_eq!(value(&other, "x").await, json!("other"));
}

/// The calls of each step, by their tools, with whether they gave a result.
#[derive(Default)]
struct Calls(Mutex<Vec<Vec<(String, bool)>>>);

impl Recorder for Calls {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        if let RecordEvent::Step { calls, .. } = entry.event {
            let told = calls.iter().map(|call| (call.tool.to_owned(), call.outcome.is_ok())).collect();
            self.0.lock().unwrap().push(told);
        }
        Work::done(Ok(()))
    }
}

#[tokio::test]
async fn the_calls_of_a_program_are_scored_and_recorded_as_any_other() {
    let rubric = json!({
        "version": 1,
        "rubric": { "type": "constant", "value": 0.5, "tool": "add" },
        "ends": { "type": "tool_called", "tool": "finish" },
    });
    let rubric = RubricSpec::read(rubric).unwrap().compile(&Judges::default()).unwrap();
    let tools = math().tool("finish", "Ends.", |_: Nothing| Ok("done"));
    let factory = tool_environment("math", "Adds.", vec![Mount::new(Arc::new(tools))], Some(rubric));
    let calls = Arc::new(Calls::default());
    let store =
        store_of(factory, CodeLimits::default()).await.with_recorder(Arc::clone(&calls) as Arc<dyn Recorder>);
    let session = open(&store).await;
    let reply = run(&session, "add(1, 1)\nadd(2, 2)\ntry:\n    add('x')\nexcept RuntimeError:\n    pass")
        .await
        .unwrap();
    assert_eq!((reply.reward, reply.done), (Some(Reward::Float(1.0)), false));
    let reply = run(&session, "finish()").await.unwrap();
    assert!(reply.done);
    let add = |made| ("add".to_owned(), made);
    let told = calls.0.lock().unwrap().clone();
    assert_eq!(told, [vec![add(true), add(true), add(false)], vec![("finish".to_owned(), true)]]);
    assert!(session.info().done && session.info().step_count == 2);
}
