//! Why an upstream gave no result.
//!
//! Invariant: only what surely was not delivered is called unavailable; all else that got no answer is lost.

use oxenv_core::RequestFault;
use oxenv_wire::{ErrorCode, ToolError, ToolErrorType};
use rmcp::ServiceError;
use rmcp::transport::streamable_http_client::StreamableHttpError;
use serde_json::{Value, json};

/// Why a request has no result. Its texts hold no secret.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallFault {
    /// It was not sent.
    Unavailable(String),
    /// It may have been delivered, and no answer came.
    Lost(String),
    /// The upstream answered with a JSON-RPC error.
    Refused(RequestFault),
}

/// JSON-RPC's code for parameters that do not fit.
const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC's code for what has none of its own.
const INTERNAL: i32 = -32603;
/// What rmcp answers in the upstream's place when a session was replaced under a request.
const REPLACED: &str = "streamable HTTP session was re-initialized before the response arrived";

impl CallFault {
    /// The fault as rmcp tells it.
    pub(crate) fn of_service(error: ServiceError) -> Self {
        match error {
            ServiceError::McpError(error) if error.message == REPLACED => {
                CallFault::Lost("the connection's session was replaced before the answer came".to_owned())
            }
            ServiceError::McpError(error) => CallFault::Refused(RequestFault {
                code: error.code.0,
                message: error.message.into_owned(),
                data: error.data.unwrap_or_default(),
            }),
            ServiceError::TransportSend(error) => of_transport(error.error.as_ref()),
            ServiceError::TransportClosed => CallFault::Lost("the connection closed".to_owned()),
            other => CallFault::Lost(other.to_string()),
        }
    }

    /// The same with its texts changed.
    pub(crate) fn map(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            CallFault::Unavailable(text) => CallFault::Unavailable(change(&text)),
            CallFault::Lost(text) => CallFault::Lost(change(&text)),
            CallFault::Refused(fault) => {
                CallFault::Refused(RequestFault { message: change(&fault.message), ..fault })
            }
        }
    }

    /// What it is to who called a tool of the toolset.
    pub(crate) fn into_tool_error(self, toolset: &str) -> ToolError {
        match self {
            CallFault::Unavailable(why) => {
                let says = format!("toolset '{toolset}' is not available: {why}");
                ToolError::new(ToolErrorType::TransportError, says).with_code(ErrorCode::UpstreamUnavailable)
            }
            CallFault::Lost(why) => {
                let says = format!("toolset '{toolset}' went away during the call: {why}");
                ToolError::new(ToolErrorType::TransportError, says).with_code(ErrorCode::UpstreamLost)
            }
            CallFault::Refused(fault) => {
                let category = match fault.code {
                    INVALID_PARAMS => ToolErrorType::InvalidArgs,
                    _ => ToolErrorType::ExecutionError,
                };
                ToolError::new(category, fault.message)
            }
        }
    }

    /// What it is to who asked for something that is no tool call.
    pub(crate) fn into_request_fault(self, toolset: &str) -> RequestFault {
        if let CallFault::Refused(fault) = self {
            return fault;
        }
        let error = self.into_tool_error(toolset);
        let data = error.data().map_or(Value::Null, |data| json!({ "oxenv": data }));
        RequestFault { code: INTERNAL, message: error.message, data }
    }
}

/// A failure to send. One over HTTP may have been delivered unless its kind says that it was not.
fn of_transport(error: &(dyn std::error::Error + Send + Sync + 'static)) -> CallFault {
    use StreamableHttpError as Http;
    let says = describe(error);
    match error.downcast_ref::<Http<reqwest::Error>>() {
        Some(Http::Client(error)) if error.is_connect() || error.is_builder() => CallFault::Unavailable(says),
        Some(Http::HttpStatus(status)) if status.status == 429 => {
            let retry = status
                .retry_after
                .as_ref()
                .map_or_else(String::new, |after| format!(", retry after {after}"));
            CallFault::Unavailable(format!("{says}{retry}"))
        }
        Some(
            Http::AuthRequired(_)
            | Http::InsufficientScope(_)
            | Http::ReservedHeaderConflict(_)
            | Http::SessionExpired
            | Http::ReinitializationFailed(_),
        ) => CallFault::Unavailable(says),
        _ => CallFault::Lost(says),
    }
}

/// A transport's error in words, with its causes.
pub(crate) fn describe(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
        // It does not name the error that it holds as its cause.
        Some(StreamableHttpError::Client(error)) => chain(error),
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
        let error = CallFault::Unavailable("no such command".into()).into_tool_error("git");
        assert_eq!(error.message, "toolset 'git' is not available: no such command");
        assert_eq!(error.error_type, ToolErrorType::TransportError);
        assert_eq!(error.code, Some(ErrorCode::UpstreamUnavailable));
        let error = CallFault::Lost("exited with code 1".into()).into_tool_error("git");
        assert_eq!(error.code, Some(ErrorCode::UpstreamLost));
        for (code, category) in [(-32602, ToolErrorType::InvalidArgs), (-1, ToolErrorType::ExecutionError)] {
            let error = CallFault::Refused(RequestFault::new(code, "no")).into_tool_error("git");
            assert_eq!((error.error_type, error.code, error.message.as_str()), (category, None, "no"));
        }
    }

    #[test]
    fn a_request_that_is_no_call_gets_the_upstreams_own_error() {
        let fault = RequestFault::new(-32002, "no such resource");
        assert_eq!(CallFault::Refused(fault.clone()).into_request_fault("git"), fault);
        let fault = CallFault::Lost("gone".into()).into_request_fault("git");
        assert_eq!(fault.code, -32603);
        assert_eq!(fault.data["oxenv"]["code"], "UPSTREAM_LOST");
    }
}
