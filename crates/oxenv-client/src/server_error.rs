//! Errors that servers send, parsed: in frames, in HTTP bodies, in the results of tools.
//!
//! Invariant: what a server reports of a failure takes precedence over the defaults of its code; a failure
//! without details gets the traits of the nearest code.

use std::time::Duration;

use oxenv_wire::ErrorCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ClientError, Code};

/// How many characters of an unexpected text a message shows.
const MAX_EXCERPT_CHARS: usize = 120;

/// An HTTP body of one of our servers, or of FastAPI.
#[derive(Deserialize)]
struct HttpErrorBody {
    detail: Value,
    #[serde(default)]
    oxenv: Option<ErrorFields>,
}

/// What an `error` frame has as its data, in the stock dialect and in `oxenv.1`; also what is ours within it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorFields {
    message: String,
    code: Option<String>,
    kind: Option<String>,
    phase: Option<String>,
    delivered: Option<String>,
    retryable: Option<bool>,
    retry_after_s: Option<f64>,
    errors: Option<Value>,
    oxenv: Option<Box<ErrorFields>>,
}

/// The error in an HTTP response, if a known server sent it.
pub(crate) fn from_http_body(status: u16, text: &str, retry_after_s: Option<u64>) -> Option<ClientError> {
    if let Some(error) = from_oxenv_body(text, retry_after_s) {
        return Some(error);
    }
    let body: HttpErrorBody = serde_json::from_str(text).ok()?;
    let code = match status {
        401 => ErrorCode::Unauthorized,
        403 => ErrorCode::Forbidden,
        422 => ErrorCode::ValidationError,
        _ => return None,
    };
    let error = from_code(code, describe_detail(&body.detail));
    Some(if body.detail.is_array() { error.with_data(body.detail) } else { error })
}

/// The error in an HTTP response of one of our servers.
pub(crate) fn from_oxenv_body(text: &str, retry_after_s: Option<u64>) -> Option<ClientError> {
    let body: HttpErrorBody = serde_json::from_str(text).ok()?;
    let error = body.oxenv?.to_error(ErrorCode::ExecutionError, describe_detail(&body.detail));
    let retryable = error.is_retryable();
    Some(error.with_retry(retryable, retry_after_s.map(Duration::from_secs)))
}

/// The error in the data of an `error` frame, of the stock dialect or of `oxenv.1`.
pub(crate) fn from_frame(data: &str) -> ClientError {
    let Ok(mut fields) = serde_json::from_str::<ErrorFields>(data) else {
        let message = format!("the server tells a failure that cannot be read: {}", excerpt(data.as_bytes()));
        return ClientError::new(Code::InvalidReply, message);
    };
    let message = match &fields.errors {
        Some(errors @ Value::Array(_)) => format!("{}: {}", fields.message, describe_issues(errors)),
        _ => fields.message.clone(),
    };
    let stock = fields.code().unwrap_or(ErrorCode::ExecutionError);
    let errors = fields.errors.take();
    let ours = fields.oxenv.take();
    let error = ours.as_deref().unwrap_or(&fields).to_error(stock, message);
    match errors {
        Some(errors) => error.with_data(errors),
        None => error,
    }
}

/// The error in the `oxenv` metadata of a tool's error, if there is one.
pub(crate) fn from_metadata(ours: &Value, message: &str) -> Option<ClientError> {
    let fields = ErrorFields::deserialize(ours).ok()?;
    let code = fields.code()?;
    Some(fields.to_error(code, message.to_owned()))
}

impl ErrorFields {
    fn code(&self) -> Option<ErrorCode> {
        parse_word(self.code.as_deref())
    }

    /// A code that is not known here is read as the nearest one that is.
    fn to_error(&self, nearest: ErrorCode, message: String) -> ClientError {
        let mut error = ClientError::new(Code::Server(self.code().unwrap_or(nearest)), message);
        if let Some(kind) = parse_word(self.kind.as_deref()) {
            error = error.with_kind(kind);
        }
        if let Some(phase) = parse_word(self.phase.as_deref()) {
            error = error.with_phase(phase);
        }
        if let Some(delivered) = parse_word(self.delivered.as_deref()) {
            error = error.with_delivered(delivered);
        }
        let after = self.retry_after_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let retryable = self.retryable.unwrap_or(error.is_retryable());
        error.with_retry(retryable, after)
    }
}

fn parse_word<T: DeserializeOwned>(text: Option<&str>) -> Option<T> {
    serde_json::from_value(Value::from(text?)).ok()
}

/// A failure with its code alone.
pub(crate) fn from_code(code: ErrorCode, message: impl Into<String>) -> ClientError {
    ClientError::new(Code::Server(code), message)
}

/// A detail for people: the text, or each issue with its place.
fn describe_detail(detail: &Value) -> String {
    match detail {
        Value::String(text) => text.clone(),
        Value::Array(_) => format!("the request is not valid: {}", describe_issues(detail)),
        other => excerpt(other.to_string().as_bytes()),
    }
}

/// Pydantic's issues in one line.
fn describe_issues(issues: &Value) -> String {
    let lines: Vec<String> = issues.as_array().into_iter().flatten().take(8).map(describe_issue).collect();
    lines.join("; ")
}

fn describe_issue(issue: &Value) -> String {
    let place: Vec<String> = issue["loc"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
        .collect();
    let message = issue["msg"].as_str().unwrap_or_default();
    if place.is_empty() { message.to_owned() } else { format!("{}: {message}", place.join(".")) }
}

/// The beginning of something unexpected, quoted.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * MAX_EXCERPT_CHARS)]);
    let mut short: String = text.chars().take(MAX_EXCERPT_CHARS).collect();
    if text.chars().count() > MAX_EXCERPT_CHARS {
        short.push('…');
    }
    format!("{short:?}")
}
