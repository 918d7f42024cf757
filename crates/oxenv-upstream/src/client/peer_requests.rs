//! The requests of a server to us: `ping`, and what it asks callers during a call.
//!
//! They are answered here and not by rmcp, which starts a task for each request and keeps each answer until
//! the server takes it, however many there are.
//!
//! Invariant: requests that wait for a caller, and answers that wait for the server, are bounded in number
//! and in bytes. A server that does not take the answers to its own requests is ended.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use oxenv_core::RequestError;
use rmcp::RoleClient;
use rmcp::model::{
    ClientJsonRpcMessage, ClientResult, CustomResult, ErrorCode, ErrorData, RequestId, ServerJsonRpcMessage,
    ServerNotification, ServerRequest,
};
use rmcp::transport::Transport;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::questions::{self, PeerQuestion};
use super::state::{ConnectionState, MAX_QUESTIONS};

/// Answers that may wait for the server to take them.
const MAX_UNSENT_ANSWERS: usize = 1024;
/// Bytes of those answers; a single answer may be longer.
const MAX_UNSENT_BYTES: usize = 16 << 20;
/// Bytes of questions that may wait for callers; more are refused, as are more than [`MAX_QUESTIONS`].
const MAX_QUESTION_BYTES: usize = 64 << 20;

/// A transport that answers the server's requests and passes on everything else.
pub(super) struct PeerRequests<T> {
    inner: T,
    traffic: Arc<ConnectionState>,
    /// Questions that callers have not answered yet.
    questions: FuturesUnordered<BoxFuture<'static, AnsweredRequest>>,
    /// By the id of such a question: what withdraws it.
    withdrawals: HashMap<RequestId, CancellationToken>,
    question_bytes: usize,
    /// Answers that the server has not taken yet; each task gives the length of its answer.
    unsent: JoinSet<usize>,
    unsent_bytes: usize,
}

/// A caller's answer.
struct AnsweredRequest {
    id: RequestId,
    /// The length of the question.
    bytes: usize,
    outcome: Result<Value, RequestError>,
}

impl<T: Transport<RoleClient>> PeerRequests<T> {
    pub(super) fn new(inner: T, traffic: Arc<ConnectionState>) -> Self {
        PeerRequests {
            inner,
            traffic,
            questions: FuturesUnordered::new(),
            withdrawals: HashMap::new(),
            question_bytes: 0,
            unsent: JoinSet::new(),
            unsent_bytes: 0,
        }
    }

    fn answer(&mut self, id: RequestId, request: ServerRequest) {
        if matches!(request, ServerRequest::PingRequest(_)) {
            return self.send_answer(ClientJsonRpcMessage::response(ClientResult::empty(()), id));
        }
        if let Err(fault) = self.ask(id.clone(), request) {
            self.send_fault(id, fault);
        }
    }

    /// Asks the caller that a request is for.
    fn ask(&mut self, id: RequestId, request: ServerRequest) -> Result<(), RequestError> {
        let question = PeerQuestion::of(request)?;
        if self.withdrawals.contains_key(&id) {
            let message = "another request with this id is not answered yet; give each request its own id";
            return Err(RequestError::new(ErrorCode::INVALID_REQUEST.0, message));
        }
        let bytes = question.bytes();
        if self.questions.len() >= MAX_QUESTIONS || self.question_bytes + bytes > MAX_QUESTION_BYTES {
            let message = format!(
                "too many requests wait for an answer: at most {MAX_QUESTIONS} may, or {} MiB of them",
                MAX_QUESTION_BYTES >> 20
            );
            return Err(RequestError::new(ErrorCode::INTERNAL_ERROR.0, message));
        }
        let withdrawn = CancellationToken::new();
        let asked = questions::ask(&self.traffic, question, withdrawn.clone())?;
        self.withdrawals.insert(id.clone(), withdrawn);
        self.question_bytes += bytes;
        self.questions.push(Box::pin(async move { AnsweredRequest { id, bytes, outcome: asked.await } }));
        Ok(())
    }

    /// Sends what a caller answered, unless the server has withdrawn its question.
    fn answered(&mut self, answered: AnsweredRequest) {
        let AnsweredRequest { id, bytes, outcome } = answered;
        self.question_bytes -= bytes;
        if self.withdrawals.remove(&id).is_none() {
            return;
        }
        match outcome {
            Ok(answer) => {
                let result = ClientResult::CustomResult(CustomResult(answer));
                self.send_answer(ClientJsonRpcMessage::response(result, id));
            }
            Err(fault) => self.send_fault(id, fault),
        }
    }

    fn send_fault(&mut self, id: RequestId, fault: RequestError) {
        let data = (!fault.data.is_null()).then_some(fault.data);
        let error = ErrorData::new(ErrorCode(fault.code), fault.message, data);
        self.send_answer(ClientJsonRpcMessage::error(error, Some(id)));
    }

    fn send_answer(&mut self, answer: ClientJsonRpcMessage) {
        let bytes = serde_json::to_string(&answer).map_or(0, |text| text.len());
        let waiting = self.unsent.len();
        if waiting >= MAX_UNSENT_ANSWERS || (waiting > 0 && self.unsent_bytes + bytes > MAX_UNSENT_BYTES) {
            let message = format!("does not take the answers to its own requests: {waiting} of them wait");
            return self.traffic.close(message);
        }
        self.unsent_bytes += bytes;
        let sending = self.inner.send(answer);
        // In a task of its own: a pipe that is being written to must not wait for a receiver.
        self.unsent.spawn(async move {
            if let Err(error) = sending.await {
                tracing::debug!(%error, "an answer did not reach the server that asked");
            }
            bytes
        });
    }

    /// Whether rmcp needs a notification. One that cancels a question withdraws it here.
    fn is_for_rmcp(&mut self, notification: &ServerNotification) -> bool {
        match notification {
            ServerNotification::CancelledNotification(cancelled) => {
                let id = cancelled.params.request_id.as_ref();
                match id.and_then(|id| self.withdrawals.remove(id)) {
                    Some(withdrawn) => {
                        withdrawn.cancel();
                        false
                    }
                    // It may be about a subscription.
                    None => true,
                }
            }
            ServerNotification::SubscriptionsAcknowledgedNotification(_) => true,
            _ => false,
        }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for PeerRequests<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        message: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.inner.send(message)
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        while !self.traffic.closed().is_cancelled() {
            tokio::select! {
                biased;
                Some(sent) = self.unsent.join_next() => self.unsent_bytes -= sent.unwrap_or(0),
                Some(answered) = self.questions.next() => self.answered(answered),
                message = self.inner.receive() => match message? {
                    ServerJsonRpcMessage::Request(request) => self.answer(request.id, request.request),
                    ServerJsonRpcMessage::Notification(note) if !self.is_for_rmcp(&note.notification) => {}
                    message => return Some(message),
                },
            }
        }
        None
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.unsent.abort_all();
        self.questions.clear();
        self.inner.close().await
    }
}
