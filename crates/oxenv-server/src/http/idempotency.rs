//! Requests that run once, over HTTP: the key that they name, and the headers of their replies.
//!
//! Invariant: a key in a header and one in the body are the same key, or the request is refused.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use oxenv_core::render::{self, Envelope};
use oxenv_core::{IdempotentReply, StepReply};
use oxenv_wire::{ValidationIssue, raw};

use crate::error::{Refusal, json_response};

/// The header that names a request's key.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// The header with the number that a request got within its session.
const SEQ_HEADER: HeaderName = HeaderName::from_static("oxenv-seq");
/// The header of a reply that was given before.
const REPEATED_HEADER: HeaderName = HeaderName::from_static("oxenv-repeated");

/// Most characters of a key, as in a body.
const MAX_KEY_BYTES: usize = 255;

/// The key that a request's header names.
pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut named = headers.get_all(KEY_HEADER).iter();
    let Some(first) = named.next() else { return Ok(None) };
    let text = first.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_KEY_BYTES);
    match text {
        Some(text) if named.next().is_none() => Ok(Some(text.to_owned())),
        Some(text) => Err(refused(text, "Header should be there once")),
        None => {
            let sent = String::from_utf8_lossy(first.as_bytes());
            Err(refused(&sent, "Header should be 1 to 255 characters of ASCII text"))
        }
    }
}

/// The key of a request whose header and whose body may each name one.
pub(super) fn same_key(
    in_header: Option<String>,
    in_body: Option<Cow<'_, str>>,
) -> Result<Option<String>, Refusal> {
    match (in_header, in_body) {
        (Some(one), Some(other)) if one != other => {
            Err(refused(&one, "Header and body should name the same key"))
        }
        (Some(key), _) => Ok(Some(key)),
        (None, in_body) => Ok(in_body.map(String::from)),
    }
}

fn refused(sent: &str, why: &str) -> Refusal {
    let sent = raw(sent).unwrap_or_default();
    Refusal::Body(vec![ValidationIssue::new("key", &["header", "Idempotency-Key"], why, &sent)])
}

/// The reply to a reset or a step, with its number.
pub(super) fn answered(answer: &IdempotentReply<StepReply<'_>>) -> Result<Response, Refusal> {
    match answer.outcome() {
        Ok(reply) => {
            let response = json_response(StatusCode::OK, render::step(reply, Envelope::Body));
            Ok(marked(response, Some(answer.seq), answer.repeated))
        }
        Err(failure) => {
            let refused = Refusal::from(failure.clone()).into_response();
            Ok(marked(refused, Some(answer.seq).filter(|seq| *seq > 0), answer.repeated))
        }
    }
}

/// A reply with its number, and whether it was given before.
pub(super) fn marked(mut response: Response, seq: Option<u64>, repeated: bool) -> Response {
    if let Some(seq) = seq {
        response.headers_mut().insert(SEQ_HEADER, seq.into());
    }
    if repeated {
        response.headers_mut().insert(REPEATED_HEADER, HeaderValue::from_static("true"));
    }
    response
}
