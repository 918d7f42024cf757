//! [`FleetControl`]: Fleet's control plane.
//!
//! Invariant: a logical request keeps its `X-Request-ID` across repeats; only statuses 429, 500, 502, 503 and
//! 504 (404 too, where one can pass) and broken connections are repeated, four times at most, within the
//! deadline.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oxenv_process::secret::Secret;
use oxenv_wire::{Delivered, after};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::DEFAULT_BASE_URL;
use super::api_error::{control_error, may_be_done};
use super::http::{FleetHttp, FleetRequest, FleetResponse, Secrets, sensitive_header};
use super::instance::FleetInstance;
use crate::error::{ClientError, Code, Result};

/// The most times that a request is sent.
const MAX_ATTEMPTS: u32 = 4;

/// How long one attempt at a request other than a create may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request other than a create may take, repeats included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Fleet's control plane, as one API key sees it. Cheap to clone.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::fleet::FleetControl;
///
/// let fleet = FleetControl::new("sk_key", None)?;
/// for instance in fleet.instances(Some("nightly")).await? {
///     fleet.delete(&instance.instance_id).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct FleetControl {
    http: Arc<FleetHttp>,
    /// What every request is sent with.
    headers: HeaderMap,
    base: Url,
    secrets: Arc<Secrets>,
}

/// How a request is repeated.
#[derive(Clone, Copy)]
pub(super) struct RetryPolicy {
    /// Whether a 404 may pass.
    pub(super) retry_not_found: bool,
    /// How long one attempt may take, if another is worth it after that; else all the time that is left.
    pub(super) attempt_timeout: Option<Duration>,
    /// Until when.
    pub(super) deadline: Instant,
}

/// The outcome of a request and its repeats.
pub(super) struct RetriedRequest {
    pub(super) outcome: Result<FleetResponse>,
    /// Whether one before the last may have been delivered and done.
    pub(super) earlier_may_be_done: bool,
}

/// The answer to a heartbeat.
#[derive(Deserialize)]
pub(super) struct HeartbeatReply {
    #[serde(default)]
    pub(super) interval_seconds: Option<f64>,
}

impl RetryPolicy {
    pub(super) fn until(deadline: Instant) -> Self {
        RetryPolicy { retry_not_found: false, attempt_timeout: None, deadline }
    }
}

impl FleetControl {
    /// The control plane at a base URL, or at `https://orchestrator.fleetai.com`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if the key or the URL cannot be used.
    pub fn new(api_key: &str, base_url: Option<&str>) -> Result<Self> {
        if api_key.is_empty() {
            let message = "the API key is empty; give one, as Fleet's console shows it";
            return Err(ClientError::new(Code::InvalidOptions, message));
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, sensitive_header("the API key", &format!("Bearer {api_key}"))?);
        headers.insert("x-fleet-sdk-language", HeaderValue::from_static("rust"));
        headers.insert("x-fleet-sdk-version", HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
        let secrets = Arc::new(Secrets::default());
        secrets.add(&Secret::new(api_key));
        let base = parse_base_url(base_url.unwrap_or(DEFAULT_BASE_URL))?;
        Ok(FleetControl { http: Arc::new(FleetHttp::new()?), headers, base, secrets })
    }

    /// The instances that are there, of one run if one is named.
    ///
    /// # Errors
    /// Why they cannot be listed.
    pub async fn instances(&self, run_id: Option<&str>) -> Result<Vec<FleetInstance>> {
        let mut url = self.url(&["v1", "env", "instances"]);
        if let Some(run_id) = run_id {
            url.query_pairs_mut().append_pair("run_id", run_id);
        }
        let answer = self
            .request("list the instances", Method::GET, &url, None, deadline_after(REQUEST_TIMEOUT))
            .await?;
        answer.json("the request for the instances", &self.secrets)
    }

    /// An instance.
    ///
    /// # Errors
    /// [`Code::FleetInstanceGone`], if no instance has that id; and why it cannot be read.
    pub async fn instance(&self, id: &str) -> Result<FleetInstance> {
        let url = self.url(&["v1", "env", "instances", id]);
        let what = format!("tell the instance '{id}'");
        let answer = self.request(&what, Method::GET, &url, None, deadline_after(REQUEST_TIMEOUT)).await;
        answer.map_err(|error| gone_if_missing(error, id))?.json("the request for an instance", &self.secrets)
    }

    /// Ends an instance and waits for that. One that is gone already is not an error.
    ///
    /// # Errors
    /// If Fleet does not say that it is gone; the message names it.
    pub async fn delete(&self, id: &str) -> Result<()> {
        self.delete_until(id, deadline_after(REQUEST_TIMEOUT)).await
    }

    pub(super) async fn delete_until(&self, id: &str, deadline: Instant) -> Result<()> {
        let url = self.url(&["v1", "env", "instances", id]);
        let what = format!("end the instance '{id}'");
        match self.request(&what, Method::DELETE, &url, None, deadline).await {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) async fn heartbeat(&self, id: &str) -> Result<HeartbeatReply> {
        let url = self.url(&["v1", "env", "instances", id, "heartbeat"]);
        let what = format!("take a heartbeat of the instance '{id}'");
        let answer =
            self.request(&what, Method::POST, &url, Some(&json!({})), deadline_after(REQUEST_TIMEOUT)).await;
        answer.map_err(|error| gone_if_missing(error, id))?.json("a heartbeat", &self.secrets)
    }

    /// The token of the runners, if this Fleet has any.
    pub(super) async fn runner_token(&self) -> Result<Secret> {
        #[derive(Deserialize)]
        struct RunnerTokenReply {
            token: String,
        }
        let url = self.url(&["v1", "runner-auth", "token"]);
        let answer = self
            .request(
                "tell the runner token",
                Method::GET,
                &url,
                None,
                deadline_after(Duration::from_secs(10)),
            )
            .await?;
        // What came is a secret even if it cannot be read, so the answer itself is not shown.
        let reply = serde_json::from_slice::<RunnerTokenReply>(&answer.body);
        let reply =
            reply.map_err(|_| ClientError::new(Code::InvalidReply, "Fleet's runner token cannot be read"))?;
        let token = Secret::new(reply.token);
        self.secrets.add(&token);
        Ok(token)
    }

    pub(super) fn http(&self) -> &Arc<FleetHttp> {
        &self.http
    }

    pub(super) fn secrets(&self) -> &Arc<Secrets> {
        &self.secrets
    }

    /// A clone with connections of its own, for another runtime.
    pub(super) fn reconnected(&self) -> Result<Self> {
        Ok(FleetControl { http: Arc::new(FleetHttp::new()?), ..self.clone() })
    }

    pub(super) fn is_default(&self) -> bool {
        Url::parse(DEFAULT_BASE_URL).is_ok_and(|default| default == self.base)
    }

    pub(super) fn url(&self, segments: &[&str]) -> Url {
        join_url(&self.base, segments)
    }

    async fn request(
        &self,
        what: &str,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<FleetResponse> {
        let repeat = RetryPolicy { attempt_timeout: Some(ATTEMPT_TIMEOUT), ..RetryPolicy::until(deadline) };
        let answer = self.send_with_retries(method, url, body, Uuid::new_v4(), repeat).await.outcome?;
        if answer.is_success() { Ok(answer) } else { Err(control_error(what, &answer, &self.secrets)) }
    }

    /// Sends a request that has an id, and again where that may help.
    pub(super) async fn send_with_retries(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        id: Uuid,
        repeat: RetryPolicy,
    ) -> RetriedRequest {
        let mut sent = RetriedRequest { outcome: Err(deadline_passed()), earlier_may_be_done: false };
        for attempt in 0..MAX_ATTEMPTS {
            let left = repeat.deadline.saturating_duration_since(Instant::now());
            let time = repeat.attempt_timeout.map_or(left, |attempt| attempt.min(left));
            sent.outcome = self.send_once(method.clone(), url, body, id, time).await;
            let Some(wait) = retry_delay(attempt, &sent.outcome, repeat) else { break };
            if attempt + 1 == MAX_ATTEMPTS || after(Instant::now(), wait) >= repeat.deadline {
                break;
            }
            sent.earlier_may_be_done |= may_be_done(&sent.outcome);
            tracing::debug!(%method, path = url.path(), attempt, ?wait, "Fleet is asked again");
            sleep(wait).await;
        }
        sent
    }

    async fn send_once(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        id: Uuid,
        timeout: Duration,
    ) -> Result<FleetResponse> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut headers = self.headers.clone();
        headers.insert("x-request-id", sensitive_header("the request id", &id.to_string())?);
        headers.insert("x-request-timestamp", sensitive_header("the time", &now.to_string())?);
        self.http.send(FleetRequest { method, url: url.clone(), headers, body, timeout }).await
    }
}

/// A URL below another.
pub(super) fn join_url(base: &Url, segments: &[&str]) -> Url {
    let mut url = base.clone();
    // Only URLs without a host have no path, and those are refused before.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

pub(super) fn deadline_after(time: Duration) -> Instant {
    after(Instant::now(), time)
}

fn parse_base_url(text: &str) -> Result<Url> {
    let bad =
        |why: &str| ClientError::new(Code::InvalidOptions, format!("Fleet's base URL cannot be used: {why}"));
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("it must begin with http:// or https://"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(bad("it must hold neither a name, a password nor a query"));
    }
    Ok(url)
}

/// How long to wait before the next attempt, if one may help: half a second, doubled each time, of which a
/// random part; or longer, if Fleet asks for it.
fn retry_delay(attempt: u32, outcome: &Result<FleetResponse>, repeat: RetryPolicy) -> Option<Duration> {
    let asked = match outcome {
        Ok(answer) => match answer.status {
            429 | 500 | 502 | 503 | 504 => answer.retry_after,
            404 if repeat.retry_not_found => answer.retry_after,
            _ => return None,
        },
        Err(error) if matches!(error.code(), Code::ConnectFailed | Code::ConnectionLost) => None,
        Err(error) if error.code() == Code::TimedOut && repeat.attempt_timeout.is_some() => None,
        Err(_) => return None,
    };
    let whole = Duration::from_millis(500 << attempt.min(6));
    // 32 random bits as a part of one.
    let part = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    Some(whole.mul_f64(part).max(asked.unwrap_or_default()))
}

fn deadline_passed() -> ClientError {
    ClientError::new(Code::TimedOut, "the time was over before Fleet was asked").with_delivered(Delivered::No)
}

/// Whether Fleet itself, not a proxy before it, reports that there is no such thing.
fn is_missing(error: &ClientError) -> bool {
    error.data()["status"] == 404 && !error.data()["detail"].is_null()
}

fn gone_if_missing(error: ClientError, id: &str) -> ClientError {
    if !is_missing(&error) {
        return error;
    }
    let message =
        format!("there is no instance '{id}' on Fleet: it expired, or somebody ended it; make another");
    ClientError::new(Code::FleetInstanceGone, message)
}
