//! What a session did, for recorders: one entry for each thing that was acknowledged.
//!
//! Invariant: entries of one session come in the order of their `seq`, and a reply is given only
//! when its entry is as safe as the recorder promises. The recorder removes secrets from an entry
//! before it writes it.

use oxenv_wire::{Reward, ToolError, ToolResult};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::principal::Principal;
use crate::work::Work;

/// Keeps what sessions do.
///
/// # Behavior
/// - `append` takes the entry down at once, without waiting for any medium; it may be called from
///   any thread, and from several at once.
/// - The work is done when the entry is as safe as the recorder promises. Dropping it changes
///   nothing: the entry is still written.
/// - A failure means that the entry is not in the record and never will be.
pub trait Recorder: Send + Sync {
    /// Takes an entry down.
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>>;
}

/// One thing that a session did.
#[derive(Debug, Clone, Copy)]
pub struct RecordEntry<'a> {
    /// The session.
    pub session_id: &'a str,
    /// The entry's number within its session: 0 for its opening, then counted from 1. A gap stands for
    /// an entry that could not be written.
    pub seq: u64,
    /// The epoch that it belongs to; 0 before the first reset.
    pub epoch: u64,
    /// When it was acknowledged: microseconds of UTC since 1970.
    pub time_us: u64,
    /// Its kind.
    pub event: RecordEvent<'a>,
}

/// What a session did.
#[derive(Debug, Clone, Copy)]
pub enum RecordEvent<'a> {
    /// It was made.
    Opened {
        /// The environment's name.
        environment: &'a str,
        /// The environment's version.
        version: &'a str,
        /// Whether the environment declares that the same seed and actions give the same bytes.
        deterministic: bool,
        /// The session's seed.
        seed: u64,
        /// Its first episode's id.
        episode_id: &'a str,
        /// Where it came from, if not from the factory alone.
        origin: Option<SessionOrigin<'a>>,
    },
    /// An episode was begun, or could not be.
    Reset {
        /// The episode's seed.
        seed: u64,
        /// Whether the client named the seed.
        seed_given: bool,
        /// The episode's id.
        episode_id: &'a str,
        /// The whole object that the client sent.
        arguments: Option<&'a RawValue>,
        /// The outcome.
        outcome: RecordedOutcome<'a>,
        /// How long it took, in microseconds.
        duration_us: u64,
    },
    /// A step was taken, or failed.
    Step {
        /// The number of the step within its episode, as the state reports it afterwards.
        step: u64,
        /// The caller; an agent's tool call is a step too.
        principal: Principal,
        /// The action as it was spelled.
        action: &'a RawValue,
        /// The tool calls that it made, in order of completion; those that were cut off come last.
        calls: &'a [CallEntry<'a>],
        /// The outcome.
        outcome: RecordedOutcome<'a>,
        /// How long it took, in microseconds.
        duration_us: u64,
    },
    /// It ended.
    Closed {
        /// The reason in one word: `closed`, `expired`, `failed`, `drained`.
        reason: &'a str,
    },
}

/// Where a session came from.
#[derive(Debug, Clone, Copy)]
pub enum SessionOrigin<'a> {
    /// From the state that another session had after its entry of that number.
    Fork {
        /// The other session.
        session_id: &'a str,
        /// The number.
        seq: u64,
    },
    /// From a snapshot of a session.
    Snapshot {
        /// The session that was saved.
        session_id: &'a str,
        /// The number of its last entry then.
        seq: u64,
    },
}

/// The outcome of a reset or a step.
#[derive(Debug, Clone, Copy)]
pub enum RecordedOutcome<'a> {
    /// It was answered.
    Answered {
        /// The reply in the form of a `/ws` frame's data:
        /// `{"observation":{…},"reward":…,"done":…}`, with `metadata` where there is some.
        reply: &'a str,
        /// The reward; absent is null.
        reward: Option<Reward>,
        /// Whether the episode is done.
        done: bool,
    },
    /// It failed.
    Failed(&'a Failure),
}

/// One tool call within a step.
#[derive(Debug, Clone, Copy)]
pub struct CallEntry<'a> {
    /// Its name within a graph of calls.
    pub id: Option<&'a str>,
    /// The tool's name as it was called.
    pub tool: &'a str,
    /// The arguments, an object.
    pub arguments: Option<&'a RawValue>,
    /// The outcome.
    pub outcome: &'a Result<ToolResult, ToolError>,
}
