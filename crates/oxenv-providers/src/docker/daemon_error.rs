//! Errors of the daemon as provider errors.
//!
//! Invariant: a daemon that cannot be reached is [`ProviderCode::ProviderUnavailable`] whatever was asked.

use bollard::errors::Error;

use super::background_stop::DaemonAddress;
use crate::error::{ProviderCode, ProviderError};

/// The failure of a request: `code`, if the daemon answered.
pub(super) fn from_docker(code: ProviderCode, what: &str, error: &Error) -> ProviderError {
    match error {
        Error::DockerResponseServerError { message, .. } => {
            ProviderError::new(code, format!("{what}: {}", message.trim()))
        }
        error if is_connection_error(error) => ProviderError::new(
            ProviderCode::ProviderUnavailable,
            format!("{what}: the Docker daemon does not answer any more ({})", root_cause(error)),
        ),
        error => ProviderError::new(code, format!("{what}: {error}")),
    }
}

/// The error for a daemon that cannot be reached.
pub(super) fn unavailable(endpoint: &DaemonAddress, error: &Error) -> ProviderError {
    let why = match error {
        Error::SocketNotFoundError(_) => "there is no such socket".to_owned(),
        error => root_cause(error),
    };
    let message =
        format!("no Docker daemon answers at {endpoint} ({why}); start one, or name another in DOCKER_HOST");
    ProviderError::new(ProviderCode::ProviderUnavailable, message)
}

/// The status that the daemon answered with, if it answered.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn is_connection_error(error: &Error) -> bool {
    matches!(
        error,
        Error::RequestTimeoutError
            | Error::IOError { .. }
            | Error::HyperResponseError { .. }
            | Error::HyperLegacyError { .. }
            | Error::SocketNotFoundError(_)
    )
}

/// The innermost cause, which explains most.
fn root_cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
