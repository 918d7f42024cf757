//! The line between a running tool and its client: notes go out, questions come back.
//!
//! Invariant: a tool never waits for a slow client. Notes without a receiver are not kept, and when
//! too many are kept the oldest are dropped first.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use oxenv_core::{CallNotification, CallerChannel, RequestError, Work};
use oxenv_wire::{McpEra, RpcCode};
use rmcp::model::{
    ClientCapabilities, CustomNotification, CustomRequest, ProgressNotificationParam, ProgressToken,
    ServerNotification, ServerRequest,
};
use rmcp::service::{Peer, PeerRequestOptions, RequestHandle, RoleServer, ServiceError};
use serde_json::{Value, json};
use tokio::sync::{Notify, SetOnce};

use super::log_level::LogLevel;

/// Notes that wait for a client that does not read.
const MAX_WAITING_MESSAGES: usize = 256;
/// Bytes of those notes.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// JSON-RPC's number for a method that the other side does not have.
const METHOD_NOT_FOUND: i32 = RpcCode::MethodNotFound as i32;
const INTERNAL_ERROR: i32 = RpcCode::InternalError as i32;

/// Which notes a client wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct NotificationFilter {
    /// The token under which it wants notifications of progress.
    pub(crate) progress: Option<ProgressToken>,
    /// From which level on it wants the log.
    pub(super) level: Option<LogLevel>,
}

/// The client of one call, as its tool sees it.
pub(crate) struct ClientChannel {
    wants: NotificationFilter,
    notes: Mutex<NotificationQueue>,
    added: Notify,
    client: SetOnce<ClientHandle>,
}

#[derive(Default)]
struct NotificationQueue {
    waiting: VecDeque<CallNotification>,
    /// The weight of those that wait.
    bytes: usize,
    hung_up: bool,
}

/// Where the client can be reached, once that is known.
pub(crate) struct ClientHandle {
    pub(crate) peer: Peer<RoleServer>,
    pub(crate) capabilities: ClientCapabilities,
    pub(crate) era: McpEra,
}

impl NotificationQueue {
    /// The oldest note.
    fn pop(&mut self) -> Option<CallNotification> {
        let note = self.waiting.pop_front()?;
        self.bytes -= note.weight();
        Some(note)
    }
}

impl ClientChannel {
    pub(crate) fn new(wants: NotificationFilter) -> Arc<Self> {
        Arc::new(ClientChannel {
            wants,
            notes: Mutex::default(),
            added: Notify::new(),
            client: SetOnce::new(),
        })
    }

    /// Whether there is nothing left to pass on.
    pub(crate) fn is_quiet(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Gives the tool a client to ask.
    pub(crate) fn connect(&self, client: ClientHandle) {
        // Only the owner of the call connects it, and once.
        let _ = self.client.set(client);
    }

    /// No more messages will come.
    pub(crate) fn disconnect(&self) {
        self.lock().hung_up = true;
        self.added.notify_one();
    }

    /// Passes notes on until the line is hung up and nothing waits any more.
    pub(crate) async fn deliver(&self, peer: &Peer<RoleServer>) {
        while let Some(note) = self.next().await {
            let sent = match note {
                CallNotification::Progress { progress, total, message } => {
                    let Some(token) = self.wants.progress.clone() else { continue };
                    let mut params = ProgressNotificationParam::new(token, progress);
                    params.total = total;
                    params.message = message;
                    peer.notify_progress(params).await
                }
                CallNotification::Log { level, logger, data } => {
                    let mut params = json!({ "level": LogLevel::of(&level).name(), "data": data });
                    if let Some(logger) = logger {
                        params["logger"] = logger.into();
                    }
                    let line = CustomNotification::new("notifications/message", Some(params));
                    peer.send_notification(ServerNotification::CustomNotification(line)).await
                }
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "a note of a tool did not reach its client");
            }
        }
    }

    async fn next(&self) -> Option<CallNotification> {
        loop {
            {
                let mut notes = self.lock();
                match notes.pop() {
                    Some(note) => return Some(note),
                    None if notes.hung_up => return None,
                    None => {}
                }
            }
            self.added.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NotificationQueue> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerChannel for ClientChannel {
    fn tell(&self, note: CallNotification) {
        let wanted = match &note {
            CallNotification::Progress { .. } => self.wants.progress.is_some(),
            CallNotification::Log { level, .. } => {
                self.wants.level.is_some_and(|wanted| LogLevel::of(level) >= wanted)
            }
        };
        if !wanted {
            return;
        }
        let bytes = note.weight();
        if bytes > MAX_WAITING_BYTES {
            return;
        }
        let mut notes = self.lock();
        while notes.waiting.len() >= MAX_WAITING_MESSAGES || notes.bytes + bytes > MAX_WAITING_BYTES {
            notes.pop();
        }
        notes.bytes += bytes;
        notes.waiting.push_back(note);
        drop(notes);
        self.added.notify_one();
    }

    fn ask<'a>(&'a self, method: &'a str, parameters: Value) -> Work<'a, Result<Value, RequestError>> {
        Work::pending(async move {
            let client = self.client.wait().await;
            if client.era == McpEra::Stateless {
                let message = "this client is not asked while a call runs: return an input_required result";
                return Err(RequestError::new(METHOD_NOT_FOUND, message));
            }
            if !client.can(method) {
                let message = format!("the client did not declare that it can answer {method}");
                return Err(RequestError::new(METHOD_NOT_FOUND, message));
            }
            client.ask(method, parameters).await
        })
    }
}

impl ClientHandle {
    fn can(&self, method: &str) -> bool {
        match method {
            "sampling/createMessage" => self.capabilities.sampling.is_some(),
            "elicitation/create" => self.capabilities.elicitation.is_some(),
            "roots/list" => self.capabilities.roots.is_some(),
            _ => false,
        }
    }

    async fn ask(&self, method: &str, parameters: Value) -> Result<Value, RequestError> {
        // Unchanged: the tool's message is for the client to judge.
        let parameters = Some(parameters).filter(|parameters| !parameters.is_null());
        let request = ServerRequest::CustomRequest(CustomRequest::new(method, parameters));
        let sent = self.peer.send_request_with_option(request, PeerRequestOptions::no_options()).await;
        let mut question = PendingRequest(Some(sent.map_err(fault)?));
        let answer = match &mut question.0 {
            Some(handle) => (&mut handle.rx).await.ok(),
            None => None,
        };
        question.0 = None;
        let answer = answer.unwrap_or(Err(ServiceError::TransportClosed)).map_err(fault)?;
        serde_json::to_value(&answer).map_err(|error| RequestError::new(INTERNAL_ERROR, error.to_string()))
    }
}

/// A question that is withdrawn if its answer is no longer awaited.
struct PendingRequest(Option<RequestHandle<RoleServer>>);

impl Drop for PendingRequest {
    fn drop(&mut self) {
        if let (Some(handle), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Ends no later than the connection, since it only sends.
            runtime.spawn(handle.cancel(Some("the call that asked has ended".to_owned())));
        }
    }
}

fn fault(error: ServiceError) -> RequestError {
    match error {
        ServiceError::McpError(error) => RequestError {
            code: error.code.0,
            message: error.message.into_owned(),
            data: error.data.unwrap_or(Value::Null),
        },
        other => RequestError::new(INTERNAL_ERROR, format!("the client gave no answer: {other}")),
    }
}
