//! The closed set of error codes, and the three questions every failure answers: where does the
//! fault lie, was the request delivered, is a repeat worth it.
//!
//! Invariant: the stock codes and their spelling are OpenEnv's and frozen. Codes of our own travel
//! under `oxenv`, beside the stock code that a stock client understands.

use serde::{Deserialize, Serialize};

/// What went wrong. [`ErrorCode::stock`] gives the code a stock WebSocket client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum ErrorCode {
    /// A frame is not JSON.
    InvalidJson,
    /// A frame's `type` is unknown.
    UnknownType,
    /// A frame, a body or an action does not have the required shape.
    ValidationError,
    /// A reset, step or state failed inside the environment.
    ExecutionError,
    /// Every session slot is taken.
    CapacityReached,
    /// The environment could not be made.
    FactoryError,
    /// The socket has no session: a binary frame, an unknown session, a session that ended.
    SessionError,
    /// The named session does not exist.
    SessionNotFound,
    /// The session existed and has ended: closed, expired or failed.
    SessionEnded,
    /// A boot, reset, step or tool call ran past its deadline.
    DeadlineExceeded,
    /// A reset, a close or a gone client ended the call.
    Cancelled,
    /// The last step was cut off, so the environment must be reset before the next.
    ResetRequired,
    /// The episode is done; an agent's calls are refused until the next reset.
    EpisodeDone,
    /// The call named an epoch that is not the current one.
    WrongEpoch,
    /// This server mode does not have that operation.
    ModeRefused,
    /// The environment cannot do that: no code engine, no fork, no snapshot.
    Unsupported,
    /// The environment gave a reward that is NaN or infinite.
    NonFiniteReward,
    /// The environment panicked.
    EnvironmentPanicked,
    /// The server is shutting down.
    Draining,
    /// The policy does not allow this caller that tool, or not with those arguments.
    Denied,
    /// The policy allows the tool, but not this often.
    RateLimited,
    /// The tool's server does not run or cannot be reached; the call was not sent.
    UpstreamUnavailable,
    /// The tool's server went away while the call was with it.
    UpstreamLost,
    /// The tool's result does not fit the schema that its server declared.
    InvalidResult,
    /// The request's key was used for another request.
    KeyConflict,
    /// The session is at another step than the request expects.
    StepConflict,
    /// The request was answered before, and its reply is not kept any more; it was not run again. Or it was
    /// an item of a batch whose reply had no room for its result.
    ReplyForgotten,
    /// The step was taken, but its record could not be written.
    RecordFailed,
    /// The audit has no place for another call, because its file cannot be written; the call was not made.
    AuditUnavailable,
    /// The snapshot is damaged, or of a kind or version that this server cannot restore.
    SnapshotInvalid,
    /// The request carries no token, or one that is not known here.
    Unauthorized,
    /// The request's token does not allow that.
    Forbidden,
    /// The tool wants input from a person or a model before it goes on, and this door has none.
    InputRequired,
}

impl ErrorCode {
    /// Every code, in the order of their definition.
    pub const ALL: [ErrorCode; 33] = [
        ErrorCode::InvalidJson,
        ErrorCode::UnknownType,
        ErrorCode::ValidationError,
        ErrorCode::ExecutionError,
        ErrorCode::CapacityReached,
        ErrorCode::FactoryError,
        ErrorCode::SessionError,
        ErrorCode::SessionNotFound,
        ErrorCode::SessionEnded,
        ErrorCode::DeadlineExceeded,
        ErrorCode::Cancelled,
        ErrorCode::ResetRequired,
        ErrorCode::EpisodeDone,
        ErrorCode::WrongEpoch,
        ErrorCode::ModeRefused,
        ErrorCode::Unsupported,
        ErrorCode::NonFiniteReward,
        ErrorCode::EnvironmentPanicked,
        ErrorCode::Draining,
        ErrorCode::Denied,
        ErrorCode::RateLimited,
        ErrorCode::UpstreamUnavailable,
        ErrorCode::UpstreamLost,
        ErrorCode::InvalidResult,
        ErrorCode::KeyConflict,
        ErrorCode::StepConflict,
        ErrorCode::ReplyForgotten,
        ErrorCode::RecordFailed,
        ErrorCode::AuditUnavailable,
        ErrorCode::SnapshotInvalid,
        ErrorCode::Unauthorized,
        ErrorCode::Forbidden,
        ErrorCode::InputRequired,
    ];

    /// The code a stock client knows for this failure.
    #[must_use]
    pub fn stock(self) -> ErrorCode {
        use ErrorCode as E;
        match self {
            E::InvalidJson
            | E::UnknownType
            | E::ValidationError
            | E::ExecutionError
            | E::CapacityReached
            | E::FactoryError
            | E::SessionError => self,
            E::SessionNotFound | E::SessionEnded => E::SessionError,
            E::Draining => E::CapacityReached,
            _ => E::ExecutionError,
        }
    }
}

impl ErrorCode {
    /// The defaults of the code. A failure that knows better overrides them.
    ///
    /// ```
    /// use oxenv_wire::{Delivered, ErrorCode};
    ///
    /// let traits = ErrorCode::Draining.traits();
    /// assert_eq!((traits.delivered, traits.retryable), (Delivered::No, true));
    /// ```
    #[must_use]
    pub const fn traits(self) -> ErrorTraits {
        use Delivered::{Maybe, No, Yes};
        use ErrorCode as E;
        use FailureKind::{Action, Environment, Infrastructure, Timeout};
        let (kind, delivered, retryable) = match self {
            E::InvalidJson | E::UnknownType | E::ValidationError => (Action, No, false),
            E::EpisodeDone | E::WrongEpoch | E::ModeRefused | E::Unsupported | E::ResetRequired => {
                (Action, No, false)
            }
            E::KeyConflict | E::StepConflict | E::SnapshotInvalid | E::Unauthorized | E::Forbidden => {
                (Action, No, false)
            }
            E::Denied | E::InputRequired => (Action, No, false),
            E::RateLimited => (Action, No, true),
            E::ReplyForgotten | E::RecordFailed => (Infrastructure, Yes, false),
            E::DeadlineExceeded => (Timeout, Maybe, false),
            E::Cancelled | E::UpstreamLost => (Infrastructure, Maybe, false),
            E::CapacityReached | E::Draining | E::UpstreamUnavailable | E::AuditUnavailable => {
                (Infrastructure, No, true)
            }
            E::SessionError | E::SessionNotFound | E::SessionEnded => (Infrastructure, No, false),
            E::FactoryError => (Environment, No, true),
            E::ExecutionError | E::NonFiniteReward | E::EnvironmentPanicked | E::InvalidResult => {
                (Environment, Yes, false)
            }
        };
        ErrorTraits { kind, delivered, retryable }
    }
}

/// The defaults of a code for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorTraits {
    /// Where the fault lies.
    pub kind: FailureKind,
    /// Whether the request reached the environment or the tool.
    pub delivered: Delivered,
    /// Whether a repeat is worth it.
    pub retryable: bool,
}

/// Where the fault of a failure lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The agent's: the action was wrong.
    Action,
    /// The environment's: it refused, broke or panicked.
    Environment,
    /// No party's fault: time ran out.
    Timeout,
    /// The runtime's or the machine's: never a reward.
    Infrastructure,
}

/// Whether a request reached the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivered {
    /// Surely not: repeating it is safe.
    No,
    /// Unknown.
    Maybe,
    /// Surely: it may have had effects.
    Yes,
}

/// In which phase of an episode a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// While the environment was made.
    Boot,
    /// In a reset.
    Reset,
    /// In a step.
    Step,
    /// In a tool call.
    Tool,
    /// In the computation of a reward.
    Verify,
}

/// The five categories of a tool error that stock clients accept; there is no sixth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolErrorType {
    /// The tool ran and failed.
    ExecutionError,
    /// The arguments do not fit the tool's schema.
    InvalidArgs,
    /// The tool could not be reached.
    TransportError,
    /// No tool has that name.
    ToolNotFound,
    /// The tool ran past its deadline.
    Timeout,
}
