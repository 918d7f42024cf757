//! [`HttpSession`]: a session by HTTP requests, of `POST /sessions` where the server has that, else the
//! server's one.
//!
//! Invariant: a session that was made here is deleted by its close or its drop.

mod transport;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use oxenv_wire::{Delivered, Phase, RawJson, Tool};
use parking_lot::Mutex;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::time::timeout;

use self::transport::{HttpRequest, HttpResponse, HttpTransport};
use super::stock::{FirstReset, refuse_keys};
use super::tools;
use crate::error::{ClientError, Code, Result};
use crate::options::{ClientOptions, OpenOptions, ResetOptions, StepOptions};
use crate::result::{ForkedSession, StepResult};
use crate::server_address::ServerAddress;
use crate::server_error::excerpt;

/// How long the deletion of a session that was dropped may take.
const DELETE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a snapshot that may be read, whatever the limit of other answers is: those of a server with
/// the usual limit, and more.
const MAX_SNAPSHOT: usize = 512 << 20;

pub(super) struct HttpSession {
    transport: HttpTransport,
    /// The session that `POST /sessions` made; `None` on a stock server, which has one for all clients.
    created: Option<ForkedSession>,
    /// The content of the first reset, where the server has no other place for it.
    first_reset: Mutex<FirstReset>,
    closed: Mutex<bool>,
    /// Where the deletion of a dropped session runs.
    runtime: Handle,
}

#[derive(Serialize)]
struct HttpStepBody<'a> {
    action: &'a RawJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_step: Option<u64>,
}

#[derive(Deserialize)]
struct ForkResponse {
    sessions: Vec<ForkedSession>,
}

#[derive(Deserialize)]
struct SnapshotResponse {
    snapshot: String,
}

#[derive(Deserialize)]
struct HealthResponse {
    #[expect(dead_code, reason = "its presence says that this is an environment server")]
    status: String,
}

impl HttpSession {
    /// Opens a session. If its caller no longer waits for it, it is deleted as soon as it is there.
    pub(super) async fn open(
        target: ServerAddress,
        options: &ClientOptions,
        open: &OpenOptions,
    ) -> Result<Self> {
        let (transport, open, within) = (HttpTransport::new(target, options)?, open.clone(), options.timeout);
        let server = transport.server().to_string();
        let opened = run_detached(async move { Self::create(transport, &open, within).await });
        let opened = timeout(within, opened).await.unwrap_or_else(|_| {
            let message = format!("{server} gave no session within {} s", within.as_secs_f64());
            Err(ClientError::new(Code::TimedOut, message))
        });
        opened.map_err(|error| error.with_phase(Phase::Boot))
    }

    /// Makes a session of a snapshot. If its caller no longer waits for it, it is deleted as soon as it is
    /// there.
    pub(super) async fn restore(
        address: ServerAddress,
        options: &ClientOptions,
        snapshot: &str,
        open: &OpenOptions,
    ) -> Result<Self> {
        let mut body = json!({ "snapshot": snapshot });
        if let Some(resume) = open.resume {
            body["resume_s"] = json!(resume.as_secs_f64());
        }
        let request =
            HttpRequest::new(Method::POST, "/restore", "the session").body(&body)?.phase(Phase::Boot);
        drop(body);
        let (transport, within) = (HttpTransport::new(address, options)?, options.timeout);
        run_detached(async move {
            let key = uuid::Uuid::new_v4().to_string();
            let answer = require_route(&transport, transport.send(&request.key(Some(&key)), within).await?)?;
            let created = parse::<ForkedSession>(&answer, "the session")?;
            Ok(Self::new(transport, Some(created), FirstReset::default()))
        })
        .await
    }

    async fn create(transport: HttpTransport, open: &OpenOptions, within: Duration) -> Result<Self> {
        let mut body = json!({});
        let optional = [
            ("seed", open.seed.map(|seed| json!(seed))),
            ("episode_id", open.episode_id.as_ref().map(|id| json!(id))),
            ("resume_s", open.resume.map(|resume| json!(resume.as_secs_f64()))),
            ("queue_s", open.queue.map(|queue| json!(queue.as_secs_f64()))),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                body[key] = value;
            }
        }
        let request =
            HttpRequest::new(Method::POST, "/sessions", "the session").body(&body)?.phase(Phase::Boot);
        // The key makes it safe to ask again when the answer is lost.
        let key = uuid::Uuid::new_v4().to_string();
        let response =
            transport.send(&request.key(Some(&key)), within.saturating_add(DELETE_TIMEOUT)).await?;
        if !matches!(response.status, 404 | 405) {
            let made = parse::<ForkedSession>(&response, "the session")?;
            return Ok(Self::new(transport, Some(made), FirstReset::default()));
        }
        check_health(&transport, within).await?;
        if open.resume.is_some() {
            let message = "this server has one session for all HTTP requests, which cannot be resumed";
            return Err(ClientError::new(Code::VersionMismatch, message));
        }
        Ok(Self::new(transport, None, FirstReset::from_options(open)))
    }

    fn new(transport: HttpTransport, made: Option<ForkedSession>, first: FirstReset) -> Self {
        let (first, closed) = (Mutex::new(first), Mutex::new(false));
        HttpSession { transport, created: made, first_reset: first, closed, runtime: Handle::current() }
    }

    pub(super) fn created(&self) -> Option<&ForkedSession> {
        self.created.as_ref()
    }

    pub(super) fn server(&self) -> &ServerAddress {
        self.transport.server()
    }

    pub(super) async fn reset(&self, options: &ResetOptions, within: Duration) -> Result<StepResult> {
        let options = self.first_reset.lock().merge_into(options);
        let path = self.path("/reset");
        let request = HttpRequest::new(Method::POST, &path, "the reset").body(&options)?.phase(Phase::Reset);
        parse_step(&self.send(&request, within).await?, "the reset")
    }

    pub(super) async fn step(
        &self,
        action: RawJson,
        options: &StepOptions,
        within: Duration,
    ) -> Result<StepResult> {
        if self.created.is_none() {
            refuse_keys(options)?;
        }
        let timeout_s = options.timeout.map(|timeout| timeout.as_secs_f64()).filter(|seconds| *seconds > 0.0);
        let body = HttpStepBody { action: &action, timeout_s, expected_step: options.expected_step };
        let path = self.path("/step");
        let request = HttpRequest::new(Method::POST, &path, "the step").body(&body)?.phase(Phase::Step);
        parse_step(&self.send(&request.key(options.key.as_deref()), within).await?, "the step")
    }

    pub(super) async fn state(&self, within: Duration) -> Result<RawJson> {
        let path = self.path("/state");
        parse(&self.send(&HttpRequest::new(Method::GET, &path, "the state"), within).await?, "the state")
    }

    /// The tools without a step; none if the server does not list them so.
    pub(super) async fn tools(&self, within: Duration) -> Result<Option<Vec<Tool>>> {
        let path = self.path("/mcp");
        let request = RawValue::from_string(tools::LIST_TOOLS_RPC.to_owned());
        let Ok(request) = request else { return Ok(None) };
        let request = HttpRequest::new(Method::POST, &path, "the question for the tools").body(&request)?;
        match self.send(&request, within).await {
            Ok(response) => Ok(tools::parse_tools_rpc(&String::from_utf8_lossy(&response.body))),
            Err(error) if matches!(error.code(), Code::Server(_) | Code::NotAServer) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Forks, which are deleted if their caller no longer waits for them.
    pub(super) async fn fork(&self, n: usize, within: Duration) -> Result<Vec<HttpSession>> {
        self.check_open()?;
        let (transport, path) = (self.transport.clone(), self.path("/fork"));
        run_detached(async move {
            let key = uuid::Uuid::new_v4().to_string();
            let request = HttpRequest::new(Method::POST, &path, "the fork").body(&json!({ "n": n }))?;
            let response = transport.send(&request.key(Some(&key)), within).await?;
            let forked: ForkResponse = parse(&require_route(&transport, response)?, "the fork")?;
            let over = |made| Self::new(transport.clone(), Some(made), FirstReset::default());
            Ok(forked.sessions.into_iter().map(over).collect())
        })
        .await
    }

    pub(super) async fn snapshot(&self, within: Duration) -> Result<String> {
        let path = self.path("/snapshot");
        let request = HttpRequest::new(Method::POST, &path, "the snapshot").large(MAX_SNAPSHOT);
        let answer = self.send(&request, within).await?;
        Ok(parse::<SnapshotResponse>(&answer, "the snapshot")?.snapshot)
    }

    pub(super) async fn close(&self, within: Duration) -> Result<()> {
        if std::mem::replace(&mut *self.closed.lock(), true) || self.created.is_none() {
            return Ok(());
        }
        let deleted =
            self.transport.send(&HttpRequest::new(Method::DELETE, &self.path(""), "the close"), within).await;
        match deleted {
            // It ended before.
            Ok(_) => Ok(()),
            Err(error) if is_session_gone(&error) => Ok(()),
            Err(error) => {
                *self.closed.lock() = false;
                Err(error)
            }
        }
    }

    async fn send(&self, request: &HttpRequest<'_>, within: Duration) -> Result<HttpResponse> {
        self.check_open()?;
        require_route(&self.transport, self.transport.send(request, within).await?)
    }

    fn check_open(&self) -> Result<()> {
        match *self.closed.lock() {
            true => Err(ClientError::new(Code::Closed, "the client was closed; make another")),
            false => Ok(()),
        }
    }

    fn path(&self, route: &str) -> String {
        match &self.created {
            Some(made) => format!("/sessions/{}{route}", made.session_id),
            None => route.to_owned(),
        }
    }
}

impl Drop for HttpSession {
    fn drop(&mut self) {
        if *self.closed.get_mut() || self.created.is_none() {
            return;
        }
        let (transport, path) = (self.transport.clone(), self.path(""));
        self.runtime.spawn(async move {
            let _ =
                transport.send(&HttpRequest::new(Method::DELETE, &path, "the close"), DELETE_TIMEOUT).await;
        });
    }
}

/// Runs a future to its end even if the caller gives up, so that sessions it creates are dropped and deleted.
async fn run_detached<T: Send + 'static>(
    making: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(making).await.unwrap_or_else(|_| {
        Err(ClientError::new(Code::ConnectionLost, "the runtime of the client ended while it was asked"))
    })
}

/// The answer, unless the server has no such route.
fn require_route(transport: &HttpTransport, response: HttpResponse) -> Result<HttpResponse> {
    if !matches!(response.status, 404 | 405) {
        return Ok(response);
    }
    let message = format!(
        "{} has no such route (status {}); use a server in simulation mode, or another protocol",
        transport.server(),
        response.status
    );
    Err(ClientError::new(Code::NotAServer, message))
}

/// A server without `POST /sessions` is a stock one, if it is a server of environments at all.
async fn check_health(transport: &HttpTransport, within: Duration) -> Result<()> {
    let response = transport.send(&HttpRequest::new(Method::GET, "/health", "its health"), within).await?;
    if response.status == 200 && serde_json::from_slice::<HealthResponse>(&response.body).is_ok() {
        return Ok(());
    }
    let message = format!(
        "{} is no environment server: it has neither /sessions nor /health (status {}): {}",
        transport.server(),
        response.status,
        excerpt(&response.body)
    );
    Err(ClientError::new(Code::NotAServer, message))
}

fn is_session_gone(error: &ClientError) -> bool {
    use oxenv_wire::ErrorCode::{SessionEnded, SessionNotFound};
    matches!(error.code(), Code::Server(SessionEnded | SessionNotFound))
}

fn parse_step(response: &HttpResponse, what: &str) -> Result<StepResult> {
    let mut result: StepResult = parse(response, what)?;
    (result.seq, result.repeated) = (response.seq, response.repeated);
    Ok(result)
}

fn parse<T: DeserializeOwned>(response: &HttpResponse, what: &str) -> Result<T> {
    serde_json::from_slice(&response.body).map_err(|error| {
        let message = format!("the answer to {what} cannot be read: {error}: {}", excerpt(&response.body));
        ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
    })
}

/// A JSON body, encoded once for all attempts.
fn json_body<T: Serialize>(body: &T) -> Result<Bytes> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|error| ClientError::new(Code::InvalidOptions, format!("the body cannot be JSON: {error}")))
}
