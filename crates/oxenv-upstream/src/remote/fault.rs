//! [`RemoteError`]: why a remote server gave nothing, in parts that a program can distinguish.
//!
//! Invariant: `delivered` is `No` only of what surely did not reach a tool.

use std::fmt;
use std::time::Duration;

use oxenv_core::RequestError;
use oxenv_wire::Delivered;
use serde_json::Value;

use crate::client::{Failure, FaultCause, HandshakeError, UpstreamError};

/// How much of a server's own message an error holds.
const MAX_SERVER_TEXT: usize = 400;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// There is no connection: nothing listens there, or the name is not known.
    Unreachable,
    /// There is no safe connection.
    Tls,
    /// The server answered with that HTTP status and nothing else.
    Status(u16),
    /// The server has forgotten the session of the connection; a new connection has a new one.
    SessionGone,
    /// What answers is no MCP server.
    NotMcp,
    /// The server speaks HTTP+SSE, the transport of 2024-11-05, which is not supported.
    OldTransport,
    /// The server speaks only revisions that are not known here.
    Version,
    /// It took too long.
    TimedOut,
    /// The connection broke.
    Lost,
    /// The server answered with that JSON-RPC error.
    Refused(i32),
    /// The answer is not what it should be.
    InvalidAnswer,
}

/// Why there is no answer. It shows no secret.
#[derive(Debug, Clone)]
pub struct RemoteError {
    /// What went wrong.
    pub kind: RemoteErrorKind,
    /// As text, without the endpoint.
    pub message: String,
    /// Whether the request reached the server's tool.
    pub delivered: Delivered,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    /// The data of its JSON-RPC error, or null.
    pub data: Value,
}

impl RemoteError {
    fn new(kind: RemoteErrorKind, message: impl Into<String>, delivered: Delivered) -> Self {
        RemoteError { kind, message: message.into(), delivered, retry_after: None, data: Value::Null }
    }

    pub(super) fn old_transport() -> Self {
        let says =
            "speaks the old HTTP+SSE transport, which is not supported; ask its operator for Streamable HTTP";
        RemoteError::new(RemoteErrorKind::OldTransport, says, Delivered::No)
    }

    pub(super) fn closed() -> Self {
        RemoteError::new(RemoteErrorKind::Lost, "was closed", Delivered::No)
    }

    pub(super) fn timed_out(says: &str) -> Self {
        RemoteError::new(RemoteErrorKind::TimedOut, says, Delivered::No)
    }

    pub(super) fn unsendable(error: &serde_json::Error) -> Self {
        RemoteError::new(
            RemoteErrorKind::InvalidAnswer,
            format!("the call cannot be written: {error}"),
            Delivered::No,
        )
    }

    pub(super) fn of_greeting(greeting: HandshakeError) -> Self {
        RemoteError::of(Failure {
            fault: UpstreamError::Unavailable(greeting.message),
            cause: greeting.cause,
        })
    }

    /// For an invalid result; its call has run.
    pub(super) fn of_result(fault: UpstreamError) -> Self {
        let says = match fault {
            UpstreamError::Refused(RequestError { message, .. })
            | UpstreamError::Lost(message)
            | UpstreamError::Unavailable(message) => message,
        };
        RemoteError::new(RemoteErrorKind::InvalidAnswer, short(says), Delivered::Yes)
    }

    pub(super) fn of(failure: Failure) -> Self {
        let Failure { fault, cause } = failure;
        let (says, delivered) = match fault {
            UpstreamError::Refused(fault) => {
                let kind = RemoteErrorKind::Refused(fault.code);
                let data = fault.data;
                return RemoteError { data, ..RemoteError::new(kind, short(fault.message), Delivered::Yes) };
            }
            UpstreamError::Unavailable(says) => (says, Delivered::No),
            UpstreamError::Lost(says) => (says, Delivered::Maybe),
        };
        let says = short(says);
        let mut retry_after = None;
        let (kind, says) = match cause {
            FaultCause::Connect => {
                (RemoteErrorKind::Unreachable, format!("cannot be reached: {}", innermost(&says)))
            }
            FaultCause::Tls => {
                (RemoteErrorKind::Tls, format!("has no safe connection to offer: {}", innermost(&says)))
            }
            FaultCause::Status { status, retry_after: after } => {
                retry_after = after.and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
                (RemoteErrorKind::Status(status), of_status(status, &says))
            }
            FaultCause::SessionGone => (RemoteErrorKind::SessionGone, "has forgotten the session".to_owned()),
            FaultCause::Alien => {
                (RemoteErrorKind::NotMcp, format!("is no MCP server: {says}; check the url"))
            }
            FaultCause::Version => (RemoteErrorKind::Version, says),
            FaultCause::TimedOut => (RemoteErrorKind::TimedOut, says),
            FaultCause::Refused => (RemoteErrorKind::NotMcp, says),
            FaultCause::Lost => (RemoteErrorKind::Lost, says),
        };
        RemoteError { retry_after, ..RemoteError::new(kind, says, delivered) }
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RemoteError {}

fn of_status(status: u16, says: &str) -> String {
    match status {
        401 => "wants a token, or another one (HTTP 401)".to_owned(),
        403 => "does not allow that (HTTP 403)".to_owned(),
        404 => "has nothing at that path (HTTP 404)".to_owned(),
        429 => "is asked too often (HTTP 429)".to_owned(),
        502..=504 => format!("cannot be reached through its gateway (HTTP {status})"),
        _ => says.to_owned(),
    }
}

/// Why there is no connection, without the steps on which that was found.
fn innermost(says: &str) -> &str {
    says.rsplit_once("client error (Connect): ").map_or(says, |(_, why)| why)
}

/// A text in one line, shortened for readers.
fn short(text: String) -> String {
    if text.len() <= MAX_SERVER_TEXT && !text.contains('\n') {
        return text;
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SERVER_TEXT) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
