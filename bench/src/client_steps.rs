//! Steps through the Rust client, as the raw sockets take them, so that what the client costs shows.
//!
//! The invariant: the same action, the same number in flight and the same check of what comes back as with raw
//! sockets; only the frames are the client's own.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use oxenv_client::{BatchStep, ClientOptions, Connection, EnvClient, OpenOptions, Protocol, ResetOptions};
use oxenv_wire::{RawJson, raw};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::pacing::Pace;
use crate::plan::{Kind, Plan};
use crate::reply_checker::Checker;
use crate::statistics::Recorder;

/// What the client is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spoken {
    /// What the server offers
    Auto,
    /// The stock dialect
    Stock,
    /// POST /step
    Http,
}

/// Sessions of the client: one, or all those of a connection.
pub(crate) struct Clients {
    clients: Vec<Arc<EnvClient>>,
    action: RawJson,
}

/// Opens and resets a session on a socket of its own.
pub(crate) async fn one(plan: &Plan, spoken: Spoken) -> anyhow::Result<Clients> {
    let protocol = match spoken {
        Spoken::Auto => Protocol::Auto,
        Spoken::Stock => Protocol::Stock,
        Spoken::Http => Protocol::Http,
    };
    let options = ClientOptions { protocol, ..options(plan) };
    let client = EnvClient::connect_with(&plan.url, &options, &OpenOptions::default()).await?;
    Clients::new(plan, vec![client]).await
}

/// Opens and resets that many sessions on one connection.
pub(crate) async fn many(plan: &Plan, sessions: usize) -> anyhow::Result<Clients> {
    let connection = Connection::connect(&plan.url, &options(plan)).await?;
    let mut clients = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        clients.push(connection.open(&OpenOptions::default()).await?);
    }
    Clients::new(plan, clients).await
}

fn options(plan: &Plan) -> ClientOptions {
    let headers = plan.headers.iter().filter_map(|header| header.split_once(':'));
    let headers = headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
    ClientOptions { headers, ..ClientOptions::default() }
}

impl Clients {
    async fn new(plan: &Plan, clients: Vec<EnvClient>) -> anyhow::Result<Self> {
        for client in &clients {
            client.reset(&ResetOptions::default()).await.context("the reset failed")?;
        }
        let action = raw(&plan.action).context("the action cannot be sent")?;
        Ok(Clients { clients: clients.into_iter().map(Arc::new).collect(), action })
    }

    pub(crate) fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// Steps until the load is over and the last reply is there, or until `deadline`.
    pub(crate) async fn run(self, plan: &Plan, pace: Pace, recorder: Recorder, deadline: Instant) {
        let share = if let Kind::ClientMany(steps) = plan.kind { steps } else { 1 };
        // A batch of more steps than there are sessions goes round them.
        let round: Vec<_> = self.clients.iter().cycle().take(share.max(self.clients.len())).collect();
        let mut lanes = JoinSet::new();
        for clients in round.chunks(share).flat_map(|clients| std::iter::repeat_n(clients, plan.depth)) {
            let lane = Lane {
                clients: clients.iter().copied().cloned().collect(),
                action: self.action.clone(),
                checker: Checker::new(plan.kind.expect(), plan.sample.clone()),
            };
            lanes.spawn(lane.run(pace.clone(), recorder.clone()));
        }
        let over = async { while lanes.join_next().await.is_some() {} };
        if timeout_at(deadline.into(), over).await.is_err() {
            recorder.error(&anyhow!("no reply by the end of the load"));
        }
        for due in pace.leftover() {
            recorder.unsent(due);
        }
    }
}

/// One request in flight: a step, or a batch of one for each of the sessions.
struct Lane {
    clients: Vec<Arc<EnvClient>>,
    action: RawJson,
    checker: Checker,
}

impl Lane {
    async fn run(mut self, pace: Pace, recorder: Recorder) {
        while let Some(due) = pace.next().await {
            match self.ask().await {
                Ok(()) => recorder.replies(due, self.clients.len() as u64),
                Err(error) => {
                    recorder.error(&error);
                    // One that is gone for good would fail as fast as it can be asked.
                    tokio::time::sleep(crate::http::PAUSE).await;
                }
            }
        }
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        if let [client] = self.clients.as_slice() {
            let result = client.step(&self.action).await?;
            return self.checker.check(result.observation.get().as_bytes());
        }
        let step = |client| BatchStep { client, action: self.action.clone(), key: None };
        let steps = self.clients.iter().map(|client| step(client.as_ref())).collect();
        let connection = self.clients.first().and_then(|client| client.connection());
        let results = connection.context("no connection")?.step_batch(steps).await?;
        for result in results {
            self.checker.check(result?.observation.get().as_bytes())?;
        }
        Ok(())
    }
}
