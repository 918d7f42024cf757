//! The log: what is written is what is read, whoever writes it and whatever is in it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use expect_test::expect;
use oxenv_core::{CallEntry, Failure, Principal, RecordEvent, RecordedOutcome, Recorder, SessionOrigin};
use oxenv_store::{
    Durability, LogError, LogOptions, LogReader, Retention, StoredEntry, StoredEvent, StoredJson,
    StoredOutcome,
};
use oxenv_wire::{ErrorCode, Reward, ToolError, ToolErrorType, ToolResult};
use serde_json::json;

use crate::sample::{entry, folder, found, open, opened, put, raw, reset, segments, session, step};

/// The lines of a segment behind what it says about itself.
fn lines(segment: &Path) -> String {
    let text = fs::read_to_string(segment).unwrap();
    text.lines().skip(2).map(|line| format!("{line}\n")).collect()
}

fn entries(folder: &Path) -> Vec<StoredEntry> {
    LogReader::open(folder).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn records_are_lines_that_any_tool_can_read() {
    let folder = folder("log-lines");
    let recorder = open(&folder, LogOptions::default());
    let origin = Some(SessionOrigin::Fork { session_id: "a", seq: 3 });
    let mut event = opened();
    if let RecordEvent::Opened { origin: place, .. } = &mut event {
        *place = origin;
    }
    put(&recorder, &entry("b", 0, event)).await;
    put(&recorder, &entry("b", 1, reset(r#"{"observation":{},"reward":null,"done":false}"#))).await;
    let results =
        [Ok(ToolResult::from_value(&3).unwrap()), Err(ToolError::new(ToolErrorType::Timeout, "late"))];
    let calls = results.each_ref().map(|outcome| CallEntry {
        id: None,
        tool: "add",
        arguments: Some(raw(r#"{"a": 1}"#)),
        outcome,
    });
    let reply = r#"{"observation":{"x":"é\n"},"reward":0.5,"done":false}"#;
    put(&recorder, &entry("b", 2, step(raw("{\n  \"go\": 1\r\n}"), reply, &calls))).await;
    let failure = Failure::new(ErrorCode::DeadlineExceeded, "the step took \"too\" long");
    let failed = RecordEvent::Step {
        step: 1,
        principal: Principal::Agent,
        action: raw("null"),
        calls: &[],
        outcome: RecordedOutcome::Failed(&failure),
        duration_us: 5,
    };
    put(&recorder, &entry("b", 3, failed)).await;
    put(&recorder, &entry("b", 4, RecordEvent::Closed { reason: "closed" })).await;
    drop(recorder);
    assert_eq!(segments(&folder).len(), 1);
    expect![[r#"
        000000f3 ed027728 {"v":1,"session":"b","seq":0,"epoch":0,"time_us":1767225600000000,"event":"opened","environment":"grid_world","version":"1.2.0","deterministic":true,"seed":18446744073709551615,"episode_id":"e-0","origin":{"kind":"fork","session":"a","seq":3}}
        000000e2 ebfc3378 {"v":1,"session":"b","seq":1,"epoch":1,"time_us":1767225600000001,"event":"reset","seed":7,"seed_given":true,"episode_id":"e-1","duration_us":11,"reward":null,"done":false,"reply":{"observation":{},"reward":null,"done":false}}
        000001e8 8353b334 {"v":1,"session":"b","seq":2,"epoch":1,"time_us":1767225600000002,"event":"step","step":1,"principal":"control","duration_us":12,"action":{   "go": 1  },"calls":[{"tool":"add","arguments":{"a": 1},"result":{"content":[{"type":"text","text":"3"}],"structuredContent":{"result":3},"isError":false},"wrapped":true},{"tool":"add","arguments":{"a": 1},"error":{"error_type":"timeout","message":"late"}}],"reward":0.5,"done":false,"reply":{"observation":{"x":"é\n"},"reward":0.5,"done":false}}
        00000120 33b7d319 {"v":1,"session":"b","seq":3,"epoch":1,"time_us":1767225600000003,"event":"step","step":1,"principal":"agent","duration_us":5,"action":null,"failure":{"code":"DEADLINE_EXCEEDED","kind":"timeout","phase":"step","delivered":"maybe","retryable":false,"message":"the step took \"too\" long"}}
        00000071 34c22d4c {"v":1,"session":"b","seq":4,"epoch":1,"time_us":1767225600000004,"event":"closed","reason":"closed","entries":4}
    "#]].assert_eq(&lines(&segments(&folder)[0]));

    let read = entries(&folder);
    assert_eq!(read.len(), 5);
    let StoredEvent::Step { calls, action, outcome: StoredOutcome::Answered { reward, .. }, .. } =
        &read[2].event
    else {
        panic!("{:?}", read[2])
    };
    assert_eq!(*reward, Some(Reward::Float(0.5)));
    assert_eq!(action.text().unwrap(), "{   \"go\": 1  }");
    for (call, was) in calls.iter().zip(&results) {
        match (call.played_back().unwrap(), was) {
            (Ok(again), Ok(was)) => {
                let mut texts = [String::new(), String::new()];
                again.write_dialect(&mut texts[0]);
                was.write_dialect(&mut texts[1]);
                assert_eq!(texts[0], texts[1]);
            }
            (Err(again), Err(was)) => assert_eq!(again.message, was.message),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn long_values_become_blobs_once() {
    let folder = folder("log-blobs");
    let options = LogOptions { inline_bytes: 100, ..LogOptions::default() };
    let recorder = open(&folder, options.clone());
    let long =
        json!({ "observation": { "text": "x".repeat(200) }, "reward": null, "done": false }).to_string();
    // Data that looks like a reference stays data.
    let sly = r#"{"reply_blob":{"sha256":"../../etc","bytes":1}}"#;
    for seq in 0..5 {
        put(&recorder, &entry("a", seq, step(raw(sly), &long, &[]))).await;
    }
    drop(recorder);
    let all = || walk(&folder.join("blobs"));
    assert_eq!(all().len(), 1);
    for entry in entries(&folder) {
        let StoredEvent::Step { action, outcome: StoredOutcome::Answered { reply, .. }, .. } = entry.event
        else {
            panic!()
        };
        assert_eq!(action.text().unwrap(), sly);
        assert!(matches!(reply, StoredJson::Blob(_)));
        assert_eq!(reply.text().unwrap(), long);
    }
    // A blob that is not what its name says is told.
    fs::write(&all()[0], long.replace('x', "y")).unwrap();
    let StoredEvent::Step { outcome: StoredOutcome::Answered { reply, .. }, .. } = &entries(&folder)[0].event
    else {
        panic!()
    };
    let error = reply.text().unwrap_err().to_string();
    assert!(error.contains("its content is not what its name says"), "{error}");
}

fn walk(blobs: &Path) -> Vec<std::path::PathBuf> {
    let parts = fs::read_dir(blobs).unwrap().map(|part| part.unwrap().path());
    parts.flat_map(|part| fs::read_dir(part).unwrap().map(|blob| blob.unwrap().path())).collect()
}

#[tokio::test]
async fn secrets_are_in_no_file() {
    let folder = folder("log-secrets");
    let redact = |text: &str| text.replace("hunter22", "***").replace("424242", "***");
    let options = LogOptions { redact: Some(Arc::new(redact)), inline_bytes: 60, ..LogOptions::default() };
    let recorder = open(&folder, options);
    let long = format!(r#"{{"observation":{{"text":"hunter22{}"}}}}"#, "x".repeat(99));
    let results = [
        Ok(ToolResult::from_value("hunter22").unwrap()),
        Err(ToolError::new(ToolErrorType::Timeout, "hunter22")),
    ];
    let calls = results.each_ref().map(|outcome| CallEntry { id: None, tool: "t", arguments: None, outcome });
    put(&recorder, &entry("a", 0, step(raw(r#"{"p":"hunter22"}"#), &long, &calls))).await;
    // What would be no JSON any more is concealed as a whole.
    put(&recorder, &entry("a", 1, step(raw(r#"{"p":424242}"#), "{}", &[]))).await;
    let failure = Failure::action("hunter22 is wrong");
    let failed = RecordEvent::Reset {
        seed: 1,
        seed_given: false,
        episode_id: "hunter22",
        arguments: Some(raw(r#"{"k":"hunter22"}"#)),
        outcome: RecordedOutcome::Failed(&failure),
        duration_us: 1,
    };
    put(&recorder, &entry("a", 2, failed)).await;
    drop(recorder);
    let files = segments(&folder).into_iter().chain(walk(&folder.join("blobs")));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("hunter22") && !text.contains("424242"), "{text}");
    }
    let read = entries(&folder);
    let StoredEvent::Step { action, .. } = &read[1].event else { panic!() };
    assert_eq!(action.text().unwrap(), r#""***""#);
}

#[tokio::test]
async fn one_process_writes_a_folder() {
    let folder = folder("log-lock");
    let recorder = open(&folder, LogOptions::default());
    let error = oxenv_store::LogRecorder::open(&folder, LogOptions::default()).unwrap_err();
    assert!(matches!(&error, LogError::Locked { .. }));
    assert!(error.to_string().contains("log-lock"), "{error}");
    drop(recorder);
    open(&folder, LogOptions::default());
}

#[test]
fn eight_threads_write_in_order() {
    let folder = folder("log-threads");
    let recorder = Arc::new(open(&folder, LogOptions::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(8).build().unwrap();
    runtime.block_on(async {
        let writers = (0..64).map(|number| {
            let recorder = Arc::clone(&recorder);
            tokio::spawn(async move { session(&recorder, &format!("s{number}"), 50).await })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
    });
    drop((runtime, recorder));
    let (entries, faults) = found(&folder);
    assert_eq!((entries.len(), faults), (64 * 52, 0));
    for number in 0..64 {
        let id = format!("s{number}");
        let own = entries.iter().filter(|(session, _)| *session == id).map(|(_, seq)| *seq);
        assert!(own.eq(0..52), "{id}");
    }
}

#[tokio::test]
async fn an_entry_is_written_even_if_nobody_waits_for_it() {
    let folder = folder("log-dropped");
    let recorder = open(&folder, LogOptions::default());
    for seq in 0..10 {
        drop(recorder.append(&entry("a", seq, opened())));
    }
    put(&recorder, &entry("a", 10, opened())).await;
    assert_eq!(found(&folder).0.len(), 11);
    assert_eq!(recorder.lag(), oxenv_store::WriteLag::default());
}

#[tokio::test]
async fn every_durability_gives_the_same_log() {
    let modes = [Durability::Process, Durability::Interval(Duration::from_millis(1)), Durability::Machine];
    for (number, durability) in modes.into_iter().enumerate() {
        let folder = folder(&format!("log-mode-{number}"));
        let options =
            LogOptions { durability, segment_bytes: 1000, inline_bytes: 40, ..LogOptions::default() };
        let recorder = open(&folder, options);
        session(&recorder, "a", 20).await;
        assert_eq!(found(&folder).0.len(), 22);
        drop(recorder);
        assert!(segments(&folder).len() > 3);
    }
}

#[tokio::test]
async fn segments_are_read_across_their_ends() {
    let folder = folder("log-segments");
    let options = LogOptions { segment_bytes: 700, ..LogOptions::default() };
    for round in 0..3 {
        let recorder = open(&folder, options.clone());
        session(&recorder, &format!("s{round}"), 10).await;
    }
    assert!(segments(&folder).len() > 5, "{:?}", segments(&folder));
    let (entries, faults) = found(&folder);
    assert_eq!((entries.len(), faults), (36, 0));
    assert!(entries.iter().map(|(_, seq)| *seq).eq((0..12).cycle().take(36)));
}

#[tokio::test]
async fn a_reader_goes_on_where_the_log_ended() {
    let folder = folder("log-follow");
    let mut reader = LogReader::open(&folder).unwrap();
    assert!(reader.next().is_none());
    let options = LogOptions { segment_bytes: 600, ..LogOptions::default() };
    let recorder = open(&folder, options);
    for seq in 0..20 {
        put(&recorder, &entry("a", seq, reset(r#"{"observation":{}}"#))).await;
        assert_eq!(reader.next().unwrap().unwrap().seq, seq);
        assert!(reader.next().is_none());
    }
}

#[tokio::test]
async fn old_segments_go_and_their_blobs_with_them() {
    let folder = folder("log-retention");
    let retention = Retention { age: Some(Duration::from_secs(3600)), bytes: None };
    let options = LogOptions { segment_bytes: 500, inline_bytes: 50, retention, ..LogOptions::default() };
    let recorder = open(&folder, options.clone());
    let reply = |number: u64| json!({ "observation": { "text": number.to_string().repeat(99) } }).to_string();
    for number in 0..8 {
        // The first blob is named again by the last record.
        put(&recorder, &entry("a", number, reset(&reply(number % 7)))).await;
    }
    drop(recorder);
    let before = segments(&folder);
    assert!(before.len() >= 4);
    assert_eq!(walk(&folder.join("blobs")).len(), 7);
    // Time passes for all but the last two.
    let (old, young) = before.split_at(before.len() - 2);
    for segment in old {
        let file = fs::File::options().append(true).open(segment).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(4000)).unwrap();
    }
    drop(open(&folder, options));
    assert_eq!(segments(&folder), young);
    let left = entries(&folder);
    assert!(!left.is_empty() && left.len() < 8);
    let mut names = std::collections::HashSet::new();
    for entry in left {
        let StoredEvent::Reset { outcome: StoredOutcome::Answered { reply, .. }, .. } = entry.event else {
            panic!()
        };
        assert!(reply.text().is_ok());
        names.insert(reply.text().unwrap().into_owned());
    }
    assert_eq!(walk(&folder.join("blobs")).len(), names.len());
}

#[tokio::test]
async fn the_log_stays_within_its_bytes() {
    let folder = folder("log-bytes");
    let retention = Retention { age: None, bytes: Some(4000) };
    let options = LogOptions { segment_bytes: 500, retention, ..LogOptions::default() };
    let recorder = open(&folder, options);
    session(&recorder, "a", 200).await;
    drop(recorder);
    let bytes: u64 = segments(&folder).iter().map(|segment| segment.metadata().unwrap().len()).sum();
    assert!(bytes < 5000, "{bytes}");
    let (entries, faults) = found(&folder);
    assert_eq!(faults, 0);
    assert_eq!(entries.last().unwrap().1, 201);
}
