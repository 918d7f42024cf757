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

use crate::http_response::{self, HttpResponse};
use crate::pacing::Pacer;
use crate::plan::LoadPlan;
use crate::reply_checker::{ReplyChecker, excerpt};
use crate::sse;
use crate::statistics::Recorder;
use crate::target::Target;

/// Room for a few replies; it grows if one is larger.
const BUFFER_BYTES: usize = 4096;
/// The longest reply that is read.
const MAX_RESPONSE_BYTES: usize = 100 << 20;

/// A pause after a failure, so that a server that is gone is not flooded and the count of errors says something.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long the end of a session may take; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// One client under load: its connection and what it asks, again and again.
#[derive(Debug)]
pub(crate) struct HttpSession {
    /// `None` where the last one could not be used again.
    connection: Option<HttpConnection>,
    request: Arc<[u8]>,
    /// What ends its session.
    closing_request: Option<Vec<u8>>,
}

/// A connection and what it has read.
#[derive(Debug)]
pub(crate) struct HttpConnection {
    stream: TcpStream,
    read_buffer: Vec<u8>,
    filled: usize,
}

impl HttpConnection {
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        Ok(Self { stream: target.connect().await?, read_buffer: vec![0; BUFFER_BYTES], filled: 0 })
    }

    /// Sends a request and waits for its whole reply, whose body lies in the inbox.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<HttpResponse> {
        self.filled = 0;
        self.stream.write_all(request).await.context("the connection broke")?;
        loop {
            if self.filled == self.read_buffer.len() {
                if self.filled > MAX_RESPONSE_BYTES {
                    bail!("the server sent a reply of more than {MAX_RESPONSE_BYTES} bytes");
                }
                self.read_buffer.resize(self.read_buffer.len() * 2, 0);
            }
            match self
                .stream
                .read(&mut self.read_buffer[self.filled..])
                .await
                .context("the connection broke")?
            {
                0 => bail!("the server hung up"),
                read => self.filled += read,
            }
            if let Some(reply) = http_response::parse(&self.read_buffer[..self.filled])? {
                return Ok(reply);
            }
        }
    }

    /// What was read last: the reply that `exchange` gave.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.read_buffer[..self.filled]
    }

    /// The message in that reply: its body, without chunk sizes and out of its event.
    pub(crate) fn content(&self, response: &HttpResponse) -> anyhow::Result<Cow<'_, [u8]>> {
        let body = if response.is_chunked() {
            Cow::Owned(http_response::decode_chunked(&self.read_buffer, response)?)
        } else {
            Cow::Borrowed(&self.read_buffer[response.body.clone()])
        };
        if response.head.event_stream { Ok(Cow::Owned(sse::last_message(&body)?.to_vec())) } else { Ok(body) }
    }

    fn check(&self, reply: &HttpResponse, checker: &mut ReplyChecker) -> anyhow::Result<()> {
        let content = self.content(reply)?;
        if reply.head.status != 200 {
            bail!("HTTP {}: {}", reply.head.status, excerpt(&content));
        }
        checker.check(&content)
    }
}

impl HttpSession {
    pub(crate) fn new(connection: HttpConnection, request: Arc<[u8]>) -> Self {
        Self { connection: Some(connection), request, closing_request: None }
    }

    /// Sends one more request at the end, whose reply does not matter.
    pub(crate) fn with_closing_request(self, closing_request: Vec<u8>) -> Self {
        Self { closing_request: Some(closing_request), ..self }
    }

    /// Sends requests until the load is over and the last reply is there, or until `deadline`.
    pub(crate) async fn run(mut self, plan: &LoadPlan, pacer: Pacer, recorder: Recorder, deadline: Instant) {
        if timeout_at(deadline.into(), self.requests(plan, &pacer, &recorder)).await.is_err() {
            recorder.error(&anyhow!("no reply by the end of the load"));
        }
        for due in pacer.take_unsent() {
            recorder.unsent(due);
        }
        if let (Some(mut connection), Some(closing_request)) = (self.connection, self.closing_request) {
            // How a session that has done its work ends is not what is measured here.
            drop(timeout(CLOSE_TIMEOUT, connection.exchange(&closing_request)).await);
        }
    }

    async fn requests(&mut self, plan: &LoadPlan, pacer: &Pacer, recorder: &Recorder) {
        let mut checker = ReplyChecker::new(plan.kind.expected_reply(), plan.sample.clone());
        while let Some(due) = pacer.next().await {
            match self.request(&plan.target, &mut checker).await {
                Ok(()) => recorder.reply(due),
                Err(error) => {
                    recorder.error(&error);
                    if self.connection.is_none() {
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                }
            }
        }
    }

    /// One request, on a new connection where the last cannot be used again.
    async fn request(&mut self, target: &Target, checker: &mut ReplyChecker) -> anyhow::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => HttpConnection::open(target).await?,
        };
        let reply = connection.exchange(&self.request).await?;
        let checked = connection.check(&reply, checker);
        if reply.head.keep_alive {
            self.connection = Some(connection);
        }
        checked
    }
}
