//! Requests on one kept-alive HTTP connection.
//!
//! The invariant: one request is in flight at a time, and a connection that fails or that the server ends is
//! opened again, which is counted as an error unless the server had said so.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use super::check::{Checker, excerpt};
use super::http_reply::{self, Reply};
use super::pace::Pace;
use super::plan::Plan;
use super::tally::Recorder;
use super::target::Target;

/// Room for a few replies; it grows if one is larger.
const BUFFER: usize = 4096;

/// A pause after a failure, so that a server that is gone is not flooded and the count of errors says something.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// A connection and what it has read.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { stream: target.connect().await?, inbox: vec![0; BUFFER], filled: 0 })
    }

    /// Sends a request and waits for its whole reply, whose body lies in the inbox.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Reply> {
        self.filled = 0;
        self.stream.write_all(request).await.context("the connection broke")?;
        loop {
            if self.filled == self.inbox.len() {
                self.inbox.resize(self.inbox.len() * 2, 0);
            }
            match self.stream.read(&mut self.inbox[self.filled..]).await.context("the connection broke")? {
                0 => bail!("the server hung up"),
                read => self.filled += read,
            }
            if let Some(reply) = http_reply::reply(&self.inbox[..self.filled])? {
                return Ok(reply);
            }
        }
    }

    fn check(&self, reply: &Reply, checker: &mut Checker) -> anyhow::Result<()> {
        let body = &self.inbox[reply.body.clone()];
        if reply.head.status != 200 {
            bail!("HTTP {}: {}", reply.head.status, excerpt(body));
        }
        if reply.is_plain() {
            checker.check(body)
        } else {
            checker.check(&http_reply::content(&self.inbox, reply)?)
        }
    }
}

/// Sends requests until the load is over and the last reply is there, or until `deadline`.
pub(super) async fn run(
    connection: Connection,
    plan: &Plan,
    pace: Pace,
    recorder: Recorder,
    deadline: Instant,
) {
    if timeout_at(deadline.into(), requests(connection, plan, &pace, &recorder)).await.is_err() {
        recorder.error(&anyhow!("no reply by the end of the load"));
    }
    for due in pace.leftover() {
        recorder.unsent(due);
    }
}

async fn requests(connection: Connection, plan: &Plan, pace: &Pace, recorder: &Recorder) {
    let mut checker = Checker::new(plan.kind.expect(), plan.sample.clone());
    let mut usable = Some(connection);
    while let Some(due) = pace.next().await {
        match request(&mut usable, plan, &mut checker).await {
            Ok(()) => recorder.reply(due),
            Err(error) => {
                recorder.error(&error);
                if usable.is_none() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One request; leaves `None` behind where the connection cannot be used again.
async fn request(usable: &mut Option<Connection>, plan: &Plan, checker: &mut Checker) -> anyhow::Result<()> {
    let mut connection = match usable.take() {
        Some(connection) => connection,
        None => Connection::open(&plan.target).await?,
    };
    let reply = connection.exchange(&plan.request).await?;
    let checked = connection.check(&reply, checker);
    if reply.head.keep_alive {
        *usable = Some(connection);
    }
    checked
}
