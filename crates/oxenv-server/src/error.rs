//! The one map from failures to what a client of each protocol gets.
//!
//! Invariant: a failure never becomes a reward. Stock clients find the code and shape they know;
//! what is ours stands under `oxenv`.
//! docs/failures.md has every code, and the test below compares it with this file.

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use oxenv_core::Failure;
use oxenv_wire::{
    ErrorCode, FailureKind, FrameError, ReplyHead, RpcCode, RpcError, RpcId, ValidationIssue, raw,
    write_error_frame, write_multi_error, write_rpc_error,
};
use serde_json::{Value, json};

/// Seconds after which a client of a full server may try again.
pub(crate) const RETRY_AFTER_S: u64 = 1;

/// A request that got no answer of its own.
pub(crate) enum Refusal {
    /// The session refused or failed.
    Failure(Failure),
    /// The body does not have the required shape.
    Body(Vec<ValidationIssue>),
    /// Anything that is about HTTP alone.
    Status(StatusCode, String),
}

impl Refusal {
    /// The answer to a request for a WebSocket that is not a handshake.
    pub(crate) fn upgrade(refused: &WebSocketUpgradeRejection) -> Self {
        Refusal::Status(refused.status(), refused.body_text())
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Refusal::Failure(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Body(issues) => {
                let issues: Vec<_> = issues.into_iter().map(ValidationIssue::without_url).collect();
                invalid(&issues)
            }
            Refusal::Status(status, detail) => json_response(status, json!({ "detail": detail }).to_string()),
            Refusal::Failure(failure) => http(&failure),
        }
    }
}

/// A JSON response.
pub(crate) fn json_response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON-RPC error with a status of HTTP.
pub(crate) fn rpc_response(status: StatusCode, id: RpcId<'_>, fault: &RpcError) -> Response {
    let mut out = String::new();
    write_rpc_error(&mut out, id, fault);
    json_response(status, out)
}

/// Issues keep the numbers that were sent, so they never become parsed JSON on their way.
fn invalid(issues: &[ValidationIssue]) -> Response {
    let detail = raw(issues).unwrap_or_default();
    json_response(StatusCode::UNPROCESSABLE_ENTITY, format!("{{\"detail\":{}}}", detail.get()))
}

fn http(failure: &Failure) -> Response {
    note(failure);
    if failure.code == ErrorCode::ValidationError && !failure.issues.is_empty() {
        return invalid(&failure.issues);
    }
    let body = json!({ "detail": failure.message, "oxenv": failure.data() }).to_string();
    let mut response = json_response(status(failure), body);
    if failure.retryable {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_S.into());
    }
    if failure.code == ErrorCode::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn status(failure: &Failure) -> StatusCode {
    use ErrorCode as E;
    match failure.code {
        E::InvalidJson | E::UnknownType | E::ValidationError => StatusCode::UNPROCESSABLE_ENTITY,
        E::CapacityReached | E::Draining => StatusCode::SERVICE_UNAVAILABLE,
        E::SessionNotFound => StatusCode::NOT_FOUND,
        E::SessionEnded => StatusCode::GONE,
        E::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        E::Cancelled
        | E::ResetRequired
        | E::EpisodeDone
        | E::WrongEpoch
        | E::KeyConflict
        | E::StepConflict
        | E::ReplyForgotten => StatusCode::CONFLICT,
        E::SnapshotInvalid => StatusCode::UNPROCESSABLE_ENTITY,
        E::Unauthorized => StatusCode::UNAUTHORIZED,
        E::Forbidden => StatusCode::FORBIDDEN,
        E::ModeRefused => StatusCode::FORBIDDEN,
        E::Unsupported => StatusCode::NOT_IMPLEMENTED,
        E::ExecutionError if failure.kind == FailureKind::Action => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether some failure of that status has `Retry-After`.
pub(crate) fn may_be_retryable(of: u16) -> bool {
    ErrorCode::ALL
        .iter()
        .map(|code| Failure::new(*code, ""))
        .any(|failure| failure.retryable && status(&failure).as_u16() == of)
}

/// The meaning of a failure's status: the codes that have it, or HTTP's reason phrase where none
/// has.
pub(crate) fn codes_with_status(of: u16) -> String {
    let with_status = |code: &&ErrorCode| status(&Failure::new(**code, "")).as_u16() == of;
    let codes: Vec<String> =
        ErrorCode::ALL.iter().filter(with_status).map(|code| json!(code).to_string()).collect();
    match StatusCode::from_u16(of).ok().and_then(|status| status.canonical_reason()) {
        Some(reason) if codes.is_empty() => reason.to_owned(),
        _ => codes.join(", ").replace('"', "`"),
    }
}

/// The `/ws` frame of a failure.
pub(crate) fn frame(failure: &Failure) -> String {
    note(failure);
    let extra = stock_fields(failure);
    // These codes' frames are the reference's to the letter.
    let ours = match failure.code {
        ErrorCode::ValidationError | ErrorCode::CapacityReached => None,
        _ => Some(failure.data()),
    };
    let mut out = String::new();
    write_error_frame(&mut out, failure.code, &failure.message, &failure.issues, &extra, ours.as_ref());
    out
}

/// Appends the reply of a failure on an `oxenv.1` socket, or in a batch: the precise code, and what is
/// ours beside it.
pub(crate) fn multi(out: &mut String, head: &ReplyHead<'_>, failure: &Failure) {
    note(failure);
    let retry_after_s = failure.retryable.then_some(RETRY_AFTER_S);
    write_multi_error(out, head, &failure.message, &failure.data(), retry_after_s, &failure.issues);
}

/// What cannot be read as a request, as a failure.
pub(crate) fn unread(fault: FrameError) -> Failure {
    match fault {
        FrameError::Json(fault) => Failure::new(ErrorCode::InvalidJson, format!("Invalid JSON: {fault}")),
        FrameError::NotObject(name) => {
            Failure::new(ErrorCode::SessionError, format!("a frame is a JSON object, not a {name}"))
        }
        FrameError::UnknownType(name) => {
            Failure::new(ErrorCode::UnknownType, format!("Unknown message type: {name}"))
        }
        FrameError::Invalid(issues) => Failure::invalid(issues),
    }
}

/// The `/ws` frame for a text that is not a frame.
pub(crate) fn frame_fault(fault: FrameError) -> String {
    let mut out = String::new();
    let failure = unread(fault);
    write_error_frame(&mut out, failure.code, &failure.message, &failure.issues, &[], None);
    out
}

/// Appends a `SESSION_ERROR` frame, after which the socket closes.
pub(crate) fn session_error(out: &mut String, message: &str) {
    write_error_frame(out, ErrorCode::SessionError, message, &[], &[], None);
}

/// The JSON-RPC error of a failure.
pub(crate) fn rpc(failure: &Failure) -> RpcError {
    note(failure);
    let code = match failure.code.stock() {
        ErrorCode::CapacityReached | ErrorCode::FactoryError => RpcCode::ServerError,
        ErrorCode::SessionError | ErrorCode::ValidationError => RpcCode::InvalidParams,
        _ => RpcCode::InternalError,
    };
    let stock: serde_json::Map<String, Value> =
        stock_fields(failure).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let data = match failure.code {
        ErrorCode::SessionNotFound => Value::Null,
        _ if stock.is_empty() => json!({ "oxenv": failure.data() }),
        _ => Value::Object(stock),
    };
    RpcError { code, message: failure.message.clone(), data }
}

fn stock_fields(failure: &Failure) -> Vec<(&'static str, Value)> {
    let mut fields = Vec::new();
    if let Some((active, max)) = failure.capacity {
        fields.push(("active_sessions", json!(active)));
        fields.push(("max_sessions", json!(max)));
    }
    if let Some(name) = &failure.factory {
        fields.push(("factory_name", json!(name)));
    }
    fields
}

/// What operators read: failures that are not the agent's fault, with their internal part.
fn note(failure: &Failure) {
    if failure.kind != FailureKind::Action {
        tracing::warn!(
            code = ?failure.code, kind = ?failure.kind, phase = ?failure.phase,
            internal = failure.internal.as_deref(), "{}", failure.message
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/failures.md");

    /// A row of the page, made of what this file and the failures themselves say.
    fn row(code: ErrorCode) -> String {
        let failure = Failure::new(code, "");
        let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, delivered) = (word(json!(failure.kind)), word(json!(failure.delivered)));
        let retryable = if failure.retryable { "yes" } else { "no" };
        let (code, stock) = (word(json!(code)), word(json!(code.stock())));
        let (status, rpc) = (status(&failure).as_u16(), rpc(&failure).code as i32);
        format!("| `{code}` | {kind} | {delivered} | {retryable} | {status} | `{stock}` | {rpc} | ")
    }

    #[test]
    fn the_page_of_failures_has_every_code_as_it_is() {
        let rows: Vec<&str> =
            PAGE.lines().filter(|line| line.starts_with("| `") && line.contains("` | -3")).collect();
        assert_eq!(rows.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let row = row(code);
            let said = rows.iter().find(|line| line.starts_with(&row));
            let advice = said.map(|line| line[row.len()..].trim_end_matches(" |").len());
            assert!(advice > Some(10), "docs/failures.md should have: {row}…");
        }
    }
}
