//! Reads the JSON of a record.
//!
//! Invariant: a record of a version that is not known is an error, never a guess; unknown keys of a
//! known version are passed over.

use std::path::Path;
use std::sync::Arc;

use oxenv_wire::Reward;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    BlobRef, StoredCall, StoredEntry, StoredEvent, StoredFailure, StoredJson, StoredOrigin, StoredOutcome,
    StoredToolError,
};
use crate::log::line::ENTRY_VERSION;
use crate::log::unwritten;

/// No entry has a greater number.
pub(crate) const MAX_SEQ: u64 = i64::MAX as u64 / 2;

/// As much of a record as an index needs.
#[derive(Debug, Deserialize)]
pub(crate) struct RecordSummary<'a> {
    pub(crate) v: Option<u64>,
    #[serde(default)]
    pub(crate) session: String,
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) epoch: u64,
    #[serde(default)]
    pub(crate) time_us: u64,
    pub(crate) event: String,
    pub(crate) environment: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) deterministic: Option<bool>,
    pub(crate) seed: Option<u64>,
    pub(crate) episode_id: Option<String>,
    pub(crate) origin: Option<StoredOrigin>,
    pub(crate) seed_given: Option<bool>,
    pub(crate) duration_us: Option<u64>,
    pub(crate) step: Option<u64>,
    pub(crate) principal: Option<String>,
    #[serde(default)]
    pub(crate) reward: Option<Reward>,
    pub(crate) done: Option<bool>,
    pub(crate) failure: Option<StoredFailure>,
    pub(crate) reason: Option<String>,
    pub(crate) entries: Option<u64>,
    #[serde(borrow, default)]
    pub(crate) calls: Vec<StoredCallRecord<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    arguments: Option<&'a RawValue>,
    arguments_blob: Option<BlobName>,
    #[serde(borrow, default, deserialize_with = "present")]
    action: Option<&'a RawValue>,
    action_blob: Option<BlobName>,
    #[serde(borrow, default, deserialize_with = "present")]
    reply: Option<&'a RawValue>,
    reply_blob: Option<BlobName>,
}

/// One call.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredCallRecord<'a> {
    pub(crate) id: Option<String>,
    pub(crate) tool: String,
    #[serde(borrow, default, deserialize_with = "present")]
    arguments: Option<&'a RawValue>,
    arguments_blob: Option<BlobName>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    result_blob: Option<BlobName>,
    #[serde(borrow, default, deserialize_with = "present")]
    input_required: Option<&'a RawValue>,
    input_required_blob: Option<BlobName>,
    #[serde(default)]
    wrapped: bool,
    pub(crate) error: Option<StoredToolError>,
}

#[derive(Debug, Deserialize)]
struct BlobName {
    sha256: String,
    bytes: u64,
}

/// What a record holds about a session; none for a record about the log itself.
pub(crate) fn read<'a>(payload: &'a [u8]) -> Result<Option<RecordSummary<'a>>, String> {
    // A record about entries that could not be written has a list of them.
    if unwritten::UnwrittenMark::read(payload).is_some() {
        return Ok(None);
    }
    let brief: RecordSummary<'a> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    match brief.v {
        None if brief.event == "segment" => Ok(None),
        Some(ENTRY_VERSION) if brief.numbers().any(|number| number > MAX_SEQ) => {
            Err("it has a number that no entry has".to_owned())
        }
        Some(ENTRY_VERSION) => Ok(Some(brief)),
        version => Err(format!(
            "it has version {} and this program knows {ENTRY_VERSION}: use a newer program",
            version.unwrap_or(0)
        )),
    }
}

impl RecordSummary<'_> {
    /// The numbers of entries in it.
    fn numbers(&self) -> impl Iterator<Item = u64> {
        [Some(self.seq), self.entries, self.origin.as_ref().map(|origin| origin.seq)].into_iter().flatten()
    }

    /// The whole entry.
    pub(crate) fn entry(self, folder: &Arc<Path>) -> Result<StoredEntry, String> {
        let event = self.event.clone();
        let (session_id, seq, epoch, time_us) = (self.session.clone(), self.seq, self.epoch, self.time_us);
        let event = match event.as_str() {
            "opened" => self.opened(),
            "reset" => self.reset(folder),
            "step" => self.step(folder),
            "closed" => self.reason.map(|reason| StoredEvent::Closed { reason }),
            _ => None,
        };
        let event = event.ok_or_else(|| format!("entry {seq} of session '{session_id}' lacks a part"))?;
        Ok(StoredEntry { session_id, seq, epoch, time_us, event })
    }

    fn opened(self) -> Option<StoredEvent> {
        Some(StoredEvent::Opened {
            environment: self.environment?,
            version: self.version?,
            deterministic: self.deterministic?,
            seed: self.seed?,
            episode_id: self.episode_id?,
            origin: self.origin,
        })
    }

    fn reset(self, folder: &Arc<Path>) -> Option<StoredEvent> {
        Some(StoredEvent::Reset {
            seed: self.seed?,
            seed_given: self.seed_given?,
            duration_us: self.duration_us?,
            arguments: json(self.arguments, self.arguments_blob, folder),
            episode_id: self.episode_id?,
            outcome: outcome((self.reply, self.reply_blob), self.reward, self.done, self.failure, folder)?,
        })
    }

    fn step(self, folder: &Arc<Path>) -> Option<StoredEvent> {
        Some(StoredEvent::Step {
            step: self.step?,
            principal: self.principal?,
            duration_us: self.duration_us?,
            action: json(self.action, self.action_blob, folder)?,
            calls: self.calls.into_iter().map(|call| call.read(folder)).collect::<Option<_>>()?,
            outcome: outcome((self.reply, self.reply_blob), self.reward, self.done, self.failure, folder)?,
        })
    }
}

impl StoredCallRecord<'_> {
    fn read(self, folder: &Arc<Path>) -> Option<StoredCall> {
        let result = json(self.result, self.result_blob, folder);
        let asks = json(self.input_required, self.input_required_blob, folder);
        let asks_input = asks.is_some();
        let outcome = match self.error {
            Some(error) => Err(error),
            None => Ok(result.or(asks)?),
        };
        Some(StoredCall {
            id: self.id,
            tool: self.tool,
            arguments: json(self.arguments, self.arguments_blob, folder),
            outcome,
            wrapped: self.wrapped,
            asks_input,
        })
    }
}

/// A value that is `null` is still present.
fn present<'a, D: Deserializer<'a>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn outcome(
    (reply, reply_blob): (Option<&RawValue>, Option<BlobName>),
    reward: Option<Reward>,
    done: Option<bool>,
    failure: Option<StoredFailure>,
    folder: &Arc<Path>,
) -> Option<StoredOutcome> {
    if let Some(failure) = failure {
        return Some(StoredOutcome::Failed(failure));
    }
    Some(StoredOutcome::Answered { reply: json(reply, reply_blob, folder)?, reward, done: done? })
}

fn json(here: Option<&RawValue>, blob: Option<BlobName>, folder: &Arc<Path>) -> Option<StoredJson> {
    if let Some(json) = here {
        return Some(StoredJson::Here(json.to_owned()));
    }
    let BlobName { sha256, bytes } = blob?;
    Some(StoredJson::Blob(BlobRef { folder: Arc::clone(folder), sha256, bytes }))
}
