//! [`Connection`]: many sessions over one socket of `oxenv.1`.
//!
//! Invariant: a reply finds its request by its id, whatever the order; after a lost socket, sessions with a resume
//! are attached to again and what was in flight is asked for again with its key.

mod batch;
mod driver;
mod frame;
mod reply;
mod resume;
mod session;
mod state;

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{MULTI_PROTOCOL, RawJson, ReplyKind};

use self::batch::Item;
use self::frame::{Frame, quoted};
use self::state::{Link, Making, Request, Whose};
use crate::dial::{Dialled, dial};
use crate::env_client::EnvClient;
use crate::error::{ClientError, Code, Result};
use crate::options::{ClientOptions, OpenOptions};
use crate::result::StepResult;
use crate::server_address::Target;

pub(crate) use self::session::MultiSession;

/// A socket that many sessions share. Cheap to clone; closes with its last user.
///
/// After a lost socket it connects again for as long as a session with a [resume](OpenOptions::resume) is left, with
/// growing pauses: each such session goes on, and what was in flight runs once. Sessions without one are lost with the
/// socket, and their requests fail at once with [`Code::ConnectionLost`]. A request whose
/// future is dropped is not taken back; its late reply is thrown away.
#[derive(Clone)]
pub struct Connection {
    user: Arc<User>,
}

/// One step of a batch.
pub struct BatchStep<'a> {
    /// Whose step it is: a session of the same connection.
    pub client: &'a EnvClient,
    /// The action: an object.
    pub action: RawJson,
    /// The key under which a repeat is the same step.
    pub key: Option<String>,
}

/// All users of a connection together. When they are gone, the task that drives the socket ends.
struct User {
    link: Arc<Link>,
}

impl Connection {
    /// Connects to a server that speaks `oxenv.1`.
    ///
    /// # Errors
    /// [`Code::VersionMismatch`], if it does not; and why it cannot be reached.
    pub async fn connect(url: &str, options: &ClientOptions) -> Result<Self> {
        let target = Target::parse(url, options)?;
        let dialled = dial(&target, "/ws", Some(MULTI_PROTOCOL), options).await?;
        if dialled.subprotocol.as_deref() != Some(MULTI_PROTOCOL) {
            return Err(not_spoken(&target));
        }
        Ok(Connection::over(dialled, target, options.clone()))
    }

    /// Opens a session.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, options: &OpenOptions) -> Result<EnvClient> {
        let session = self.open_session(options).await?;
        Ok(EnvClient::of_multi(session, &self.link().options))
    }

    /// Attaches to a session that exists. When the client is dropped the session is not ended; the server has it back
    /// when the connection closes. After a lost socket it has to be attached to again by the caller.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn attach(&self, session_id: &str) -> Result<EnvClient> {
        let id = self.link().id();
        let frame = Frame::request(id, "attach").with("session", &quoted(session_id));
        let making = Making { resume: None, owned: false };
        let session = self.make(id, frame, making, ReplyKind::Attached, Duration::ZERO).await?;
        Ok(EnvClient::of_multi(session, &self.link().options))
    }

    /// Makes a new session of a snapshot. Of the options it takes `resume` alone.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if there are others; and why there is none.
    pub async fn restore(&self, snapshot: &str, options: &OpenOptions) -> Result<EnvClient> {
        if options.seed.is_some() || options.episode_id.is_some() || options.queue.is_some() {
            let message = "a session that is restored has its seed and its episode already, and does not queue: \
                           leave those options out";
            return Err(ClientError::new(Code::InvalidOptions, message));
        }
        let mut data = serde_json::json!({ "snapshot": snapshot });
        if let Some(resume) = options.resume {
            data["resume_s"] = resume.as_secs_f64().into();
        }
        let session = self.create("restore", &data, options).await?;
        Ok(EnvClient::of_multi(session, &self.link().options))
    }

    /// Takes many steps in one frame, of 4,096 at most; the results are in the order of the steps, each with its own
    /// failure.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if a session is not of this connection; and if the
    /// batch as a whole got no answer.
    pub async fn step_batch(&self, steps: Vec<BatchStep<'_>>) -> Result<Vec<Result<StepResult>>> {
        let (mut items, mut refused) = (Vec::with_capacity(steps.len()), Vec::new());
        for (index, step) in steps.iter().enumerate() {
            let session =
                step.client.multi().filter(|session| Arc::ptr_eq(&session.hold().link, self.link()));
            let session = session.ok_or_else(|| {
                let message =
                    format!("step {index} of the batch is of a session that is not of this connection");
                ClientError::new(Code::InvalidOptions, message)
            })?;
            match session.hold().kept.usable() {
                Ok(()) => items.push(Item { session, action: &step.action, key: step.key.as_deref() }),
                Err(error) => refused.push((index, error)),
            }
        }
        let mut results = Vec::new();
        if !items.is_empty() {
            let timeout = self.link().options.timeout;
            let request = batch::request(self.link(), &items, timeout);
            let reply = self.link().ask(request, timeout.saturating_add(session::LAST_WORD)).await?;
            results = batch::results(&reply.text, &items)?;
        }
        for (index, error) in refused {
            results.insert(index, Err(error));
        }
        Ok(results)
    }

    /// The connection over a socket that speaks `oxenv.1` already; `target` is where to dial again.
    pub(crate) fn over(dialled: Dialled, target: Target, options: ClientOptions) -> Self {
        let link = Link::new(target, options);
        tokio::spawn(driver::run(Arc::clone(&link), dialled.socket));
        Connection { user: Arc::new(User { link }) }
    }

    pub(crate) async fn open_session(&self, options: &OpenOptions) -> Result<MultiSession> {
        let mut data = serde_json::Map::new();
        let mut put = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                data.insert(key.to_owned(), value);
            }
        };
        put("seed", options.seed.map(Into::into));
        put("episode_id", options.episode_id.as_deref().map(Into::into));
        put("resume_s", options.resume.map(|time| time.as_secs_f64().into()));
        put("queue_s", options.queue.map(|time| time.as_secs_f64().into()));
        self.create("open", &data.into(), options).await
    }

    /// Makes a session, with a key if it is to outlive its socket.
    async fn create(
        &self,
        kind: &str,
        data: &serde_json::Value,
        options: &OpenOptions,
    ) -> Result<MultiSession> {
        let id = self.link().id();
        let key = options.resume.map(|_| self.link().key(id));
        let frame = Frame::request(id, kind).with_text("key", key.as_deref()).with("data", &data.to_string());
        let making = Making { resume: options.resume, owned: true };
        self.make(id, frame, making, ReplyKind::Opened, options.queue.unwrap_or_default()).await
    }

    async fn make(
        &self,
        id: u64,
        frame: Frame,
        making: Making,
        kind: ReplyKind,
        patience: Duration,
    ) -> Result<MultiSession> {
        let (whose, again) = (Whose::Nobody, making.resume);
        let request = Request { id, text: frame.end(), again, whose, makes: Some(making), weight: 1 };
        let reply = self.link().ask(request, self.link().options.timeout.saturating_add(patience)).await?;
        let mut sessions = MultiSession::of_reply(reply, kind, self)?;
        Ok(sessions.swap_remove(0))
    }

    fn link(&self) -> &Arc<Link> {
        &self.user.link
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.link.release();
    }
}

/// The server chose another protocol, or none.
fn not_spoken(target: &Target) -> ClientError {
    let message =
        format!("the server at {target} does not speak {MULTI_PROTOCOL}: use one socket for each session");
    ClientError::new(Code::VersionMismatch, message)
}
