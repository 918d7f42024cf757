//! [`HttpTransport`]: requests to one server, each answered once.
//!
//! Invariant: a request is sent again only if it surely was not delivered, or carries a key; and never beyond
//! the caller's deadline.

use std::time::Duration;

use bytes::Bytes;
use oxenv_wire::{Delivered, Phase};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::json_body;
use crate::error::{ClientError, Code, Result};
use crate::http_error::{any_hyper_error, describe_causes, is_tls};
use crate::options::ClientOptions;
use crate::server_address::ServerAddress;
use crate::server_error::{self, excerpt};

/// The most times that a request is sent.
const MAX_ATTEMPTS: u32 = 4;

/// The pause before the second attempt, doubled with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);

/// Our header that names a reply's number.
const SEQ_HEADER: &str = "oxenv-seq";

/// Our header that marks the reply to a repeated request.
const REPEATED_HEADER: &str = "oxenv-repeated";

#[derive(Clone)]
pub(super) struct HttpTransport {
    client: Client,
    server: ServerAddress,
    max_message: usize,
}

/// A request.
pub(super) struct HttpRequest<'a> {
    method: Method,
    path: &'a str,
    /// For messages: `the step`.
    what: &'a str,
    body: Option<Bytes>,
    key: Option<&'a str>,
    phase: Option<Phase>,
    /// Bytes of an answer that may be larger than others.
    large: usize,
}

/// An answer of status 2xx, or 404 or 405 without a failure that is ours.
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) body: Bytes,
    pub(super) seq: Option<u64>,
    pub(super) repeated: bool,
}

impl<'a> HttpRequest<'a> {
    pub(super) fn new(method: Method, path: &'a str, what: &'a str) -> Self {
        HttpRequest { method, path, what, body: None, key: None, phase: None, large: 0 }
    }

    pub(super) fn body<T: Serialize>(mut self, body: &T) -> Result<Self> {
        self.body = Some(json_body(body)?);
        Ok(self)
    }

    pub(super) fn key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }

    /// Takes an answer of that number of bytes, whatever the limit of other answers is.
    pub(super) fn large(mut self, bytes: usize) -> Self {
        self.large = bytes;
        self
    }

    pub(super) fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }
}

impl HttpTransport {
    pub(super) fn new(target: ServerAddress, options: &ClientOptions) -> Result<Self> {
        let client = Client::builder()
            .default_headers(target.headers.clone())
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            // The WebSocket goes straight to the server, too.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ClientError::new(Code::InvalidOptions, format!("no HTTP client: {error}")))?;
        Ok(HttpTransport { client, server: target, max_message: options.max_message })
    }

    pub(super) fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// # Errors
    /// The error that the server sends, or why there is no answer within that time.
    pub(super) async fn send(&self, request: &HttpRequest<'_>, within: Duration) -> Result<HttpResponse> {
        let start = Instant::now();
        let mut attempt = 1;
        loop {
            let left = within.saturating_sub(start.elapsed());
            let sent = timeout(left, self.send_once(request)).await.unwrap_or_else(|_| {
                let message = format!("no answer to {} within {} s", request.what, within.as_secs_f64());
                Err(ClientError::new(Code::TimedOut, message))
            });
            let error = match sent {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = error.retry_after().unwrap_or(INITIAL_BACKOFF * 2_u32.pow(attempt - 1));
            let in_time = start.elapsed().saturating_add(pause) < within;
            if attempt == MAX_ATTEMPTS || !in_time || !may_retry(request, &error) {
                return Err(match (error.phase(), request.phase) {
                    (None, Some(phase)) => error.with_phase(phase),
                    _ => error,
                });
            }
            attempt += 1;
            sleep(pause).await;
        }
    }

    async fn send_once(&self, request: &HttpRequest<'_>) -> Result<HttpResponse> {
        let mut builder = self.client.request(request.method.clone(), self.server.http_url(request.path));
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        if let Some(key) = request.key {
            builder = builder.header("idempotency-key", key);
        }
        let response = builder.send().await.map_err(|error| self.send_error(request, &error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = self.read_body(request, response).await?;
        if (200..300).contains(&status) {
            if is_page(&headers, &body) {
                return Err(self.page_error(&body));
            }
            let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
            let repeated = headers.contains_key(REPEATED_HEADER);
            return Ok(HttpResponse { status, body, seq: number(SEQ_HEADER), repeated });
        }
        self.read_refusal(request, status, &headers, body)
    }

    /// The body, unless it is larger than the caller wants.
    async fn read_body(&self, request: &HttpRequest<'_>, mut response: Response) -> Result<Bytes> {
        let most = self.max_message.max(request.large);
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= most => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    let message = format!(
                        "the answer to {} is larger than {most} bytes; allow more with max_message",
                        request.what
                    );
                    let error = ClientError::new(Code::InvalidReply, message);
                    return Err(error.with_delivered(Delivered::Yes));
                }
                Ok(None) => return Ok(body.into()),
                Err(error) => {
                    let message = format!(
                        "{} broke off within its answer to {}: {}",
                        self.server,
                        request.what,
                        describe_causes(&error)
                    );
                    return Err(ClientError::new(Code::ConnectionLost, message));
                }
            }
        }
    }

    fn page_error(&self, body: &[u8]) -> ClientError {
        let message =
            format!("{} is no environment server: it answers with a page: {}", self.server, excerpt(body));
        ClientError::new(Code::NotAServer, message)
    }

    fn read_refusal(
        &self,
        request: &HttpRequest<'_>,
        status: u16,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<HttpResponse> {
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let text = String::from_utf8_lossy(&body);
        if let Some(error) = server_error::from_http_body(status, &text, retry_after) {
            return Err(error);
        }
        if matches!(status, 404 | 405) {
            return Ok(HttpResponse { status, body, seq: None, repeated: false });
        }
        let message =
            format!("{} answers {} with status {status}: {}", self.server, request.what, excerpt(&body));
        Err(match status {
            401 => server_error::from_code(oxenv_wire::ErrorCode::Unauthorized, message),
            403 => server_error::from_code(oxenv_wire::ErrorCode::Forbidden, message),
            300..=399 => {
                let place = headers.get("location").map_or(&b""[..], |value| value.as_bytes());
                let message = format!("{} redirects to {}; use that address", self.server, excerpt(place));
                ClientError::new(Code::NotAServer, message)
            }
            502..=504 => {
                let message =
                    format!("the way to {} is broken (status {status}): {}", self.server, excerpt(&body));
                ClientError::new(Code::ConnectionLost, message)
            }
            _ if is_page(headers, &body) => self.page_error(&body),
            // The reference answers so when the environment raises.
            500 => server_error::from_code(oxenv_wire::ErrorCode::ExecutionError, message)
                .with_delivered(Delivered::Maybe),
            _ => ClientError::new(Code::InvalidReply, message),
        })
    }

    fn send_error(&self, request: &HttpRequest<'_>, error: &reqwest::Error) -> ClientError {
        let causes = describe_causes(error);
        if error.is_builder() {
            let message = format!("{} cannot be asked for: {causes}", request.what);
            return ClientError::new(Code::InvalidOptions, message);
        }
        if error.is_connect() && error.is_timeout() {
            let message = format!("reaching {} took too long: {causes}", self.server);
            return ClientError::new(Code::TimedOut, message)
                .with_delivered(Delivered::No)
                .with_retry(true, None);
        }
        if error.is_connect() && is_tls(error) {
            return ClientError::new(
                Code::TlsFailed,
                format!("no safe connection to {}: {causes}", self.server),
            );
        }
        if error.is_connect() {
            return ClientError::new(
                Code::ConnectFailed,
                format!("cannot connect to {}: {causes}", self.server),
            );
        }
        let message = format!("no answer to {} from {}: {causes}", request.what, self.server);
        let garbage = any_hyper_error(error, hyper::Error::is_parse);
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
fn may_retry(request: &HttpRequest<'_>, error: &ClientError) -> bool {
    // A caller that opens a session learns at once that nothing listens.
    let told_at_once = error.code() == Code::ConnectFailed && request.phase == Some(Phase::Boot);
    let undelivered = error.delivered() == Delivered::No && error.is_retryable() && !told_at_once;
    undelivered || (request.key.is_some() && error.code() == Code::ConnectionLost)
}
