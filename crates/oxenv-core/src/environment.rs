//! The trait that every environment implements, in whatever language its inside is written.
//!
//! Invariant: object-safe, and one call at a time: a session never lets two calls of one
//! environment overlap, so an implementation needs no lock of its own.

use std::any::Any;

use oxenv_wire::{RawJson, Reward, ToolError, ToolResult};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::output_log::OutputLog;
use crate::work::Work;

/// The arguments of a reset, completed by the session.
#[derive(Debug, Clone)]
pub struct Reset {
    /// Seed of the episode: the client's, or the session's next. The only source of randomness.
    pub seed: u64,
    /// Whether the client named the seed.
    pub seed_given: bool,
    /// The episode's id.
    pub episode_id: String,
    /// The whole object that the client sent, with arguments of the environment's own.
    pub arguments: Option<RawJson>,
}

/// What a reset or a step shows.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The observation's own fields: a JSON object without `metadata`, `reward` and `done`.
    pub fields: RawJson,
    /// Metadata for people and tools: a JSON object; absent: empty.
    pub metadata: Option<RawJson>,
    /// The reward; absent is null on the wire, never 0.
    pub reward: Option<Reward>,
    /// Whether the episode is done.
    pub done: bool,
}

/// One finished tool call, as an environment that scores calls sees it.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// The tool's name.
    pub tool: String,
    /// The arguments, an object.
    pub arguments: Option<RawJson>,
    /// The outcome.
    pub outcome: Result<ToolResult, ToolError>,
}

/// One live environment.
///
/// # Behavior
/// - Made ready: a step before the first reset is allowed; what it means is the environment's choice.
/// - Same seed and same actions give the same bytes, if its capabilities say `deterministic`.
/// - A failed call leaves the environment usable, unless the failure's text states otherwise.
/// - Dropping a pending reset or step cancels it; the session then demands a reset.
/// - A panic ends the session.
///
/// ```
/// use oxenv_core::{Environment, Failure, Observed, Reset, Work};
/// use oxenv_wire::{RawJson, Reward, empty_object, raw};
/// use serde_json::json;
/// use serde_json::value::RawValue;
///
/// /// Counts the steps of an episode, which is over after three.
/// struct Counter(u64);
///
/// impl Counter {
///     fn observed(&self) -> Observed {
///         let fields = raw(&json!({ "count": self.0 })).unwrap_or_default();
///         Observed { fields, metadata: None, reward: Some(Reward::Int(1)), done: self.0 == 3 }
///     }
/// }
///
/// impl Environment for Counter {
///     fn reset<'a>(&'a mut self, _reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
///         self.0 = 0;
///         Work::done(Ok(self.observed()))
///     }
///
///     fn step<'a>(&'a mut self, _action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
///         self.0 += 1;
///         Work::done(Ok(self.observed()))
///     }
///
///     fn state(&self) -> Result<RawJson, Failure> {
///         Ok(empty_object())
///     }
/// }
/// ```
pub trait Environment: Any + Send {
    /// Begins an episode.
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>>;

    /// Takes one typed action, a JSON object.
    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>>;

    /// The state's own fields: a JSON object without `episode_id` and `step_count`.
    ///
    /// # Errors
    /// When the state is not known.
    fn state(&self) -> Result<RawJson, Failure>;

    /// Scores a finished tool call. Called only if the capabilities include `observes_calls`, one
    /// at a time in order of completion. Only `reward` and `done` of the answer are used.
    fn after_call<'a>(&'a mut self, call: &'a CallRecord) -> Work<'a, Result<Observed, Failure>> {
        let _ = call;
        Work::done(Err(Failure::unsupported("this environment does not score tool calls")))
    }

    /// What the episode is worth so far, by the parts of its rewards: an object of numbers. Read
    /// after every reset, step and scored call; absent: rewards have no parts.
    fn scores(&self) -> Option<RawJson> {
        None
    }

    /// What its processes write to stdout and stderr. Asked for once, when its session is made; absent: it
    /// has no processes.
    fn output_log(&self) -> Option<OutputLog> {
        None
    }

    /// A copy that goes on independently from the present state.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] if the environment's capabilities do not include it.
    fn fork(&self) -> Result<Box<dyn Environment>, Failure> {
        Err(Failure::unsupported("this environment cannot be forked: it declares fork: none"))
    }

    /// The present state as bytes for [`Environment::restore`]; the format is the environment's own.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::Unsupported`] if the environment's capabilities do not include it.
    fn snapshot(&self) -> Result<Vec<u8>, Failure> {
        Err(Failure::unsupported("this environment cannot be snapshotted"))
    }

    /// Takes the state of a snapshot that the same kind of environment made.
    ///
    /// # Errors
    /// When the bytes are not one of its snapshots; the environment is then unchanged.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Failure> {
        let _ = snapshot;
        Err(Failure::unsupported("this environment cannot be restored from a snapshot"))
    }
}
