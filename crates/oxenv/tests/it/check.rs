//! `oxenv check`: of bundled environments, of a manifest, and of a server somewhere.

use serde_json::Value;

use crate::process::{Serving, run};
use crate::records::Folder;

#[test]
fn every_bundled_environment_keeps_its_promises() {
    for environment in ["echo", "connect4", "grid_world", "number_guess"] {
        let report = run(&["check", environment]);
        let lines: Vec<&str> = report.succeeded().lines().collect();
        let holds = lines.iter().filter(|line| line.starts_with("holds")).count();
        let random = lines.iter().any(|line| line.starts_with("holds        unseeded "));
        let same = lines.iter().any(|line| {
            line.starts_with("not offered  unseeded ") && line.ends_with("nothing in them seems to be random")
        });
        assert!(random || same, "{report:#?}");
        assert_eq!(holds, 8 + usize::from(random), "{report:#?}");
    }
}

#[test]
fn a_server_is_checked_over_the_wire() {
    let server = Serving::start(&["connect4"]);
    let report = run(&["check", &server.url(), "--json", "--episodes", "1", "--seed", "3"]);
    let report: Value = serde_json::from_str(report.succeeded()).unwrap();
    assert_eq!(report["door"], "sessions", "{report}");
    let verdict = |rule: &str| {
        let rules = report["rules"].as_array().unwrap();
        rules.iter().find(|line| line["rule"] == rule).unwrap()["verdict"].clone()
    };
    for rule in ["seed", "isolation", "fork", "snapshot", "at most once", "bad actions"] {
        assert_eq!(verdict(rule), "holds", "{report:#}");
    }
    assert_eq!(verdict("unseeded"), "not_offered", "{report:#}");
    assert_eq!(verdict("replay"), "not_offered", "{report:#}");
    // What the check opened it has closed.
    assert_eq!(server.get("/sessions").1["sessions"], serde_json::json!([]));
}

#[test]
fn a_server_without_room_for_64_sessions_is_not_compared_without_seeds() {
    let server = Serving::start(&["number_guess", "--max-sessions", "5", "--queue-timeout", "100ms"]);
    let report = run(&["check", &server.url(), "--episodes", "1"]);
    let told = "not offered  unseeded         64 sessions at once are needed, and there is room for 5: \
                Server at capacity: 5/5 sessions active.";
    assert!(report.succeeded().contains(told), "{report:#?}");
    assert_eq!(server.get("/sessions").1["sessions"], serde_json::json!([]));
}

#[test]
fn given_actions_are_taken_as_they_are() {
    let folder = Folder::new("check");
    let actions = folder.file("actions.jsonl", "{\"column\": 3}\n\n{\"column\": 2}\n");
    let report = run(&["check", "connect4", "--actions", &actions, "--episodes", "1"]);
    assert!(report.succeeded().contains("1 episodes, 2 steps"), "{report:#?}");
    let wrong = folder.file("wrong.jsonl", "{\"column\": 3}\n[]\n");
    run(&["check", "connect4", "--actions", &wrong]).failed(2, &["line 2"]);
    let refused = folder.file("refused.jsonl", "{\"colum\": 3}\n");
    run(&["check", "connect4", "--actions", &refused]).failed(1, &["colum", "refused"]);
}

#[test]
fn a_manifest_is_checked_as_an_environment() {
    let folder = Folder::new("check-manifest");
    let manifest = folder.file(
        "tools.yaml",
        "version: \"1.0\"\ntools:\n  - name: echo\n    mcp_server: { transport: builtin, toolset: echo }\n",
    );
    let report = run(&["check", &manifest]);
    assert!(report.succeeded().contains("holds        replay"), "{report:#?}");
}

#[test]
fn a_toolset_that_does_not_follow_the_seed_is_found() {
    let folder = Folder::new("check-seed");
    folder.file("tools.py", "import os\ndef seed() -> str:\n    return os.environ['SEED']\n");
    let manifest = |name: &str, on_reset: &str| {
        let server = "mcp_server: { transport: python, path: tools.py, env: { SEED: \"${seed}\" } }";
        let text = format!("tools:\n  - name: simulator\n    {server}\n{on_reset}");
        folder.file(name, &text)
    };
    let report = run(&["check", &manifest("follows.yaml", "")]);
    let told = "holds        seed of tools    declared to be restarted with each episode's seed: simulator\n";
    assert!(report.succeeded().contains(told), "{report:#?}");
    let told = "not offered  unseeded         64 sessions at once would start";
    assert!(report.stdout.contains(told), "{report:#?}");
    let report = run(&["check", &manifest("keeps.yaml", "    on_reset: keep\n")]);
    assert_eq!(report.code, Some(1), "{report:#?}");
    let told =
        "FAILS        seed of tools    declared to keep the ${seed} that they were started with: simulator;";
    assert!(report.stdout.contains(told), "{report:#?}");
}

#[test]
fn what_cannot_be_checked_is_said() {
    run(&["check", "conect4"]).failed(2, &["did you mean 'connect4'"]);
    run(&["check", "http://127.0.0.1:1"]).failed(4, &["connect"]);
    run(&["check", "echo", "--episodes", "0"]).failed(2, &["--episodes"]);
}
