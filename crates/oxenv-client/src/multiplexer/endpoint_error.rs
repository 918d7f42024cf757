//! The errors of endpoints as callers see them.
//!
//! Invariant: a failure names its endpoint, and states whether a call was delivered.

use oxenv_upstream::remote::{RemoteError, RemoteErrorKind as Kind};
use oxenv_wire::{Delivered, ErrorCode, FailureKind, RpcCode};
use serde_json::json;

use super::EndpointReport;
use crate::error::{ClientError, Code};
use crate::server_error;

/// JSON-RPC's code for parameters that do not fit, which servers also have for names that they do not know.
const INVALID_PARAMS: i32 = RpcCode::InvalidParams as i32;
/// JSON-RPC's code for what has none of its own.
const INTERNAL: i32 = RpcCode::InternalError as i32;

/// Why an endpoint cannot be used.
pub(super) fn error_code(fault: &RemoteError) -> Code {
    match fault.kind {
        Kind::Unreachable => Code::ConnectFailed,
        Kind::Tls => Code::TlsFailed,
        Kind::Status(401) => Code::Server(ErrorCode::Unauthorized),
        Kind::Status(403) => Code::Server(ErrorCode::Forbidden),
        Kind::Status(429) => Code::Server(ErrorCode::RateLimited),
        Kind::NotMcp | Kind::OldTransport => Code::NotAServer,
        Kind::Version => Code::VersionMismatch,
        Kind::TimedOut => Code::TimedOut,
        Kind::Lost => Code::ConnectionLost,
        Kind::Refused(_) | Kind::InvalidAnswer => Code::InvalidReply,
        _ => Code::EndpointUnavailable,
    }
}

/// Whether it may resolve without action.
pub(super) fn is_transient(fault: &RemoteError) -> bool {
    match fault.kind {
        Kind::Unreachable | Kind::TimedOut | Kind::Lost | Kind::SessionGone => true,
        Kind::Status(status) => matches!(status, 408 | 425 | 429) || status >= 500,
        _ => false,
    }
}

/// Not all endpoints can be used that must be.
pub(super) fn unavailable(reports: &[EndpointReport]) -> ClientError {
    let failing: Vec<String> = reports
        .iter()
        .filter(|report| report.error.is_some() || report.absent)
        .map(|report| {
            let why = report.error.as_deref().unwrap_or("has nothing at that path (HTTP 404)");
            format!("{} {why}", report.url)
        })
        .collect();
    let message =
        format!("{} of {} endpoints cannot be used: {}", failing.len(), reports.len(), failing.join("; "));
    ClientError::new(Code::EndpointUnavailable, message).with_data(json!({ "endpoints": reports }))
}

/// A call of a tool that has no result.
pub(super) fn call_error(fault: &RemoteError, tool: &str, url: &str) -> ClientError {
    let message = &fault.message;
    let error = match (fault.delivered, fault.kind) {
        (Delivered::No, _) => {
            let message = format!("'{tool}' was not called: {url} {message}");
            ClientError::new(Code::EndpointUnavailable, message)
                .with_retry(is_transient(fault), fault.retry_after)
        }
        (Delivered::Maybe, _) => {
            let message = format!("{url} went away while '{tool}' may have run: {message}");
            ClientError::new(Code::ConnectionLost, message)
        }
        (Delivered::Yes, Kind::Refused(code)) => return rpc_error(fault, code, tool, url),
        (Delivered::Yes, _) => {
            let message = format!("{url} answers '{tool}' with what cannot be read: {message}");
            ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
        }
    };
    error.with_data(json!({ "endpoint": url, "code": error_code(fault).name() }))
}

/// An endpoint that answered with a JSON-RPC error.
fn rpc_error(fault: &RemoteError, code: i32, tool: &str, url: &str) -> ClientError {
    let message = format!("{url} refuses '{tool}': {}", fault.message);
    if let Some(error) = fault.data.get("oxenv").and_then(|ours| server_error::from_metadata(ours, &message))
    {
        return error;
    }
    let error = match code {
        INVALID_PARAMS if is_unknown_tool(fault) => ClientError::new(Code::ToolNotFound, message),
        INVALID_PARAMS => ClientError::new(Code::InvalidArguments, message).with_delivered(Delivered::Yes),
        INTERNAL => ClientError::new(Code::ToolFailed, message).with_kind(FailureKind::Infrastructure),
        _ => ClientError::new(Code::ToolFailed, message),
    };
    error.with_data(json!({ "endpoint": url, "code": code, "data": fault.data }))
}

/// Whether an endpoint reports that it has no such tool, so that its list must have changed.
pub(super) fn is_unknown_tool(fault: &RemoteError) -> bool {
    let message = fault.message.to_ascii_lowercase();
    fault.kind == Kind::Refused(INVALID_PARAMS)
        && (message.contains("unknown tool") || (message.contains("tool") && message.contains("not found")))
}

/// The deadline of a call passed.
pub(super) fn call_timed_out(tool: &str, url: &str, sent: bool, seconds: f64) -> ClientError {
    let (message, delivered) = if sent {
        (format!("{url} did not answer '{tool}' within {seconds} s"), Delivered::Maybe)
    } else {
        (format!("'{tool}' was not called: {url} could not be reached within {seconds} s"), Delivered::No)
    };
    ClientError::new(Code::TimedOut, message)
        .with_delivered(delivered)
        .with_retry(delivered == Delivered::No, None)
        .with_data(json!({ "endpoint": url }))
}

/// The deadline of a call passed before its owner was known.
pub(super) fn listing_timed_out(tool: &str, seconds: f64) -> ClientError {
    let message = format!("'{tool}' was not called: no list came within {seconds} s");
    ClientError::new(Code::TimedOut, message).with_delivered(Delivered::No).with_retry(true, None)
}
