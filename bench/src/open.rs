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

use crate::client_steps::{self, Clients};
use crate::frame;
use crate::http::{Client, Connection};
use crate::mcp::{self, Protocol};
use crate::multiplexed::{self, Many};
use crate::plan::{Kind, Plan};
use crate::reply_checker::{Checker, Expect, Sample};
use crate::statistics::Tally;
use crate::target::Target;
use crate::websocket::Socket;

/// How many handshakes run at the same time; more would only overflow the server's listen queue.
const AT_ONCE: usize = 64;

/// How long one session may take; a stock client waits that long for a reply.
const DEADLINE: Duration = Duration::from_secs(60);

/// The reset that a session begins with.
pub(crate) const RESET: &[u8] = br#"{"type":"reset"}"#;

/// Something a request can be sent on.
pub(crate) enum Session {
    Ws(Socket),
    Many(Many),
    Clients(Clients),
    Http(Client),
    /// Opens its own, again and again.
    Churn,
}

impl Session {
    /// How many sessions of the environment it is.
    pub(crate) fn sessions(&self) -> usize {
        match self {
            Session::Many(many) => many.sessions,
            Session::Clients(clients) => clients.sessions(),
            _ => 1,
        }
    }
}

/// Opens `share` sessions, as many as possible; the rest are counted as errors.
///
/// `first` is the number of the first one among those of all threads.
pub(crate) async fn all(plan: &Arc<Plan>, first: usize, share: usize, tally: &Mutex<Tally>) -> Vec<Session> {
    let shared = matches!(plan.kind, Kind::Multiplex | Kind::Batch(_) | Kind::ClientMany(_));
    // Many sessions on one socket are opened one after the other by whoever opens the socket.
    let last = if shared { first + 1 } else { first + share };
    let opening = (first..last).map(|index| {
        let plan = plan.clone();
        async move { one(&plan, index, share).await }
    });
    let (sessions, errors) = many(opening).await;
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    errors.iter().for_each(|error| tally.error(error));
    sessions
}

/// Runs openings, a few at a time and each with a deadline; gives those that succeeded and why others did not.
pub(crate) async fn many<T, F>(openings: impl Iterator<Item = F>) -> (Vec<T>, Vec<anyhow::Error>)
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for opening in openings {
        let gate = gate.clone();
        running.spawn(async move {
            let _turn = gate.acquire().await?;
            in_time(opening).await
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
pub(crate) async fn session(target: &Target, reset: &[u8]) -> anyhow::Result<Socket> {
    let mut socket = Socket::open(target, "/ws").await?;
    let reply = socket.ask(reset).await.context("no answer to the reset")?;
    Checker::new(Expect::Frame, Sample::default()).check(socket.bytes(reply)).context("the reset failed")?;
    Ok(socket)
}

/// Gives up on what takes longer than any client would wait.
pub(crate) async fn in_time<T>(opening: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(DEADLINE, opening)
        .await
        .unwrap_or_else(|_| Err(anyhow!("a session could not be opened within {} s", DEADLINE.as_secs())))
}

async fn one(plan: &Plan, index: usize, share: usize) -> anyhow::Result<Session> {
    Ok(match plan.kind {
        Kind::Ws => Session::Ws(session(&plan.target, &frame::text(RESET)).await?),
        Kind::Multiplex | Kind::Batch(_) => Session::Many(multiplexed::open(plan, share).await?),
        Kind::Client(spoken) => Session::Clients(client_steps::one(plan, spoken).await?),
        Kind::ClientMany(_) => Session::Clients(client_steps::many(plan, share).await?),
        Kind::Churn => Session::Churn,
        Kind::Call(Protocol::Handshake) | Kind::List(Protocol::Handshake) => {
            Session::Http(mcp::open(&plan.target, &plan.request).await?)
        }
        Kind::Http | Kind::Call(_) | Kind::List(_) | Kind::Tools => {
            let mut connection = Connection::open(&plan.target).await?;
            if plan.kind == Kind::Http && index == 0 {
                // Steps over HTTP share the server's default session. Its reply does not matter: a server
                // without that route needs no reset.
                connection.exchange(&plan.target.post("/reset", "{}")).await?;
            }
            Session::Http(Client::new(connection, plan.request.clone()))
        }
    })
}
