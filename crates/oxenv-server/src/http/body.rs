//! Reading request bodies as the reference's framework reads them.
//!
//! Invariant: what is no JSON object is refused with FastAPI's messages and shape, before any session is
//! touched.

use std::ops::Range;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use oxenv_wire::{Json, ValidationIssue, raw};

use crate::app::App;
use crate::error::Refusal;
use crate::timing::within;

/// The bytes of a body.
pub(crate) async fn bytes(app: &App, request: Request) -> Result<Bytes, Refusal> {
    let limit = app.config.max_message;
    let read = Limited::new(request.into_body(), limit).collect();
    let collected = within(app.config.stall, read).await.ok_or_else(too_slow)?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| {
        if error.is::<LengthLimitError>() {
            let detail = format!("the body is larger than {limit} bytes");
            return Refusal::Status(StatusCode::PAYLOAD_TOO_LARGE, detail);
        }
        unreadable()
    })
}

/// The text of a body that may be larger than others, read into one piece of memory. Each MiB of it has the
/// time that other bodies have as a whole. `more` names the setting that allows larger ones.
pub(crate) async fn large_text(
    app: &App,
    request: Request,
    limit: usize,
    more: &str,
) -> Result<Text, Refusal> {
    let json = is_json(request.headers());
    let mut body = request.into_body();
    let too_large = || {
        let detail = format!("the body is larger than {limit} bytes; {more}");
        Refusal::Status(StatusCode::PAYLOAD_TOO_LARGE, detail)
    };
    let announced = body.size_hint().exact().map_or(Some(0), |exact| usize::try_from(exact).ok());
    let mut bytes = Vec::with_capacity(announced.filter(|size| *size <= limit).ok_or_else(too_large)?);
    let mut read = true;
    while read {
        let enough = bytes.len() + (1 << 20);
        let part = async {
            while bytes.len() < enough {
                let Some(frame) = body.frame().await else { return Ok(false) };
                let Ok(data) = frame.map_err(|_| unreadable())?.into_data() else { continue };
                if data.len() > limit - bytes.len() {
                    return Err(too_large());
                }
                bytes.extend_from_slice(&data);
            }
            Ok(true)
        };
        read = within(app.config.stall, part).await.ok_or_else(too_slow)??;
    }
    Text::of(bytes.into(), json)
}

fn too_slow() -> Refusal {
    Refusal::Status(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())
}

fn unreadable() -> Refusal {
    Refusal::Status(StatusCode::BAD_REQUEST, "the body could not be read".to_owned())
}

/// A body that is UTF-8, and whether it is announced as JSON.
pub(crate) struct Text {
    bytes: Bytes,
    json: bool,
}

/// The body of a request as text.
pub(crate) async fn text(app: &App, request: Request) -> Result<Text, Refusal> {
    let json = is_json(request.headers());
    Text::of(bytes(app, request).await?, json)
}

impl Text {
    fn of(bytes: Bytes, json: bool) -> Result<Self, Refusal> {
        if str::from_utf8(&bytes).is_err() {
            let detail = "There was an error parsing the body: it is not UTF-8".to_owned();
            return Err(Refusal::Status(StatusCode::BAD_REQUEST, detail));
        }
        Ok(Text { bytes, json })
    }

    /// Where a part of it stands that was read of it.
    pub(crate) fn place_of(&self, part: &str) -> Range<usize> {
        let start = part.as_ptr().addr() - self.bytes.as_ptr().addr();
        start..start + part.len()
    }

    /// That part of it, in the memory that it has already.
    pub(crate) fn into_part(self, place: Range<usize>) -> String {
        let mut bytes = Vec::from(self.bytes);
        bytes.truncate(place.end);
        bytes.drain(..place.start);
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// The body as one JSON value; `None` when it is empty or null.
    pub(crate) fn optional(&self) -> Result<Option<Json<'_>>, Refusal> {
        let text = str::from_utf8(&self.bytes).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        if !self.json {
            let input = raw(text).unwrap_or_default();
            return Err(Refusal::Body(vec![no_object((&input).into())]));
        }
        let value =
            Json::parse(text).map_err(|fault| Refusal::Body(vec![ValidationIssue::syntax(&fault)]))?;
        match value {
            value if value.is_object() => Ok(Some(value)),
            value if value.is_null() => Ok(None),
            _ => Err(Refusal::Body(vec![no_object(value)])),
        }
    }

    /// The body as one JSON object.
    pub(crate) fn required(&self) -> Result<Json<'_>, Refusal> {
        self.optional()?.ok_or_else(|| Refusal::Body(vec![ValidationIssue::missing(&["body"], Json::NULL)]))
    }
}

fn no_object(input: Json<'_>) -> ValidationIssue {
    let msg = "Input should be a valid dictionary or object to extract fields from";
    ValidationIssue::new("model_attributes_type", &["body"], msg, input)
}

/// Whether a body is announced as JSON: `application/json` or `application/*+json`.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return true;
    }
    let kind = kind.to_ascii_lowercase();
    kind.starts_with("application/") && kind.ends_with("+json")
}
