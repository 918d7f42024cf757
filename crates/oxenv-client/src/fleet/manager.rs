//! An instance's manager: its health, resets, resources, and step and state where it serves them.
//!
//! Invariant: it gets the runner token and never the API key. A 404 means "not served" only once the runner
//! gate, which answers 404 to every caller that it does not know, is ruled out.

use std::time::Duration;

use oxenv_process::secret::Secret;
use oxenv_wire::{Delivered, ErrorCode, FailureKind, after};
use parking_lot::Mutex;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::api_error::instance_error;
use super::control::{FleetControl, join_url};
use super::http::{FleetRequest, FleetResponse, sensitive_header};
use super::instance::FleetInstance;
use super::shorten::shorten;
use crate::error::{ClientError, Code, Result};
use crate::options::ResetOptions;

/// How long a request may take that only reads.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The shortest pause between two health checks of a new instance; it is a tenth of the wait so far.
const MIN_HEALTH_INTERVAL: Duration = Duration::from_millis(20);

/// The longest pause between two such checks.
const MAX_HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// How often Fleet is asked meanwhile whether the instance still lives.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(5);

/// An instance's manager.
pub(super) struct InstanceManager {
    base: Url,
    control: FleetControl,
    instance_id: String,
    token: Mutex<Option<Secret>>,
    /// Whether the caller gave the token, so that there is no other.
    token_is_callers: bool,
}

/// The token of the instance's runner.
#[derive(Clone)]
pub(super) struct RunnerToken {
    /// `None` if there is none.
    pub(super) secret: Option<Secret>,
    /// Whether the caller gave it; Fleet has no other then.
    pub(super) is_callers: bool,
}

#[derive(Deserialize)]
struct ResetResponse {
    success: bool,
    #[serde(default)]
    message: Option<String>,
}

impl InstanceManager {
    pub(super) fn new(control: &FleetControl, instance: &FleetInstance, token: RunnerToken) -> Result<Self> {
        let url = instance.manager_url()?;
        let base = Url::parse(&url).ok().filter(Url::has_host).ok_or_else(|| {
            ClientError::new(Code::InvalidReply, format!("Fleet tells a manager URL that is none: {url}"))
        })?;
        Ok(InstanceManager {
            base,
            control: control.clone(),
            instance_id: instance.instance_id.clone(),
            token: Mutex::new(token.secret),
            token_is_callers: token.is_callers,
        })
    }

    /// Waits until the manager answers its health as something else than a proxy before a server that still
    /// starts.
    ///
    /// # Errors
    /// [`Code::FleetInstanceGone`], if the instance ended meanwhile. It has no deadline of its own.
    pub(super) async fn wait_until_healthy(&self) -> Result<()> {
        let began = Instant::now();
        let mut look = after(began, LIVENESS_INTERVAL);
        loop {
            match self.send(Method::GET, &["health"], None, READ_TIMEOUT).await {
                Ok(FleetResponse { status: 502..=504, .. }) => {}
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Code::TlsFailed => return Err(error),
                Err(_) => {}
            }
            if Instant::now() >= look {
                self.check_alive().await?;
                look = after(Instant::now(), LIVENESS_INTERVAL);
            }
            sleep((began.elapsed() / 10).clamp(MIN_HEALTH_INTERVAL, MAX_HEALTH_INTERVAL)).await;
        }
    }

    /// Resets the instance and gives its message.
    pub(super) async fn reset(&self, options: &ResetOptions, timeout: Duration) -> Result<String> {
        let mut body = options.extra.clone();
        if let Some(seed) = options.seed {
            body.insert("seed".to_owned(), seed.into());
        }
        let body = Value::Object(body);
        let deadline = after(Instant::now(), timeout);
        let mut answer = self.send(Method::POST, &["reset"], Some(&body), timeout).await?;
        if answer.status == 404 && self.is_gate_closed().await {
            // Tokens are exchanged now and then; the gate let nothing through, so that a repeat is the first.
            if !self.renew_token().await {
                return Err(self.runner_refused("reset"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            answer = self.send(Method::POST, &["reset"], Some(&body), left).await?;
            if answer.status == 404 && self.is_gate_closed().await {
                return Err(self.runner_refused("reset"));
            }
        }
        if answer.status == 404 {
            return Err(unsupported(
                "its image serves no reset: use another image, or make a new instance instead",
            ));
        }
        if !answer.is_success() {
            return Err(instance_error("POST /reset", &answer, self.control.secrets()));
        }
        let reply: ResetResponse = answer.json("the reset", self.control.secrets())?;
        let message = reply.message.unwrap_or_default();
        if reply.success {
            return Ok(message);
        }
        let said = self.control.secrets().redact(&shorten(message.as_bytes()));
        Err(ClientError::new(Code::Server(ErrorCode::ExecutionError), format!("the reset failed: {said}"))
            .with_kind(FailureKind::Environment)
            .with_delivered(Delivered::Yes))
    }

    /// The resources, in either of their shapes.
    pub(super) async fn resources(&self) -> Result<Value> {
        let answer = self.send(Method::GET, &["resources"], None, READ_TIMEOUT).await?;
        if !answer.is_success() {
            return Err(instance_error("GET /resources", &answer, self.control.secrets()));
        }
        match answer.json("the request for the resources", self.control.secrets())? {
            Value::Object(mut reply) => Ok(reply.remove("resources").unwrap_or(json!([]))),
            reply => Ok(reply),
        }
    }

    /// The state, if the image serves it.
    pub(super) async fn state(&self) -> Result<Option<Value>> {
        let answer = self.send(Method::GET, &["state"], None, READ_TIMEOUT).await?;
        match answer.status {
            404 | 405 => Ok(None),
            200..300 => answer.json("the request for the state", self.control.secrets()).map(Some),
            _ => Err(instance_error("GET /state", &answer, self.control.secrets())),
        }
    }

    /// Takes a step, if the image serves that.
    pub(super) async fn step(&self, action: &Value, timeout: Duration) -> Result<Option<FleetResponse>> {
        let body = json!({ "action": action });
        let answer = self.send(Method::POST, &["step"], Some(&body), timeout).await?;
        match answer.status {
            404 | 405 if self.is_gate_closed().await => Err(self.runner_refused("step")),
            404 | 405 => Ok(None),
            200..300 => Ok(Some(answer)),
            _ => Err(instance_error("POST /step", &answer, self.control.secrets())),
        }
    }

    /// A failure, or that the instance is gone, if Fleet reports that.
    pub(super) async fn explain(&self, error: ClientError) -> ClientError {
        let suspicious = matches!(
            error.code(),
            Code::ConnectFailed
                | Code::ConnectionLost
                | Code::TimedOut
                | Code::EndpointUnavailable
                | Code::FleetRunnerRefused
                | Code::FleetError
        );
        if !suspicious {
            return error;
        }
        match tokio::time::timeout(READ_TIMEOUT, self.check_alive()).await {
            Ok(Err(gone)) if gone.code() == Code::FleetInstanceGone => gone.with_delivered(error.delivered()),
            _ => error,
        }
    }

    /// Asks Fleet whether the instance still runs; that Fleet does not say it is not a failure here.
    async fn check_alive(&self) -> Result<()> {
        match self.control.instance(&self.instance_id).await {
            Ok(instance) if instance.has_ended() => {
                let (id, status) = (&self.instance_id, &instance.status);
                let message = format!(
                    "the instance '{id}' is gone (Fleet says '{status}'): it expired, failed, or somebody \
                     ended it; make another"
                );
                Err(ClientError::new(Code::FleetInstanceGone, message))
            }
            Err(error) if error.code() == Code::FleetInstanceGone => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether what every manager serves is answered with 404 as well.
    async fn is_gate_closed(&self) -> bool {
        for path in ["health", "resources"] {
            match self.send(Method::GET, &[path], None, READ_TIMEOUT).await {
                Ok(answer) if answer.status == 404 => return true,
                Ok(answer) if answer.is_success() => return false,
                _ => {}
            }
        }
        false
    }

    /// Asks for the token again; false if there is no other than that which was used.
    async fn renew_token(&self) -> bool {
        if self.token_is_callers {
            return false;
        }
        let Ok(token) = self.control.runner_token().await else { return false };
        let known = self.token.lock().replace(token.clone());
        known.as_ref() != Some(&token)
    }

    fn runner_refused(&self, what: &str) -> ClientError {
        let had = if self.token.lock().is_some() {
            "the runner token that was sent"
        } else {
            "a caller without a runner token"
        };
        let message = format!(
            "the instance '{}' does not let {had} pass to its {what}: its gate answers 404 to everything; \
             give the right runner token (RUNNER_AUTH_TOKEN), or a key that may ask for one",
            self.instance_id
        );
        ClientError::new(Code::FleetRunnerRefused, message)
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<FleetResponse> {
        let mut headers = HeaderMap::new();
        let token = self.token.lock().clone();
        if let Some(token) = token {
            headers.insert("x-runner-token", sensitive_header("the runner token", token.expose())?);
        }
        self.control
            .http()
            .send(FleetRequest { method, url: join_url(&self.base, path), headers, body, timeout })
            .await
    }
}

pub(super) fn unsupported(why: &str) -> ClientError {
    ClientError::new(Code::Server(ErrorCode::Unsupported), format!("the instance cannot do that: {why}"))
        .with_kind(FailureKind::Action)
        .with_delivered(Delivered::No)
}
