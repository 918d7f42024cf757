//! A request meets its faults.
//!
//! Invariant: what happens instead of a request happens before anything of it is done.

use std::future::Future;

use axum::body::Body as HttpBody;
use axum::body::to_bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Body, Effect, Plan, Reply};
use crate::clock::Clock;
use crate::connections::{Hangup, half};

/// What of an answer may be cut in the middle.
const MAX_CUT: usize = 16 << 20;

impl Plan {
    /// Does what is to be done, with what goes wrong before and after it.
    pub(crate) async fn around(
        &self,
        clock: &Clock,
        act: impl Future<Output = Response>,
    ) -> Result<Response, Hangup> {
        clock.pass(self.slow).await;
        match &self.instead {
            Some(Effect::Reply(reply)) => return Ok(reply.to_response()),
            Some(Effect::Hang) => return std::future::pending().await,
            Some(_) => return Err(Hangup),
            None => {}
        }
        let response = act.await;
        if self.has(&Effect::DropAfter) || self.has(&Effect::LoseSessionInCall) {
            return Err(Hangup);
        }
        if self.has(&Effect::HangAfter) {
            return std::future::pending().await;
        }
        if self.has(&Effect::Garbage) {
            return Ok(([(header::CONTENT_TYPE, "application/json")], "{\"oops\": <html>").into_response());
        }
        if self.has(&Effect::Cut) {
            return cut(response).await;
        }
        Ok(response)
    }
}

impl Reply {
    fn to_response(&self) -> Response {
        let (kind, text) = match &self.body {
            Body::Json(value) => ("application/json", value.to_string()),
            Body::Text(text) => ("text/plain; charset=utf-8", text.clone()),
            Body::Html(page) => ("text/html", page.clone()),
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, kind)], text).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The answer's head says how long it is, and half of it comes.
async fn cut(response: Response) -> Result<Response, Hangup> {
    let (mut parts, body): (_, HttpBody) = response.into_parts();
    let whole = to_bytes(body, MAX_CUT).await.map_err(|_| Hangup)?;
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().into());
    Ok(Response::from_parts(parts, half(&whole)))
}
