//! Why a client's request gave nothing.
//!
//! Invariant: every failure states whether the request was delivered, and none shows a token, a key or
//! a password.

use std::fmt;
use std::time::Duration;

use oxenv_wire::{Delivered, ErrorCode, ErrorTraits, FailureKind, Phase};
use serde_json::Value;

/// The result type of a client's functions.
pub type Result<T> = std::result::Result<T, ClientError>;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The server reported it.
    Server(ErrorCode),
    /// The URL, a header or an option is wrong; nothing was sent.
    InvalidOptions,
    /// Nothing listens there, or the name is not known.
    ConnectFailed,
    /// There is no safe connection: the certificate or the TLS handshake is refused.
    TlsFailed,
    /// What answers there is no environment server, or no MCP server.
    NotAServer,
    /// The server speaks another version of the protocol, or not the one that was demanded.
    VersionMismatch,
    /// The connection was lost before the answer came.
    ConnectionLost,
    /// The client's own deadline passed before the answer came.
    TimedOut,
    /// The answer is not what the protocol has.
    InvalidReply,
    /// The arguments do not fit the tool's schema; nothing was sent.
    InvalidArguments,
    /// No tool has that name.
    ToolNotFound,
    /// The tool ran and reports that it failed.
    ToolFailed,
    /// The client was closed.
    Closed,
    /// An endpoint of a multiplexer cannot be reached, and all were demanded, or it may have the tool that is
    /// called.
    EndpointUnavailable,
    /// Fleet does not know the key.
    FleetUnauthorized,
    /// The team runs as many instances as it may.
    FleetInstanceLimit,
    /// Fleet does not know the team.
    FleetTeamNotFound,
    /// The key does not allow that environment.
    FleetEnvironmentForbidden,
    /// The key does not allow that.
    FleetForbidden,
    /// Fleet does not serve that region.
    FleetRegionUnknown,
    /// Fleet does not know that environment.
    FleetEnvironmentUnknown,
    /// Fleet does not know that version of the environment.
    FleetVersionUnknown,
    /// Fleet refuses the request.
    FleetBadRequest,
    /// Fleet has that request already, and it cannot be recovered.
    FleetConflict,
    /// Fleet is asked too often.
    FleetRateLimited,
    /// The instance stopped or failed before it ran.
    FleetInstanceFailed,
    /// The instance was gone: it expired, or was ended.
    FleetInstanceGone,
    /// The instance cannot be distinguished from one that refuses us: its gate answers 404.
    FleetRunnerRefused,
    /// Fleet failed otherwise; the message has the status and the answer.
    FleetError,
    /// An instance could not be started or was lost.
    #[cfg(feature = "providers")]
    Provider(oxenv_providers::ProviderCode),
}

/// A failure. Cheap to move: the detail is boxed.
///
/// ```
/// use oxenv_client::{ClientError, Code};
/// use oxenv_wire::Delivered;
///
/// let error = ClientError::new(Code::ConnectionLost, "the connection was lost");
/// assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::Maybe));
/// ```
#[derive(Debug, Clone)]
pub struct ClientError(Box<ErrorDetail>);

#[derive(Debug, Clone)]
struct ErrorDetail {
    code: Code,
    message: String,
    kind: FailureKind,
    phase: Option<Phase>,
    delivered: Delivered,
    retryable: bool,
    retry_after: Option<Duration>,
    data: Value,
}

impl Code {
    /// Every code.
    pub fn all() -> impl Iterator<Item = Code> {
        let own = [
            Code::InvalidOptions,
            Code::ConnectFailed,
            Code::TlsFailed,
            Code::NotAServer,
            Code::VersionMismatch,
            Code::ConnectionLost,
            Code::TimedOut,
            Code::InvalidReply,
            Code::InvalidArguments,
            Code::ToolNotFound,
            Code::ToolFailed,
            Code::Closed,
            Code::EndpointUnavailable,
            Code::FleetUnauthorized,
            Code::FleetInstanceLimit,
            Code::FleetTeamNotFound,
            Code::FleetEnvironmentForbidden,
            Code::FleetForbidden,
            Code::FleetRegionUnknown,
            Code::FleetEnvironmentUnknown,
            Code::FleetVersionUnknown,
            Code::FleetBadRequest,
            Code::FleetConflict,
            Code::FleetRateLimited,
            Code::FleetInstanceFailed,
            Code::FleetInstanceGone,
            Code::FleetRunnerRefused,
            Code::FleetError,
        ];
        let all = ErrorCode::ALL.into_iter().map(Code::Server).chain(own);
        #[cfg(feature = "providers")]
        let all = all.chain(oxenv_providers::ProviderCode::ALL.map(Code::Provider));
        all
    }

    /// Its name, as exceptions and scripts know it: `CONNECTION_LOST`.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Code::Server(code) => match serde_json::to_value(code) {
                Ok(Value::String(name)) => name,
                _ => format!("{code:?}"),
            },
            #[cfg(feature = "providers")]
            Code::Provider(code) => code.name().to_owned(),
            own => screaming_snake_case(&format!("{own:?}")),
        }
    }

    /// Where the fault lies, whether it was delivered, whether a repeat is worth it; as far as the code
    /// shows.
    fn traits(self) -> ErrorTraits {
        use Delivered::{Maybe, No, Yes};
        use FailureKind::{Action, Infrastructure, Timeout};
        let (kind, delivered, retryable) = match self {
            Code::Server(code) => return code.traits(),
            Code::InvalidOptions | Code::InvalidArguments | Code::ToolNotFound => (Action, No, false),
            Code::ToolFailed => (Action, Yes, false),
            Code::ConnectFailed | Code::EndpointUnavailable | Code::FleetRateLimited => {
                (Infrastructure, No, true)
            }
            Code::ConnectionLost | Code::InvalidReply | Code::FleetError => (Infrastructure, Maybe, false),
            Code::TimedOut => (Timeout, Maybe, false),
            _ => (Infrastructure, No, false),
        };
        ErrorTraits { kind, delivered, retryable }
    }
}

/// `ConnectionLost` as `CONNECTION_LOST`.
fn screaming_snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

impl ClientError {
    /// A failure with that code; fault, delivery and retry follow from the code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let ErrorTraits { kind, delivered, retryable } = code.traits();
        let detail = ErrorDetail {
            code,
            message: message.into(),
            kind,
            phase: None,
            delivered,
            retryable,
            retry_after: None,
            data: Value::Null,
        };
        ClientError(Box::new(detail))
    }

    /// Sets the kind.
    #[must_use]
    pub(crate) fn with_kind(mut self, kind: FailureKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sets the phase.
    #[must_use]
    pub(crate) fn with_phase(mut self, phase: Phase) -> Self {
        self.0.phase = Some(phase);
        self
    }

    /// Sets whether the request was delivered.
    #[must_use]
    pub fn with_delivered(mut self, delivered: Delivered) -> Self {
        self.0.delivered = delivered;
        self
    }

    /// Sets whether a repeat is worth it, and after how long if that is known.
    #[must_use]
    pub(crate) fn with_retry(mut self, retryable: bool, after: Option<Duration>) -> Self {
        self.0.retryable = retryable;
        self.0.retry_after = after;
        self
    }

    /// Sets the data for programs.
    #[must_use]
    pub(crate) fn with_data(mut self, data: Value) -> Self {
        self.0.data = data;
        self
    }

    /// Appends to the message.
    pub(crate) fn with_message_suffix(mut self, more: &str) -> Self {
        self.0.message.extend(["; ", more]);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// For people: what happened, where, and what to do.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Where the fault lies.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// In which phase it happened, if the server reported it.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        self.0.phase
    }

    /// Whether the request reached the environment or the tool.
    #[must_use]
    pub fn delivered(&self) -> Delivered {
        self.0.delivered
    }

    /// Whether a repeat is worth it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// After how long a repeat is worth it, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// More data for programs: the validation issues, the container's last lines; else null.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.0.data
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ClientError {}

#[cfg(feature = "providers")]
impl From<oxenv_providers::ProviderError> for ClientError {
    fn from(error: oxenv_providers::ProviderError) -> Self {
        let retryable = error.code.is_retryable();
        let data = serde_json::json!({ "logs": error.logs });
        ClientError::new(Code::Provider(error.code), error.to_string())
            .with_retry(retryable, None)
            .with_data(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/client.md");

    #[cfg(feature = "providers")]
    #[test]
    fn the_page_has_every_code_as_it_is() {
        let own: Vec<Code> = Code::all().filter(|code| !matches!(code, Code::Server(_))).collect();
        let rows: Vec<&str> =
            PAGE.lines().filter(|line| line.starts_with("| `") && line.contains("` | ")).collect();
        for code in &own {
            let ErrorTraits { kind, delivered, retryable } = code.traits();
            let retryable = retryable || matches!(code, Code::Provider(code) if code.is_retryable());
            let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, delivered) = (word(serde_json::json!(kind)), word(serde_json::json!(delivered)));
            let retryable = if retryable { "yes" } else { "no" };
            let row = format!("| `{}` | {kind} | {delivered} | {retryable} | ", code.name());
            let said = rows.iter().find(|line| line.starts_with(&row));
            assert!(
                said.is_some_and(|line| line.len() > row.len() + 10),
                "docs/client.md should have: {row}…"
            );
        }
        let codes =
            rows.iter().filter(|line| line[3..].starts_with(|letter: char| letter.is_ascii_uppercase()));
        let listed = codes.filter(|line| {
            line.contains(" | infrastructure | ")
                || line.contains(" | action | ")
                || line.contains(" | timeout | ")
        });
        assert_eq!(listed.count(), own.len());
    }

    #[test]
    fn names_are_unique_and_screaming() {
        let names: Vec<String> = Code::all().map(Code::name).collect();
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert!(names.contains(&"CONNECTION_LOST".to_owned()));
        assert!(names.contains(&"STEP_CONFLICT".to_owned()));
        assert!(names.contains(&"NOT_A_SERVER".to_owned()));
    }
}
