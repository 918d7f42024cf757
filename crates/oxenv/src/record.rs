//! `serve --record`: what is recorded, how safely, for how long.
//!
//! Invariant: nothing is recorded unless a folder is named, and secrets of a manifest are taken out
//! before anything is written.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use oxenv_core::Redact;
use oxenv_server::RecordStatus;
use oxenv_store::{Durability, LogOptions, LogRecorder, Retention};
use oxenv_wire::preview;
use serde::{Deserialize, Deserializer};

use crate::byte_size::ByteSize;
use crate::exit::usage;
use crate::observing::RecordStatusReader;
use crate::values::duration;

/// Whether and how sessions are recorded.
#[derive(Args, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RecordArgs {
    /// Record what every session does in this folder; see docs/replay.md [default: nothing is recorded]
    #[arg(long, value_name = "DIR")]
    pub(crate) record: Option<PathBuf>,

    /// What an acknowledged step survives. process: the end of the server; machine: a crash of the machine
    /// too; a time, such as 50ms: the same, but for the steps of the last 50ms [default: process]
    #[arg(long, value_name = "process|machine|TIME", value_parser = SyncSetting::parse)]
    pub(crate) record_sync: Option<SyncSetting>,

    /// Remove old records, by age, by size or by both: 30d, 20GB, '30d 20GB' [default: all are kept]
    #[arg(long, value_name = "AGE|SIZE", value_parser = RetentionSetting::parse)]
    pub(crate) record_keep: Option<RetentionSetting>,
}

/// What an acknowledged step survives, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncSetting(pub(crate) Durability);

/// What is kept, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetentionSetting(pub(crate) Retention);

/// Opens the log that was asked for, if one was.
pub(crate) fn open(args: &RecordArgs, redact: Option<Redact>) -> anyhow::Result<Option<Arc<LogRecorder>>> {
    let Some(folder) = &args.record else { return Ok(None) };
    let options = LogOptions {
        durability: args.record_sync.map_or(Durability::default(), |safety| safety.0),
        retention: args.record_keep.map_or(Retention::default(), |keep| keep.0),
        redact,
        ..LogOptions::default()
    };
    let recorder = LogRecorder::open(folder, options).map_err(|error| usage(error.to_string()))?;
    Ok(Some(Arc::new(recorder)))
}

/// Reports how far the log is behind.
pub(crate) fn status_reader(recorder: &Arc<LogRecorder>) -> RecordStatusReader {
    let recorder = Arc::clone(recorder);
    Box::new(move || {
        let lag = recorder.lag();
        RecordStatus { lag_bytes: lag.bytes, lag_records: lag.records, failed: recorder.failed() }
    })
}

impl RecordArgs {
    /// Refuses details of what is not recorded.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let details = self.record_sync.is_some() || self.record_keep.is_some();
        match details && self.record.is_none() {
            true => Err(usage("how to record is said, but not where: add --record DIR")),
            false => Ok(()),
        }
    }
}

impl SyncSetting {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "process" => Ok(SyncSetting(Durability::Process)),
            "machine" => Ok(SyncSetting(Durability::Machine)),
            time => duration(time).map(|time| SyncSetting(Durability::Interval(time))).map_err(|_| {
                format!("'{}' is none of them; write process, machine, or a time such as 50ms", preview(time))
            }),
        }
    }
}

impl RetentionSetting {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut keep = Retention::default();
        for part in text.split([' ', ',']).filter(|part| !part.is_empty()) {
            let taken = match (age(part), size(part)) {
                (Some(age), _) => keep.age.replace(age).is_some(),
                (None, Some(size)) => keep.bytes.replace(size).is_some(),
                (None, None) => {
                    let part = preview(part);
                    return Err(format!("'{part}' is neither an age nor a size; write 30d or 20GB"));
                }
            };
            if taken {
                return Err(format!(
                    "'{part}' is said beside another of its kind; write one age and one size"
                ));
            }
        }
        match keep == Retention::default() {
            true => Err("it is empty; write 30d, 20GB or both".to_owned()),
            false => Ok(RetentionSetting(keep)),
        }
    }
}

impl<'de> Deserialize<'de> for SyncSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SyncSetting::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for RetentionSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RetentionSetting::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// An age has a unit: a bare number could be either.
fn age(part: &str) -> Option<Duration> {
    part.ends_with(|last: char| last.is_ascii_alphabetic()).then(|| duration(part).ok()).flatten()
}

fn size(part: &str) -> Option<u64> {
    let size = part.ends_with(|last: char| last.is_ascii_alphabetic()).then(|| part.parse::<ByteSize>().ok());
    size.flatten().map(ByteSize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_an_age_a_size_or_both() {
        let month = Some(Duration::from_secs(30 * 24 * 3600));
        let keep = |text: &str| RetentionSetting::parse(text).map(|keep| (keep.0.age, keep.0.bytes));
        assert_eq!(keep("30d"), Ok((month, None)));
        assert_eq!(keep("20GB"), Ok((None, Some(20_000_000_000))));
        assert_eq!(keep("20GB, 30d"), Ok((month, Some(20_000_000_000))));
        for wrong in ["", "30", "30d 1h", "soon"] {
            assert!(keep(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn safety_is_a_word_or_a_time() {
        assert_eq!(SyncSetting::parse("machine"), Ok(SyncSetting(Durability::Machine)));
        assert_eq!(
            SyncSetting::parse("50ms"),
            Ok(SyncSetting(Durability::Interval(Duration::from_millis(50))))
        );
        assert!(SyncSetting::parse("disk").is_err());
    }

    #[test]
    fn details_without_a_folder_are_refused() {
        let args = RecordArgs { record_sync: SyncSetting::parse("machine").ok(), ..RecordArgs::default() };
        assert!(args.check().is_err());
    }
}
