//! What Fleet's refusals mean: a code for each, and one line for people.
//!
//! Invariant: the text of an answer is shown shortened and without secrets, never as a page of HTML.

use oxenv_wire::{Delivered, FailureKind};
use serde_json::{Value, json};

use super::http::{FleetResponse, Secrets};
use super::shorten::shorten;
use crate::error::{ClientError, Code, Result};

/// Largest detail that a program is given.
const MAX_DETAIL_BYTES: usize = 8 << 10;

/// The error for a response of the control plane. `what` is what was asked, as `make an instance of 'fira'`.
pub(super) fn control_error(what: &str, answer: &FleetResponse, secrets: &Secrets) -> ClientError {
    let detail = detail(answer);
    let said = secrets.redact(&summary(&detail, &answer.body));
    let (code, help) = code_and_help(answer.status, &detail, &said.to_lowercase());
    let status = answer.status;
    let message = format!("Fleet did not {what} (status {status}): {said}{help}");
    let passes = detail["retryable"].as_bool().unwrap_or(matches!(status, 429 | 500 | 502 | 503 | 504));
    let (kind, delivered) = match status {
        500.. => (FailureKind::Infrastructure, Delivered::Maybe),
        400 | 401 | 403 | 422 => (FailureKind::Action, Delivered::No),
        _ => (FailureKind::Infrastructure, Delivered::No),
    };
    ClientError::new(code, message)
        .with_kind(kind)
        .with_delivered(delivered)
        .with_retry(passes, answer.retry_after)
        .with_data(error_data(status, &detail, secrets))
}

/// The error for a response of an instance.
pub(super) fn instance_error(what: &str, answer: &FleetResponse, secrets: &Secrets) -> ClientError {
    let detail = detail(answer);
    let said = secrets.redact(&summary(&detail, &answer.body));
    let message = format!("the instance answered {what} with status {}: {said}", answer.status);
    let delivered = if answer.status >= 500 { Delivered::Maybe } else { Delivered::No };
    ClientError::new(Code::FleetError, message).with_delivered(delivered).with_data(error_data(
        answer.status,
        &detail,
        secrets,
    ))
}

/// The body of a response, besides its status: its `detail`, an object also where that was written into a
/// text.
pub(super) fn detail(answer: &FleetResponse) -> Value {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let detail = match body {
        Value::Object(mut object) => object.remove("detail").unwrap_or(Value::Object(object)),
        _ => Value::Null,
    };
    let Value::String(text) = &detail else { return detail };
    let inner = text.find('{').zip(text.rfind('}')).and_then(|(from, to)| text.get(from..=to));
    match inner.and_then(|inner| serde_json::from_str(inner).ok()) {
        Some(object @ Value::Object(_)) => object,
        _ => detail,
    }
}

/// Whether the request may have been carried out.
pub(super) fn may_be_done(outcome: &Result<FleetResponse>) -> bool {
    match outcome {
        Ok(answer) => match answer.status {
            // The service itself reports that it cannot; a proxy before it does not know.
            503 => {
                !serde_json::from_slice::<Value>(&answer.body).is_ok_and(|body| body.get("detail").is_some())
            }
            500.. => true,
            // The request was here before, and is done or under way.
            409 => true,
            _ => answer.is_success() && !answer.is_page(),
        },
        Err(error) => error.delivered() != Delivered::No,
    }
}

/// The code of a status and a text, by the phrases that Fleet uses, and what to do.
fn code_and_help(status: u16, detail: &Value, said: &str) -> (Code, &'static str) {
    let has = |words: &[&str]| words.iter().all(|word| said.contains(word));
    if detail["error_type"] == "instance_limit_exceeded" {
        return (Code::FleetInstanceLimit, LIMIT_HELP);
    }
    match status {
        401 => (Code::FleetUnauthorized, "; check the API key"),
        403 if has(&["instance limit"]) => (Code::FleetInstanceLimit, LIMIT_HELP),
        403 if has(&["team not found"]) => (Code::FleetTeamNotFound, "; check whose key it is"),
        403 if has(&["does not have permission", "environment"]) => {
            (Code::FleetEnvironmentForbidden, "; ask for access, or use another environment")
        }
        403 => (Code::FleetForbidden, "; the key does not allow it"),
        400 if has(&["region", "not supported"]) => (Code::FleetRegionUnknown, "; use another region"),
        400 if has(&["environment", "not found"]) => {
            (Code::FleetEnvironmentUnknown, "; check the key's name")
        }
        400 if has(&["version", "not found"]) => {
            (Code::FleetVersionUnknown, "; leave the version out, or check it")
        }
        400 | 422 => (Code::FleetBadRequest, ""),
        409 => (Code::FleetConflict, ""),
        429 => (Code::FleetRateLimited, "; ask less often"),
        _ => (Code::FleetError, ""),
    }
}

const LIMIT_HELP: &str = "; end instances (`oxenv fleet list`, `oxenv fleet down`), or wait until some end";

fn error_data(status: u16, detail: &Value, secrets: &Secrets) -> Value {
    let text = secrets.redact(&detail.to_string());
    let detail: Value = if text.len() <= MAX_DETAIL_BYTES {
        serde_json::from_str(&text).unwrap_or_default()
    } else {
        Value::Null
    };
    json!({ "status": status, "detail": detail })
}

/// A detail in one line.
fn summary(detail: &Value, body: &[u8]) -> String {
    let text = match detail {
        Value::String(text) => text.clone(),
        Value::Array(issues) => issues.iter().take(8).map(describe_issue).collect::<Vec<_>>().join("; "),
        Value::Object(object) => {
            let message =
                ["message", "detail", "error", "msg"].iter().find_map(|key| object.get(*key)?.as_str());
            message.map_or_else(|| detail.to_string(), str::to_owned)
        }
        _ => return shorten(body),
    };
    shorten(text.as_bytes())
}

/// One of pydantic's issues with its place.
fn describe_issue(issue: &Value) -> String {
    let Some(says) = issue["msg"].as_str() else { return issue.to_string() };
    let parts = issue["loc"].as_array().into_iter().flatten();
    let place: Vec<String> =
        parts.map(|part| part.as_str().map_or(part.to_string(), str::to_owned)).collect();
    if place.is_empty() { says.to_owned() } else { format!("{}: {says}", place.join(".")) }
}

#[cfg(test)]
mod tests {
    use oxenv_process::secret::Secret;

    use super::*;

    fn answered(status: u16, body: &str) -> ClientError {
        let answer = FleetResponse { status, body: body.as_bytes().to_vec(), retry_after: None };
        let secrets = Secrets::default();
        secrets.add(&Secret::new("sk_hunter22"));
        control_error("make an instance of 'fira'", &answer, &secrets)
    }

    #[test]
    fn each_row_of_fleets_refusals_has_its_code() {
        let rows = [
            (401, r#"{"detail":"Invalid API key"}"#, Code::FleetUnauthorized),
            (
                400,
                r#"{"detail":{"error_type":"instance_limit_exceeded","message":"full","running_instances":3}}"#,
                Code::FleetInstanceLimit,
            ),
            (403, r#"{"detail":"Instance limit reached"}"#, Code::FleetInstanceLimit),
            (403, r#"{"detail":"Team not found"}"#, Code::FleetTeamNotFound),
            (
                403,
                r#"{"detail":"Team does not have permission to access environment fira"}"#,
                Code::FleetEnvironmentForbidden,
            ),
            (403, r#"{"detail":"no"}"#, Code::FleetForbidden),
            (400, r#"{"detail":"Region mars is not supported"}"#, Code::FleetRegionUnknown),
            (400, r#"{"detail":"Environment fira not found"}"#, Code::FleetEnvironmentUnknown),
            (400, r#"{"detail":"Version v9 not found"}"#, Code::FleetVersionUnknown),
            (400, r#"{"detail":"no"}"#, Code::FleetBadRequest),
            (422, r#"{"detail":[{"loc":["body","env_key"],"msg":"Field required"}]}"#, Code::FleetBadRequest),
            (409, r#"{"detail":{"error":"other"}}"#, Code::FleetConflict),
            (429, "slow down", Code::FleetRateLimited),
            (418, "", Code::FleetError),
        ];
        for (status, body, code) in rows {
            assert_eq!(answered(status, body).code(), code, "{status} {body}");
        }
        let said = answered(422, rows[10].1);
        assert!(said.message().contains("body.env_key: Field required"), "{said}");
        assert_eq!(answered(400, rows[1].1).data()["detail"]["running_instances"], 3);
    }

    #[test]
    fn retryable_is_read_from_objects_and_from_texts() {
        assert!(answered(400, r#"{"detail":{"message":"busy","retryable":true}}"#).is_retryable());
        assert!(
            answered(400, r#"{"detail":"it failed: {\"message\":\"busy\",\"retryable\":true}"}"#)
                .is_retryable()
        );
        assert!(!answered(400, r#"{"detail":"busy"}"#).is_retryable());
    }

    #[test]
    fn what_is_shown_is_short_and_holds_no_key() {
        let page = format!(
            "<html><head><title>502 Bad Gateway</title></head><body>{}</body></html>",
            "nginx ".repeat(900)
        );
        let says = answered(502, &page).message().to_owned();
        assert!(says.contains("502 Bad Gateway") && !says.contains('<') && says.len() < 500, "{says}");
        let error = answered(400, r#"{"detail":"the key sk_hunter22 is odd"}"#);
        assert!(!format!("{error:?}{error}").contains("hunter22"));
        let error = answered(400, r#"{"detail":{"message":"x","key":"sk_hunter22"}}"#);
        assert!(!format!("{error:?}").contains("hunter22"));
    }
}
