//! Recorded sessions for people: one line a session, one line a step.
//!
//! Invariant: no line is longer than its facts, however long an action is.

use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use oxenv_wire::{Reward, after};

use super::view::{EntryView, SessionView};
use crate::output::counted;

/// Number of characters of an action that are shown.
const MAX_ACTION_CHARS: usize = 60;

/// A table of sessions.
pub(super) fn sessions(sessions: &[SessionView]) -> String {
    let mut lines = vec![format!(
        "{:<36}  {:<16}  {:<20}  {:>6}  {:>6}  {:>8}  ended",
        "session", "environment", "opened", "epochs", "steps", "reward"
    )];
    lines.extend(sessions.iter().map(|session| {
        format!(
            "{:<36}  {:<16}  {:<20}  {:>6}  {:>6}  {:>8}  {}",
            session.session_id,
            session.environment,
            time(session.opened_us),
            session.epochs,
            session.steps,
            session.reward,
            end_text(session),
        )
    }));
    lines.join("\n")
}

/// What stands above a session's steps.
pub(super) fn head(session: &SessionView) -> String {
    let SessionView { session_id, environment, version, seed, .. } = session;
    let origin = session.origin.as_ref().map_or(String::new(), |origin| {
        format!("\nmade from a {} of {} after entry {}", origin.kind, origin.session_id, origin.seq)
    });
    format!(
        "session {session_id}\nenvironment {environment} {version}, seed {seed}\nopened {}, {}{origin}\n\
         {}, {}, {}, reward {}",
        time(session.opened_us),
        end_text(session),
        counted(session.epochs, "epoch"),
        counted(session.steps, "step"),
        counted(session.failures, "failure"),
        session.reward,
    )
}

/// The lines of an entry: none for what the head already shows.
pub(super) fn lines(entry: &EntryView) -> Vec<String> {
    let took = entry.duration_us.map_or(String::new(), |us| format!("  {us} µs"));
    let came = outcome_text(entry);
    match entry.event.as_str() {
        "reset" => {
            let episode = entry.episode_id.as_deref().unwrap_or_default();
            let seed = entry.seed.unwrap_or_default();
            let begins = format!("\nepoch {}: episode {episode}, seed {seed}", entry.epoch);
            vec![begins, format!("{:>6}  reset  {came}{took}", entry.seq)]
        }
        "step" => {
            let who = entry.principal.as_deref().unwrap_or_default();
            let action = entry.action.as_ref().map_or(String::new(), |action| shortened(action.get()));
            let step = entry.step.unwrap_or_default();
            vec![format!("{:>6}  step {step}  {who}  {action}  {came}{took}", entry.seq)]
        }
        "closed" => vec![format!("{:>6}  {}", entry.seq, entry.reason.as_deref().unwrap_or("closed"))],
        _ => Vec::new(),
    }
}

fn outcome_text(entry: &EntryView) -> String {
    if let Some(failure) = &entry.failure {
        return format!("failed: {:?}: {}", failure.code, shortened(&failure.message));
    }
    let reward = match entry.reward {
        None => "null".to_owned(),
        Some(Reward::Bool(reward)) => reward.to_string(),
        Some(Reward::Int(reward)) => reward.to_string(),
        Some(Reward::Float(reward)) => format!("{reward:?}"),
    };
    let done = if entry.done == Some(true) { "  done" } else { "" };
    format!("reward {reward}{done}")
}

fn end_text(session: &SessionView) -> String {
    let ended = match (&session.reason, session.closed_us) {
        (Some(reason), _) => reason,
        (None, Some(_)) => "ended",
        (None, None) => "no end recorded",
    };
    let incomplete = if session.holes.is_empty() { "" } else { ", incomplete" };
    format!("{ended}{incomplete}")
}

fn time(us: u64) -> String {
    format_rfc3339_seconds(after(SystemTime::UNIX_EPOCH, Duration::from_micros(us))).to_string()
}

fn shortened(text: &str) -> String {
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(MAX_ACTION_CHARS) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
