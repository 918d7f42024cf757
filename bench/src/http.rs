//! Requests on one kept-alive HTTP connection.
//!
//! The invariant: one request is in flight at a time, and a connection that fails or that the server ends is
//! opened again, which is counted as an error unless the server had said so.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};

use crate::http_response::{self, Reply};
use crate::pacing::Pace;
use crate::plan::Plan;
use crate::reply_checker::{Checker, excerpt};
use crate::sse;
use crate::statistics::Recorder;
use crate::target::Target;

/// Room for a few replies; it grows if one is larger.
const BUFFER: usize = 4096;
/// The longest reply that is read.
const MAX_REPLY: usize = 100 << 20;

/// A pause after a failure, so that a server that is gone is not flooded and the count of errors says something.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// How long the end of a session may take; it is not measured.
const CLOSING: Duration = Duration::from_secs(2);

/// One client under load: its connection and what it asks, again and again.
#[derive(Debug)]
pub(crate) struct Client {
    /// `None` where the last one could not be used again.
    connection: Option<Connection>,
    request: Arc<[u8]>,
    /// What ends its session.
    farewell: Option<Vec<u8>>,
}

/// A connection and what it has read.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    inbox: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { stream: target.connect().await?, inbox: vec![0; BUFFER], filled: 0 })
    }

    /// Sends a request and waits for its whole reply, whose body lies in the inbox.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Reply> {
        self.filled = 0;
        self.stream.write_all(request).await.context("the connection broke")?;
        loop {
            if self.filled == self.inbox.len() {
                if self.filled > MAX_REPLY {
                    bail!("the server sent a reply of more than {MAX_REPLY} bytes");
                }
                self.inbox.resize(self.inbox.len() * 2, 0);
            }
            match self.stream.read(&mut self.inbox[self.filled..]).await.context("the connection broke")? {
                0 => bail!("the server hung up"),
                read => self.filled += read,
            }
            if let Some(reply) = http_response::reply(&self.inbox[..self.filled])? {
                return Ok(reply);
            }
        }
    }

    /// What was read last: the reply that `exchange` gave.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.inbox[..self.filled]
    }

    /// The message in that reply: its body, without chunk sizes and out of its event.
    pub(crate) fn content(&self, reply: &Reply) -> anyhow::Result<Cow<'_, [u8]>> {
        let whole = match reply.is_plain() {
            true => Cow::Borrowed(&self.inbox[reply.body.clone()]),
            false => Cow::Owned(http_response::content(&self.inbox, reply)?),
        };
        match (reply.head.events, &whole) {
            (false, _) => Ok(whole),
            (true, stream) => Ok(Cow::Owned(sse::message(stream)?.to_vec())),
        }
    }

    fn check(&self, reply: &Reply, checker: &mut Checker) -> anyhow::Result<()> {
        let content = self.content(reply)?;
        if reply.head.status != 200 {
            bail!("HTTP {}: {}", reply.head.status, excerpt(&content));
        }
        checker.check(&content)
    }
}

impl Client {
    pub(crate) fn new(connection: Connection, request: Arc<[u8]>) -> Self {
        Self { connection: Some(connection), request, farewell: None }
    }

    /// Sends one more request at the end, whose reply does not matter.
    pub(crate) fn ending_with(self, farewell: Vec<u8>) -> Self {
        Self { farewell: Some(farewell), ..self }
    }

    /// Sends requests until the load is over and the last reply is there, or until `deadline`.
    pub(crate) async fn run(mut self, plan: &Plan, pace: Pace, recorder: Recorder, deadline: Instant) {
        if timeout_at(deadline.into(), self.requests(plan, &pace, &recorder)).await.is_err() {
            recorder.error(&anyhow!("no reply by the end of the load"));
        }
        for due in pace.leftover() {
            recorder.unsent(due);
        }
        if let (Some(mut connection), Some(farewell)) = (self.connection, self.farewell) {
            // How a session that has done its work ends is not what is measured here.
            drop(timeout(CLOSING, connection.exchange(&farewell)).await);
        }
    }

    async fn requests(&mut self, plan: &Plan, pace: &Pace, recorder: &Recorder) {
        let mut checker = Checker::new(plan.kind.expect(), plan.sample.clone());
        while let Some(due) = pace.next().await {
            match self.request(&plan.target, &mut checker).await {
                Ok(()) => recorder.reply(due),
                Err(error) => {
                    recorder.error(&error);
                    if self.connection.is_none() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// One request, on a new connection where the last cannot be used again.
    async fn request(&mut self, target: &Target, checker: &mut Checker) -> anyhow::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(target).await?,
        };
        let reply = connection.exchange(&self.request).await?;
        let checked = connection.check(&reply, checker);
        if reply.head.keep_alive {
            self.connection = Some(connection);
        }
        checked
    }
}
