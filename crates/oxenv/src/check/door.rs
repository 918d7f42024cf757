//! The doors that an environment is checked through: `/sessions…` over HTTP, or `/ws` of a server that
//! has no sessions of that kind.
//!
//! Invariant: replies are kept as the text that came, but for the session's own id, so that bytes can be
//! compared. Only a server that cannot be talked to is an error.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{SinkExt, StreamExt};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Socket};

/// The id that every episode gets, so that it is no difference.
const EPISODE_ID: &str = "check";
/// What stands for a session's own id in its replies.
const SESSION_PLACEHOLDER: &str = "‹session›";
/// How long a reply on a socket may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Where sessions are opened.
pub(super) enum CheckedServer {
    /// Over HTTP.
    Sessions(Arc<Client>),
    /// Each on a socket of its own.
    Sockets(Arc<Client>),
}

/// A session.
pub(super) enum CheckedSession {
    Session(Arc<Client>, String),
    Socket(Box<Socket>),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckedReply {
    /// Whether it is no failure.
    pub(super) ok: bool,
    /// The status of HTTP; 200 or 400 on a socket.
    pub(super) status: u16,
    pub(super) text: String,
}

/// The outcome of a request for something that not every server has.
pub(super) enum Optional<T> {
    Made(T),
    /// Why it is not there.
    None(String),
}

/// A frame of a socket.
#[derive(Deserialize)]
struct SocketFrame<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl CheckedServer {
    /// Finds out which door a server has.
    ///
    /// # Errors
    /// When it cannot be reached, or refuses access.
    pub(super) async fn find(client: Arc<Client>) -> anyhow::Result<Self> {
        match client.send(Method::GET, "/sessions", None, String::new()).await? {
            (StatusCode::OK, _) => Ok(CheckedServer::Sessions(client)),
            (status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), said) => bail!("{status}: {said}"),
            _ => Ok(CheckedServer::Sockets(client)),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            CheckedServer::Sessions(_) => "sessions",
            CheckedServer::Sockets(_) => "websocket",
        }
    }

    pub(super) async fn open(&self, seed: u64) -> anyhow::Result<CheckedSession> {
        match self.open_with(&json!({ "seed": seed })).await? {
            Optional::Made(session) => Ok(session),
            Optional::None(why) => bail!("no session could be opened: {why}"),
        }
    }

    /// A session whose seed is the server's to draw; none if the server is full.
    pub(super) async fn open_unseeded(&self) -> anyhow::Result<Optional<CheckedSession>> {
        self.open_with(&json!({})).await
    }

    async fn open_with(&self, options: &Value) -> anyhow::Result<Optional<CheckedSession>> {
        match self {
            CheckedServer::Sessions(client) => {
                let (status, text) =
                    client.send(Method::POST, "/sessions", None, options.to_string()).await?;
                if let Some(why) = capacity_reason(&text) {
                    return Ok(Optional::None(why));
                }
                let id = named(&text, "session_id").filter(|_| status.is_success());
                let id = id.with_context(|| format!("no session could be opened: {status}: {text}"))?;
                Ok(Optional::Made(CheckedSession::Session(Arc::clone(client), id)))
            }
            CheckedServer::Sockets(client) => {
                Ok(Optional::Made(CheckedSession::Socket(Box::new(client.websocket("/ws").await?))))
            }
        }
    }

    /// The JSON of a path; null where there is none.
    pub(super) async fn about(&self, path: &str) -> anyhow::Result<Value> {
        let (CheckedServer::Sessions(client) | CheckedServer::Sockets(client)) = self;
        let (status, text) = client.send(Method::GET, path, None, String::new()).await?;
        Ok(if status.is_success() { serde_json::from_str(&text).unwrap_or_default() } else { Value::Null })
    }

    pub(super) async fn restore(&self, snapshot: &str) -> anyhow::Result<CheckedSession> {
        let CheckedServer::Sessions(client) = self else { bail!("there is no door for it") };
        let body = json!({ "snapshot": snapshot }).to_string();
        let (status, text) = client.send(Method::POST, "/restore", None, body).await?;
        let id = named(&text, "session_id").filter(|_| status.is_success());
        let id = id.with_context(|| format!("the snapshot was not restored: {status}: {text}"))?;
        Ok(CheckedSession::Session(Arc::clone(client), id))
    }
}

impl CheckedSession {
    pub(super) async fn reset(&mut self, seed: u64) -> anyhow::Result<CheckedReply> {
        self.reset_with(&json!({ "seed": seed, "episode_id": EPISODE_ID })).await
    }

    /// A reset whose seed is the server's to draw.
    pub(super) async fn reset_unseeded(&mut self) -> anyhow::Result<CheckedReply> {
        self.reset_with(&json!({ "episode_id": EPISODE_ID })).await
    }

    async fn reset_with(&mut self, arguments: &Value) -> anyhow::Result<CheckedReply> {
        match self {
            CheckedSession::Session(..) => self.post("reset", None, arguments).await,
            CheckedSession::Socket(socket) => {
                ask(socket, &json!({ "type": "reset", "data": arguments })).await
            }
        }
    }

    pub(super) async fn step(&mut self, action: &Value) -> anyhow::Result<CheckedReply> {
        match self {
            CheckedSession::Session(..) => self.post("step", None, &json!({ "action": action })).await,
            CheckedSession::Socket(socket) => ask(socket, &json!({ "type": "step", "data": action })).await,
        }
    }

    /// A step with a key; nothing where there are none.
    pub(super) async fn step_once(
        &mut self,
        key: &str,
        action: &Value,
    ) -> anyhow::Result<Option<CheckedReply>> {
        match self {
            CheckedSession::Session(..) => {
                self.post("step", Some(key), &json!({ "action": action })).await.map(Some)
            }
            CheckedSession::Socket(_) => Ok(None),
        }
    }

    pub(super) async fn state(&mut self) -> anyhow::Result<Value> {
        let text = match self {
            CheckedSession::Session(client, id) => {
                client.send(Method::GET, &format!("/sessions/{id}/state"), None, String::new()).await?.1
            }
            CheckedSession::Socket(socket) => ask(socket, &json!({ "type": "state" })).await?.text,
        };
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    pub(super) async fn fork(&mut self) -> anyhow::Result<Optional<CheckedSession>> {
        let reply = match self {
            CheckedSession::Session(..) => self.post("fork", None, &json!({ "n": 1 })).await?,
            CheckedSession::Socket(_) => {
                return Ok(Optional::None("the server has no sessions over HTTP".to_owned()));
            }
        };
        if let Some(why) = missing_reason(&reply) {
            return Ok(Optional::None(why));
        }
        let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
        let id = body["sessions"][0]["session_id"].as_str().filter(|_| reply.ok);
        let id = id.with_context(|| format!("the session was not forked: {}", reply.text))?;
        match self {
            CheckedSession::Session(client, _) => {
                Ok(Optional::Made(CheckedSession::Session(Arc::clone(client), id.to_owned())))
            }
            CheckedSession::Socket(_) => bail!("a socket has no forks"),
        }
    }

    pub(super) async fn snapshot(&mut self) -> anyhow::Result<Optional<String>> {
        let reply = match self {
            CheckedSession::Session(..) => self.post("snapshot", None, &json!({})).await?,
            CheckedSession::Socket(_) => {
                return Ok(Optional::None("the server has no sessions over HTTP".to_owned()));
            }
        };
        if let Some(why) = missing_reason(&reply) {
            return Ok(Optional::None(why));
        }
        let snapshot = named(&reply.text, "snapshot").filter(|_| reply.ok);
        snapshot.map(Optional::Made).with_context(|| format!("no snapshot was made: {}", reply.text))
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self {
            CheckedSession::Session(client, id) => {
                client.send(Method::DELETE, &format!("/sessions/{id}"), None, String::new()).await?;
            }
            CheckedSession::Socket(mut socket) => {
                // A server that hangs up first has closed it just as well.
                let _ = socket.send(Message::text(json!({ "type": "close" }).to_string())).await;
            }
        }
        Ok(())
    }

    async fn post(&self, path: &str, key: Option<&str>, body: &Value) -> anyhow::Result<CheckedReply> {
        let CheckedSession::Session(client, id) = self else { bail!("a socket takes frames") };
        let path = format!("/sessions/{id}/{path}");
        let (status, text) = client.send(Method::POST, &path, key, body.to_string()).await?;
        Ok(CheckedReply {
            ok: status.is_success(),
            status: status.as_u16(),
            text: text.replace(id.as_str(), SESSION_PLACEHOLDER),
        })
    }
}

/// Sends a frame and waits for the one that answers it.
async fn ask(socket: &mut Socket, frame: &Value) -> anyhow::Result<CheckedReply> {
    tokio::time::timeout(REPLY_TIMEOUT, exchange(socket, frame))
        .await
        .context("the server does not answer")?
}

async fn exchange(socket: &mut Socket, frame: &Value) -> anyhow::Result<CheckedReply> {
    socket.send(Message::text(frame.to_string())).await?;
    loop {
        let message = socket.next().await.context("the server closed the socket")??;
        let Message::Text(text) = message else { continue };
        let frame: SocketFrame<'_> =
            serde_json::from_str(&text).with_context(|| format!("no frame: {text}"))?;
        let ok = frame.kind != "error";
        let text = frame.data.map_or("null", RawValue::get).to_owned();
        return Ok(CheckedReply { ok, status: if ok { 200 } else { 400 }, text });
    }
}

/// Why a server does not have what was requested, if it answers that.
fn missing_reason(reply: &CheckedReply) -> Option<String> {
    let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
    match reply.status {
        404 | 405 if body["oxenv"].is_null() => Some("the server has no such route".to_owned()),
        501 => Some(body["detail"].as_str().unwrap_or("it is not supported").to_owned()),
        _ => None,
    }
}

/// What a server says that has no room for a session, if its answer is that.
pub(super) fn capacity_reason(text: &str) -> Option<String> {
    let body: Value = serde_json::from_str(text).ok()?;
    let (code, says) = match body["oxenv"]["code"].as_str() {
        Some(code) => (Some(code), &body["detail"]),
        None => (body["code"].as_str(), &body["message"]),
    };
    (code == Some("CAPACITY_REACHED")).then(|| says.as_str().unwrap_or("the server is full").to_owned())
}

fn named(text: &str, key: &str) -> Option<String> {
    let body: Value = serde_json::from_str(text).ok()?;
    body[key].as_str().map(str::to_owned)
}
