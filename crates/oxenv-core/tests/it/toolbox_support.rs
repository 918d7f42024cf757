//! Toolsets that a test shapes as it likes, and environments that offer them.
//!
//! Invariant: a toolset notes what reached it, so a test can tell what ran from what was refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oxenv_core::rubric::ScoringContext;
use oxenv_core::{
    CallContext, CallRequest, ChangeCounter, EnvironmentContext, EnvironmentFactory, EnvironmentInstance,
    EnvironmentSpec, Failure, Mount, Principal, RequestError, Reset, ResourcesAndPrompts, Rubric,
    RubricFactory, Scope, Score, SessionStore, StoreLimits, ToolEnvironment, Toolbox, Toolset, Work,
    Workspaces, scored,
};
use oxenv_wire::{RawJson, Reward, Tool, ToolError, ToolErrorType, ToolResult, raw, read};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// What a tool gives.
pub(crate) type Outcome = Result<ToolResult, ToolError>;
type Answer = dyn Fn(&str, Value) -> Work<'static, Outcome> + Send + Sync;
type Resetting = dyn Fn() -> Work<'static, Result<(), Failure>> + Send + Sync;

/// A toolset of a test.
pub(crate) struct Set {
    pub(crate) name: String,
    list: Mutex<Arc<[Tool]>>,
    watchers: Mutex<Vec<ChangeCounter>>,
    /// Closed when its list is to be known.
    gate: Option<Semaphore>,
    pub(crate) concurrent: bool,
    pub(crate) validates: bool,
    pub(crate) scope: Scope,
    pub(crate) extras: Arc<ResourcesAndPrompts>,
    pub(crate) problem: Option<String>,
    answer: Box<Answer>,
    resetting: Box<Resetting>,
    calls: Mutex<Vec<(String, String)>>,
    closed: AtomicUsize,
}

impl Set {
    /// Tools that take any object and tell who they are.
    pub(crate) fn new(name: &str, tools: &[&str]) -> Self {
        let owner = name.to_owned();
        Set {
            name: name.to_owned(),
            list: Mutex::new(tools.iter().map(|name| tool(name)).collect()),
            watchers: Mutex::default(),
            gate: None,
            concurrent: true,
            validates: false,
            scope: Scope::Server,
            extras: Arc::default(),
            problem: None,
            answer: Box::new(move |tool, arguments| {
                done(&json!({ "set": owner, "tool": tool, "arguments": arguments }))
            }),
            resetting: Box::new(|| Work::done(Ok(()))),
            calls: Mutex::default(),
            closed: AtomicUsize::new(0),
        }
    }

    /// One tool with these schemas.
    pub(crate) fn with_schemas(name: &str, input: Value, output: Option<Value>) -> Self {
        let set = Set::new(name, &[]);
        *set.list.lock().unwrap() =
            [Tool { input_schema: input, output_schema: output, ..tool("tool") }].into_iter().collect();
        set
    }

    /// Its list is known only once [`Set::begin`] was called.
    pub(crate) fn late(mut self) -> Self {
        self.gate = Some(Semaphore::new(0));
        self
    }

    pub(crate) fn answering(
        mut self,
        answer: impl Fn(&str, Value) -> Work<'static, Outcome> + Send + Sync + 'static,
    ) -> Self {
        self.answer = Box::new(answer);
        self
    }

    pub(crate) fn resetting(
        mut self,
        resetting: impl Fn() -> Work<'static, Result<(), Failure>> + Send + Sync + 'static,
    ) -> Self {
        self.resetting = Box::new(resetting);
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Replaces its list, and says so to who watches.
    pub(crate) fn change(&self, tools: &[&str]) {
        *self.list.lock().unwrap() = tools.iter().map(|name| tool(name)).collect();
        self.watchers.lock().unwrap().iter().for_each(ChangeCounter::bump);
    }

    /// Its first list is there.
    pub(crate) fn begin(&self, tools: &[&str]) {
        self.change(tools);
        self.gate.as_ref().unwrap().close();
    }

    /// The names and arguments of the calls that reached it.
    pub(crate) fn calls(&self) -> Vec<(String, String)> {
        self.calls.lock().unwrap().clone()
    }

    /// How often it was closed.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }
}

impl Toolset for Set {
    fn name(&self) -> &str {
        &self.name
    }

    fn list(&self) -> Arc<[Tool]> {
        self.list.lock().unwrap().clone()
    }

    fn ready(&self) -> Work<'_, ()> {
        match &self.gate {
            None => Work::done(()),
            // Nobody opens it, so it ends when it is closed.
            Some(gate) => Work::pending(async { drop(gate.acquire().await) }),
        }
    }

    fn watch(&self, changes: &ChangeCounter) {
        self.watchers.lock().unwrap().push(changes.clone());
    }

    fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn concurrent(&self) -> bool {
        self.concurrent
    }

    fn validates(&self) -> bool {
        self.validates
    }

    fn reset(&self, _: oxenv_core::EpisodeSeeds) -> Work<'_, Result<(), Failure>> {
        (self.resetting)()
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn call<'a>(
        &'a self,
        _context: CallContext<'a>,
        tool: &'a str,
        arguments: Option<&'a RawValue>,
    ) -> Work<'a, Outcome> {
        let text = arguments.map_or("none", RawValue::get).to_owned();
        self.calls.lock().unwrap().push((tool.to_owned(), text));
        let arguments = arguments.map_or(Value::Null, |arguments| read(arguments).unwrap_or(Value::Null));
        (self.answer)(tool, arguments)
    }

    fn extras(&self) -> Arc<ResourcesAndPrompts> {
        Arc::clone(&self.extras)
    }

    fn request<'a>(
        &'a self,
        _context: CallContext<'a>,
        method: &'a str,
        parameters: &'a RawValue,
    ) -> Work<'a, Result<RawJson, RequestError>> {
        self.calls.lock().unwrap().push((method.to_owned(), parameters.get().to_owned()));
        match self.name.as_str() {
            "panicking" => panic!("made to panic in a request"),
            "silent" => Work::pending(std::future::pending()),
            "refusing" => Work::done(Err(RequestError::new(-32000, "not today"))),
            name => Work::done(Ok(raw(&json!({ "by": name })).unwrap())),
        }
    }
}

pub(crate) fn tool(name: &str) -> Tool {
    Tool {
        name: name.to_owned().into(),
        title: None,
        description: String::new(),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        annotations: None,
        meta: None,
    }
}

/// A result that is there at once.
pub(crate) fn done(value: &Value) -> Work<'static, Outcome> {
    Work::done(Ok(ToolResult::from_value(value).unwrap()))
}

pub(crate) fn broken(message: &str) -> Work<'static, Outcome> {
    Work::done(Err(ToolError::new(ToolErrorType::ExecutionError, message)))
}

/// Toolsets without rules.
pub(crate) fn mounts(sets: &[&Arc<Set>]) -> Vec<Mount> {
    sets.iter().map(|set| Mount::new(Arc::clone(*set) as Arc<dyn Toolset>)).collect()
}

pub(crate) fn names(toolbox: &Toolbox) -> Vec<String> {
    toolbox.tools(Principal::Agent).iter().map(|tool| tool.name.to_string()).collect()
}

pub(crate) fn messages(toolbox: &Toolbox) -> Vec<String> {
    toolbox.problems().into_iter().map(|problem| problem.message).collect()
}

/// An agent's call, outside a session.
pub(crate) async fn ask(toolbox: &Toolbox, tool: &str, arguments: &str) -> Outcome {
    let arguments = RawValue::from_string(arguments.to_owned()).unwrap();
    toolbox
        .find(tool)
        .call(&CallRequest::new(CallContext::sessionless(Principal::Agent), Some(&arguments)))
        .await
}

/// The value of a result.
pub(crate) fn value(outcome: &Outcome) -> Value {
    serde_json::from_str(outcome.as_ref().unwrap().data()).unwrap()
}

/// Scores a call by its arguments: `{"score": 2, "done": true}`; notes the tools it saw.
#[derive(Clone)]
struct Scorer(Arc<Mutex<Vec<String>>>);

impl Rubric for Scorer {
    fn reset(&mut self, reset: &Reset) {
        self.0.lock().unwrap().push(format!("reset {}", reset.seed));
    }

    fn score<'a>(&'a mut self, seen: &'a ScoringContext<'a>) -> Work<'a, Result<Score, Failure>> {
        self.0.lock().unwrap().push(seen.act.tool().unwrap().to_owned());
        let arguments: Value = serde_json::from_str(seen.act.input()).unwrap();
        let score = &arguments["score"];
        let reward = score.as_i64().map(Reward::Int).or_else(|| score.as_f64().map(Reward::Float));
        Work::done(Ok(Score { reward, done: arguments["done"] == json!(true) }))
    }

    fn fork(&self) -> Box<dyn Rubric> {
        Box::new(self.clone())
    }
}

/// Makes environments of tools.
pub(crate) struct Host {
    spec: Arc<EnvironmentSpec>,
    toolbox: Arc<Toolbox>,
    rubric: Option<RubricFactory>,
    workspaces: Option<Arc<Workspaces>>,
}

impl Host {
    pub(crate) fn new(toolbox: Toolbox) -> Self {
        let spec = Arc::new(ToolEnvironment::spec("hosted", "Tools of a test"));
        Host { spec, toolbox: Arc::new(toolbox), rubric: None, workspaces: None }
    }

    /// Scores by [`Scorer`]; gives what it notes.
    pub(crate) fn scored(self) -> (Self, Arc<Mutex<Vec<String>>>) {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&notes);
        (self.scored_by(Arc::new(move || Box::new(Scorer(Arc::clone(&shared))))), notes)
    }

    pub(crate) fn scored_by(mut self, rubric: RubricFactory) -> Self {
        self.rubric = Some(rubric);
        self
    }

    pub(crate) fn within(mut self, workspaces: &Arc<Workspaces>) -> Self {
        self.workspaces = Some(Arc::clone(workspaces));
        self
    }

    pub(crate) fn store(mut self) -> SessionStore {
        let rubric = self.rubric.take();
        let host: Arc<dyn EnvironmentFactory> = Arc::new(self);
        let factory = match rubric {
            Some(rubric) => scored(host, rubric, false),
            None => host,
        };
        SessionStore::new(factory, StoreLimits { seed: Some(1), ..StoreLimits::default() })
    }
}

impl EnvironmentFactory for Host {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        let environment = Box::new(ToolEnvironment);
        let workspace = self.workspaces.as_ref().map(|all| Arc::new(all.open(&boot.session_id).unwrap()));
        Work::done(Ok(EnvironmentInstance { environment, toolbox: Arc::clone(&self.toolbox), workspace }))
    }
}
