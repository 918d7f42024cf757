//! Why an upstream gave no result.
//!
//! Invariant: only what surely was not delivered is called unavailable; all else that got no answer is lost.

use oxenv_core::RequestError;
use oxenv_wire::{ErrorCode, RpcCode, ToolError, ToolErrorType};
use rmcp::ServiceError;
use rmcp::transport::streamable_http_client::StreamableHttpError as Http;
use serde_json::{Value, json};

/// Why a request has no result. Its texts hold no secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum UpstreamError {
    /// It was not sent.
    Unavailable(String),
    /// It may have been delivered, and no answer came.
    Lost(String),
    /// The upstream answered with a JSON-RPC error.
    Refused(RequestError),
}

/// What stood in the way, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FaultCause {
    /// There is no connection: nothing listens there, or the name is not known.
    Connect,
    /// There is no safe connection.
    Tls,
    /// The server answered with nothing but a status.
    Status {
        /// The status.
        status: u16,
        /// Its `Retry-After`.
        retry_after: Option<String>,
    },
    /// The server does not know the session any more.
    SessionGone,
    /// What answered is no MCP server.
    Alien,
    /// The server answered with an error of its own.
    Refused,
    /// The server speaks only revisions that are not known here.
    Version,
    /// It took too long.
    TimedOut,
    /// The connection broke, or it is not known what happened.
    Lost,
}

/// JSON-RPC's code for parameters that do not fit.
const INVALID_PARAMS: i32 = RpcCode::InvalidParams as i32;
/// JSON-RPC's code for what has none of its own.
const INTERNAL: i32 = RpcCode::InternalError as i32;
/// What rmcp answers in the upstream's place when a session was replaced under a request.
const REPLACED: &str = "streamable HTTP session was re-initialized before the response arrived";

impl UpstreamError {
    /// The fault as rmcp reports it.
    pub(crate) fn of_service(error: ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) if error.message == REPLACED => {
                UpstreamError::Lost("the connection's session was replaced before the answer came".to_owned())
            }
            ServiceError::McpError(error) => UpstreamError::Refused(RequestError {
                code: error.code.0,
                message: error.message.into_owned(),
                data: error.data.unwrap_or_default(),
            }),
            ServiceError::TransportSend(error) => of_transport(error.error.as_ref()),
            ServiceError::TransportClosed => UpstreamError::Lost("the connection closed".to_owned()),
            other => UpstreamError::Lost(other.to_string()),
        }
    }

    /// This error with its texts changed.
    pub(crate) fn map(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            UpstreamError::Unavailable(text) => UpstreamError::Unavailable(change(&text)),
            UpstreamError::Lost(text) => UpstreamError::Lost(change(&text)),
            UpstreamError::Refused(fault) => {
                UpstreamError::Refused(RequestError { message: change(&fault.message), ..fault })
            }
        }
    }

    /// The error that the caller of a tool of the toolset gets.
    pub(crate) fn into_tool_error(self, toolset: &str) -> ToolError {
        match self {
            UpstreamError::Unavailable(why) => {
                let says = format!("toolset '{toolset}' is not available: {why}");
                ToolError::new(ToolErrorType::TransportError, says).with_code(ErrorCode::UpstreamUnavailable)
            }
            UpstreamError::Lost(why) => {
                let says = format!("toolset '{toolset}' went away during the call: {why}");
                ToolError::new(ToolErrorType::TransportError, says).with_code(ErrorCode::UpstreamLost)
            }
            UpstreamError::Refused(fault) => {
                let category = match fault.code {
                    INVALID_PARAMS => ToolErrorType::InvalidArgs,
                    _ => ToolErrorType::ExecutionError,
                };
                let error = ToolError::new(category, fault.message);
                match fault.data["oxenv"]["code"].as_str() {
                    // The worker of a Python file reports this about its function's return value.
                    Some("INVALID_RESULT") => error.with_code(ErrorCode::InvalidResult),
                    _ => error,
                }
            }
        }
    }

    /// The error that the caller of another request gets.
    pub(crate) fn into_request_fault(self, toolset: &str) -> RequestError {
        if let UpstreamError::Refused(fault) = self {
            return fault;
        }
        let error = self.into_tool_error(toolset);
        let data = error.data().map_or(Value::Null, |data| json!({ "oxenv": data }));
        RequestError { code: INTERNAL, message: error.message, data }
    }
}

impl FaultCause {
    /// The cause of what rmcp reports.
    pub(crate) fn of_service(error: &ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) if error.message == REPLACED => FaultCause::Lost,
            ServiceError::McpError(_) => FaultCause::Refused,
            ServiceError::TransportSend(error) => FaultCause::of_transport(error.error.as_ref()),
            _ => FaultCause::Lost,
        }
    }

    /// The cause of a failure to send.
    pub(crate) fn of_transport(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Self {
        let Some(error) = error.downcast_ref::<Http<reqwest::Error>>() else { return FaultCause::Lost };
        let status = |status| FaultCause::Status { status, retry_after: None };
        match error {
            Http::Client(error) if error.is_connect() && breaks_tls(error) => FaultCause::Tls,
            Http::Client(error) if error.is_connect() || error.is_builder() => FaultCause::Connect,
            Http::Client(error) => error.status().map_or(FaultCause::Lost, |code| status(code.as_u16())),
            Http::HttpStatus(error) => {
                FaultCause::Status { status: error.status, retry_after: error.retry_after.clone() }
            }
            Http::AuthRequired(_) => status(401),
            Http::InsufficientScope(_) => status(403),
            Http::SessionExpired | Http::ReinitializationFailed(_) => FaultCause::SessionGone,
            Http::UnexpectedContentType(_) | Http::Deserialize(_) => FaultCause::Alien,
            // As rmcp and `post.rs` spell a status whose body is no JSON-RPC.
            Http::UnexpectedServerResponse(says) => {
                let code = says.strip_prefix("HTTP ").and_then(|says| says.get(..3)?.parse().ok());
                code.map_or(FaultCause::Alien, status)
            }
            _ => FaultCause::Lost,
        }
    }
}

/// Whether it is the handshake of TLS that failed; its errors are of these kinds.
fn breaks_tls(error: &reqwest::Error) -> bool {
    use std::error::Error;
    use std::io;
    let mut source = error.source();
    while let Some(cause) = source {
        let Some(io) = cause.downcast_ref::<io::Error>() else {
            source = cause.source();
            continue;
        };
        if matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
            return true;
        }
        // One of these may hold another, which it does not name as its source.
        source = io.get_ref().map(|inner| inner as &(dyn Error + 'static));
    }
    false
}

/// A failure to send. One over HTTP may have been delivered unless its kind says that it was not.
fn of_transport(error: &(dyn std::error::Error + Send + Sync + 'static)) -> UpstreamError {
    let says = describe(error);
    match FaultCause::of_transport(error) {
        FaultCause::Status { status: 429, retry_after } => {
            let retry = retry_after.map_or_else(String::new, |after| format!(", retry after {after}"));
            UpstreamError::Unavailable(format!("{says}{retry}"))
        }
        // A server that answers so has not looked into the request.
        FaultCause::Status { status: 401 | 403 | 404 | 405 | 406 | 415, .. }
        | FaultCause::Connect
        | FaultCause::Tls
        | FaultCause::SessionGone => UpstreamError::Unavailable(says),
        _ => match error.downcast_ref::<Http<reqwest::Error>>() {
            Some(Http::ReservedHeaderConflict(_)) => UpstreamError::Unavailable(says),
            _ => UpstreamError::Lost(says),
        },
    }
}

/// A transport's error as text, with its causes.
pub(crate) fn describe(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<Http<reqwest::Error>>() {
        // It does not name the error that it holds as its cause.
        Some(Http::Client(error)) => chain(error),
        _ => chain(error),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut says = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_says = cause.to_string();
        if !says.contains(&cause_says) {
            says = format!("{says}: {cause_says}");
        }
        source = cause.source();
    }
    says
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_category_and_code() {
        let error = UpstreamError::Unavailable("no such command".into()).into_tool_error("git");
        assert_eq!(error.message, "toolset 'git' is not available: no such command");
        assert_eq!(error.error_type, ToolErrorType::TransportError);
        assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
        let error = UpstreamError::Lost("exited with code 1".into()).into_tool_error("git");
        assert_eq!(error.code, Some(ErrorCode::UpstreamLost));
        for (code, category) in [(-32602, ToolErrorType::InvalidArgs), (-1, ToolErrorType::ExecutionError)] {
            let error = UpstreamError::Refused(RequestError::new(code, "no")).into_tool_error("git");
            assert_eq!((error.error_type, error.code, error.message.as_str()), (category, None, "no"));
        }
    }

    #[test]
    fn a_request_that_is_no_call_gets_the_upstreams_own_error() {
        let fault = RequestError::new(RpcCode::ResourceNotFound, "no such resource");
        assert_eq!(UpstreamError::Refused(fault.clone()).into_request_fault("git"), fault);
        let fault = UpstreamError::Lost("gone".into()).into_request_fault("git");
        assert_eq!(fault.code, -32603);
        assert_eq!(fault.data["oxenv"]["code"], "UPSTREAM_LOST");
    }
}
