//! What the server tells about itself: tools in their listings, health, schemas, sessions, tasks.
//!
//! Invariant: nulls are kept, because stock clients look the keys up without asking.

use oxenv_wire::{
    EnvironmentTasks, Forked, Health, Metadata, NumTasks, OneTask, Ready, Schemas, SessionCreated,
    SessionInfo, SessionProgress, SessionSnapshot, Split, Tasks, ToolsetProblem,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::golden::{Golden, check};
use crate::pretty::json;
use crate::results::tools;

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = Vec::new();
    for (name, tool) in ["full", "least"].iter().zip(tools()) {
        goldens.push(Golden::reply(format!("tool-step-{name}"), tool.for_step().get()));
        goldens.push(Golden::reply(format!("tool-rest-{name}"), tool.for_rest("math").get()));
        goldens.push(Golden::reply(format!("tool-dialect-{name}"), tool.for_dialect().get()));
    }
    goldens.extend(server());
    goldens.extend(sessions());
    goldens.extend(tasks());
    goldens
}

fn server() -> Vec<Golden> {
    let metadata = Metadata {
        name: "EchoEnvironment".to_owned(),
        description: "Gives back every message".to_owned(),
        readme_content: None,
        version: Some("1.0.0".to_owned()),
        author: None,
        documentation_url: None,
    };
    let schemas = Schemas {
        action: json!({ "title": "CallToolAction", "type": "object" }),
        observation: json!({ "title": "CallToolObservation", "type": "object" }),
        state: json!({ "title": "State", "type": "object" }),
        reset_observation: json!({ "title": "CallToolObservation", "type": "object" }),
    };
    let ready = |status: &str| Ready {
        status: status.to_owned(),
        active_sessions: 2,
        max_sessions: 2,
        stuck_environments: 1,
        problems: Vec::new(),
    };
    let problem = ToolsetProblem {
        toolset: Some("github".to_owned()),
        message: "exited with code 1".to_owned(),
        required: true,
    };
    let unavailable = Ready { problems: vec![problem], ..ready("unavailable") };
    vec![
        body("health", &Health { status: "healthy".to_owned() }),
        body("health-draining", &Health { status: "draining".to_owned() }),
        body("ready", &ready("ready")),
        body("ready-full", &ready("full")),
        body("ready-unavailable", &unavailable),
        body("metadata", &metadata),
        body("schemas", &schemas),
    ]
}

fn sessions() -> Vec<Golden> {
    let created = |agent_token: Option<&str>| SessionCreated {
        session_id: "4a47a35c".to_owned(),
        mcp_url: "/sessions/4a47a35c/mcp".to_owned(),
        agent_token: agent_token.map(str::to_owned),
    };
    let info = SessionInfo {
        session_id: "4a47a35c".to_owned(),
        environment: "echo".to_owned(),
        seed: u64::MAX,
        epoch: 2,
        episode_id: "ep-7".to_owned(),
        step_count: 3,
        done: false,
        episode_reward: Some(0.5),
        episode_scores: Some(json!({ "goal": 0.5 })),
        seq: 9,
        waited_ms: 12,
        attached: 1,
        idle_ms: 1500,
    };
    let progress =
        SessionProgress { seq: 9, epoch: 2, episode_id: "ep-7".to_owned(), step_count: 3, done: false };
    vec![
        body("session-progress", &progress),
        body("session-created", &created(None)),
        body("session-created-with-token", &created(Some("t-1"))),
        body("session-info", &info),
        body("session-list", &vec![info]),
        body("session-forked", &Forked { sessions: vec![created(None), created(Some("t-2"))] }),
        body(
            "session-snapshot",
            &SessionSnapshot { snapshot: "b3hlbnYuMS4=".to_owned(), key: "process".to_owned() },
        ),
    ]
}

fn tasks() -> Vec<Golden> {
    let split = |name: &str, kind: &str| Split { name: name.to_owned(), kind: kind.to_owned() };
    let task = json!({ "seed": 7, "target": 42 });
    vec![
        body("splits", &vec![split("train", "train"), split("hard", "test")]),
        body("tasks", &EnvironmentTasks { tasks: vec![task.clone()], env_name: "number_guess".to_owned() }),
        body("tasks-range", &Tasks { tasks: vec![task.clone(), json!({})] }),
        body("tasks-one", &OneTask { task }),
        body("tasks-number", &NumTasks { num_tasks: 100 }),
    ]
}

/// A body that clients written in Rust read back.
fn body<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) -> Golden {
    let text = json(value);
    let back: T = serde_json::from_str(&text).expect("a body reads back");
    assert_eq!(&back, value);
    Golden::reply(format!("body-{name}"), text)
}

#[test]
fn every_listing_and_body_is_its_golden() {
    check(goldens());
}

/// A 0.10 client swallows a null description and reports no tools at all.
#[test]
fn a_description_is_never_null() {
    for tool in tools() {
        for listing in [tool.for_step(), tool.for_rest("math"), tool.for_dialect()] {
            let value: serde_json::Value = serde_json::from_str(listing.get()).expect("a listing is JSON");
            assert!(value["description"].is_string(), "{value}");
        }
    }
}
