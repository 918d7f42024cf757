//! Requests on one keep-alive HTTP connection.
//!
//! Invariant: one request is in flight at a time. A connection that fails is opened again and the failure
//! counts as an error; one that the server closes with `Connection: close` is opened again without an error.

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

/// Initial size of the read buffer; it grows for a larger response.
const BUFFER_BYTES: usize = 4096;
/// Maximum length of a response.
const MAX_RESPONSE_BYTES: usize = 100 << 20;

/// Pause after a failure, so that a server that is gone is not flooded with connections.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Maximum time for closing a session; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection and the request that is sent on it repeatedly.
#[derive(Debug)]
pub(crate) struct HttpSession {
    /// `None` after a failure or `Connection: close`.
    connection: Option<HttpConnection>,
    request: Arc<[u8]>,
    /// Sent after the load, to end an MCP session.
    closing_request: Option<Vec<u8>>,
}

/// A connection and its read buffer.
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

    /// Sends a request and waits for the response, whose body stays in the read buffer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<HttpResponse> {
        self.filled = 0;
        self.stream.write_all(request).await.context("the connection failed")?;
        loop {
            if self.filled == self.read_buffer.len() {
                if self.filled > MAX_RESPONSE_BYTES {
                    bail!("the server sent a response of more than {MAX_RESPONSE_BYTES} bytes");
                }
                self.read_buffer.resize(self.read_buffer.len() * 2, 0);
            }
            let free = &mut self.read_buffer[self.filled..];
            let read = self.stream.read(free).await.context("the connection failed")?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            self.filled += read;
            if let Some(response) = http_response::parse(&self.read_buffer[..self.filled])? {
                return Ok(response);
            }
        }
    }

    /// The bytes of the last response.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.read_buffer[..self.filled]
    }

    /// The message in the last response: its body without chunk sizes, or the data of its last event.
    pub(crate) fn content(&self, response: &HttpResponse) -> anyhow::Result<Cow<'_, [u8]>> {
        let body = if response.is_chunked() {
            Cow::Owned(http_response::decode_chunked(&self.read_buffer, response)?)
        } else {
            Cow::Borrowed(&self.read_buffer[response.body.clone()])
        };
        if response.head.event_stream { Ok(Cow::Owned(sse::last_message(&body)?.to_vec())) } else { Ok(body) }
    }

    fn check(&self, response: &HttpResponse, checker: &mut ReplyChecker) -> anyhow::Result<()> {
        let content = self.content(response)?;
        if response.head.status != 200 {
            bail!("HTTP {}: {}", response.head.status, excerpt(&content));
        }
        checker.check(&content)
    }
}

impl HttpSession {
    pub(crate) fn new(connection: HttpConnection, request: Arc<[u8]>) -> Self {
        Self { connection: Some(connection), request, closing_request: None }
    }

    /// Sends one more request after the load and ignores its response.
    pub(crate) fn with_closing_request(self, closing_request: Vec<u8>) -> Self {
        Self { closing_request: Some(closing_request), ..self }
    }

    /// Sends requests until the load is over and the last response has arrived, at most until `deadline`.
    pub(crate) async fn run(mut self, plan: &LoadPlan, pacer: Pacer, recorder: Recorder, deadline: Instant) {
        if timeout_at(deadline.into(), self.send_requests(plan, &pacer, &recorder)).await.is_err() {
            recorder.error(&anyhow!("no reply by the end of the load"));
        }
        for due in pacer.take_unsent() {
            recorder.unsent(due);
        }
        if let (Some(mut connection), Some(closing_request)) = (self.connection, self.closing_request) {
            // Closing a session is not measured, so its failure is not reported.
            drop(timeout(CLOSE_TIMEOUT, connection.exchange(&closing_request)).await);
        }
    }

    async fn send_requests(&mut self, plan: &LoadPlan, pacer: &Pacer, recorder: &Recorder) {
        let mut checker = ReplyChecker::new(plan.kind.expected_reply(), plan.first_reply.clone());
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

    /// Sends one request, on a new connection if there is none.
    async fn request(&mut self, target: &Target, checker: &mut ReplyChecker) -> anyhow::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => HttpConnection::open(target).await?,
        };
        let response = connection.exchange(&self.request).await?;
        let checked = connection.check(&response, checker);
        if response.head.keep_alive {
            self.connection = Some(connection);
        }
        checked
    }
}
