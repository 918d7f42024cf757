//! Entries as they are read back.
//!
//! Invariant: what was written is what is read, text for text; a value in a blob is read on demand,
//! and checked against its hash.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use oxenv_wire::{Delivered, ErrorCode, FailureKind, Phase, RawJson, Reward, ToolErrorType};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::LogError;
use crate::log::blobs;

pub(crate) use record::{MAX_SEQ, RecordSummary, read};

mod playback;
mod record;

/// One thing that a session did; see [`oxenv_core::RecordEntry`].
#[derive(Debug, Clone)]
pub struct StoredEntry {
    /// The session.
    pub session_id: String,
    /// The entry's number within its session.
    pub seq: u64,
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// When it was acknowledged: microseconds of UTC since 1970.
    pub time_us: u64,
    /// Its kind.
    pub event: StoredEvent,
}

/// What a session did; see [`oxenv_core::RecordEvent`].
#[derive(Debug, Clone)]
pub enum StoredEvent {
    /// It was made.
    Opened {
        /// The environment's name.
        environment: String,
        /// The environment's version.
        version: String,
        /// Whether the environment declares that the same seed and actions give the same bytes.
        deterministic: bool,
        /// The session's seed.
        seed: u64,
        /// Its first episode's id.
        episode_id: String,
        /// Where it came from, if not from the factory alone.
        origin: Option<StoredOrigin>,
    },
    /// An episode was begun, or could not be.
    Reset {
        /// The episode's seed.
        seed: u64,
        /// Whether the client named the seed.
        seed_given: bool,
        /// The episode's id.
        episode_id: String,
        /// The whole object that the client sent.
        arguments: Option<StoredJson>,
        /// The outcome.
        outcome: StoredOutcome,
        /// How long it took, in microseconds.
        duration_us: u64,
    },
    /// A step was taken, or failed.
    Step {
        /// The number of the step within its episode.
        step: u64,
        /// The caller: `control`, `agent`, `observer`.
        principal: String,
        /// The action as it was spelled.
        action: StoredJson,
        /// The tool calls that it made, in order of completion.
        calls: Vec<StoredCall>,
        /// The outcome.
        outcome: StoredOutcome,
        /// How long it took, in microseconds.
        duration_us: u64,
    },
    /// It ended.
    Closed {
        /// The reason, in one word.
        reason: String,
    },
}

/// Where a session came from; see [`oxenv_core::SessionOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOrigin {
    /// `fork` or `snapshot`.
    pub kind: String,
    /// The session that it was made from.
    #[serde(rename = "session")]
    pub session_id: String,
    /// The number of that session's last entry then.
    pub seq: u64,
}

/// The outcome of a reset or a step; see [`oxenv_core::RecordedOutcome`].
#[derive(Debug, Clone)]
pub enum StoredOutcome {
    /// It was answered.
    Answered {
        /// The reply: `{"observation":{…},"reward":…,"done":…}`.
        reply: StoredJson,
        /// The reward; absent is null.
        reward: Option<Reward>,
        /// Whether the episode is done.
        done: bool,
    },
    /// It failed.
    Failed(StoredFailure),
}

/// Why it failed; see [`oxenv_core::Failure`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredFailure {
    /// The precise code.
    pub code: ErrorCode,
    /// Where the fault lies.
    pub kind: FailureKind,
    /// In which phase it happened.
    pub phase: Phase,
    /// Whether the request reached the environment.
    pub delivered: Delivered,
    /// Whether a repeat is worth it.
    pub retryable: bool,
    /// The message that the client got.
    pub message: String,
}

/// One tool call within a step; see [`oxenv_core::CallEntry`].
#[derive(Debug, Clone)]
pub struct StoredCall {
    /// Its name within a graph of calls.
    pub id: Option<String>,
    /// The tool's name as it was called.
    pub tool: String,
    /// The arguments, an object.
    pub arguments: Option<StoredJson>,
    /// The outcome: a result as MCP spells it, or an error.
    pub outcome: Result<StoredJson, StoredToolError>,
    /// Whether the result's structured part was put into an object only because MCP wants one.
    pub wrapped: bool,
    /// Whether the result asks for input (`input_required`).
    pub asks_input: bool,
}

/// Why a call failed; see [`oxenv_wire::ToolError`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredToolError {
    /// The category.
    pub error_type: ToolErrorType,
    /// What happened.
    pub message: String,
    /// The precise code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
}

/// A JSON text that is here, or in a blob.
#[derive(Debug, Clone)]
pub enum StoredJson {
    /// It is here.
    Here(RawJson),
    /// It is in a blob.
    Blob(BlobRef),
}

/// Names a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRef {
    /// The log's folder.
    pub folder: Arc<Path>,
    /// The hash of the content, which is its name.
    pub sha256: String,
    /// How long the content is.
    pub bytes: u64,
}

impl StoredJson {
    /// The text; a blob is read and checked.
    ///
    /// # Errors
    /// When the blob is missing or damaged.
    pub fn text(&self) -> Result<Cow<'_, str>, LogError> {
        match self {
            StoredJson::Here(json) => Ok(json.get().into()),
            StoredJson::Blob(blob) => blobs::read(&blob.folder, &blob.sha256).map(Cow::Owned),
        }
    }

    /// The text as raw JSON.
    ///
    /// # Errors
    /// As [`StoredJson::text`].
    pub fn raw(&self) -> Result<RawJson, LogError> {
        match self {
            StoredJson::Here(json) => Ok(json.clone()),
            StoredJson::Blob(_) => RawValue::from_string(self.text()?.into_owned())
                .map_err(|error| self.fault(format!("it is no JSON: {error}"))),
        }
    }

    /// What is wrong with the text.
    pub(crate) fn fault(&self, reason: String) -> LogError {
        let path = match self {
            StoredJson::Here(_) => "the log".into(),
            StoredJson::Blob(blob) => blobs::path(&blob.folder, &blob.sha256),
        };
        LogError::Blob { path, reason }
    }
}
