//! The state that callers of a connection share with the task that drives its socket.
//!
//! Invariant: each request is in `pending` from its creation until its reply came or its caller gave up. The
//! lock is never held across an await, nor while a reply is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use oxenv_wire::{Delivered, SessionCreated};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use uuid::Uuid;

use super::frame::{FrameWriter, quote};
use super::reply;
use crate::error::{ClientError, Code, Result};
use crate::options::ClientOptions;
use crate::server_address::ServerAddress;

/// The most requests in flight: as many as a server reads before it has answered some.
pub(super) const MAX_IN_FLIGHT: u32 = 1024;

/// The shared part of a connection.
pub(super) struct ConnectionInner {
    pub(super) target: ServerAddress,
    pub(super) options: ClientOptions,
    pub(super) state: Mutex<ConnectionState>,
    /// Wakes the task when there is something to write.
    pub(super) driver_waker: AtomicWaker,
    /// Notified when the connection's last user is gone.
    pub(super) released: Notify,
    in_flight: Semaphore,
    next_id: AtomicU64,
    /// The prefix of the idempotency keys that are made here.
    key_prefix: String,
}

#[derive(Default)]
pub(super) struct ConnectionState {
    pub(super) phase: ConnectionPhase,
    /// Frames that the task has not taken yet, in the order of sending.
    pub(super) outbox: VecDeque<OutgoingFrame>,
    pub(super) pending: HashMap<u64, PendingRequest>,
    pub(super) sessions: HashMap<String, Arc<SessionEntry>>,
    /// Whether the connection's last user is gone.
    pub(super) released: bool,
}

#[derive(Default)]
pub(super) enum ConnectionPhase {
    #[default]
    Open,
    /// The socket is lost, and a session or a request makes reconnecting worth it.
    Reconnecting,
    /// There is no socket, and there will be none.
    Closed(ClientError),
}

/// A frame to write.
pub(super) struct OutgoingFrame {
    pub(super) id: u64,
    pub(super) text: Utf8Bytes,
}

/// A request without a reply yet.
pub(super) struct PendingRequest {
    /// Gets the reply; `None` if the caller is gone and the reply still has to be handled.
    pub(super) reply_sender: Option<oneshot::Sender<Result<ServerReply>>>,
    pub(super) resend: Option<Resend>,
    pub(super) scope: RequestScope,
    pub(super) creates: Option<SessionCreation>,
    /// Whether it was written to a socket that is gone now.
    pub(super) written: bool,
}

/// The frame that is sent again on the next socket, if that is open within `within`.
pub(super) struct Resend {
    pub(super) text: Utf8Bytes,
    pub(super) within: Duration,
}

/// The sessions that a request is about.
pub(super) enum RequestScope {
    NoSession,
    Session(Arc<SessionEntry>),
    Batch,
}

/// What happens to the sessions that a reply creates.
#[derive(Clone, Copy)]
pub(super) struct SessionCreation {
    pub(super) resume: Option<Duration>,
    /// Whether they end when their handles are dropped.
    pub(super) owned: bool,
}

/// A reply, and the sessions that it created.
pub(super) struct ServerReply {
    pub(super) text: Utf8Bytes,
    pub(super) sessions: Vec<SessionHandle>,
}

/// A session of this connection.
pub(super) struct SessionEntry {
    pub(super) id: String,
    /// The id as JSON.
    pub(super) quoted_id: String,
    pub(super) mcp_url: String,
    pub(super) agent_token: Option<String>,
    pub(super) resume: Option<Duration>,
    /// Why it cannot be used any more.
    pub(super) gone_error: OnceLock<ClientError>,
    handles: AtomicUsize,
}

/// A handle of a session. Its drop ends an owned session, without waiting for that.
pub(super) struct SessionHandle {
    pub(super) inner: Arc<ConnectionInner>,
    pub(super) entry: Arc<SessionEntry>,
    owned: bool,
}

/// A request that can be sent.
pub(super) struct OutgoingRequest {
    pub(super) id: u64,
    pub(super) text: String,
    /// Within what time it may be sent again after a lost socket.
    pub(super) resend_within: Option<Duration>,
    pub(super) scope: RequestScope,
    pub(super) creates: Option<SessionCreation>,
    /// How many requests it counts as.
    pub(super) weight: u32,
}

/// A request that its caller waits for. Its drop takes the request back if it was not sent.
struct PendingGuard<'a> {
    inner: &'a Arc<ConnectionInner>,
    id: u64,
    reply: oneshot::Receiver<Result<ServerReply>>,
    /// Set by the drop: whether the request may have been delivered.
    delivered: &'a mut Delivered,
    answered: bool,
}

impl ConnectionInner {
    pub(super) fn new(target: ServerAddress, options: ClientOptions) -> Arc<Self> {
        Arc::new(ConnectionInner {
            target,
            options,
            state: Mutex::default(),
            driver_waker: AtomicWaker::new(),
            released: Notify::new(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT as usize),
            next_id: AtomicU64::new(1),
            key_prefix: Uuid::new_v4().simple().to_string(),
        })
    }

    /// The number of the next request.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The key of a request that may be sent again.
    pub(super) fn request_key(&self, id: u64) -> String {
        format!("{}-{id}", self.key_prefix)
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// Why there is none, by its code. A refusal by the server is a reply.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: OutgoingRequest,
        limit: Duration,
    ) -> Result<ServerReply> {
        let mut delivered = Delivered::No;
        let answer = tokio::time::timeout(limit, self.wait_for_reply(request, &mut delivered)).await;
        answer.unwrap_or_else(|_| {
            let message = format!("no answer came within {} s", limit.as_secs_f64());
            Err(ClientError::new(Code::TimedOut, message).with_delivered(delivered))
        })
    }

    async fn wait_for_reply(
        self: &Arc<Self>,
        request: OutgoingRequest,
        delivered: &mut Delivered,
    ) -> Result<ServerReply> {
        // Without waiting where that can be done, so that requests go out in the order in which they were
        // begun.
        let _room = match self.in_flight.try_acquire_many(request.weight) {
            Ok(room) => Ok(room),
            // The semaphore is never closed.
            Err(_) => self.in_flight.acquire_many(request.weight).await,
        };
        let id = request.id;
        let answer = self.enqueue(request)?;
        let mut guard = PendingGuard { inner: self, id, reply: answer, delivered, answered: false };
        let answer = (&mut guard.reply).await;
        guard.answered = true;
        // The driver of the socket answers everything before it ends.
        answer.unwrap_or_else(|_| Err(ClientError::new(Code::Closed, "the connection is closed")))
    }

    fn enqueue(&self, request: OutgoingRequest) -> Result<oneshot::Receiver<Result<ServerReply>>> {
        let (tell, answer) = oneshot::channel();
        let mut state = self.state.lock();
        if let ConnectionPhase::Closed(error) = &state.phase {
            return Err(error.clone().with_delivered(Delivered::No));
        }
        if let RequestScope::Session(entry) = &request.scope {
            entry.check_usable()?;
        }
        state.push(request, Some(tell));
        drop(state);
        self.driver_waker.wake();
        Ok(answer)
    }

    /// Hands a reply to its caller. A reply without a waiting caller is dropped.
    pub(super) fn deliver(self: &Arc<Self>, id: u64, text: Utf8Bytes) {
        let mut state = self.state.lock();
        let Some(pending) = state.pending.remove(&id) else { return };
        let sessions = match (pending.creates, &pending.scope) {
            (Some(creation), _) => reply::created_sessions(&text)
                .into_iter()
                .map(|made| self.session_handle(&mut state, made, creation))
                .collect(),
            (None, RequestScope::Session(entry)) if pending.reply_sender.is_none() => {
                // The answer to a close that no caller waits for.
                state.forget(entry);
                Vec::new()
            }
            _ => Vec::new(),
        };
        drop(state);
        let reply = ServerReply { text, sessions };
        // A reply that is not taken is dropped, and its sessions are ended with it.
        if let Some(answer) = pending.reply_sender {
            let _ = answer.send(Ok(reply));
        }
    }

    fn session_handle(
        self: &Arc<Self>,
        state: &mut ConnectionState,
        made: SessionCreated,
        creation: SessionCreation,
    ) -> SessionHandle {
        let entry =
            match state.sessions.get(&made.session_id).filter(|entry| entry.gone_error.get().is_none()) {
                Some(entry) => Arc::clone(entry),
                None => {
                    let entry = Arc::new(SessionEntry {
                        quoted_id: quote(&made.session_id),
                        mcp_url: self.target.http_url(path_of(&made.mcp_url)),
                        agent_token: made.agent_token,
                        resume: creation.resume,
                        gone_error: OnceLock::new(),
                        handles: AtomicUsize::new(0),
                        id: made.session_id,
                    });
                    state.sessions.insert(entry.id.clone(), Arc::clone(&entry));
                    entry
                }
            };
        entry.handles.fetch_add(1, Ordering::Relaxed);
        SessionHandle { inner: Arc::clone(self), entry, owned: creation.owned }
    }

    /// Another client has taken a session.
    pub(super) fn session_taken(&self, session: &str) {
        let mut state = self.state.lock();
        if let Some(entry) = state.sessions.remove(session) {
            let message =
                format!("another client took the session {session}: attach to it again to take it back");
            let code = Code::Server(oxenv_wire::ErrorCode::SessionError);
            let _ = entry.gone_error.set(ClientError::new(code, message).with_delivered(Delivered::No));
        }
    }

    /// The connection's last user is gone.
    pub(super) fn release(&self) {
        self.state.lock().released = true;
        self.released.notify_one();
        self.driver_waker.wake();
    }

    fn release_session(&self, entry: &Arc<SessionEntry>, end: bool) {
        let last = entry.handles.fetch_sub(1, Ordering::Relaxed) == 1;
        let mut state = self.state.lock();
        let usable = entry.gone_error.get().is_none() && !matches!(state.phase, ConnectionPhase::Closed(_));
        if end && usable {
            let id = self.next_id();
            let _ = entry.gone_error.set(session_closed(&entry.id));
            state.push(close_request(id, entry), None);
            drop(state);
            self.driver_waker.wake();
        } else if last {
            state.forget(entry);
        }
    }
}

impl ConnectionState {
    fn push(&mut self, request: OutgoingRequest, answer: Option<oneshot::Sender<Result<ServerReply>>>) {
        let OutgoingRequest { id, text, resend_within, scope, creates, .. } = request;
        let text = Utf8Bytes::from(text);
        let resend = resend_within.map(|within| Resend { text: text.clone(), within });
        self.pending
            .insert(id, PendingRequest { reply_sender: answer, resend, scope, creates, written: false });
        self.outbox.push_back(OutgoingFrame { id, text });
    }

    /// Whether a request may have been delivered.
    pub(super) fn delivery(&self, id: u64) -> Delivered {
        let written = self.pending.get(&id).is_none_or(|pending| pending.written);
        let still_here = self.outbox.iter().any(|frame| frame.id == id);
        if still_here && !written { Delivered::No } else { Delivered::Maybe }
    }

    fn forget(&mut self, entry: &Arc<SessionEntry>) {
        if self.sessions.get(&entry.id).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            self.sessions.remove(&entry.id);
        }
    }
}

impl SessionEntry {
    pub(super) fn check_usable(&self) -> Result<()> {
        match self.gone_error.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.inner.release_session(&self.entry, self.owned);
    }
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut state = self.inner.state.lock();
        *self.delivered = state.delivery(self.id);
        let sent = *self.delivered != Delivered::No;
        match state.pending.get_mut(&self.id) {
            // The sessions that it makes must be ended once they are there.
            Some(pending) if sent && pending.creates.is_some() => pending.reply_sender = None,
            _ => {
                state.pending.remove(&self.id);
                state.outbox.retain(|frame| frame.id != self.id);
            }
        }
        drop(state);
        // An answer that came just now is dropped with its sessions, outside the lock.
        self.reply.close();
        drop(self.reply.try_recv());
    }
}

/// The request that ends a session.
pub(super) fn close_request(id: u64, entry: &Arc<SessionEntry>) -> OutgoingRequest {
    let text = FrameWriter::request(id, "close").with("session", &entry.quoted_id).finish();
    OutgoingRequest {
        id,
        text,
        resend_within: entry.resume,
        scope: RequestScope::Session(Arc::clone(entry)),
        creates: None,
        weight: 1,
    }
}

pub(super) fn session_closed(session: &str) -> ClientError {
    ClientError::new(Code::Closed, format!("the session {session} was closed"))
}

/// The path of an address that a server sent: it may not know the host name that clients use.
fn path_of(address: &str) -> &str {
    match address.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_behind_others_keep_their_path_alone() {
        assert_eq!(path_of("http://inner:1/sessions/a/mcp"), "/sessions/a/mcp");
        assert_eq!(path_of("/sessions/a/mcp"), "/sessions/a/mcp");
        assert_eq!(path_of("http://inner"), "");
    }
}
