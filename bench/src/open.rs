//! Opening sessions and connections before anything is measured.
//!
//! The invariant: the measured time begins when every session is open, so handshakes and resets are never
//! part of a step's latency; what cannot be opened is an error in the report.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client_steps::{self, ClientSessions};
use crate::frame;
use crate::http::{HttpConnection, HttpSession};
use crate::mcp::{self, McpProtocol};
use crate::multiplexed::{self, MultiplexedSessions};
use crate::plan::{LoadKind, LoadPlan};
use crate::reply_checker::{ExpectedReply, ReplyChecker, Sample};
use crate::statistics::Statistics;
use crate::target::Target;
use crate::websocket::WebSocket;

/// How many handshakes run at the same time; more would only overflow the server's listen queue.
const MAX_CONCURRENT_OPENS: usize = 64;

/// How long one session may take; a stock client waits that long for a reply.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The reset that a session begins with.
pub(crate) const RESET_MESSAGE: &[u8] = br#"{"type":"reset"}"#;

/// Something a request can be sent on.
pub(crate) enum OpenSession {
    Ws(WebSocket),
    Multiplexed(MultiplexedSessions),
    Client(ClientSessions),
    Http(HttpSession),
    /// Opens its own, again and again.
    Churn,
}

impl OpenSession {
    /// How many sessions of the environment it is.
    pub(crate) fn sessions(&self) -> usize {
        match self {
            OpenSession::Multiplexed(many) => many.sessions,
            OpenSession::Client(clients) => clients.sessions(),
            _ => 1,
        }
    }
}

/// Opens `share` sessions, as many as possible; the rest are counted as errors.
///
/// `first` is the number of the first one among those of all threads.
pub(crate) async fn open_sessions(
    plan: &Arc<LoadPlan>,
    first: usize,
    session_count: usize,
    statistics: &Mutex<Statistics>,
) -> Vec<OpenSession> {
    let shared = matches!(plan.kind, LoadKind::Multiplex | LoadKind::Batch(_) | LoadKind::ClientMany(_));
    // Many sessions on one socket are opened one after the other by whoever opens the socket.
    let last = if shared { first + 1 } else { first + session_count };
    let opening = (first..last).map(|index| {
        let plan = plan.clone();
        async move { open_session(&plan, index, session_count).await }
    });
    let (sessions, errors) = open_concurrently(opening).await;
    let mut statistics = statistics.lock().unwrap_or_else(PoisonError::into_inner);
    errors.iter().for_each(|error| statistics.error(error));
    sessions
}

/// Runs openings, a few at a time and each with a deadline; gives those that succeeded and why others did not.
pub(crate) async fn open_concurrently<T, F>(openings: impl Iterator<Item = F>) -> (Vec<T>, Vec<anyhow::Error>)
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let gate = Arc::new(Semaphore::new(MAX_CONCURRENT_OPENS));
    let mut running = JoinSet::new();
    for opening in openings {
        let gate = gate.clone();
        running.spawn(async move {
            let _turn = gate.acquire().await?;
            within_timeout(opening).await
        });
    }
    let (mut opened, mut errors) = (Vec::new(), Vec::new());
    for result in running.join_all().await {
        match result {
            Ok(session) => opened.push(session),
            Err(error) => errors.push(error),
        }
    }
    (opened, errors)
}

/// Opens a `/ws` session and resets it.
pub(crate) async fn websocket_session(target: &Target, reset: &[u8]) -> anyhow::Result<WebSocket> {
    let mut socket = WebSocket::open(target, "/ws").await?;
    let reply = socket.request(reset).await.context("no answer to the reset")?;
    ReplyChecker::new(ExpectedReply::Frame, Sample::default())
        .check(socket.bytes(reply))
        .context("the reset failed")?;
    Ok(socket)
}

/// Gives up on what takes longer than any client would wait.
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
                // Steps over HTTP share the server's default session. Its reply does not matter: a server
                // without that route needs no reset.
                connection.exchange(&plan.target.post("/reset", "{}")).await?;
            }
            OpenSession::Http(HttpSession::new(connection, plan.request.clone()))
        }
    })
}
