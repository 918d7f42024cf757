//! Recorded sessions and what they did, as JSON shows them.
//!
//! Invariant: what the log has as JSON text is shown as that text; keys are only ever added.

use oxenv_store::{
    Hole, LogError, SessionSummary, StoredCall, StoredEntry, StoredEvent, StoredFailure, StoredJson,
    StoredOrigin, StoredOutcome, StoredToolError,
};
use oxenv_wire::{RawJson, Reward};
use serde::{Deserialize, Serialize};

/// A recorded session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionView {
    pub(crate) session_id: String,
    pub(crate) environment: String,
    pub(crate) version: String,
    pub(crate) deterministic: bool,
    pub(crate) seed: u64,
    pub(crate) opened_us: u64,
    pub(crate) closed_us: Option<u64>,
    pub(crate) reason: Option<String>,
    pub(crate) origin: Option<StoredOrigin>,
    pub(crate) epochs: u64,
    pub(crate) steps: u64,
    pub(crate) failures: u64,
    pub(crate) reward: f64,
    pub(crate) done: bool,
    pub(crate) last_us: u64,
    /// How many entries could not be written when they happened.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unwritten: u64,
    /// What of it is missing from the record, or may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) holes: Vec<Hole>,
}

/// One thing that a session did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct EntryView {
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) time_us: u64,
    pub(crate) event: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) duration_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) episode_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) principal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arguments: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) calls: Vec<CallView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reply: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reward: Option<Reward>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) done: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<StoredFailure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// Some of what a session did.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct EntryPage {
    #[serde(rename = "steps")]
    pub(crate) entries: Vec<EntryView>,
    /// The number after which the next page begins; `None` on the last page.
    pub(crate) next: Option<u64>,
}

/// One tool call within a step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CallView {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) tool: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) arguments: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<StoredToolError>,
}

impl From<SessionSummary> for SessionView {
    fn from(summary: SessionSummary) -> Self {
        SessionView {
            session_id: summary.id,
            environment: summary.environment,
            version: summary.version,
            deterministic: summary.deterministic,
            seed: summary.seed,
            opened_us: summary.opened_us,
            closed_us: summary.closed_us,
            reason: summary.reason,
            origin: summary.origin,
            epochs: summary.epochs,
            steps: summary.steps,
            failures: summary.failures,
            reward: summary.reward,
            done: summary.done,
            last_us: summary.last_us,
            unwritten: summary.unwritten,
            holes: summary.holes,
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl EntryView {
    /// Roughly how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        let raw = |json: &Option<RawJson>| json.as_ref().map_or(0, |json| json.get().len());
        let call = |call: &CallView| raw(&call.arguments) + raw(&call.result) + 128;
        let calls: usize = self.calls.iter().map(call).sum();
        512 + raw(&self.arguments) + raw(&self.action) + raw(&self.reply) + calls
    }

    /// An entry with all its texts.
    ///
    /// # Errors
    /// When a blob cannot be read.
    pub(crate) fn read(entry: StoredEntry) -> Result<Self, LogError> {
        let view =
            EntryView { seq: entry.seq, epoch: entry.epoch, time_us: entry.time_us, ..EntryView::default() };
        match entry.event {
            StoredEvent::Opened { seed, episode_id, .. } => Ok(EntryView {
                event: "opened".to_owned(),
                seed: Some(seed),
                episode_id: Some(episode_id),
                ..view
            }),
            StoredEvent::Reset { seed, episode_id, arguments, outcome, duration_us, .. } => EntryView {
                event: "reset".to_owned(),
                duration_us: Some(duration_us),
                seed: Some(seed),
                episode_id: Some(episode_id),
                arguments: arguments.as_ref().map(StoredJson::raw).transpose()?,
                ..view
            }
            .ending(outcome),
            StoredEvent::Step { step, principal, action, calls, outcome, duration_us } => EntryView {
                event: "step".to_owned(),
                duration_us: Some(duration_us),
                step: Some(step),
                principal: Some(principal),
                action: Some(action.raw()?),
                calls: calls.into_iter().map(CallView::read).collect::<Result<_, _>>()?,
                ..view
            }
            .ending(outcome),
            StoredEvent::Closed { reason } => {
                Ok(EntryView { event: "closed".to_owned(), reason: Some(reason), ..view })
            }
        }
    }

    fn ending(self, outcome: StoredOutcome) -> Result<Self, LogError> {
        Ok(match outcome {
            StoredOutcome::Failed(failure) => EntryView { failure: Some(failure), ..self },
            StoredOutcome::Answered { reply, reward, done } => {
                EntryView { reply: Some(reply.raw()?), reward, done: Some(done), ..self }
            }
        })
    }
}

impl CallView {
    fn read(call: StoredCall) -> Result<Self, LogError> {
        let arguments = call.arguments.as_ref().map(StoredJson::raw).transpose()?;
        let (result, error) = match call.outcome {
            Ok(result) => (Some(result.raw()?), None),
            Err(error) => (None, Some(error)),
        };
        Ok(CallView { id: call.id, tool: call.tool, arguments, result, error })
    }
}
