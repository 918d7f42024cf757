//! Faults of processes, disks, clocks and the operating system's limits, each brought about many times
//! against the built binary and counted; the figures stand in `docs/reliability.md`.
//!
//! Invariant: each test prints what it tried, what survived and what was lost, and nothing may be lost.
//! `scripts/faults` asks for the full counts; a usual run makes do with few.

mod busy_workspaces;
mod churn;
mod clocks;
mod deep_workspace;
mod descriptors;
mod drain;
mod full_disk;
mod holes;
mod killed_clients;
mod killed_server;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use oxenv_store::{LogReader, StoredEntry, StoredEvent, StoredOutcome};

/// What a process has of the operating system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    descendants: usize,
}

impl Footprint {
    fn of(pid: u32) -> Self {
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        Footprint { descriptors: count("fd"), threads: count("task"), descendants: descendants(pid) }
    }

    /// Whether nothing has been added to what there was before.
    fn within(&self, before: &Footprint) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.descendants <= before.descendants
    }
}

/// Processes below that one.
fn descendants(pid: u32) -> usize {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends meanwhile is no child of anybody's.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in front may hold anything, but ends with the last bracket.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(child);
    }
    let (mut count, mut left) = (0, vec![pid]);
    while let Some(pid) = left.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        count += below.len();
        left.extend(below);
    }
    count
}

/// A step that was acknowledged: its session, its number there, and what it said.
type Acknowledged = (String, u64, String);

/// Everything that a record has, by session and number.
fn recorded(folder: &Path) -> HashMap<(String, u64), StoredEntry> {
    let entries = LogReader::open(folder).unwrap().map(|entry| entry.unwrap());
    let mut recorded = HashMap::new();
    for entry in entries {
        let before = recorded.insert((entry.session_id.clone(), entry.seq), entry);
        assert!(before.is_none(), "two entries have one number: {before:?}");
    }
    recorded
}

/// How many of the acknowledged steps are in the record, as they were acknowledged.
fn found(recorded: &HashMap<(String, u64), StoredEntry>, acknowledged: &[Acknowledged]) -> usize {
    let is_there = |(session, seq, said): &&Acknowledged| {
        let entry = recorded.get(&(session.clone(), *seq));
        entry.and_then(reply).is_some_and(|reply| reply.contains(said.as_str()))
    };
    acknowledged.iter().filter(is_there).count()
}

/// What a recorded step answered; none if it failed or is no step.
fn reply(entry: &StoredEntry) -> Option<String> {
    match &entry.event {
        StoredEvent::Step { outcome: StoredOutcome::Answered { reply, .. }, .. } => {
            Some(reply.text().unwrap().into_owned())
        }
        _ => None,
    }
}
