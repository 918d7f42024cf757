//! A process that is killed while it writes: everything that it acknowledged is there.

use std::collections::HashSet;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use oxenv_store::{LogOptions, SessionFilter, Trajectories};

use crate::sample::{entry, folder, found, open, opened, put, raw, segments, step};

/// Tells the child where to write.
const FOLDER: &str = "OXENV_TEST_CRASH_FOLDER";
const KILLS: u64 = 100;

fn options() -> LogOptions {
    // Small, so that the kills meet rotations and blobs too.
    LogOptions { segment_bytes: 20_000, inline_bytes: 300, ..LogOptions::default() }
}

/// Not a test of its own: the process that is killed. It tells each acknowledged entry in a line.
#[test]
fn child() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let run = env::var("OXENV_TEST_CRASH_RUN").unwrap();
    let recorder = Arc::new(open(folder.as_ref(), options()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let writers = (0..8).map(|number| {
        let (recorder, id) = (Arc::clone(&recorder), format!("{run}-{number}"));
        runtime.spawn(async move {
            for seq in 0.. {
                let reply = reply(seq);
                let event = if seq == 0 { opened() } else { step(raw("{}"), &reply, &[]) };
                put(&recorder, &entry(&id, seq, event)).await;
                // One write for each, so that the reader gets whole lines.
                std::io::stdout().write_all(format!("\nack {id} {seq}\n").as_bytes()).unwrap();
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    runtime.block_on(async {
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn reply(seq: u64) -> String {
    let length = if seq.is_multiple_of(17) { 400 + seq % 5 } else { seq % 90 };
    format!(r#"{{"observation":{{"text":"{}"}},"reward":1,"done":false}}"#, "x".repeat(length as usize))
}

#[test]
fn what_was_acknowledged_survives_a_hundred_kills() {
    let folder = folder("crash");
    let mut acknowledged = HashSet::new();
    let mut torn = 0;
    for run in 0..KILLS {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER, &folder)
            .env("OXENV_TEST_CRASH_RUN", run.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut told = 0;
        // Another moment in each run.
        while told < 1 + run * 37 % 200 {
            told += u64::from(note(&lines.next().unwrap(), &mut acknowledged));
        }
        child.kill().unwrap();
        lines.for_each(|line| {
            note(&line, &mut acknowledged);
        });
        child.wait().unwrap();
        if run % 10 == 9 {
            let recorder = open(&folder, options());
            torn += u64::from(recorder.recovery().torn_bytes > 0);
            drop(recorder);
            check(&folder, &acknowledged);
        }
    }
    assert!(acknowledged.len() as u64 > KILLS * 50, "{}", acknowledged.len());
    eprintln!(
        "{KILLS} kills, {} acknowledged, {torn} torn ends seen, {} segments",
        acknowledged.len(),
        segments(&folder).len()
    );
}

fn note(line: &str, acknowledged: &mut HashSet<(String, u64)>) -> bool {
    let mut words = line.split(' ');
    if words.next() != Some("ack") {
        return false;
    }
    // The last line of a killed process may be torn.
    let (Some(id), Some(Ok(seq)), None) = (words.next(), words.next().map(str::parse), words.next()) else {
        return false;
    };
    acknowledged.insert((id.to_owned(), seq))
}

fn check(folder: &std::path::Path, acknowledged: &HashSet<(String, u64)>) {
    let (entries, faults) = found(folder);
    assert_eq!(faults, 0);
    let there: HashSet<(String, u64)> = entries.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&there).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let trajectories = Trajectories::open(folder).unwrap();
    let refreshed = trajectories.refresh().unwrap();
    assert!(refreshed.faults.is_empty() && !refreshed.rebuilt, "{refreshed:?}");
    // Nothing is missed that was not lost.
    assert!(trajectories.faults().unwrap().is_empty());
    let all = SessionFilter { limit: usize::MAX, ..SessionFilter::default() };
    let holes: Vec<_> =
        trajectories.sessions(&all).unwrap().into_iter().flat_map(|session| session.holes).collect();
    assert!(holes.is_empty(), "{holes:?}");
    // The blobs that entries name are there too.
    let (id, _) = acknowledged.iter().next().unwrap();
    for entry in trajectories.entries(id).unwrap() {
        if let oxenv_store::StoredEvent::Step {
            outcome: oxenv_store::StoredOutcome::Answered { reply: stored, .. },
            ..
        } = entry.event
        {
            assert_eq!(stored.text().unwrap(), reply(entry.seq));
        }
    }
}
