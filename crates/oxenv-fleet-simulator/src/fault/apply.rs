//! Applying faults to a request.
//!
//! Invariant: what happens instead of a request happens before anything of it is done.

use std::future::Future;

use axum::body::Body as HttpBody;
use axum::body::to_bytes;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Effect, FaultResponse, RequestFaults, ResponseBody};
use crate::clock::SimulatedClock;
use crate::connections::{ConnectionClosed, truncated_body};

/// What of an answer may be cut in the middle.
const MAX_CUT_BYTES: usize = 16 << 20;

impl RequestFaults {
    /// Runs the handler of a request with the faults before, instead of and after it.
    pub(crate) async fn apply(
        &self,
        clock: &SimulatedClock,
        act: impl Future<Output = Response>,
    ) -> Result<Response, ConnectionClosed> {
        clock.sleep(self.delay).await;
        match &self.instead {
            Some(Effect::Respond(reply)) => return Ok(reply.to_response()),
            Some(Effect::Hang) => return std::future::pending().await,
            Some(_) => return Err(ConnectionClosed),
            None => {}
        }
        let response = act.await;
        if self.has(&Effect::DropAfter) || self.has(&Effect::LoseSessionInCall) {
            return Err(ConnectionClosed);
        }
        if self.has(&Effect::HangAfter) {
            return std::future::pending().await;
        }
        if self.has(&Effect::Garbage) {
            return Ok(([(header::CONTENT_TYPE, "application/json")], "{\"oops\": <html>").into_response());
        }
        if self.has(&Effect::Cut) {
            return cut_response(response).await;
        }
        Ok(response)
    }
}

impl FaultResponse {
    fn to_response(&self) -> Response {
        let (kind, text) = match &self.body {
            ResponseBody::Json(value) => ("application/json", value.to_string()),
            ResponseBody::Text(text) => ("text/plain; charset=utf-8", text.clone()),
            ResponseBody::Html(page) => ("text/html", page.clone()),
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, kind)], text).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The answer's head has its full length, and half of it comes.
async fn cut_response(response: Response) -> Result<Response, ConnectionClosed> {
    let (mut parts, body): (_, HttpBody) = response.into_parts();
    let whole = to_bytes(body, MAX_CUT_BYTES).await.map_err(|_| ConnectionClosed)?;
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().into());
    Ok(Response::from_parts(parts, truncated_body(&whole)))
}
