//! [`Failure`]: why a reset, a step or a call gave nothing, in one shape for every door.
//!
//! Invariant: a failure carries no reward. Its `message` is what the client reads; `internal` is for
//! the log alone and never crosses the wire.

use std::fmt;
use std::ops::Deref;

use oxenv_wire::{Delivered, ErrorCode, ErrorData, ErrorTraits, FailureKind, Phase, ValidationIssue};

/// Why an operation failed. Cheap to move: the detail is boxed.
#[derive(Debug, Clone)]
pub struct Failure(Box<FailureDetail>);

/// The parts of a failure.
#[derive(Debug, Clone)]
pub struct FailureDetail {
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
    /// The message for the client: what happened and what to do about it.
    pub message: String,
    /// Details for the log only.
    pub internal: Option<String>,
    /// For a validation error: what is wrong, where.
    pub issues: Vec<ValidationIssue>,
    /// For a full server: active and possible sessions.
    pub capacity: Option<(usize, usize)>,
    /// For a failed factory: the environment's name.
    pub factory: Option<String>,
}

impl Failure {
    /// A failure with that code; the kind, delivery and retry follow from the code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let ErrorTraits { kind, delivered, retryable } = code.traits();
        Failure(Box::new(FailureDetail {
            code,
            kind,
            phase: Phase::Step,
            delivered,
            retryable,
            message: message.into(),
            internal: None,
            issues: Vec::new(),
            capacity: None,
            factory: None,
        }))
    }

    /// The action is wrong: the agent's fault, nothing has changed.
    #[must_use]
    pub fn action(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ExecutionError, message).with(|detail| detail.kind = FailureKind::Action)
    }

    /// The environment cannot go on: its own fault.
    #[must_use]
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ExecutionError, message)
    }

    /// The runtime or the machine failed: never a reward.
    #[must_use]
    pub fn infrastructure(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ExecutionError, message).with(|detail| detail.kind = FailureKind::Infrastructure)
    }

    /// A message does not have the required shape.
    #[must_use]
    pub fn invalid(issues: Vec<ValidationIssue>) -> Self {
        Self::new(ErrorCode::ValidationError, "Invalid message").with(|detail| detail.issues = issues)
    }

    /// The environment cannot do that at all.
    #[must_use]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unsupported, message)
    }

    /// Changes a part.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut FailureDetail)) -> Self {
        change(&mut self.0);
        self
    }

    /// Sets the phase in which it happened.
    #[must_use]
    pub fn in_phase(self, phase: Phase) -> Self {
        self.with(|detail| detail.phase = phase)
    }

    /// Marks that the request surely did not reach the environment.
    #[must_use]
    pub fn undelivered(self) -> Self {
        self.with(|detail| detail.delivered = Delivered::No)
    }

    /// Roughly how many bytes it takes.
    pub(crate) fn weight(&self) -> usize {
        let issues = self.issues.iter().map(|issue| 512 + issue.msg.len() + issue.input.get().len());
        let internal = self.internal.as_ref().map_or(0, String::len);
        256 + self.message.len() + internal + issues.sum::<usize>()
    }

    /// What crosses the wire under `oxenv`.
    #[must_use]
    pub fn data(&self) -> ErrorData {
        ErrorData {
            code: self.code,
            kind: self.kind,
            phase: self.phase,
            delivered: self.delivered,
            retryable: self.retryable,
        }
    }
}

impl Deref for Failure {
    type Target = FailureDetail;

    fn deref(&self) -> &FailureDetail {
        &self.0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Failure {}
