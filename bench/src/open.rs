//! Opens sessions and connections before the load starts.
//!
//! Invariant: the load starts when every session is open, so that handshakes and resets are in no step's
//! latency. A session that cannot be opened is an error in the report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client_steps::{self, ClientSessions};
use crate::frame;
use crate::http::{HttpConnection, HttpSession};
use crate::load_kind::LoadKind;
use crate::mcp;
use crate::multiplexed::{self, MultiplexedSessions};
use crate::plan::LoadPlan;
use crate::protocol::McpProtocol;
use crate::reply_checker::{ExpectedReply, FirstReply, ReplyChecker};
use crate::statistics::Statistics;
use crate::target::Target;
use crate::websocket::WebSocket;

/// Maximum number of concurrent handshakes; more could overflow the server's listen queue.
const MAX_CONCURRENT_OPENS: usize = 64;

/// Maximum time for opening one session; a stock client waits as long for a reply.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The message that resets a session.
pub(crate) const RESET_MESSAGE: &[u8] = br#"{"type":"reset"}"#;

/// What requests are sent on.
pub(crate) enum OpenSession {
    Ws(WebSocket),
    Multiplexed(MultiplexedSessions),
    Client(ClientSessions),
    Http(HttpSession),
    /// Nothing yet: a session is opened for each iteration.
    Churn,
}

/// The sessions that could be opened, and why others could not.
pub(crate) struct Opened<T> {
    pub(crate) sessions: Vec<T>,
    pub(crate) errors: Vec<anyhow::Error>,
}

impl OpenSession {
    /// How many of the server's sessions it has.
    pub(crate) fn sessions(&self) -> usize {
        match self {
            OpenSession::Multiplexed(many) => many.sessions,
            OpenSession::Client(clients) => clients.sessions(),
            _ => 1,
        }
    }
}

/// Opens `session_count` sessions, or as many of them as possible; failures are counted in `statistics`.
///
/// `first` is the index of the first session among those of all threads.
pub(crate) async fn open_sessions(
    plan: &Arc<LoadPlan>,
    first: usize,
    session_count: usize,
    statistics: &Mutex<Statistics>,
) -> Vec<OpenSession> {
    let shared = matches!(plan.kind, LoadKind::Multiplex | LoadKind::Batch(_) | LoadKind::ClientMany(_));
    // Sessions that share a socket are opened by the one task that opens the socket.
    let last = if shared { first + 1 } else { first + session_count };
    let opening = (first..last).map(|index| {
        let plan = plan.clone();
        async move { open_session(&plan, index, session_count).await }
    });
    let Opened { sessions, errors } = open_concurrently(opening).await;
    let mut statistics = statistics.lock().unwrap_or_else(PoisonError::into_inner);
    errors.iter().for_each(|error| statistics.error(error));
    sessions
}

/// Awaits all futures, up to [`MAX_CONCURRENT_OPENS`] at a time and each with [`OPEN_TIMEOUT`].
pub(crate) async fn open_concurrently<T, F>(openings: impl Iterator<Item = F>) -> Opened<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let semaphore = Arc::new(Semaphore::new(MAX_CONCURRENT_OPENS));
    let mut running = JoinSet::new();
    for opening in openings {
        let semaphore = semaphore.clone();
        running.spawn(async move {
            let _permit = semaphore.acquire().await?;
            within_timeout(opening).await
        });
    }
    let (mut sessions, mut errors) = (Vec::new(), Vec::new());
    for result in running.join_all().await {
        match result {
            Ok(session) => sessions.push(session),
            Err(error) => errors.push(error),
        }
    }
    Opened { sessions, errors }
}

/// Opens a `/ws` session and resets it.
pub(crate) async fn websocket_session(target: &Target, reset: &[u8]) -> anyhow::Result<WebSocket> {
    let mut socket = WebSocket::open(target, "/ws").await?;
    let reply = socket.request(reset).await.context("no reply to the reset")?;
    ReplyChecker::new(ExpectedReply::ObservationFrame, FirstReply::default())
        .check(socket.bytes(reply))
        .context("the reset failed")?;
    Ok(socket)
}

/// Awaits the future for at most [`OPEN_TIMEOUT`].
pub(crate) async fn within_timeout<T>(opening: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(OPEN_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(anyhow!("a session could not be opened within {} s", OPEN_TIMEOUT.as_secs())))
}

async fn open_session(plan: &LoadPlan, index: usize, session_count: usize) -> anyhow::Result<OpenSession> {
    Ok(match plan.kind {
        LoadKind::Ws => OpenSession::Ws(websocket_session(&plan.target, &frame::text(RESET_MESSAGE)).await?),
        LoadKind::Multiplex | LoadKind::Batch(_) => {
            OpenSession::Multiplexed(multiplexed::open(plan, session_count).await?)
        }
        LoadKind::Client(protocol) => OpenSession::Client(client_steps::open(plan, protocol).await?),
        LoadKind::ClientMany(_) => OpenSession::Client(client_steps::open_shared(plan, session_count).await?),
        LoadKind::Churn => OpenSession::Churn,
        LoadKind::Call(McpProtocol::Stateful) | LoadKind::List(McpProtocol::Stateful) => {
            OpenSession::Http(mcp::open(&plan.target, &plan.request).await?)
        }
        LoadKind::Http | LoadKind::Call(_) | LoadKind::List(_) | LoadKind::Tools => {
            let mut connection = HttpConnection::open(&plan.target).await?;
            if plan.kind == LoadKind::Http && index == 0 {
                // Steps over HTTP share the server's default session. The response is ignored: a server
                // without this route needs no reset.
                connection.exchange(&plan.target.post("/reset", "{}")).await?;
            }
            OpenSession::Http(HttpSession::new(connection, plan.request.clone()))
        }
    })
}
