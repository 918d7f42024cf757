//! The servers that the paths go through.

use std::path::PathBuf;
use std::sync::Arc;

use oxenv_core::{
    Auditor, EnvironmentFactory, EnvironmentSpec, Failure, Judges, Mount, NativeToolset, Policy, Principal,
    RateLimit, RateScope, Reset, RoleRules, RubricSpec, Rules, SessionStore, Step, StoreLimits, Toolbox,
    TypedEnvironment, scored, tool_environment, typed,
};
use oxenv_server::{App, Metrics, ServerConfig};
use oxenv_store::{JsonlAudit, LogOptions, LogRecorder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Echo, with everything that is off by default off.
pub(crate) fn echo() -> Arc<App> {
    App::new(store(oxenv_envs::echo::factory()), ServerConfig::default())
}

/// Echo with `--record`.
pub(crate) fn recording() -> Arc<App> {
    let recorder = LogRecorder::open(scratch("record"), LogOptions::default()).expect("a log");
    App::new(store(oxenv_envs::echo::factory()).with_recorder(Arc::new(recorder)), ServerConfig::default())
}

/// Echo with `--metrics`.
pub(crate) fn measuring() -> Arc<App> {
    let metrics = Arc::new(Metrics::new("echo"));
    let store = store(oxenv_envs::echo::factory()).with_observer(Arc::clone(&metrics) as _);
    App::new(store, ServerConfig { metrics: Some(metrics), ..ServerConfig::default() })
}

/// A counter of typed actions, without tools.
pub(crate) fn counter() -> Arc<App> {
    App::new(store(Arc::new(counters(Toolbox::empty()))), ServerConfig::default())
}

/// Connect4, whose sessions can be forked.
pub(crate) fn connect4() -> Arc<App> {
    App::new(store(oxenv_envs::connect4::factory()), ServerConfig::default())
}

/// A tool under every kind of rule, with an audit file and a rubric.
pub(crate) fn judged() -> Arc<App> {
    let agent = RoleRules { deny: vec!["*_admin".to_owned()], ..RoleRules::default() };
    let rules = Rules {
        allow: vec!["say*".to_owned()],
        deny: vec!["*_hidden".to_owned()],
        roles: [(Principal::Agent, agent)].into(),
        rate_limit: Some(RateLimit {
            calls: u32::MAX,
            per: std::time::Duration::from_secs(1),
            burst: u32::MAX,
            scope: RateScope::Session,
        }),
        arguments: [("say".to_owned(), json!({ "properties": { "message": { "maxLength": 100 } } }))].into(),
    };
    let policy = Arc::new(Policy::compile(rules).expect("rules that can be kept"));
    let audit = JsonlAudit::open(scratch("audit").join("audit.jsonl")).expect("an audit file");
    let auditor = Arc::new(Auditor::new(Arc::new(audit), true, Arc::new(str::to_owned)));
    let toolbox =
        Toolbox::new(vec![Mount { policy, ..Mount::new(Arc::new(talker())) }]).with_auditor(Some(auditor));
    let declared = json!({ "version": 1, "rubric": { "type": "sum", "parts": [
        { "type": "constant", "tool": "say", "value": 0.25 },
        { "type": "tool_called", "tool": "say",
          "arguments": { "properties": { "message": { "const": "no" } } } },
    ] } });
    let rubric = RubricSpec::read(declared).and_then(|rubric| rubric.compile(&Judges::default()));
    let factory = scored(Arc::new(counters(toolbox)), rubric.expect("a rubric"), false);
    App::new(store(factory), ServerConfig::default())
}

/// An environment of 1,000 tools in 50 toolsets.
pub(crate) fn thousand_tools() -> Arc<App> {
    let mounts = (0..50).map(|set| {
        let toolset = (0..20).fold(NativeToolset::new(format!("set{set}")), |toolset, tool| {
            // A native tool's name is part of the program; these live as long as it.
            let name: &'static str = format!("set{set}_tool{tool}").leak();
            toolset.tool(name, "Echo back the provided message.", |said: Said| Ok(said.message))
        });
        Mount::new(Arc::new(toolset))
    });
    let factory = tool_environment("thousand", "A thousand tools", mounts.collect(), None);
    App::new(store(factory), ServerConfig::default())
}

/// The same seed in every run.
fn store(factory: Arc<dyn EnvironmentFactory>) -> SessionStore {
    SessionStore::new(factory, StoreLimits { seed: Some(1), ..StoreLimits::default() })
}

/// A new folder, which `bench/counts` deletes with everything else of the run.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn counters(toolbox: Toolbox) -> impl EnvironmentFactory + 'static {
    typed(EnvironmentSpec::new("counter", "Adds up"), |_boot| Counter { value: 0 }).with_tools(toolbox)
}

fn talker() -> NativeToolset {
    NativeToolset::new("talker").tool("say", "Echo back the provided message.", |said: Said| Ok(said.message))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Said {
    message: String,
}

struct Counter {
    value: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Add {
    add: i64,
}

#[derive(Serialize, JsonSchema)]
struct Value {
    value: i64,
}

impl TypedEnvironment for Counter {
    type Action = Add;
    type Observation = Value;
    type State = Value;

    async fn reset(&mut self, _reset: &Reset) -> Result<Step<Value>, Failure> {
        self.value = 0;
        Ok(Step::new(Value { value: 0 }))
    }

    async fn step(&mut self, action: Add) -> Result<Step<Value>, Failure> {
        self.value += action.add;
        Ok(Step::new(Value { value: self.value }).reward(1.0))
    }

    fn state(&self) -> Value {
        Value { value: self.value }
    }
}
