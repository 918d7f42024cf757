//! Instances and sessions: whose they are, where they run, what a reset does.

use std::path::Path;
use std::sync::Arc;

use oxenv_core::{
    CallContext, CallerChannel, EpisodeSeeds, ForkMode, NativeToolset, Principal, Scope, Toolset,
};
use oxenv_process::child::Supervisor;
use oxenv_test_support::until;
use oxenv_upstream::manifest::Manifest;
use oxenv_upstream::{ManagerOptions, SessionContext, UpstreamManager, UpstreamState};
use oxenv_wire::{ErrorCode, ToolErrorType};
use serde_json::{Value, json};

use crate::upstream_support::*;

async fn ready(stage: &Stage, number: u64) -> Arc<dyn Toolset> {
    let toolset = stage.session(number).remove(0);
    toolset.ready().await;
    assert_eq!(toolset.problem(), None);
    toolset
}

async fn place(toolset: &Arc<dyn Toolset>) -> Value {
    serde_json::from_str(&say(toolset, "where").await).unwrap()
}

#[tokio::test]
async fn each_session_has_an_instance_and_the_first_is_the_one_that_was_asked() {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    stage.manager.start();
    let listed = stage.manager.server_toolsets().remove(0);
    listed.ready().await;
    let (first, second) = (ready(&stage, 1).await, ready(&stage, 2).await);
    let asked = stage.commands().len();
    assert_eq!(say(&first, "count").await, "1");
    assert_eq!(say(&first, "count").await, "2");
    assert!(asked >= 2, "an instance was kept from asking for its lists");
    assert_eq!(say(&second, "count").await, "1");
    assert!(Arc::ptr_eq(&first.list(), &listed.list()));
    assert_eq!(first.scope(), Scope::Session);
    let error = call(&listed, "count", json!({})).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
    // The instance ends with its session; calls after that fail.
    let pid = say(&first, "pid").await;
    first.close();
    let error = call(&first, "count", json!({})).await.unwrap_err();
    assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
    until("the process has ended", || !Path::new(&format!("/proc/{pid}")).exists()).await;
}

#[tokio::test]
async fn an_instance_that_any_session_may_have_has_a_folder_of_its_own() {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    let toolset = ready(&stage, 1).await;
    let folder = place(&toolset).await["cwd"].as_str().unwrap().to_owned();
    assert!(folder.starts_with(&format!("{}/oxenv-", stage.folder.display())), "{folder}");
    stage.manager.close().await;
    assert!(!Path::new(&folder).exists());
}

#[tokio::test]
async fn one_that_names_the_workspace_runs_in_it() {
    let entry = odd("odd", "plain", "").replace("\"plain\"]", "\"plain\", \"${workspace}\", \"${seed}\"]");
    let stage = Stage::new(&[entry]);
    let toolset = ready(&stage, 7).await;
    let found = place(&toolset).await;
    let workspace = stage.folder.join("workspace-7");
    assert_eq!(found["cwd"], workspace.to_str().unwrap());
    assert_eq!(found["args"], json!([workspace.to_str().unwrap(), "7"]));
}

#[tokio::test]
async fn its_environment_is_the_base_and_what_the_manifest_names() {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    let toolset = ready(&stage, 1).await;
    let found = place(&toolset).await;
    let environment = found["env"].as_object().unwrap();
    let mut names: Vec<&str> = environment.keys().map(String::as_str).collect();
    names.retain(|name| !matches!(*name, "LC_CTYPE" | "HOME"));
    names.sort_unstable();
    assert_eq!(names, ["LANG", "MARK", "PATH", "TMPDIR", "TOKEN"]);
    assert_eq!(environment["TOKEN"], TOKEN);
}

#[tokio::test]
async fn a_reset_does_as_the_entry_says() {
    let entries = [
        odd("keep", "plain", ""),
        odd("restart", "plain", "    on_reset: restart\n    on_fork: replay\n"),
        odd("call", "plain", "    on_reset: call:count\n"),
        odd("bad", "plain", "    on_reset: call:refuse\n"),
        odd("slow", "plain", "    on_reset: call:wait\n    timeout_s: 0.3\n"),
    ];
    let stage = Stage::new(&entries);
    let toolsets = stage.session(1);
    for toolset in &toolsets {
        toolset.ready().await;
        // Nothing was started for the session, so nothing is to be reset.
        reset_toolset(toolset, EpisodeSeeds::before_reset(1)).await.unwrap();
        assert_eq!(say(toolset, "count").await, "1");
    }
    for (toolset, count) in toolsets[..3].iter().zip(["2", "1", "3"]) {
        reset_toolset(toolset, EpisodeSeeds::before_reset(1)).await.unwrap();
        assert_eq!(say(toolset, "count").await, count, "{}", toolset.name());
    }
    let failure = reset_toolset(&toolsets[3], EpisodeSeeds::before_reset(1)).await.unwrap_err();
    assert_eq!(failure.message, "toolset 'bad' could not be reset by its tool 'refuse': refused with ***");
    let failure = reset_toolset(&toolsets[4], EpisodeSeeds::before_reset(1)).await.unwrap_err();
    assert_eq!(
        failure.message,
        "toolset 'slow' could not be reset by its tool 'wait': it did not answer within 0.3 s"
    );
    assert_eq!((toolsets[0].fork(), toolsets[1].fork()), (ForkMode::None, ForkMode::Replay));
}

#[tokio::test]
async fn eager_ones_start_with_the_session_and_a_pool_fills_after_the_first_use() {
    let stage = Stage::with(&[odd("odd", "plain", "    startup: eager\n")], 4, 2);
    stage.manager.start();
    stage.manager.server_toolsets()[0].ready().await;
    let supervised = || stage.commands().iter().filter(|line| line.contains("--parent")).count();
    assert_eq!(supervised(), 1);
    let session = stage.session(1);
    until("the pool is full again", || supervised() == 3).await;
    drop(session);
    until("the session's has ended", || supervised() == 2).await;
}

#[tokio::test]
async fn functions_of_a_python_file_are_tools() {
    let entry =
        "  - name: mine\n    mcp_server: { transport: python, path: tools.py, env: { MARK: \"@MARK@\" } }\n";
    let stage = Stage::new_with_file(&[entry.to_owned()], "tools.py", TOOLS);
    let toolset = ready(&stage, 1).await;
    let names: Vec<_> = toolset.list().iter().map(|tool| tool.name.to_string()).collect();
    assert_eq!(names, ["add", "describe", "note", "fails", "slow", "later"]);
    assert_eq!(toolset.list()[0].description, "Adds two numbers.");
    assert_eq!(
        toolset.list()[0].input_schema,
        json!({"type": "object", "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer", "default": 2}
        },
            "required": ["a"], "additionalProperties": false})
    );
    let result = call(&toolset, "add", json!({"a": 1})).await.unwrap();
    assert_eq!((result.text().as_str(), result.data()), ("3", "3"));
    let point = json!({"point": {"x": 1}, "kind": "near"});
    let result = call(&toolset, "describe", point).await.unwrap();
    assert_eq!(result.data(), r#"{"x": 1, "y": 2.5, "kind": "near"}"#);
    let result = call(&toolset, "fails", json!({})).await.unwrap();
    assert_eq!((result.is_error, result.text().as_str()), (true, "ValueError: not today"));
    let error = call(&toolset, "add", json!({"c": 1})).await.unwrap_err();
    assert_eq!(error.message, "add has no argument 'c'");
    // It runs in the session's folder, also where the worker was started before the session.
    call(&toolset, "note", json!({"text": "hello"})).await.unwrap();
    assert_eq!(std::fs::read_to_string(stage.folder.join("workspace-1/note.txt")).unwrap(), "hello");
    // A call that is dropped is interrupted, so the next one need not wait for it.
    let slow = call(&toolset, "slow", json!({}));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(300), slow).await.is_err());
    assert_eq!(say(&toolset, "later").await, "later");
    stage.manager.close().await;
    stage.emptied().await;
}

#[tokio::test]
async fn what_a_python_function_returns_is_json_or_a_typed_error() {
    let entry = "  - name: mine\n    mcp_server: { transport: python, path: tools.py }\n";
    let stage = Stage::new_with_file(&[entry.to_owned()], "tools.py", RETURNING);
    let toolset = ready(&stage, 1).await;
    let result = call(&toolset, "converted", json!({})).await.unwrap();
    let value: Value = serde_json::from_str(result.data()).unwrap();
    let expected = json!({"array": [1, [2.5]], "number": 7, "model": {"x": 1}, "bytes": "b",
        "at": "2026-01-02",
        "amount": "1.10", "7": ["range", [0, 1]], "set": [1, 2]});
    assert_eq!(value, expected);
    for (which, says) in [
        ("nan", "it['loss'] is nan"),
        ("array", "it['losses'][1] is inf"),
        ("object", "it[0] is of the type Opaque"),
        ("bare", "it is of the type Opaque"),
        ("key", "a key of it is of the type tuple"),
        ("itself", "it is nested too deeply, or holds itself"),
        ("half", "it has half a character, a lone surrogate"),
        ("halves", "it['text'] has half a character, a lone surrogate"),
        ("half_key", "a key of it has half a character, a lone surrogate"),
    ] {
        let error = call(&toolset, "refused", json!({ "which": which })).await.unwrap_err();
        assert_eq!(
            (error.error_type, error.code),
            (ToolErrorType::ExecutionError, Some(ErrorCode::InvalidResult)),
            "{which}"
        );
        let expected = format!(
            "what 'refused' returned cannot be JSON: {says}; return finite numbers, texts, lists and dicts"
        );
        assert_eq!(error.message, expected);
    }
}

#[tokio::test]
async fn a_python_file_that_cannot_be_loaded_is_told() {
    let entry = "  - name: mine\n    mcp_server: { transport: python, path: tools.py }\n";
    let stage = Stage::new_with_file(&[entry.to_owned()], "tools.py", "import no_such_module\n");
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    let problem = toolset.problem().unwrap();
    assert!(problem.ends_with("ModuleNotFoundError: No module named 'no_such_module'"), "{problem}");
}

#[tokio::test]
async fn compiled_in_toolsets_stand_beside_the_others() {
    let text = "tools:\n  - { name: one, mcp_server: { transport: builtin, toolset: hello } }\n  \
                - { name: none, mcp_server: { transport: builtin, toolset: missing } }\n  \
                - { name: off, enabled: false, mcp_server: { command: x } }\n";
    let (manifest, _) = Manifest::parse(text, None, &|_| None).unwrap();
    let builtin = |name: &str| {
        (name == "hello").then(|| {
            let tools = NativeToolset::new("hello").tool("hi", "Greets.", |_: Value| Ok("hi"));
            Arc::new(tools) as Arc<dyn Toolset>
        })
    };
    let options = ManagerOptions {
        supervisor: Supervisor::new("/nowhere", Vec::<String>::new()),
        base_environment: Vec::new(),
        concurrency: 1,
        warm: 0,
        discover_scope: true,
        reload: false,
        builtin: Arc::new(builtin),
    };
    let manager = UpstreamManager::new(manifest, options);
    let place = SessionContext {
        session_id: "s".into(),
        seeds: EpisodeSeeds::before_reset(0),
        workspace: "/".into(),
        known_as: "/".into(),
        running: tokio_util::task::TaskTracker::new(),
    };
    let toolsets = manager.open_session(place);
    assert_eq!(toolsets.iter().map(|toolset| toolset.name()).collect::<Vec<_>>(), ["one", "none"]);
    assert_eq!(toolsets[1].problem().as_deref(), Some("no toolset of the name 'missing' is compiled in"));
    let states: Vec<_> = manager.status().into_iter().map(|status| status.state).collect();
    assert_eq!(states, [UpstreamState::Ready, UpstreamState::Failed, UpstreamState::Disabled]);
    let context =
        CallContext { caller: None::<&dyn CallerChannel>, ..CallContext::sessionless(Principal::Agent) };
    assert!(toolsets[0].call(context, "hi", None).await.is_ok());
}

const TOOLS: &str = r#"
import time
from dataclasses import dataclass
from typing import Literal

print("loading")

@dataclass
class Point:
    x: int
    y: float = 2.5

def add(a: int, b: int = 2) -> int:
    """Adds two numbers."""
    print("adding")
    return a + b

def describe(point: Point, kind: Literal["near", "far"]):
    return {"x": point.x, "y": point.y, "kind": kind}

def note(text: str) -> None:
    with open("note.txt", "w") as file:
        file.write(text)

def fails():
    raise ValueError("not today")

def slow():
    time.sleep(60)

async def later():
    return "later"

def _private():
    pass
"#;

const RETURNING: &str = r#"
import datetime
import decimal

class Number:
    """Like a number of numpy."""
    def __init__(self, value):
        self.value = value
    def item(self):
        return self.value
    def __hash__(self):
        return 7
    def __repr__(self):
        return "Number()"

class Array(Number):
    def tolist(self):
        return self.value
    def item(self):
        raise ValueError("more than one")

class Model:
    def model_dump(self):
        return {"x": 1}

class Opaque:
    pass

def converted() -> dict:
    return {
        "array": Array([1, [Number(2.5)]]), "number": Number(7), "model": Model(), "bytes": b"b",
        "at": datetime.date(2026, 1, 2), "amount": decimal.Decimal("1.10"), Number(7): ("range", range(2)),
        "set": {2, 1},
    }

def refused(which: str) -> dict:
    itself = []
    itself.append(itself)
    return {
        "nan": {"loss": float("nan")}, "array": {"losses": Array([1.0, float("inf")])}, "object": [Opaque()],
        "bare": Opaque(), "key": {(1, 2): 3}, "itself": itself,
        "half": "\ud800", "halves": {"text": "\ud800"}, "half_key": {"\ud800": 1},
    }[which]
"#;
