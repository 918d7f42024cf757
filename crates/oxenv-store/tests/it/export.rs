//! Exports: their form, in a golden text.

use expect_test::expect;
use oxenv_core::{CallEntry, Failure, Principal, RecordEvent, RecordedOutcome};
use oxenv_store::{LogOptions, SessionFilter, Trajectories, export_jsonl};
use oxenv_wire::{ErrorCode, Reward, ToolResult};

use crate::sample::{entry, folder, open, opened, put, raw, reset, session};

#[tokio::test]
async fn a_session_is_a_line() {
    let folder = folder("export-line");
    let recorder = open(&folder, LogOptions { inline_bytes: 40, ..LogOptions::default() });
    put(&recorder, &entry("a", 0, opened())).await;
    put(&recorder, &entry("a", 1, reset(r#"{"observation":{"at":0},"reward":null,"done":false}"#))).await;
    let result = Ok(ToolResult::from_value(&3).unwrap());
    let calls =
        [CallEntry { id: Some("x"), tool: "add", arguments: Some(raw(r#"{"a":1}"#)), outcome: &result }];
    let step = |outcome, calls| RecordEvent::Step {
        step: 1,
        principal: Principal::Agent,
        action: raw(r#"{"message":"a long one, which makes it a blob"}"#),
        calls,
        outcome,
        duration_us: 3,
    };
    let reply = r#"{"observation":{"at":1},"reward":1,"done":true,"metadata":{"score":0.25}}"#;
    let answered = RecordedOutcome::Answered { reply, reward: Some(Reward::Int(1)), done: true };
    put(&recorder, &entry("a", 2, step(answered, &calls))).await;
    let failure = Failure::new(ErrorCode::DeadlineExceeded, "too late");
    put(&recorder, &entry("a", 3, step(RecordedOutcome::Failed(&failure), &[]))).await;
    let mut again = entry("a", 4, reset(r#"{"observation":{"at":0},"reward":null,"done":false}"#));
    again.epoch = 2;
    put(&recorder, &again).await;
    put(&recorder, &entry("a", 5, RecordEvent::Closed { reason: "closed" })).await;

    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let mut out = Vec::new();
    assert_eq!(export_jsonl(&trajectories, &mut out, &SessionFilter::default()).unwrap().sessions, 1);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 1);
    let pretty: serde_json::Value = serde_json::from_str(&text).unwrap();
    expect![[r#"
        {
          "session_id": "a",
          "environment": "grid_world",
          "version": "1.2.0",
          "deterministic": true,
          "seed": 18446744073709551615,
          "origin": null,
          "opened_us": 1767225600000000,
          "closed_us": 1767225600000005,
          "reason": "closed",
          "epochs": [
            {
              "epoch": 1,
              "episode_id": "e-1",
              "seed": 7,
              "reset": {
                "seq": 1,
                "time_us": 1767225600000001,
                "duration_us": 11,
                "arguments": null,
                "observation": {
                  "at": 0
                },
                "reward": null,
                "done": false,
                "metadata": null,
                "error": null
              },
              "steps": [
                {
                  "seq": 2,
                  "step": 1,
                  "time_us": 1767225600000002,
                  "duration_us": 3,
                  "principal": "agent",
                  "action": {
                    "message": "a long one, which makes it a blob"
                  },
                  "calls": [
                    {
                      "id": "x",
                      "tool": "add",
                      "arguments": {
                        "a": 1
                      },
                      "result": {
                        "content": [
                          {
                            "type": "text",
                            "text": "3"
                          }
                        ],
                        "structuredContent": {
                          "result": 3
                        },
                        "isError": false
                      },
                      "error": null
                    }
                  ],
                  "observation": {
                    "at": 1
                  },
                  "reward": 1,
                  "done": true,
                  "metadata": {
                    "score": 0.25
                  },
                  "error": null
                },
                {
                  "seq": 3,
                  "step": 1,
                  "time_us": 1767225600000003,
                  "duration_us": 3,
                  "principal": "agent",
                  "action": {
                    "message": "a long one, which makes it a blob"
                  },
                  "calls": [],
                  "observation": null,
                  "reward": null,
                  "done": null,
                  "metadata": null,
                  "error": {
                    "code": "DEADLINE_EXCEEDED",
                    "kind": "timeout",
                    "phase": "step",
                    "delivered": "maybe",
                    "retryable": false,
                    "message": "too late"
                  }
                }
              ],
              "reward": 1.0
            },
            {
              "epoch": 2,
              "episode_id": "e-1",
              "seed": 7,
              "reset": {
                "seq": 4,
                "time_us": 1767225600000004,
                "duration_us": 11,
                "arguments": null,
                "observation": {
                  "at": 0
                },
                "reward": null,
                "done": false,
                "metadata": null,
                "error": null
              },
              "steps": [],
              "reward": 0.0
            }
          ],
          "steps": 1,
          "failures": 1,
          "reward": 1.0
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&pretty).unwrap());
}

#[tokio::test]
async fn an_export_of_many_sessions_has_each_once() {
    let folder = folder("export-many");
    let recorder = open(&folder, LogOptions::default());
    for number in 0..230 {
        session(&recorder, &format!("s{number}"), 1).await;
    }
    session(&recorder, "long", 600).await;
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let export = |limit| {
        let mut out = Vec::new();
        let filter = SessionFilter { limit, ..SessionFilter::default() };
        let written = export_jsonl(&trajectories, &mut out, &filter).unwrap().sessions;
        let lines: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len() as u64, written);
        lines
    };
    assert_eq!(export(150).len(), 150);
    let lines = export(usize::MAX);
    assert_eq!(lines.len(), 231);
    assert!(lines.iter().take(230).enumerate().all(|(at, line)| line["session_id"] == format!("s{at}")));
    assert_eq!(lines[230]["epochs"][0]["steps"].as_array().unwrap().len(), 600);
    assert_eq!(lines[230]["reward"], 300.0);
}

#[cfg(feature = "parquet")]
#[tokio::test]
async fn steps_are_rows() {
    use oxenv_store::export_parquet;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    let folder = folder("export-rows");
    let recorder = open(&folder, LogOptions::default());
    session(&recorder, "a", 3).await;
    let failure = Failure::action("no");
    let failed = RecordEvent::Step {
        step: 4,
        principal: Principal::Agent,
        action: raw("[1]"),
        calls: &[],
        outcome: RecordedOutcome::Failed(&failure),
        duration_us: 9,
    };
    put(&recorder, &entry("a", 5, failed)).await;
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let path = folder.join("steps.parquet");
    let file = std::fs::File::create(&path).unwrap();
    assert_eq!(export_parquet(&trajectories, file, &SessionFilter::default()).unwrap().sessions, 1);
    let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
    let rows: Vec<String> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
    expect![[r#"
        {session_id: "a", environment: "grid_world", version: "1.2.0", session_seed: 18446744073709551615, epoch: 1, episode_id: "e-1", episode_seed: 7, seq: 2, step: 1, time: 2026-01-01 00:00:00.000002 +00:00, duration_us: 12, principal: "control", action: "{"move":0}", calls: "[]", observation: "{"at":0}", reward: 0.5, done: false, metadata: null, error: null}
        {session_id: "a", environment: "grid_world", version: "1.2.0", session_seed: 18446744073709551615, epoch: 1, episode_id: "e-1", episode_seed: 7, seq: 5, step: 4, time: 2026-01-01 00:00:00.000005 +00:00, duration_us: 9, principal: "agent", action: "[1]", calls: "[]", observation: null, reward: null, done: null, metadata: null, error: "{"code":"EXECUTION_ERROR","kind":"action","phase":"step","delivered":"yes","retryable":false,"message":"no"}"}
    "#]].assert_eq(&format!("{}\n{}\n", rows[0], rows[3]));
    assert_eq!(rows.len(), 4);
}
