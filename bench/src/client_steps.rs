//! Steps through the Rust client, to compare it with raw sockets.
//!
//! Invariant: action, number of requests in flight and check of the replies are those of the raw sockets.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use oxenv_client::{BatchStep, ClientOptions, Connection, EnvClient, OpenOptions, Protocol, ResetOptions};
use oxenv_wire::{RawJson, raw};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::load_kind::LoadKind;
use crate::pacing::Pacer;
use crate::plan::LoadPlan;
use crate::protocol::ClientProtocol;
use crate::reply_checker::ReplyChecker;
use crate::statistics::Recorder;

/// One session of the client, or all sessions of a connection.
pub(crate) struct ClientSessions {
    clients: Vec<Arc<EnvClient>>,
    action: RawJson,
}

/// Opens and resets one session on a connection of its own.
pub(crate) async fn open(plan: &LoadPlan, protocol: ClientProtocol) -> anyhow::Result<ClientSessions> {
    let protocol = match protocol {
        ClientProtocol::Auto => Protocol::Auto,
        ClientProtocol::Stock => Protocol::Stock,
        ClientProtocol::Http => Protocol::Http,
    };
    let options = ClientOptions { protocol, ..options(plan) };
    let client = EnvClient::connect_with(&plan.url, &options, &OpenOptions::default()).await?;
    ClientSessions::new(plan, vec![client]).await
}

/// Opens and resets `sessions` sessions on one connection.
pub(crate) async fn open_shared(plan: &LoadPlan, sessions: usize) -> anyhow::Result<ClientSessions> {
    let connection = Connection::connect(&plan.url, &options(plan)).await?;
    let mut clients = Vec::with_capacity(sessions);
    for _ in 0..sessions {
        clients.push(connection.open(&OpenOptions::default()).await?);
    }
    ClientSessions::new(plan, clients).await
}

fn options(plan: &LoadPlan) -> ClientOptions {
    let headers = plan.headers.iter().filter_map(|header| header.split_once(':'));
    let headers = headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
    ClientOptions { headers, ..ClientOptions::default() }
}

impl ClientSessions {
    async fn new(plan: &LoadPlan, clients: Vec<EnvClient>) -> anyhow::Result<Self> {
        for client in &clients {
            client.reset(&ResetOptions::default()).await.context("the reset failed")?;
        }
        let action = raw(&plan.action).context("the action cannot be sent")?;
        Ok(ClientSessions { clients: clients.into_iter().map(Arc::new).collect(), action })
    }

    pub(crate) fn sessions(&self) -> usize {
        self.clients.len()
    }

    /// Steps until the load is over and every reply has arrived, at most until `deadline`.
    pub(crate) async fn run(self, plan: &LoadPlan, pacer: Pacer, recorder: Recorder, deadline: Instant) {
        let steps_per_frame = if let LoadKind::ClientMany(steps) = plan.kind { steps } else { 1 };
        // A batch with more steps than there are sessions steps some of them more than once.
        let stepped: Vec<_> =
            self.clients.iter().cycle().take(steps_per_frame.max(self.clients.len())).collect();
        let mut loops = JoinSet::new();
        for clients in
            stepped.chunks(steps_per_frame).flat_map(|clients| std::iter::repeat_n(clients, plan.depth))
        {
            let request_loop = RequestLoop {
                clients: clients.iter().copied().cloned().collect(),
                action: self.action.clone(),
                checker: ReplyChecker::new(plan.kind.expected_reply(), plan.first_reply.clone()),
            };
            loops.spawn(request_loop.run(pacer.clone(), recorder.clone()));
        }
        let finished = async { while loops.join_next().await.is_some() {} };
        if timeout_at(deadline.into(), finished).await.is_err() {
            recorder.error(&anyhow!("no reply by the end of the load"));
        }
        for due in pacer.take_unsent() {
            recorder.unsent(due);
        }
    }
}

/// One request in flight: a step, or a batch with one step for each of its sessions.
struct RequestLoop {
    clients: Vec<Arc<EnvClient>>,
    action: RawJson,
    checker: ReplyChecker,
}

impl RequestLoop {
    async fn run(mut self, pacer: Pacer, recorder: Recorder) {
        while let Some(due) = pacer.next().await {
            match self.send().await {
                Ok(()) => recorder.replies(due, self.clients.len() as u64),
                Err(error) => {
                    recorder.error(&error);
                    // A client whose server is gone fails at once, each time.
                    tokio::time::sleep(crate::http::RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn send(&mut self) -> anyhow::Result<()> {
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
