//! The transport of a client on a pipe: rmcp's, within bounds.
//!
//! rmcp starts a task for each request, and another one for each answer that waits to be written.
//!
//! Invariant: requests that are worked on are bounded, and those beyond are refused. While too many answers
//! wait for the client, nothing is read from it; a client that takes none of them for long is disconnected.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ClientJsonRpcMessage, ErrorCode, ErrorData, GetExtensions, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::load::{Load, MAX_BYTES, MAX_REQUESTS};

/// Answers that may wait for the client before it is not read any more.
const MAX_UNSENT_ANSWERS: usize = 256;
/// How long the end of the pipe may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A pipe to a client.
pub(super) struct Pipe<R: AsyncRead + Unpin, W: AsyncWrite> {
    inner: AsyncRwTransport<RoleServer, CountingReader<R>, W>,
    /// Bytes that were read.
    read: Arc<AtomicUsize>,
    /// Those of them that messages were made of.
    taken: usize,
    load: Arc<Load>,
    unsent: Arc<UnsentReplies>,
    refusals: JoinSet<()>,
    /// How long the client may take no answer while too many wait.
    stall: Duration,
}

/// A reader that counts what it reads.
struct CountingReader<R> {
    inner: R,
    read: Arc<AtomicUsize>,
}

/// The answers waiting to be written.
struct UnsentReplies {
    count: AtomicUsize,
    /// When the last one was written, or the first one began to wait.
    moved: Mutex<Instant>,
    written: Notify,
}

/// One of them, until it is dropped.
struct UnsentReply(Arc<UnsentReplies>);

impl<R, W> Pipe<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    pub(super) fn new(input: R, output: W, stall: Duration) -> Self {
        let read = Arc::new(AtomicUsize::new(0));
        let input = CountingReader { inner: input, read: Arc::clone(&read) };
        Pipe {
            inner: AsyncRwTransport::new_server(input, output),
            read,
            taken: 0,
            load: Arc::default(),
            unsent: Arc::new(UnsentReplies {
                count: AtomicUsize::new(0),
                moved: Mutex::new(Instant::now()),
                written: Notify::new(),
            }),
            refusals: JoinSet::new(),
            stall,
        }
    }

    /// Bytes since the last message. The reader reads ahead, so a short message may count for its neighbours.
    fn length(&mut self) -> usize {
        let read = self.read.load(Ordering::Relaxed);
        read - std::mem::replace(&mut self.taken, read)
    }
}

impl<R, W> Transport<RoleServer> for Pipe<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let is_answer = matches!(message, ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_));
        let waiting = is_answer.then(|| self.unsent.add());
        let sending = self.inner.send(message);
        async move {
            let sent = sending.await;
            drop(waiting);
            sent
        }
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        loop {
            if !self.unsent.has_room(self.stall).await {
                tracing::warn!(
                    "the client has taken no answer for {} s, and {MAX_UNSENT_ANSWERS} wait: \
                     it is disconnected",
                    self.stall.as_secs_f64()
                );
                return None;
            }
            while self.refusals.try_join_next().is_some() {}
            let message = self.inner.receive().await?;
            let length = self.length();
            let ClientJsonRpcMessage::Request(mut request) = message else { return Some(message) };
            if self.load.has_room() {
                request.request.extensions_mut().insert(self.load.add_shared(length));
                return Some(ClientJsonRpcMessage::Request(request));
            }
            let says = format!(
                "too many requests at once: at most {MAX_REQUESTS}, or {} MiB of them; \
                 wait for their answers",
                MAX_BYTES >> 20
            );
            let error = ErrorData::new(ErrorCode::INTERNAL_ERROR, says, None);
            let refusing = self.send(ServerJsonRpcMessage::error(error, Some(request.id)));
            self.refusals.spawn(async move {
                // A client that has left reads nothing.
                let _ = refusing.await;
            });
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        // A client that reads nothing would block it without limit.
        timeout(CLOSE_TIMEOUT, self.inner.close()).await.unwrap_or(Ok(()))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for CountingReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        self.read.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl UnsentReplies {
    fn add(self: &Arc<Self>) -> UnsentReply {
        if self.count.fetch_add(1, Ordering::AcqRel) == 0 {
            self.moves();
        }
        UnsentReply(Arc::clone(self))
    }

    fn moves(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn moved(&self) -> Instant {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another answer may wait; false if none was written for that long.
    async fn has_room(&self, stall: Duration) -> bool {
        loop {
            let written = self.written.notified();
            if self.count.load(Ordering::Acquire) < MAX_UNSENT_ANSWERS {
                return true;
            }
            let moved = self.moved();
            if timeout_at(moved + stall, written).await.is_err() && self.moved() == moved {
                return false;
            }
        }
    }
}

impl Drop for UnsentReply {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.moves();
        self.0.written.notify_one();
    }
}
