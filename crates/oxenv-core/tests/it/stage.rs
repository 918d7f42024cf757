//! Environments, tools and factories that do what a test tells them, and a [`Stage`] on which the
//! test sees how far they are and lets them go on.
//!
//! Invariant: nothing here waits for time. What is to wait waits at a gate until the test opens it,
//! and what has come to a gate is counted, so no test has to guess.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use oxenv_core::{
    ActionSpace, CallContext, CallRecord, Capabilities, Environment, EnvironmentContext, EnvironmentFactory,
    EnvironmentInstance, EnvironmentSpec, Execution, Failure, ForkMode, Observed, Reset, Toolbox, Toolset,
    Work,
};
use oxenv_test_support::{WAIT_TIMEOUT, soon};
use oxenv_wire::{
    Content, ErrorCode, FailureKind, RawJson, Reward, Tool, ToolError, ToolErrorType, ToolResult, raw,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// What a test and its environments share.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<Inner>);

#[derive(Default)]
struct Inner {
    live: AtomicUsize,
    waiting: AtomicUsize,
    cancelled: AtomicUsize,
    entered: Entered,
    gates: Mutex<HashMap<String, Arc<Semaphore>>>,
    open: Mutex<usize>,
    opened: Condvar,
    notes: Mutex<Vec<String>>,
}

struct Entered(Semaphore);

impl Default for Entered {
    fn default() -> Self {
        Entered(Semaphore::new(0))
    }
}

impl Stage {
    /// Waits until one more call has come to its gate.
    pub(crate) async fn entered(&self) {
        soon(self.0.entered.0.acquire()).await.unwrap().forget();
    }

    /// Lets one call through the gate of that name, now or when it comes.
    pub(crate) fn open(&self, gate: &str) {
        self.gate(gate).add_permits(1);
    }

    /// Lets one call that blocks its thread go on, now or when it comes.
    pub(crate) fn unblock(&self) {
        *self.0.open.lock().unwrap() += 1;
        self.0.opened.notify_all();
    }

    /// Environments that exist.
    pub(crate) fn live(&self) -> usize {
        self.0.live.load(Ordering::SeqCst)
    }

    /// Calls that stand at a gate.
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::SeqCst)
    }

    /// Calls that were dropped while they stood at a gate.
    pub(crate) fn cancelled(&self) -> usize {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// What `note` actions said, in order.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.0.notes.lock().unwrap().clone()
    }

    fn note(&self, text: &str) {
        self.0.notes.lock().unwrap().push(text.to_owned());
    }

    fn gate(&self, name: &str) -> Arc<Semaphore> {
        let mut gates = self.0.gates.lock().unwrap();
        Arc::clone(gates.entry(name.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(0))))
    }

    async fn wait(&self, gate: &str) {
        let gate = self.gate(gate);
        let mut mark = Mark::new(self);
        gate.acquire().await.unwrap().forget();
        mark.through = true;
    }

    fn block(&self) {
        let mut mark = Mark::new(self);
        let mut open = self.0.open.lock().unwrap();
        while *open == 0 {
            open = self.0.opened.wait(open).unwrap();
        }
        *open -= 1;
        mark.through = true;
    }
}

/// A call that stands at a gate.
struct Mark<'a> {
    stage: &'a Stage,
    through: bool,
}

impl<'a> Mark<'a> {
    fn new(stage: &'a Stage) -> Self {
        stage.0.waiting.fetch_add(1, Ordering::SeqCst);
        stage.0.entered.0.add_permits(1);
        Mark { stage, through: false }
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.stage.0.waiting.fetch_sub(1, Ordering::SeqCst);
        if !self.through {
            self.stage.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Unblocks every thread when a test ends, however it ends, so that its runtime can end too.
pub(crate) struct Unblock(pub(crate) Stage);

impl Drop for Unblock {
    fn drop(&mut self) {
        *self.0.0.open.lock().unwrap() = usize::MAX / 2;
        self.0.0.opened.notify_all();
    }
}

/// How a factory makes environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Booting {
    /// At once.
    Now,
    /// Once the gate `boot` is open.
    AtGate,
    /// Not at all: it fails.
    Fails,
    /// Not at all: it panics, at once.
    Panics,
    /// Not at all: it panics after it has suspended.
    PanicsLater,
    /// Not at all: it never finishes.
    Never,
}

/// A factory of environments that take scripts as actions.
#[derive(Clone)]
pub(crate) struct Scripted {
    stage: Stage,
    spec: EnvironmentSpec,
    shared: Arc<EnvironmentSpec>,
    booting: Booting,
    toolbox: Arc<Toolbox>,
}

impl Scripted {
    pub(crate) fn new(stage: &Stage, execution: Execution) -> Self {
        let spec = EnvironmentSpec {
            action_space: ActionSpace::Typed,
            capabilities: Capabilities { execution, ..Capabilities::default() },
            ..EnvironmentSpec::new("scripted", "Does what a test says")
        };
        let shared = Arc::new(spec.clone());
        let toolbox = Arc::new(Toolbox::empty());
        Scripted { stage: stage.clone(), spec, shared, booting: Booting::Now, toolbox }
    }

    pub(crate) fn booting(mut self, booting: Booting) -> Self {
        self.booting = booting;
        self
    }

    /// Offers [`Tools`].
    pub(crate) fn tools(self, concurrent: bool) -> Self {
        self.tools_forked_by(concurrent, ForkMode::Stateless)
    }

    /// Offers [`Tools`] with that fork mode.
    pub(crate) fn tools_forked_by(mut self, concurrent: bool, fork: ForkMode) -> Self {
        let tools = Tools { stage: self.stage.clone(), concurrent, fork };
        self.toolbox = Arc::new(Toolbox::of(vec![Arc::new(tools)]).unwrap());
        self
    }

    /// Offers what a test has made.
    pub(crate) fn toolbox(mut self, toolbox: Toolbox) -> Self {
        self.toolbox = Arc::new(toolbox);
        self
    }

    /// Scores calls, as the script in their argument `after` says.
    pub(crate) fn scoring(self) -> Self {
        self.spec(|spec| spec.capabilities.observes_calls = true)
    }

    pub(crate) fn spec(mut self, change: impl FnOnce(&mut EnvironmentSpec)) -> Self {
        change(&mut self.spec);
        self.shared = Arc::new(self.spec.clone());
        self
    }

    fn instance(&self) -> EnvironmentInstance {
        self.stage.0.live.fetch_add(1, Ordering::SeqCst);
        let stage = self.stage.clone();
        let environment = Box::new(Actor { stage, seed: 0, count: 0, state: None, drop_panics: false });
        EnvironmentInstance::new(environment, Arc::clone(&self.toolbox))
    }
}

impl EnvironmentFactory for Scripted {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.shared
    }

    fn create(&self, _boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        match self.booting {
            Booting::Now => Work::done(Ok(self.instance())),
            Booting::AtGate => Work::pending(async {
                self.stage.wait("boot").await;
                Ok(self.instance())
            }),
            Booting::Fails => Work::done(Err(Failure::environment("no such file"))),
            Booting::Panics => panic!("made to panic in create"),
            Booting::PanicsLater => Work::pending(async {
                tokio::task::yield_now().await;
                panic!("made to panic in create, later")
            }),
            Booting::Never => Work::pending(async {
                self.stage.wait("never").await;
                Ok(self.instance())
            }),
        }
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::new(self.toolbox.server_scoped())
    }
}

/// An environment whose actions say what they do: `{"do": WHAT, …}`. A reset takes the same script
/// from its arguments, and a scored call from its argument `after`.
struct Actor {
    stage: Stage,
    seed: u64,
    count: u64,
    /// Set when the state is to `fail`, to `panic`, or to be this JSON.
    state: Option<String>,
    drop_panics: bool,
}

impl Actor {
    fn run<'a>(&'a mut self, script: &Value) -> Work<'a, Result<Observed, Failure>> {
        let text = |key: &str| script[key].as_str().unwrap_or_default().to_owned();
        self.count += 1;
        match script["do"].as_str().unwrap_or("count") {
            "count" => Work::done(Ok(self.seen(Some(Reward::Int(1)), false))),
            "note" => {
                self.stage.note(&text("text"));
                Work::done(Ok(self.seen(None, false)))
            }
            "wait" => {
                let gate = text("at");
                Work::pending(async move {
                    self.stage.wait(&gate).await;
                    self.stage.note(&gate);
                    self.count += 100;
                    Ok(self.seen(Some(Reward::Int(2)), false))
                })
            }
            "block" => {
                self.stage.block();
                Work::done(Ok(self.seen(Some(Reward::Int(3)), false)))
            }
            "panic" => panic!("made to panic"),
            "panic_with_a_number" => std::panic::panic_any(7),
            "panic_later" => Work::pending(async {
                tokio::task::yield_now().await;
                panic!("made to panic")
            }),
            "reward" => Work::done(Ok(self.seen(Some(reward(&script["value"])), false))),
            "finish" => Work::done(Ok(self.seen(Some(Reward::Float(1.0)), true))),
            "fail" => Work::done(Err(failure(script))),
            "refuse" => Work::done(Err(Failure::action("not now"))),
            "big" => {
                let bytes = usize::try_from(script["bytes"].as_u64().unwrap()).unwrap();
                let fields = raw(&json!({ "text": "x".repeat(bytes) })).unwrap();
                Work::done(Ok(Observed { fields, metadata: None, reward: None, done: false }))
            }
            "raw" => {
                let fields = RawValue::from_string(text("fields")).unwrap();
                Work::done(Ok(Observed { fields, metadata: None, reward: None, done: false }))
            }
            "state" => {
                self.state = script["how"].as_str().map(str::to_owned);
                Work::done(Ok(self.seen(None, false)))
            }
            "drop_panics" => {
                self.drop_panics = true;
                Work::done(Ok(self.seen(None, false)))
            }
            other => Work::done(Err(Failure::action(format!("unknown script '{other}'")))),
        }
    }

    fn seen(&self, reward: Option<Reward>, done: bool) -> Observed {
        Observed { fields: self.fields(), metadata: None, reward, done }
    }

    fn fields(&self) -> RawJson {
        raw(&json!({ "count": self.count, "seed": self.seed })).unwrap()
    }
}

impl Environment for Actor {
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        self.seed = reset.seed;
        self.count = 0;
        match reset.arguments.as_deref().map_or(Ok(Value::Null), script) {
            Ok(script) if script["do"].is_string() => self.run(&script),
            Ok(_) => Work::done(Ok(self.seen(Some(Reward::Float(0.0)), false))),
            Err(failure) => Work::done(Err(failure)),
        }
    }

    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        match script(action) {
            Ok(script) => self.run(&script),
            Err(failure) => Work::done(Err(failure)),
        }
    }

    fn state(&self) -> Result<RawJson, Failure> {
        match self.state.as_deref() {
            Some("fail") => Err(Failure::environment("the state cannot be told")),
            Some("panic") => panic!("made to panic in state"),
            Some(text) => Ok(RawValue::from_string(text.to_owned()).unwrap()),
            None => Ok(self.fields()),
        }
    }

    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        self.stage.0.live.fetch_add(1, Ordering::SeqCst);
        let (stage, state) = (self.stage.clone(), self.state.clone());
        Ok(Box::new(Actor { stage, seed: self.seed, count: self.count, state, drop_panics: false }))
    }

    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Ok(format!("{} {}", self.seed, self.count).into_bytes())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        let text = str::from_utf8(snapshot).map_err(|_| Failure::action("no snapshot of mine"))?;
        let (seed, count) = text.split_once(' ').ok_or_else(|| Failure::action("no snapshot of mine"))?;
        (self.seed, self.count) = (seed.parse().unwrap(), count.parse().unwrap());
        Ok(())
    }

    fn after_call<'a>(&'a mut self, call: &'a CallRecord) -> Work<'a, Result<Observed, Failure>> {
        match call.arguments.as_deref().map_or(Ok(Value::Null), script) {
            Ok(arguments) => self.run(&arguments["after"]),
            Err(failure) => Work::done(Err(failure)),
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.stage.0.live.fetch_sub(1, Ordering::SeqCst);
        if self.drop_panics && !std::thread::panicking() {
            panic!("made to panic in drop");
        }
    }
}

/// Tools that do what their arguments say.
struct Tools {
    stage: Stage,
    concurrent: bool,
    fork: ForkMode,
}

impl Toolset for Tools {
    fn name(&self) -> &str {
        "tools"
    }

    fn list(&self) -> Arc<[Tool]> {
        ["say", "wait", "fail", "complain", "panic", "panic_later", "hold"]
            .into_iter()
            .map(|name| Tool {
                name: name.into(),
                title: None,
                description: String::new(),
                input_schema: json!({ "type": "object" }),
                output_schema: None,
                annotations: None,
                meta: None,
            })
            .collect()
    }

    fn concurrent(&self) -> bool {
        self.concurrent
    }

    fn fork(&self) -> ForkMode {
        self.fork
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Result<ToolResult, ToolError>> {
        let arguments = match arguments.map_or(Ok(Value::Null), script) {
            Ok(arguments) => arguments,
            Err(failure) => {
                return Work::done(Err(ToolError::new(ToolErrorType::InvalidArgs, failure.to_string())));
            }
        };
        let said = ToolResult::from_value(&arguments["text"]).unwrap();
        match tool {
            "say" => Work::done(Ok(said)),
            "wait" => Work::pending(async move {
                self.stage.wait(arguments["at"].as_str().unwrap_or_default()).await;
                Ok(said)
            }),
            // Keeps its thread until it is unblocked, and suspends only then.
            "hold" => {
                self.stage.block();
                Work::pending(async move {
                    self.stage.wait("held").await;
                    Ok(said)
                })
            }
            "fail" => Work::done(Err(ToolError::new(ToolErrorType::ExecutionError, "it broke"))),
            "complain" => Work::done(Ok(ToolResult {
                content: [Content::Text("cannot do that".to_owned())].into_iter().collect(),
                is_error: true,
                ..ToolResult::default()
            })),
            "panic" => panic!("made to panic in a tool"),
            "panic_later" => Work::pending(async {
                tokio::task::yield_now().await;
                panic!("made to panic in a tool")
            }),
            other => Work::done(Err(ToolError::not_found(other))),
        }
    }
}

fn reward(value: &Value) -> Reward {
    match value {
        Value::String(text) => Reward::Float(text.parse().unwrap()),
        Value::Bool(value) => Reward::Bool(*value),
        Value::Number(number) if number.is_i64() => Reward::Int(number.as_i64().unwrap()),
        other => Reward::Float(other.as_f64().unwrap()),
    }
}

/// The failure that a script names by `code`, and by `kind` where that is not the code's own.
fn failure(script: &Value) -> Failure {
    let code: ErrorCode = serde_json::from_value(script["code"].clone()).unwrap();
    let kind: Option<FailureKind> = serde_json::from_value(script["kind"].clone()).unwrap();
    Failure::new(code, "made to fail").with(|detail| detail.kind = kind.unwrap_or(detail.kind))
}

fn script(value: &RawValue) -> Result<Value, Failure> {
    serde_json::from_str(value.get()).map_err(|error| Failure::action(format!("no script: {error}")))
}

/// The result of a future that must not wait.
pub(crate) fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waited"),
    }
}

/// Waits for a condition that other tasks or threads bring about, without letting time pass.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WAIT_TIMEOUT, "never came true: {what}");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}
