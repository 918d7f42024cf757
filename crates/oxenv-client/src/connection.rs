//! [`Connection`]: many sessions over one socket of `oxenv.1`.
//!
//! Invariant: a reply is matched to its request by id, in any order. After a lost socket, sessions with a
//! resume are attached to again, and their requests in flight are sent again with their keys.

mod batch;
mod driver;
mod frame;
mod loss;
mod reply;
mod resume;
mod session;
mod state;

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Delivered, MULTI_PROTOCOL, ReplyKind};

use self::frame::{FrameWriter, quote};
use self::state::{ConnectionInner, OutgoingRequest, RequestScope, SessionCreation};
use crate::dial::{OpenedSocket, dial};
use crate::error::{ClientError, Code, Result};
use crate::options::{ClientOptions, OpenOptions};
use crate::result::StepResult;
use crate::server_address::ServerAddress;

/// Bytes of a snapshot that a frame has room for: servers take frames of 100 MiB.
const MAX_SNAPSHOT_BYTES: usize = (100 << 20) - (1 << 10);

pub(crate) use self::batch::BatchedStep;
pub(crate) use self::session::MultiSession;

/// A socket that many sessions share. Cheap to clone; closes with its last user.
///
/// After a lost socket it connects again for as long as a session with a [resume](OpenOptions::resume) is
/// left, with growing pauses: each such session goes on, and what was in flight runs once. Sessions without
/// one are lost with the socket, and their requests fail at once with [`Code::ConnectionLost`]. A request
/// whose future is dropped is not taken back; its late reply is thrown away.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::{ClientOptions, Connection, OpenOptions, ResetOptions};
/// use serde_json::json;
///
/// let connection = Connection::connect("http://localhost:8000", &ClientOptions::default()).await?;
/// for seed in 0..4 {
///     let env = connection.open(&OpenOptions { seed: Some(seed), ..OpenOptions::default() }).await?;
///     env.reset(&ResetOptions::default()).await?;
///     println!("{}", env.step(&json!({ "action": "DOWN" })).await?.observation);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    owner: Arc<ReleaseOnDrop>,
}

/// Ends the task that drives the socket when the last clone of the connection is dropped.
struct ReleaseOnDrop {
    inner: Arc<ConnectionInner>,
}

impl Connection {
    /// Connects to a server that speaks `oxenv.1`.
    ///
    /// # Errors
    /// [`Code::VersionMismatch`], if it does not; and why it cannot be reached.
    pub async fn connect(url: &str, options: &ClientOptions) -> Result<Self> {
        let target = ServerAddress::parse(url, options)?;
        let dialled = dial(&target, "/ws", Some(MULTI_PROTOCOL), options).await?;
        if dialled.subprotocol.as_deref() != Some(MULTI_PROTOCOL) {
            return Err(protocol_not_offered(&target));
        }
        Ok(Connection::new(dialled, target, options.clone()))
    }

    /// The connection over a socket that speaks `oxenv.1` already; `target` is where to dial again.
    pub(crate) fn new(dialled: OpenedSocket, target: ServerAddress, options: ClientOptions) -> Self {
        let inner = ConnectionInner::new(target, options);
        tokio::spawn(driver::drive(Arc::clone(&inner), dialled.socket));
        Connection { owner: Arc::new(ReleaseOnDrop { inner }) }
    }

    /// The session behind [`Connection::attach`].
    pub(crate) async fn attach_session(&self, session_id: &str) -> Result<MultiSession> {
        let id = self.inner().next_id();
        let frame = FrameWriter::request(id, "attach").with("session", &quote(session_id));
        let creation = SessionCreation { resume: None, owned: false };
        self.send_creation(id, frame, creation, ReplyKind::Attached, Duration::ZERO).await
    }

    /// The session behind [`Connection::restore`].
    pub(crate) async fn restore_session(
        &self,
        snapshot: &str,
        options: &OpenOptions,
    ) -> Result<MultiSession> {
        options.check_restorable()?;
        let bytes = snapshot.len();
        if bytes > MAX_SNAPSHOT_BYTES {
            let message = format!(
                "a snapshot of {bytes} bytes is too large for a frame; restore it over HTTP, with POST \
                 /restore or EnvClient::restore"
            );
            return Err(ClientError::new(Code::InvalidOptions, message).with_delivered(Delivered::No));
        }
        let mut data = serde_json::json!({ "snapshot": snapshot });
        if let Some(resume) = options.resume {
            data["resume_s"] = resume.as_secs_f64().into();
        }
        self.create_session("restore", &data, options).await
    }

    /// Sends many steps in one frame.
    pub(crate) async fn send_batch(&self, items: &[BatchedStep<'_>]) -> Result<Vec<Result<StepResult>>> {
        let timeout = self.inner().options.timeout;
        let request = batch::request(self.inner(), items, timeout);
        let reply = self.inner().send(request, timeout.saturating_add(session::SERVER_REPLY_MARGIN)).await?;
        batch::parse_results(&reply.text, items)
    }

    /// The options it was connected with.
    pub(crate) fn options(&self) -> &ClientOptions {
        &self.inner().options
    }

    /// The session behind [`Connection::open`].
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
        self.create_session("open", &data.into(), options).await
    }

    /// Makes a session, with a key if it is to outlive its socket.
    async fn create_session(
        &self,
        kind: &str,
        data: &serde_json::Value,
        options: &OpenOptions,
    ) -> Result<MultiSession> {
        let id = self.inner().next_id();
        let key = options.resume.map(|_| self.inner().request_key(id));
        let frame =
            FrameWriter::request(id, kind).with_text("key", key.as_deref()).with("data", &data.to_string());
        let creation = SessionCreation { resume: options.resume, owned: true };
        self.send_creation(id, frame, creation, ReplyKind::Opened, options.queue.unwrap_or_default()).await
    }

    async fn send_creation(
        &self,
        id: u64,
        frame: FrameWriter,
        creation: SessionCreation,
        kind: ReplyKind,
        patience: Duration,
    ) -> Result<MultiSession> {
        let (scope, again) = (RequestScope::NoSession, creation.resume);
        let request = OutgoingRequest {
            id,
            text: frame.finish(),
            resend_within: again,
            scope,
            creates: Some(creation),
            weight: 1,
        };
        let reply = self.inner().send(request, self.inner().options.timeout.saturating_add(patience)).await?;
        let mut sessions = MultiSession::from_reply(reply, kind, self)?;
        Ok(sessions.swap_remove(0))
    }

    fn inner(&self) -> &Arc<ConnectionInner> {
        &self.owner.inner
    }
}

impl Drop for ReleaseOnDrop {
    fn drop(&mut self) {
        self.inner.release();
    }
}

/// The error for a server that did not select `oxenv.1`.
fn protocol_not_offered(target: &ServerAddress) -> ClientError {
    let message =
        format!("the server at {target} does not speak {MULTI_PROTOCOL}: use one socket for each session");
    ClientError::new(Code::VersionMismatch, message)
}
