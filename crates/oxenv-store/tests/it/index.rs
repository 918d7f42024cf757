//! The index: the same however it came about, and lists in pieces.

use std::fs;
use std::path::Path;

use oxenv_core::{Failure, Principal, RecordEvent, RecordedOutcome, SessionOrigin};
use oxenv_store::{
    LogOptions, LogRecorder, Retention, SessionFilter, SessionSummary, StoredEntry, Trajectories,
};
use oxenv_wire::Reward;
use proptest::prelude::*;

use crate::sample::{entry, folder, open, opened, put, raw, segments, session};

fn all(trajectories: &Trajectories) -> Vec<SessionSummary> {
    trajectories.sessions(&SessionFilter { limit: usize::MAX, ..SessionFilter::default() }).unwrap()
}

fn ids(sessions: &[SessionSummary]) -> Vec<&str> {
    sessions.iter().map(|session| session.id.as_str()).collect()
}

/// Everything that the index tells, in a form that can be compared.
fn session_summaries(trajectories: &Trajectories) -> Vec<(SessionSummary, Vec<String>)> {
    let entries =
        |id: &str| trajectories.entries(id).unwrap().iter().map(|entry| format!("{entry:?}")).collect();
    all(trajectories).into_iter().map(|session| (session.clone(), entries(&session.id))).collect()
}

/// An index of the same log that was never there before.
fn anew(folder: &Path) -> Vec<(SessionSummary, Vec<String>)> {
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.join(format!("index.sqlite{suffix}")));
    }
    let trajectories = Trajectories::open(folder).unwrap();
    trajectories.refresh().unwrap();
    session_summaries(&trajectories)
}

async fn opened_at(recorder: &LogRecorder, id: &str, environment: &str, time_us: u64) {
    let mut event = opened();
    if let RecordEvent::Opened { environment: place, .. } = &mut event {
        *place = environment;
    }
    let mut entry = entry(id, 0, event);
    entry.time_us = time_us;
    put(recorder, &entry).await;
}

#[tokio::test]
async fn an_index_made_bit_by_bit_is_that_made_at_once() {
    let folder = folder("index-incremental");
    let recorder =
        open(&folder, LogOptions { segment_bytes: 2000, inline_bytes: 60, ..LogOptions::default() });
    let trajectories = Trajectories::open(&folder).unwrap();
    for round in 0..6 {
        session(&recorder, &format!("s{round}"), 5).await;
        let refreshed = trajectories.refresh().unwrap();
        assert_eq!((refreshed.entries, refreshed.rebuilt), (7, false));
        assert_eq!(trajectories.refresh().unwrap().entries, 0);
    }
    let bit_by_bit = session_summaries(&trajectories);
    drop(trajectories);
    assert_eq!(bit_by_bit.len(), 6);
    assert_eq!(bit_by_bit[0].1.len(), 7);
    assert_eq!(bit_by_bit, anew(&folder));
}

#[tokio::test]
async fn an_index_forgets_what_the_log_forgot() {
    let folder = folder("index-retention");
    let retention = Retention { age: None, bytes: Some(6000) };
    let recorder = open(&folder, LogOptions { segment_bytes: 1500, retention, ..LogOptions::default() });
    let trajectories = Trajectories::open(&folder).unwrap();
    for round in 0..10 {
        session(&recorder, &format!("s{round}"), 5).await;
        assert!(!trajectories.refresh().unwrap().rebuilt);
    }
    let bit_by_bit = session_summaries(&trajectories);
    drop(trajectories);
    assert!((1..9).contains(&bit_by_bit.len()), "{}", bit_by_bit.len());
    assert_eq!(bit_by_bit, anew(&folder));
}

#[tokio::test]
async fn an_index_of_another_log_is_made_anew() {
    let folder = folder("index-other");
    let recorder = open(&folder, LogOptions::default());
    session(&recorder, "a", 3).await;
    drop(recorder);
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    // A record that was read is gone, and another is in its place.
    let path = segments(&folder).remove(0);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
    let recorder = open(&folder, LogOptions::default());
    assert!(recorder.recovery().torn_bytes > 0);
    session(&recorder, "b", 4).await;
    assert!(trajectories.refresh().unwrap().rebuilt);
    assert_eq!(ids(&all(&trajectories)), ["a", "b"]);
    assert_eq!(trajectories.entries("a").unwrap().len(), 4);
    assert_eq!(trajectories.entries("b").unwrap().len(), 6);
    // A file that is no index, or one of another version, is made anew too.
    drop(trajectories);
    let index = folder.join("index.sqlite");
    fs::write(&index, "not a database, surely not").unwrap();
    let trajectories = Trajectories::open(&folder).unwrap();
    assert_eq!(trajectories.refresh().unwrap().entries, 10);
    assert_eq!(ids(&all(&trajectories)), ["a", "b"]);
}

#[tokio::test]
async fn sessions_are_summed_up() {
    let folder = folder("index-sums");
    let recorder = open(&folder, LogOptions::default());
    let origin = Some(SessionOrigin::Snapshot { session_id: "z", seq: 9 });
    let mut event = opened();
    if let RecordEvent::Opened { origin: place, .. } = &mut event {
        *place = origin;
    }
    put(&recorder, &entry("a", 0, event)).await;
    let answered = |reward, done| RecordedOutcome::Answered { reply: "{}", reward, done };
    let reset = |outcome| RecordEvent::Reset {
        seed: 1,
        seed_given: false,
        episode_id: "e",
        arguments: None,
        outcome,
        duration_us: 1,
    };
    let step = |outcome| RecordEvent::Step {
        step: 1,
        principal: Principal::Agent,
        action: raw("1"),
        calls: &[],
        outcome,
        duration_us: 1,
    };
    let failure = Failure::action("no");
    put(&recorder, &entry("a", 1, reset(RecordedOutcome::Failed(&failure)))).await;
    put(&recorder, &entry("a", 2, reset(answered(None, false)))).await;
    put(&recorder, &entry("a", 3, step(answered(Some(Reward::Int(2)), false)))).await;
    put(&recorder, &entry("a", 4, step(RecordedOutcome::Failed(&failure)))).await;
    put(&recorder, &entry("a", 5, step(answered(Some(Reward::Bool(true)), true)))).await;
    put(&recorder, &entry("a", 6, RecordEvent::Closed { reason: "expired" })).await;
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let session = trajectories.session("a").unwrap().unwrap();
    assert_eq!(session.seed, u64::MAX);
    assert_eq!((session.epochs, session.steps, session.failures), (1, 2, 2));
    assert_eq!((session.reward, session.done), (3.0, true));
    assert_eq!(session.reason.as_deref(), Some("expired"));
    assert_eq!(session.closed_us, Some(session.last_us));
    let origin = session.origin.unwrap();
    assert_eq!((origin.kind.as_str(), origin.session_id.as_str(), origin.seq), ("snapshot", "z", 9));
    assert_eq!(trajectories.session("b").unwrap(), None);
    let seqs = |entries: Vec<StoredEntry>| entries.iter().map(|entry| entry.seq).collect::<Vec<_>>();
    assert_eq!(seqs(trajectories.entries_from("a", 3, 2).unwrap()), [3, 4]);
}

#[tokio::test]
async fn lists_are_given_in_pieces() {
    let folder = folder("index-lists");
    let recorder = open(&folder, LogOptions::default());
    for number in 0..9 {
        let environment = if number % 3 == 0 { "echo" } else { "grid_world" };
        opened_at(&recorder, &format!("s{number}"), environment, 100 + number).await;
    }
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let list = |filter: SessionFilter| {
        let found = trajectories.sessions(&filter).unwrap();
        ids(&found).join(" ")
    };
    let plain = SessionFilter::default;
    assert_eq!(list(SessionFilter { limit: 2, ..plain() }), "s0 s1");
    assert_eq!(list(SessionFilter { limit: 2, after: Some("s1".into()), ..plain() }), "s2 s3");
    assert_eq!(
        list(SessionFilter { limit: 2, newest_first: true, after: Some("s7".into()), ..plain() }),
        "s6 s5"
    );
    assert_eq!(list(SessionFilter { environment: Some("echo".into()), ..plain() }), "s0 s3 s6");
    assert_eq!(list(SessionFilter { since_us: Some(102), until_us: Some(104), ..plain() }), "s2 s3");
    assert_eq!(list(SessionFilter { done: Some(true), ..plain() }), "");
    assert_eq!(list(SessionFilter { after: Some("nobody".into()), ..plain() }), "");
}

#[tokio::test]
async fn damage_is_passed_over_and_told_each_time() {
    let folder = folder("index-damage");
    let recorder = open(&folder, LogOptions { segment_bytes: 900, ..LogOptions::default() });
    session(&recorder, "a", 10).await;
    let files = segments(&folder);
    assert!(files.len() > 2);
    // The end of one segment is missing, in another a byte is wrong.
    let whole = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &whole[..whole.len() - 10]).unwrap();
    let mut bytes = fs::read(&files[1]).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    fs::write(&files[1], bytes).unwrap();
    let trajectories = Trajectories::open(&folder).unwrap();
    let refreshed = trajectories.refresh().unwrap();
    assert_eq!((refreshed.entries, refreshed.faults.len()), (10, 2), "{refreshed:?}");
    for number in 0..3 {
        put(&recorder, &entry("a", 100 + number, RecordEvent::Closed { reason: "closed" })).await;
        let refreshed = trajectories.refresh().unwrap();
        assert_eq!((refreshed.entries, refreshed.faults.len(), refreshed.rebuilt), (1, 0, false));
        assert_eq!(trajectories.faults().unwrap().len(), 2);
    }
    assert_eq!(trajectories.entries("a").unwrap().len(), 13);
}

/// A folder with a log and its index, and what the index tells.
fn indexed(name: &str) -> (std::path::PathBuf, Vec<(SessionSummary, Vec<String>)>) {
    let folder = folder(name);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let recorder = open(&folder, LogOptions::default());
    runtime.block_on(async {
        for round in 0..40 {
            session(&recorder, &format!("s{round}"), 10).await;
        }
    });
    drop(recorder);
    let told = anew(&folder);
    (folder, told)
}

#[test]
fn an_index_with_zeroed_pages_is_made_anew() {
    const PAGE: usize = 4096;
    let (folder, was) = indexed("index-zeroed");
    let path = folder.join("index.sqlite");
    let bytes = fs::read(&path).unwrap();
    let pages = bytes.len() / PAGE;
    assert!(pages > 20, "{pages}");
    let check = |zeroed: &[usize]| {
        let mut damaged = bytes.clone();
        for page in zeroed {
            damaged[page * PAGE..(page + 1) * PAGE].fill(0);
        }
        fs::write(&path, &damaged).unwrap();
        let trajectories = Trajectories::open(&folder).unwrap();
        trajectories.refresh().unwrap();
        assert!(session_summaries(&trajectories) == was, "{zeroed:?}");
        assert!(trajectories.faults().unwrap().is_empty(), "{zeroed:?}");
        assert_eq!(trajectories.in_memory(), None, "{zeroed:?}");
    };
    for page in 0..pages {
        check(&[page]);
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    let some = prop::collection::vec(0..pages, 1..pages);
    runner
        .run(&some, |zeroed| {
            check(&zeroed);
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_index_that_is_zeroed_while_it_is_used_is_made_anew() {
    let (folder, was) = indexed("index-zeroed-in-use");
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    let path = folder.join("index.sqlite");
    let length = fs::metadata(&path).unwrap().len();
    let file = fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; length as usize], 0).unwrap();
    assert!(session_summaries(&trajectories) == was);
    trajectories.refresh().unwrap();
    assert!(session_summaries(&trajectories) == was);
}

#[test]
fn an_index_that_cannot_be_written_is_made_in_memory() {
    let (folder, was) = indexed("index-in-memory");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.join(format!("index.sqlite{suffix}")));
    }
    fs::create_dir_all(folder.join("index.sqlite-wal/something")).unwrap();
    let trajectories = Trajectories::open(&folder).unwrap();
    trajectories.refresh().unwrap();
    assert!(session_summaries(&trajectories) == was);
    assert!(trajectories.in_memory().is_some());
}
