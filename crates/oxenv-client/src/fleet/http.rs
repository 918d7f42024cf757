//! HTTP as Fleet and its instances are asked: one request, one bounded answer.
//!
//! Invariant: no redirect is followed, because it could carry a key to another host; no failure shows a
//! secret.

use std::time::Duration;

use oxenv_process::secret::{Redactor, Secret};
use oxenv_wire::Delivered;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::shorten::shorten;
use crate::dial::tls;
use crate::error::{ClientError, Code, Result};
use crate::http_error::{any_hyper_error, describe_causes, is_tls};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a quiet connection is probed: a create may be held for a quarter of an hour.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long a connection is kept that nothing uses: less than what proxies before a server keep theirs,
/// because a reset that met a closing one could not be repeated.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest answer that is read.
const MAX_RESPONSE_BYTES: usize = 16 << 20;

/// What no text may show.
#[derive(Default)]
pub(super) struct Secrets(Mutex<Vec<Secret>>);

/// A client, and its connections.
pub(super) struct FleetHttp(reqwest::Client);

/// A request.
pub(super) struct FleetRequest<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<&'a Value>,
    pub(super) timeout: Duration,
}

/// What came back.
pub(super) struct FleetResponse {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) retry_after: Option<Duration>,
}

impl Secrets {
    pub(super) fn add(&self, secret: &Secret) {
        let mut secrets = self.0.lock();
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }

    pub(super) fn redact(&self, text: &str) -> String {
        Redactor::new(self.0.lock().iter()).redact(text).into_owned()
    }
}

impl FleetHttp {
    /// A client with connections of its own.
    pub(super) fn new() -> Result<Self> {
        let bad = |why: &dyn std::fmt::Display| {
            ClientError::new(Code::InvalidOptions, format!("no HTTP client can be made: {why}"))
        };
        // Reading the machine's roots takes longer than all else here, so it is done once for all clients.
        let tls = tls::client_config().map_err(|why| bad(&why))?;
        let builder = reqwest::Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE_INTERVAL);
        let builder = builder.pool_idle_timeout(POOL_IDLE_TIMEOUT);
        let client = builder.tls_backend_preconfigured(tls.as_ref().clone()).build();
        Ok(FleetHttp(client.map_err(|error| bad(&error))?))
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`Code::ConnectFailed`], [`Code::TlsFailed`], [`Code::ConnectionLost`], [`Code::TimedOut`]: an
    /// answer with any status is not an error here.
    pub(super) async fn send(&self, ask: FleetRequest<'_>) -> Result<FleetResponse> {
        let what = format!("{} {}", ask.method, display_url(&ask.url));
        let mut request = self.0.request(ask.method, ask.url).timeout(ask.timeout).headers(ask.headers);
        if let Some(body) = ask.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(|error| send_error(&what, &error, ask.timeout))?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(parse_retry_after);
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| send_error(&what, &error, ask.timeout))?
        {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                let message = format!("{what} was answered with more than {MAX_RESPONSE_BYTES} bytes");
                return Err(ClientError::new(Code::InvalidReply, message));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(FleetResponse { status, body, retry_after })
    }
}

impl FleetResponse {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether it is a page for people, so that the answer is not Fleet's.
    pub(super) fn is_page(&self) -> bool {
        self.body.trim_ascii_start().starts_with(b"<")
    }

    /// The body as a type.
    ///
    /// # Errors
    /// [`Code::InvalidReply`], if it is not one; [`Code::NotAServer`], if it is a page.
    pub(super) fn json<T: DeserializeOwned>(&self, what: &str, secrets: &Secrets) -> Result<T> {
        if self.is_page() {
            let message = format!("{what} was answered with a page: {}; check the URL", shorten(&self.body));
            return Err(ClientError::new(Code::NotAServer, message));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let said = secrets.redact(&shorten(&self.body));
            let message = format!("{what} was answered with what cannot be read ({error}): {said}");
            ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
        })
    }
}

/// A header's value that no log shows.
///
/// # Errors
/// [`Code::InvalidOptions`], if no header can have it.
pub(super) fn sensitive_header(what: &str, value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        let message = format!("{what} has a character that no header can have, such as a line end; check it");
        ClientError::new(Code::InvalidOptions, message)
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A URL without what could be a secret.
pub(super) fn display_url(url: &Url) -> String {
    let mut shown = url.clone();
    // These fail only for URLs that have no host, which are refused before.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    shown.into()
}

/// Whole seconds; a date is not looked at.
fn parse_retry_after(value: &HeaderValue) -> Option<Duration> {
    Some(Duration::from_secs(value.to_str().ok()?.trim().parse().ok()?))
}

fn send_error(what: &str, error: &reqwest::Error, timeout: Duration) -> ClientError {
    let why = describe_causes(error);
    let (code, says) = match (error.is_connect(), error.is_timeout()) {
        (true, true) => (
            Code::ConnectFailed,
            format!("no connection within {:.1} s", CONNECT_TIMEOUT.min(timeout).as_secs_f64()),
        ),
        (true, false) if is_tls(error) => (Code::TlsFailed, format!("no safe connection: {why}")),
        (true, false) => {
            (Code::ConnectFailed, format!("cannot connect: {why}; check the URL and the network"))
        }
        (false, true) => (Code::TimedOut, format!("no answer within {:.1} s", timeout.as_secs_f64())),
        (false, false) if is_not_http(error, &why) => {
            (Code::NotAServer, format!("what answers does not speak HTTP: {why}; check the URL"))
        }
        (false, false) => {
            (Code::ConnectionLost, format!("the connection broke before the answer came: {why}"))
        }
    };
    ClientError::new(code, format!("{what}: {says}"))
}

/// Whether the answer is not HTTP, or came before there was a request.
fn is_not_http(error: &reqwest::Error, why: &str) -> bool {
    any_hyper_error(error, hyper::Error::is_parse) || why.contains("received unexpected message")
}
