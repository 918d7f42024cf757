//! `oxenv rescore`: other rewards for what was recorded, and not a byte of it changed.

use std::fs;

use serde_json::Value;

use crate::process::run;
use crate::records::{Folder, actions, killed_server};

#[test]
fn another_rubric_gives_other_rewards_and_changes_nothing() {
    let folder = Folder::new("rescore");
    killed_server(&["connect4"], &folder, &actions("connect4"));
    let rubric = folder.file(
        "rubric.json",
        r#"{"version": 1, "rubric": {"type": "sum", "parts": [
            {"type": "environment_reward", "name": "own"}, {"type": "constant", "name": "half", "value": 0.5}
        ]}}"#,
    );
    let (records, before) = (folder.records(), folder.log());
    let out = folder.0.join("scores.jsonl").display().to_string();
    let ended = run(&["rescore", &records, "--rubric", &rubric, "--out", &out]);
    assert!(ended.succeeded().lines().next().unwrap().ends_with("epoch 1  0 → 2"), "{ended:#?}");
    assert_eq!(before, folder.log(), "the log has changed");
    let written = fs::read_to_string(&out).unwrap();
    let first: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(first["reward"], 2.0, "{first}");
    assert_eq!(first["scores"]["half"], 2.0, "{first}");
    assert_eq!(first["steps"].as_array().unwrap().len(), 4, "{first}");
    assert_eq!(first["steps"][0]["parts"]["half"], 0.5, "{first}");
    assert_eq!(run(&["rescore", &records, "--rubric", &rubric, "--json"]).succeeded(), written);
    assert!(run(&["replay", &records]).succeeded().ends_with("5 of 5 the same\n"));
}

#[test]
fn what_is_wrong_with_a_rubric_is_said_first() {
    let folder = Folder::new("rubrics");
    let unknown =
        folder.file("rubric.json", r#"{"version": 1, "rubric": {"type": "sequenze", "parts": []}}"#);
    run(&["rescore", folder.path(), "--rubric", &unknown]).failed(2, &["rubric.json", "sequenze"]);
    run(&["rescore", folder.path()]).failed(2, &["--rubric FILE"]);
    let judged = folder.file(
        "judged.json",
        r#"{"version": 1, "rubric": {"type": "judge", "prompt": "How good is {transcript}?", "range": [0, 1]}}"#,
    );
    run(&["rescore", folder.path(), "--rubric", &judged]).failed(2, &["--judge-url"]);
    run(&["serve", "echo", "--rubric", &unknown]).failed(2, &["sequenze"]);
}
