//! One session as one line of JSON.
//!
//! Invariant: the line's form is that of `docs/records.md`; keys are only ever added.

use std::io::Write;

use oxenv_wire::{RawJson, Reward};
use serde::Serialize;
use serde_json::value::RawValue;

use super::reply::{ExportedCall, ExportedReply, call, exported_reply};
use super::{ExportError, each_entry};
use crate::index::{SessionSummary, Trajectories};
use crate::stored::{StoredEntry, StoredEvent, StoredFailure, StoredJson, StoredOrigin};

/// The beginning of a line.
#[derive(Serialize)]
struct LineHead<'a> {
    session_id: &'a str,
    environment: &'a str,
    version: &'a str,
    deterministic: bool,
    seed: u64,
    origin: Option<&'a StoredOrigin>,
    opened_us: u64,
    closed_us: Option<u64>,
    reason: Option<&'a str>,
}

/// The beginning of an epoch.
#[derive(Serialize)]
struct EpochLine<'a> {
    epoch: u64,
    episode_id: Option<&'a str>,
    seed: Option<u64>,
    reset: Option<ResetLine>,
}

#[derive(Serialize)]
struct ResetLine {
    seq: u64,
    time_us: u64,
    duration_us: u64,
    arguments: Option<RawJson>,
    observation: Option<RawJson>,
    reward: Option<Reward>,
    done: Option<bool>,
    metadata: Option<RawJson>,
    error: Option<StoredFailure>,
}

#[derive(Serialize)]
struct StepLine<'a> {
    seq: u64,
    step: u64,
    time_us: u64,
    duration_us: u64,
    principal: &'a str,
    action: RawJson,
    calls: Vec<ExportedCall<'a>>,
    observation: Option<RawJson>,
    reward: Option<Reward>,
    done: Option<bool>,
    metadata: Option<RawJson>,
    error: Option<StoredFailure>,
}

/// Writes a line.
pub(super) fn write(
    trajectories: &Trajectories,
    session: &SessionSummary,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let head = LineHead {
        session_id: &session.id,
        environment: &session.environment,
        version: &session.version,
        deterministic: session.deterministic,
        seed: session.seed,
        origin: session.origin.as_ref(),
        opened_us: session.opened_us,
        closed_us: session.closed_us,
        reason: session.reason.as_deref(),
    };
    begin(out, &head, "epochs")?;
    let mut line = SessionLine { out, open: None, epochs: 0 };
    each_entry(trajectories, session, |entry| line.entry(entry))?;
    line.end_epoch()?;
    write_json(out, "],\"steps\":", &session.steps)?;
    write_json(out, ",\"failures\":", &session.failures)?;
    write_json(out, ",\"reward\":", &session.reward)?;
    if session.unwritten > 0 {
        write_json(out, ",\"unwritten\":", &session.unwritten)?;
    }
    if !session.holes.is_empty() {
        write_json(out, ",\"holes\":", &session.holes)?;
    }
    Ok(out.write_all(b"}\n")?)
}

/// A line that is being written.
struct SessionLine<'a> {
    out: &'a mut dyn Write,
    /// The steps and the rewards of the epoch that is being written.
    open: Option<(u64, f64)>,
    epochs: u64,
}

impl SessionLine<'_> {
    fn entry(&mut self, entry: &StoredEntry) -> Result<(), ExportError> {
        match &entry.event {
            StoredEvent::Opened { .. } | StoredEvent::Closed { .. } => Ok(()),
            StoredEvent::Reset { seed, episode_id, arguments, outcome, duration_us, .. } => {
                let ExportedReply { observation, reward, done, metadata, error } = exported_reply(outcome)?;
                let reset = ResetLine {
                    seq: entry.seq,
                    time_us: entry.time_us,
                    duration_us: *duration_us,
                    arguments: arguments.as_ref().map(StoredJson::raw).transpose()?,
                    observation,
                    reward,
                    done,
                    metadata,
                    error,
                };
                let (episode_id, seed) = (Some(episode_id.as_str()), Some(*seed));
                self.begin_epoch(&EpochLine { epoch: entry.epoch, episode_id, seed, reset: Some(reset) })
            }
            StoredEvent::Step { .. } => self.step(entry),
        }
    }

    fn step(&mut self, entry: &StoredEntry) -> Result<(), ExportError> {
        let StoredEvent::Step { step, principal, action, calls, outcome, duration_us } = &entry.event else {
            return Ok(());
        };
        if self.open.is_none() {
            self.begin_epoch(&EpochLine { epoch: entry.epoch, episode_id: None, seed: None, reset: None })?;
        }
        let ExportedReply { observation, reward, done, metadata, error } = exported_reply(outcome)?;
        let written = StepLine {
            seq: entry.seq,
            step: *step,
            time_us: entry.time_us,
            duration_us: *duration_us,
            principal,
            action: action.raw()?,
            calls: calls.iter().map(call).collect::<Result<_, _>>()?,
            observation,
            reward,
            done,
            metadata,
            error,
        };
        let (steps, sum) = self.open.get_or_insert((0, 0.0));
        let comma = if *steps > 0 { "," } else { "" };
        *steps += 1;
        *sum += reward.map_or(0.0, Reward::as_f64);
        write_json(self.out, comma, &written)
    }

    fn begin_epoch(&mut self, epoch: &EpochLine<'_>) -> Result<(), ExportError> {
        self.end_epoch()?;
        if self.epochs > 0 {
            self.out.write_all(b",")?;
        }
        self.epochs += 1;
        self.open = Some((0, 0.0));
        begin(self.out, epoch, "steps")
    }

    fn end_epoch(&mut self) -> Result<(), ExportError> {
        let Some((_, reward)) = self.open.take() else { return Ok(()) };
        write_json(self.out, "],\"reward\":", &reward)?;
        Ok(self.out.write_all(b"}")?)
    }
}

/// Writes an object up to the beginning of an array that is its last member.
fn begin(out: &mut dyn Write, head: &impl Serialize, array: &str) -> Result<(), ExportError> {
    let head = serde_json::value::to_raw_value(head).map_err(std::io::Error::from)?;
    let open = head.get().strip_suffix('}').unwrap_or(RawValue::get(&head));
    Ok(write!(out, "{open},\"{array}\":[")?)
}

fn write_json(out: &mut dyn Write, before: &str, value: &impl Serialize) -> Result<(), ExportError> {
    out.write_all(before.as_bytes())?;
    Ok(serde_json::to_writer(out, value).map_err(std::io::Error::from)?)
}
