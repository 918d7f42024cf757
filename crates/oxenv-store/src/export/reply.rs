//! The parts of a step's observation, as every form of export has them.
//!
//! Invariant: JSON that was recorded is given as the text that it was.

use oxenv_wire::{RawJson, Reward};
use serde::{Deserialize, Serialize};

use crate::error::LogError;
use crate::stored::{
    StoredCall, StoredEntry, StoredEvent, StoredFailure, StoredJson, StoredOutcome, StoredToolError,
};

/// What an outcome shows.
#[derive(Default)]
pub(super) struct ExportedReply {
    pub(super) observation: Option<RawJson>,
    pub(super) reward: Option<Reward>,
    pub(super) done: Option<bool>,
    pub(super) metadata: Option<RawJson>,
    pub(super) error: Option<StoredFailure>,
}

/// One call.
#[derive(Serialize)]
pub(super) struct ExportedCall<'a> {
    id: Option<&'a str>,
    tool: &'a str,
    arguments: Option<RawJson>,
    result: Option<RawJson>,
    error: Option<&'a StoredToolError>,
}

/// A reply's parts.
#[derive(Deserialize)]
struct ReplyParts {
    observation: RawJson,
    metadata: Option<RawJson>,
}

/// Whether everything can be read that an export has of an entry.
pub(super) fn readable(entry: &StoredEntry) -> Result<(), LogError> {
    match &entry.event {
        StoredEvent::Opened { .. } | StoredEvent::Closed { .. } => {}
        StoredEvent::Reset { arguments, outcome, .. } => {
            arguments.as_ref().map(StoredJson::raw).transpose()?;
            exported_reply(outcome)?;
        }
        StoredEvent::Step { action, calls, outcome, .. } => {
            action.raw()?;
            for made in calls {
                call(made)?;
            }
            exported_reply(outcome)?;
        }
    }
    Ok(())
}

/// Takes an outcome apart.
pub(super) fn exported_reply(outcome: &StoredOutcome) -> Result<ExportedReply, LogError> {
    let (reply, reward, done) = match outcome {
        StoredOutcome::Answered { reply, reward, done } => (reply, *reward, Some(*done)),
        StoredOutcome::Failed(failure) => {
            return Ok(ExportedReply { error: Some(failure.clone()), ..ExportedReply::default() });
        }
    };
    let ReplyParts { observation, metadata } = serde_json::from_str(&reply.text()?)
        .map_err(|error| reply.fault(format!("the reply is not one of a step: {error}")))?;
    Ok(ExportedReply { observation: Some(observation), reward, done, metadata, error: None })
}

/// Converts a call.
pub(super) fn call(call: &StoredCall) -> Result<ExportedCall<'_>, LogError> {
    Ok(ExportedCall {
        id: call.id.as_deref(),
        tool: &call.tool,
        arguments: call.arguments.as_ref().map(StoredJson::raw).transpose()?,
        result: call.outcome.as_ref().ok().map(StoredJson::raw).transpose()?,
        error: call.outcome.as_ref().err(),
    })
}
