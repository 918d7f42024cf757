//! The state of one connection: which requests are in flight, for which callers, and what the upstream
//! sends besides its answers.
//!
//! It sits between rmcp and the bytes. So a note is passed on in the order in which it came, before the
//! answer that follows it, and a request's own number is the token of its progress.
//!
//! Invariant: a message about a call reaches that call alone. Where it does not name its call, and
//! there is not exactly one, it is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oxenv_core::{CallNotification, RequestError};
use parking_lot::Mutex;
use rmcp::RoleClient;
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, GetMeta, NumberOrString, ProgressToken,
    RequestId, RequestMetaObject, ServerJsonRpcMessage, ServerNotification,
};
use rmcp::transport::Transport;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Questions of an upstream that may be on their way to the caller of one call, as many as a connection has
/// at most.
pub(super) const MAX_QUESTIONS: usize = 256;
/// Notes of an upstream that may be on their way to the caller of one call; more are dropped.
const MAX_NOTES: usize = 64;
/// Bytes of those notes.
const MAX_NOTE_BYTES: usize = 16 << 20;

/// The least time between two ends of the stream of notifications after which lists are read anew.
const NEWS_PAUSE: Duration = Duration::from_secs(30);

/// A message of an upstream during a call.
pub(crate) enum ServerMessage {
    /// For the caller to know.
    Note {
        /// The note.
        note: CallNotification,
        /// Its part of the bytes that may wait.
        _room: OwnedSemaphorePermit,
    },
    /// For the caller to answer.
    Asked(ForwardedQuestion),
}

/// Where the notes and questions for the caller of one call are sent. Sending never waits.
#[derive(Clone)]
pub(crate) struct MessageSender {
    sender: mpsc::Sender<ServerMessage>,
    /// Bytes of notes that may still wait.
    room: Arc<Semaphore>,
}

/// A question on its way to a caller.
pub(crate) struct ForwardedQuestion {
    /// MCP's method.
    pub(crate) method: String,
    /// Its parameters.
    pub(crate) parameters: Value,
    /// Where the answer goes; closed when the caller no longer waits for it.
    pub(crate) answer: oneshot::Sender<Result<Value, RequestError>>,
}

/// Which callers an upstream may send messages to during a request.
#[derive(Clone)]
pub(crate) enum Listener {
    /// The request is our own.
    Ours,
    /// A call whose caller does not listen.
    Deaf,
    /// A call whose caller does.
    Caller(MessageSender),
}

impl MessageSender {
    /// The sender, and the receiver that the caller listens to.
    pub(crate) fn new() -> (Self, mpsc::Receiver<ServerMessage>) {
        let (sender, receiver) = mpsc::channel(MAX_QUESTIONS + MAX_NOTES);
        (MessageSender { sender, room: Arc::new(Semaphore::new(MAX_NOTE_BYTES)) }, receiver)
    }

    /// Passes a question on; false if the caller's queue is full.
    pub(crate) fn ask(&self, asked: ForwardedQuestion) -> bool {
        self.sender.try_send(ServerMessage::Asked(asked)).is_ok()
    }

    /// Passes a note on. A caller that does not keep up loses notes, not its call.
    fn tell(&self, note: CallNotification) {
        // No note counts for less than its share of the bytes, so the number of notes is bounded as well.
        let bytes = note.weight().max(MAX_NOTE_BYTES / MAX_NOTES);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            let _ = self.sender.try_send(ServerMessage::Note { note, _room: room });
        }
    }
}

/// Our own data of a request, besides what rmcp keeps.
pub(crate) struct Outgoing {
    /// Its parameters, where they are not with rmcp.
    pub(crate) parameters: Option<Box<RawValue>>,
    /// The listener during the request.
    pub(crate) listener: Listener,
}

/// The state of a connection that its transport and its callers share.
#[derive(Default)]
pub(crate) struct ConnectionState {
    in_flight: Mutex<HashMap<i64, Listener>>,
    lists_changed: Notify,
    /// Cancelled once the stream of news was answered, with news or a refusal.
    news_begun: CancellationToken,
    /// When lists were last read anew because the stream of notifications had ended.
    last_reported_end: Mutex<Option<Instant>>,
    /// Whether the upstream gave the connection a session.
    session: AtomicBool,
    closed: CancellationToken,
    end: Mutex<Option<ConnectionEnd>>,
}

/// How a connection ended.
#[derive(Clone)]
pub(crate) struct ConnectionEnd {
    /// As text.
    pub(crate) reason: String,
    /// Whether the server went away, so that its exit explains more.
    pub(crate) by_server: bool,
}

impl ConnectionState {
    /// Notes a message on its way to the upstream. The number of a call with a listener becomes the
    /// token of its progress; other requests ask for none.
    pub(crate) fn outgoing(&self, message: &mut ClientJsonRpcMessage) {
        match message {
            ClientJsonRpcMessage::Request(request) => {
                let (NumberOrString::Number(id), ClientRequest::CustomRequest(custom)) =
                    (&request.id, &mut request.request)
                else {
                    return;
                };
                let outgoing = custom.extensions.get::<Arc<Outgoing>>();
                let listener = outgoing.map_or(Listener::Ours, |outgoing| outgoing.listener.clone());
                let meta = custom.get_meta_mut();
                match listener {
                    Listener::Caller(_) => meta.set_progress_token(ProgressToken(request.id.clone())),
                    Listener::Ours | Listener::Deaf => drop(meta.0.0.remove("progressToken")),
                }
                if meta.0.0.is_empty() {
                    custom.extensions.remove::<RequestMetaObject>();
                }
                self.in_flight.lock().insert(*id, listener);
            }
            ClientJsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notification.notification {
                    self.answered(cancelled.params.request_id.as_ref());
                }
            }
            _ => {}
        }
    }

    /// Takes a message from the upstream; gives it back if it is for rmcp.
    #[expect(deprecated, reason = "MCP has deprecated logging, which servers of every revision have")]
    pub(crate) fn incoming(&self, message: ServerJsonRpcMessage) -> Option<ServerJsonRpcMessage> {
        let ServerJsonRpcMessage::Notification(notification) = &message else {
            match &message {
                ServerJsonRpcMessage::Response(response) => self.answered(Some(&response.id)),
                ServerJsonRpcMessage::Error(error) => self.answered(error.id.as_ref()),
                _ => {}
            }
            return Some(message);
        };
        match &notification.notification {
            ServerNotification::ProgressNotification(progress) => {
                let progress = &progress.params;
                let note = CallNotification::Progress {
                    progress: progress.progress,
                    total: progress.total,
                    message: progress.message.clone(),
                };
                self.tell(number(&progress.progress_token.0), note);
            }
            ServerNotification::LoggingMessageNotification(log) => {
                let level = serde_json::to_value(log.params.level).ok();
                let note = CallNotification::Log {
                    level: level.as_ref().and_then(Value::as_str).unwrap_or("info").to_owned(),
                    logger: log.params.logger.clone(),
                    data: log.params.data.clone(),
                };
                self.tell(None, note);
            }
            ServerNotification::ToolListChangedNotification(_)
            | ServerNotification::ResourceListChangedNotification(_)
            | ServerNotification::PromptListChangedNotification(_) => self.lists_changed.notify_one(),
            ServerNotification::ResourceUpdatedNotification(_) => {}
            _ => return Some(message),
        }
        None
    }

    /// Whether a request with that number waits for its answer.
    pub(crate) fn awaits(&self, id: i64) -> bool {
        self.in_flight.lock().contains_key(&id)
    }

    /// Whether a request with that number waits for its answer as text.
    pub(crate) fn awaits_text(&self, id: i64) -> bool {
        self.in_flight.lock().get(&id).is_some_and(|listener| !matches!(listener, Listener::Ours))
    }

    /// The one request that waits for its answer, if it is one.
    pub(crate) fn only_one(&self) -> Option<i64> {
        let in_flight = self.in_flight.lock();
        let mut numbers = in_flight.keys();
        numbers.next().copied().filter(|_| numbers.next().is_none())
    }

    /// The caller that answers questions of that request, or, if it is not known, of the only call.
    pub(crate) fn listener(&self, request: Option<i64>) -> Option<MessageSender> {
        let in_flight = self.in_flight.lock();
        let listener = match request {
            Some(request) => in_flight.get(&request)?,
            None => {
                let mut calls = in_flight.values().filter(|listener| !matches!(listener, Listener::Ours));
                calls.next().filter(|_| calls.next().is_none())?
            }
        };
        match listener {
            Listener::Caller(events) => Some(events.clone()),
            Listener::Ours | Listener::Deaf => None,
        }
    }

    /// Signals that the lists must be read again.
    pub(crate) fn lists_may_differ(&self) {
        self.lists_changed.notify_one();
    }

    /// The upstream gave the connection a session.
    pub(crate) fn note_session(&self) {
        self.session.store(true, Ordering::Release);
    }

    /// Whether the upstream gave the connection a session.
    pub(crate) fn has_session(&self) -> bool {
        self.session.load(Ordering::Acquire)
    }

    /// Cancelled once the stream that news come over was answered.
    pub(crate) fn news_begun(&self) -> &CancellationToken {
        &self.news_begun
    }

    /// The stream that news come over has ended. Nothing reports what changes until there is another one;
    /// but a server that ends it again and again is not asked each time.
    pub(crate) fn news_ended(&self) {
        let now = Instant::now();
        let mut last = self.last_reported_end.lock();
        if last.is_none_or(|last| now - last >= NEWS_PAUSE) {
            *last = Some(now);
            self.lists_may_differ();
        }
    }

    /// Waits until a list has changed since this was last asked.
    pub(crate) async fn list_change(&self) {
        self.lists_changed.notified().await;
    }

    /// The server went away; the first end counts.
    pub(crate) fn lost(&self, reason: impl Into<String>) {
        self.over(ConnectionEnd { reason: reason.into(), by_server: true });
    }

    /// We end the connection; the first end counts.
    pub(crate) fn close(&self, reason: impl Into<String>) {
        self.over(ConnectionEnd { reason: reason.into(), by_server: false });
    }

    fn over(&self, end: ConnectionEnd) {
        self.end.lock().get_or_insert(end);
        self.closed.cancel();
    }

    /// Cancelled once the connection is over.
    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// How the connection ended.
    pub(crate) fn end(&self) -> ConnectionEnd {
        let end = self.end.lock().clone();
        end.unwrap_or_else(|| ConnectionEnd { reason: "the connection closed".to_owned(), by_server: true })
    }

    fn answered(&self, id: Option<&RequestId>) {
        if let Some(id) = id.and_then(number) {
            self.in_flight.lock().remove(&id);
        }
    }

    fn tell(&self, request: Option<i64>, note: CallNotification) {
        if let Some(events) = self.listener(request) {
            events.tell(note);
        }
    }
}

/// Ends a connection whose greeting was given up.
pub(crate) struct HandshakeGuard {
    traffic: Option<Arc<ConnectionState>>,
}

impl HandshakeGuard {
    pub(crate) fn new(traffic: Arc<ConnectionState>) -> Self {
        HandshakeGuard { traffic: Some(traffic) }
    }

    /// The greeting has ended, well or not.
    pub(crate) fn done(mut self) {
        self.traffic = None;
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        if let Some(traffic) = &self.traffic {
            traffic.close("its greeting was given up");
        }
    }
}

/// The number of a request, also where the upstream has made a text of it.
pub(crate) fn number(id: &RequestId) -> Option<i64> {
    match id {
        NumberOrString::Number(number) => Some(*number),
        NumberOrString::String(text) => text.parse().ok(),
    }
}

/// A transport of rmcp with its traffic noted.
pub(crate) struct ObservedTransport<T> {
    pub(crate) inner: T,
    pub(crate) traffic: Arc<ConnectionState>,
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for ObservedTransport<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        mut message: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.traffic.outgoing(&mut message);
        self.inner.send(message)
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let Some(message) = self.inner.receive().await else {
                self.traffic.lost("the connection closed");
                return None;
            };
            if let Some(message) = self.traffic.incoming(message) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.inner.close().await
    }
}
