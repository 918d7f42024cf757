//! Forks, snapshots and what is restored from them, over HTTP.
//!
//! Invariant: a copy is always a new session; the one that it was made of goes on as it was.

use std::borrow::Cow;
use std::convert::Infallible;
use std::iter::once;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use oxenv_wire::{ForkRequest, Forked, RestoreRequest, SessionSnapshot};
use serde_json::json;

use super::sessions::created;
use super::{InPath, body, idempotency};
use crate::app::App;
use crate::auth::caller::Caller;
use crate::error::{Refusal, json_response};
use crate::operations::{CreatedSessions, RequestContext};

/// A snapshot of no more bytes is written at once.
const MAX_UNSTREAMED_BYTES: usize = 64 << 10;
/// Bytes of a request beside the state in its snapshot.
const ENVELOPE_BYTES: usize = 1 << 20;

pub(crate) async fn fork(
    State(app): State<Arc<App>>,
    InPath(id): InPath,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let context = RequestContext::over_http(Arc::clone(&app), caller, request.headers());
    let key = idempotency::header_key(request.headers())?;
    let body = body::text(&app, request).await?;
    let asked = match body.optional()? {
        Some(value) => ForkRequest::parse(value, &["body"]).map_err(Refusal::Body)?,
        None => ForkRequest::default(),
    };
    let CreatedSessions { ids, repeated, .. } = context.create_forks(&id, &asked, key.as_deref()).await?;
    let forked = Forked { sessions: ids.iter().map(|id| context.created(id)).collect() };
    let response = json_response(StatusCode::CREATED, json!(forked).to_string());
    Ok(idempotency::marked(response, None, repeated))
}

pub(crate) async fn snapshot(State(app): State<Arc<App>>, InPath(id): InPath) -> Result<Response, Refusal> {
    let session = app.store.get(&id)?;
    let sealed = app.store.sealed_snapshot(&session, app.store.snapshot_room()).await?;
    let key = app.store.snapshot_key_source().name().to_owned();
    let length = sealed.text_len();
    if length <= MAX_UNSTREAMED_BYTES {
        let snapshot = sealed.into_text();
        return Ok(json_response(StatusCode::OK, json!(SessionSnapshot { snapshot, key }).to_string()));
    }
    // Base64 stands in JSON as it is, so the text is made while it is sent.
    let (before, after) = (r#"{"snapshot":""#, format!(r#"","key":"{key}"}}"#));
    let length = before.len() + length + after.len();
    let pieces = once(before.to_owned()).chain(sealed.into_pieces()).chain(once(after));
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

pub(crate) async fn restore(
    State(app): State<Arc<App>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    let context = RequestContext::over_http(Arc::clone(&app), caller, request.headers());
    let key = idempotency::header_key(request.headers())?;
    let room = app.store.snapshot_room();
    let bytes = usize::try_from(room.bytes).unwrap_or(usize::MAX);
    let limit =
        bytes.div_ceil(3).saturating_mul(4).saturating_add(ENVELOPE_BYTES).max(app.config.max_message);
    let body = body::large_text(&app, request, limit, room.more).await?;
    let asked = RestoreRequest::parse(body.required()?, &["body"]).map_err(Refusal::Body)?;
    let resume_s = asked.resume_s;
    let snapshot = match asked.snapshot {
        Cow::Owned(snapshot) => snapshot,
        Cow::Borrowed(snapshot) => {
            let place = body.place_of(snapshot);
            body.into_part(place)
        }
    };
    let asked = RestoreRequest { snapshot: snapshot.into(), resume_s };
    let CreatedSessions { ids, repeated, .. } = context.create_restored(asked, key.as_deref()).await?;
    Ok(created(&context, &ids, repeated))
}
