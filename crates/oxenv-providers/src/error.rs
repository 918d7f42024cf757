//! Why an instance could not be started, or what became of it.
//!
//! Invariant: no text here holds the value of a variable or of a secret.

use std::fmt;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProviderCode {
    /// The daemon or the supervisor that starts instances cannot be reached.
    ProviderUnavailable,
    /// There is no such image here, and the pull policy does not allow to fetch it.
    ImageNotFound,
    /// The image could not be fetched or built.
    ImageFailed,
    /// The request cannot be started: a bad folder, name, limit or command.
    InvalidSpec,
    /// The instance could not be started.
    StartFailed,
    /// The instance ended before it was healthy, or while it was used.
    InstanceExited,
    /// The instance runs, and was not healthy in time.
    InstanceUnhealthy,
    /// No instance has that name.
    InstanceNotFound,
    /// The instance could not be ended, and may still run.
    StopFailed,
}

impl ProviderCode {
    /// Every code.
    pub const ALL: [ProviderCode; 9] = [
        ProviderCode::ProviderUnavailable,
        ProviderCode::ImageNotFound,
        ProviderCode::ImageFailed,
        ProviderCode::InvalidSpec,
        ProviderCode::StartFailed,
        ProviderCode::InstanceExited,
        ProviderCode::InstanceUnhealthy,
        ProviderCode::InstanceNotFound,
        ProviderCode::StopFailed,
    ];

    /// Its name, as scripts and exceptions know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ProviderCode::ProviderUnavailable => "PROVIDER_UNAVAILABLE",
            ProviderCode::ImageNotFound => "IMAGE_NOT_FOUND",
            ProviderCode::ImageFailed => "IMAGE_FAILED",
            ProviderCode::InvalidSpec => "INVALID_SPEC",
            ProviderCode::StartFailed => "START_FAILED",
            ProviderCode::InstanceExited => "INSTANCE_EXITED",
            ProviderCode::InstanceUnhealthy => "INSTANCE_UNHEALTHY",
            ProviderCode::InstanceNotFound => "INSTANCE_NOT_FOUND",
            ProviderCode::StopFailed => "STOP_FAILED",
        }
    }

    /// Whether the same may work a little later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, ProviderCode::ProviderUnavailable | ProviderCode::StopFailed)
    }
}

/// A failure of a provider: what happened, where, and what to do.
#[derive(Debug, Clone)]
pub struct ProviderError {
    /// What went wrong.
    pub code: ProviderCode,
    /// For people: lower case, names the thing.
    pub message: String,
    /// The last lines that the instance wrote, where there are some; without secrets.
    pub logs: Option<String>,
}

impl ProviderError {
    /// A failure without logs.
    pub fn new(code: ProviderCode, message: impl Into<String>) -> Self {
        ProviderError { code, message: message.into(), logs: None }
    }

    /// Adds the last lines of the instance.
    #[must_use]
    pub fn with_logs(mut self, logs: impl Into<String>) -> Self {
        self.logs = Some(logs.into()).filter(|logs| !logs.is_empty());
        self
    }
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.logs {
            Some(logs) => write!(f, "; its last lines were:\n{logs}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ProviderError {}
