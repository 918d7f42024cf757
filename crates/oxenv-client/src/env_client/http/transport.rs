//! [`Road`]: requests to one server, each answered once.
//!
//! Invariant: a request is sent again only if it surely was not delivered, or carries a key; and never beyond the
//! caller's deadline.

use std::time::Duration;

use bytes::Bytes;
use oxenv_wire::{Delivered, Phase};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::written;
use crate::error::{ClientError, Code, Result};
use crate::http_error::{causes, hyper_says, is_tls};
use crate::options::ClientOptions;
use crate::server_address::Target;
use crate::server_error::{self, excerpt};

/// How often a request is sent at the most.
const ATTEMPTS: u32 = 4;

/// The pause before the second attempt, doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);

/// Our header that names a reply's number.
const SEQ: &str = "oxenv-seq";

/// Our header that marks the reply to a repeated request.
const REPEATED: &str = "oxenv-repeated";

#[derive(Clone)]
pub(super) struct Road {
    client: Client,
    target: Target,
    max_message: usize,
}

/// A request.
pub(super) struct Asked<'a> {
    method: Method,
    path: &'a str,
    /// For messages: `the step`.
    what: &'a str,
    body: Option<Bytes>,
    key: Option<&'a str>,
    phase: Option<Phase>,
}

/// An answer of status 2xx, or 404 or 405 without a failure that is ours.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    pub(super) seq: Option<u64>,
    pub(super) repeated: bool,
}

impl<'a> Asked<'a> {
    pub(super) fn new(method: Method, path: &'a str, what: &'a str) -> Self {
        Asked { method, path, what, body: None, key: None, phase: None }
    }

    pub(super) fn body<T: Serialize>(mut self, body: &T) -> Result<Self> {
        self.body = Some(written(body)?);
        Ok(self)
    }

    pub(super) fn key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }

    pub(super) fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }
}

impl Road {
    pub(super) fn new(target: Target, options: &ClientOptions) -> Result<Self> {
        let client = Client::builder()
            .default_headers(target.headers.clone())
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // The WebSocket goes straight to the server, too.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ClientError::new(Code::InvalidOptions, format!("no HTTP client: {error}")))?;
        Ok(Road { client, target, max_message: options.max_message })
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// # Errors
    /// The failure that the server tells, or why there is no answer within that time.
    pub(super) async fn ask(&self, asked: &Asked<'_>, within: Duration) -> Result<Answer> {
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            let left = within.saturating_sub(start.elapsed());
            let sent = timeout(left, self.once(asked)).await.unwrap_or_else(|_| {
                let message = format!("no answer to {} within {} s", asked.what, within.as_secs_f64());
                Err(ClientError::new(Code::TimedOut, message))
            });
            let error = match sent {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = error.retry_after().unwrap_or(PAUSE * 2_u32.pow(attempt - 1));
            let in_time = start.elapsed().saturating_add(pause) < within;
            if attempt == ATTEMPTS || !in_time || !again(asked, &error) {
                return Err(match (error.phase(), asked.phase) {
                    (None, Some(phase)) => error.with_phase(phase),
                    _ => error,
                });
            }
            attempt += 1;
            sleep(pause).await;
        }
    }

    async fn once(&self, asked: &Asked<'_>) -> Result<Answer> {
        let mut request = self.client.request(asked.method.clone(), self.target.http_url(asked.path));
        if let Some(body) = &asked.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(key) = asked.key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.map_err(|error| self.unsent(asked, &error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.read(asked, response).await?;
        if (200..300).contains(&status) {
            if is_page(&headers, &body) {
                return Err(self.page(&body));
            }
            let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
            let repeated = headers.contains_key(REPEATED);
            return Ok(Answer { status, body, seq: number(SEQ), repeated });
        }
        self.refused(asked, status, &headers, body)
    }

    /// The body, unless it is larger than the caller wants.
    async fn read(&self, asked: &Asked<'_>, mut response: Response) -> Result<Bytes> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= self.max_message => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    let message = format!(
                        "the answer to {} is larger than {} bytes; allow more with max_message",
                        asked.what, self.max_message
                    );
                    let error = ClientError::new(Code::InvalidReply, message);
                    return Err(error.with_delivered(Delivered::Yes));
                }
                Ok(None) => return Ok(body.into()),
                Err(error) => {
                    let message = format!(
                        "{} broke off within its answer to {}: {}",
                        self.target,
                        asked.what,
                        causes(&error)
                    );
                    return Err(ClientError::new(Code::ConnectionLost, message));
                }
            }
        }
    }

    fn page(&self, body: &[u8]) -> ClientError {
        let message =
            format!("{} is no environment server: it answers with a page: {}", self.target, excerpt(body));
        ClientError::new(Code::NotAServer, message)
    }

    fn refused(&self, asked: &Asked<'_>, status: u16, headers: &HeaderMap, body: Bytes) -> Result<Answer> {
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let text = String::from_utf8_lossy(&body);
        if let Some(error) = server_error::of_body(status, &text, retry_after) {
            return Err(error);
        }
        if matches!(status, 404 | 405) {
            return Ok(Answer { status, body, seq: None, repeated: false });
        }
        let message =
            format!("{} answers {} with status {status}: {}", self.target, asked.what, excerpt(&body));
        Err(match status {
            401 => server_error::of_code(oxenv_wire::ErrorCode::Unauthorized, message),
            403 => server_error::of_code(oxenv_wire::ErrorCode::Forbidden, message),
            300..=399 => {
                let place = headers.get("location").map_or(&b""[..], |value| value.as_bytes());
                let message = format!("{} redirects to {}; use that address", self.target, excerpt(place));
                ClientError::new(Code::NotAServer, message)
            }
            502..=504 => {
                let message =
                    format!("the way to {} is broken (status {status}): {}", self.target, excerpt(&body));
                ClientError::new(Code::ConnectionLost, message)
            }
            _ if is_page(headers, &body) => self.page(&body),
            // The reference answers so when the environment raises.
            500 => server_error::of_code(oxenv_wire::ErrorCode::ExecutionError, message)
                .with_delivered(Delivered::Maybe),
            _ => ClientError::new(Code::InvalidReply, message),
        })
    }

    fn unsent(&self, asked: &Asked<'_>, error: &reqwest::Error) -> ClientError {
        let causes = causes(error);
        if error.is_builder() {
            let message = format!("{} cannot be asked for: {causes}", asked.what);
            return ClientError::new(Code::InvalidOptions, message);
        }
        if error.is_connect() && error.is_timeout() {
            let message = format!("reaching {} took too long: {causes}", self.target);
            return ClientError::new(Code::TimedOut, message)
                .with_delivered(Delivered::No)
                .with_retry(true, None);
        }
        if error.is_connect() && is_tls(error) {
            return ClientError::new(
                Code::TlsFailed,
                format!("no safe connection to {}: {causes}", self.target),
            );
        }
        if error.is_connect() {
            return ClientError::new(
                Code::ConnectFailed,
                format!("cannot connect to {}: {causes}", self.target),
            );
        }
        let message = format!("no answer to {} from {}: {causes}", asked.what, self.target);
        let garbage = hyper_says(error, hyper::Error::is_parse);
        let code = if garbage { Code::NotAServer } else { Code::ConnectionLost };
        ClientError::new(code, message).with_delivered(Delivered::Maybe)
    }
}

/// Whether the answer is for people.
fn is_page(headers: &HeaderMap, body: &[u8]) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("text/html")) || body.trim_ascii_start().starts_with(b"<")
}

/// Whether a request may be sent again after that.
fn again(asked: &Asked<'_>, error: &ClientError) -> bool {
    // Who opens a session hears at once that nobody listens.
    let told_at_once = error.code() == Code::ConnectFailed && asked.phase == Some(Phase::Boot);
    let undelivered = error.delivered() == Delivered::No && error.is_retryable() && !told_at_once;
    undelivered || (asked.key.is_some() && error.code() == Code::ConnectionLost)
}
