//! What tests write into logs, and how they read it back.

use std::fs;
use std::path::{Path, PathBuf};

use oxenv_core::{CallEntry, Principal, RecordEntry, RecordEvent, RecordedOutcome, Recorder};
use oxenv_store::{LogOptions, LogReader, LogRecorder, StoredEntry};
use oxenv_wire::Reward;
use serde_json::value::RawValue;

/// An empty folder for one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

pub(crate) fn open(folder: &Path, options: LogOptions) -> LogRecorder {
    LogRecorder::open(folder, options).unwrap()
}

pub(crate) fn raw(json: &str) -> &RawValue {
    serde_json::from_str(json).unwrap()
}

pub(crate) fn entry<'a>(session_id: &'a str, seq: u64, event: RecordEvent<'a>) -> RecordEntry<'a> {
    let epoch = u64::from(seq > 0);
    RecordEntry { session_id, seq, epoch, time_us: 1_767_225_600_000_000 + seq, event }
}

pub(crate) fn opened<'a>() -> RecordEvent<'a> {
    RecordEvent::Opened {
        environment: "grid_world",
        version: "1.2.0",
        deterministic: true,
        seed: u64::MAX,
        episode_id: "e-0",
        origin: None,
    }
}

pub(crate) fn reset(reply: &str) -> RecordEvent<'_> {
    RecordEvent::Reset {
        seed: 7,
        seed_given: true,
        episode_id: "e-1",
        arguments: None,
        outcome: RecordedOutcome::Answered { reply, reward: None, done: false },
        duration_us: 11,
    }
}

pub(crate) fn step<'a>(action: &'a RawValue, reply: &'a str, calls: &'a [CallEntry<'a>]) -> RecordEvent<'a> {
    RecordEvent::Step {
        step: 1,
        principal: Principal::Control,
        action,
        calls,
        outcome: RecordedOutcome::Answered { reply, reward: Some(Reward::Float(0.5)), done: false },
        duration_us: 12,
    }
}

/// Appends and waits until the recorder says that it is safe.
pub(crate) async fn put(recorder: &LogRecorder, entry: &RecordEntry<'_>) {
    recorder.append(entry).await.unwrap();
}

/// A session with that number of steps, each with its number in its action.
pub(crate) async fn session(recorder: &LogRecorder, id: &str, steps: u64) {
    put(recorder, &entry(id, 0, opened())).await;
    put(recorder, &entry(id, 1, reset(r#"{"observation":{"at":0},"reward":null,"done":false}"#))).await;
    for number in 0..steps {
        let action = format!(r#"{{"move":{number}}}"#);
        let reply = format!(r#"{{"observation":{{"at":{number}}},"reward":0.5,"done":false}}"#);
        put(recorder, &entry(id, 2 + number, step(raw(&action), &reply, &[]))).await;
    }
}

/// Session and number of everything that can be read, and how many faults there were.
pub(crate) fn found(folder: &Path) -> (Vec<(String, u64)>, usize) {
    let (mut entries, mut faults) = (Vec::new(), 0);
    for entry in LogReader::open(folder).unwrap() {
        match entry {
            Ok(StoredEntry { session_id, seq, .. }) => entries.push((session_id, seq)),
            Err(_) => faults += 1,
        }
    }
    (entries, faults)
}

/// The log's segments.
pub(crate) fn segments(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        all.filter(|path| path.extension().is_some_and(|extension| extension == "oxl")).collect();
    segments.sort();
    segments
}

/// Makes of a log that was ended in order what a killed writer leaves: it says nothing of its end.
pub(crate) fn as_if_killed(folder: &Path) {
    let path = folder.join("log-bounds.json");
    let mut bounds: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    bounds["end"] = serde_json::Value::Null;
    fs::write(path, bounds.to_string()).unwrap();
}
