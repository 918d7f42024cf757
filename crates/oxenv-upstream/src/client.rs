//! A connection to one MCP server: rmcp's client over our transports.
//!
//! Entry points: [`Connection::over_pipes`], [`Connection::over_http`], [`Connection::request`].
//! Invariant: a request is sent once. Dropping it before its answer cancels it at the server.

mod error;
mod http;
mod lists;
mod peer_requests;
mod post;
mod questions;
mod result;
mod state;
mod stdio;

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use oxenv_core::CallerChannel;
use oxenv_wire::RawJson;
use parking_lot::Mutex;
use rmcp::model::{
    CancelledNotification, CancelledNotificationParam, ClientRequest, CustomRequest, CustomResult,
    MetaObject, ProtocolVersion, RequestId, RequestMetaObject, ServerCapabilities, ServerResult,
    SubscriptionFilter,
};
use rmcp::service::{
    ClientInitializeError, ClientLifecycleMode, Peer, PeerRequestOptions, RunningService, ServiceError,
    serve_client_with_lifecycle_and_ct,
};
use rmcp::transport::Transport;
use rmcp::{RoleClient, model};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::task::coop::unconstrained;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use oxenv_process::secret::Redactor;
use peer_requests::PeerRequests;
use questions::{Handler, answer_while};
use state::{
    ConnectionEnd, ConnectionState, HandshakeGuard, Listener, MessageSender, ObservedTransport, Outgoing,
};

pub(crate) use error::{FaultCause, UpstreamError};
pub(crate) use http::Endpoint;
pub(crate) use lists::{ListCapabilities, Lists, Pages, list_tools};
pub(crate) use questions::QuestionPolicy;
pub(crate) use result::tool_result;

/// How long rmcp has to end its part of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// After a subscription that lasted this long, the pause before the next is the first again.
const STEADY_AFTER: Duration = Duration::from_secs(5);

/// How a server is greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// By the handshake that all revisions up to 2025-11-25 have.
    Handshake,
    /// By `server/discover`, as of 2026-07-28.
    Discovery,
}

/// A request that can be sent any number of times.
pub(crate) struct RawRequest<'a> {
    /// MCP's method.
    pub(crate) method: &'a str,
    /// Its parameters without `_meta`: an object.
    pub(crate) parameters: RawJson,
    /// What goes into `_meta` beside what the protocol asks for.
    pub(crate) meta: Map<String, Value>,
}

/// Why a greeting failed.
#[derive(Debug)]
pub(crate) struct HandshakeError {
    /// For people.
    pub(crate) message: String,
    /// Whether the server answered, so that it may know the other way of greeting.
    pub(crate) answered: bool,
    /// Whether the server went away, so that its exit explains more.
    pub(crate) by_server: bool,
    /// What stood in the way.
    pub(crate) cause: FaultCause,
}

/// Why a request has no result, and what stood in the way.
pub(crate) struct Failure {
    pub(crate) fault: UpstreamError,
    pub(crate) cause: FaultCause,
}

/// A connection that was greeted. Dropping it ends it.
pub(crate) struct Connection {
    peer: Peer<RoleClient>,
    traffic: Arc<ConnectionState>,
    label: String,
    redactor: Redactor,
    /// Whether parameters travel as text beside the message; else rmcp writes them.
    as_text: bool,
    running: Mutex<Option<RunningService<RoleClient, Handler>>>,
    ended: CancellationToken,
}

/// Cancels a request at the server unless it was answered.
struct Abandoned<'a> {
    peer: &'a Peer<RoleClient>,
    id: Option<RequestId>,
}

impl Connection {
    /// Greets a server over its pipes.
    ///
    /// # Errors
    /// Why it cannot be talked to. The text holds no secret.
    pub(crate) async fn over_pipes(
        pipes: (ChildStdin, ChildStdout),
        era: Era,
        label: &str,
        redactor: Redactor,
    ) -> Result<Self, HandshakeError> {
        let traffic = Arc::new(ConnectionState::default());
        let lines = stdio::LineTransport::new(pipes.1, pipes.0, label, redactor.clone(), traffic.clone());
        Self::greet(lines, Handler::new(traffic, QuestionPolicy::Passed), era, label, redactor, true).await
    }

    /// Connects to a server over HTTP and greets it.
    ///
    /// # Errors
    /// Why it cannot be talked to. The text holds no secret.
    pub(crate) async fn over_http(
        endpoint: &Endpoint,
        era: Era,
        label: &str,
        redactor: Redactor,
        questions: QuestionPolicy,
    ) -> Result<Self, HandshakeError> {
        let traffic = Arc::new(ConnectionState::default());
        let tapped =
            ObservedTransport { inner: endpoint.transport(traffic.clone()), traffic: traffic.clone() };
        let connection =
            Self::greet(tapped, Handler::new(traffic, questions), era, label, redactor, true).await?;
        // As of 2026-07-28, rmcp makes headers of the parameters, also where that was agreed on by a
        // handshake.
        let info = connection.peer.peer_info();
        let as_text = info.is_some_and(|info| info.protocol_version.has_initialize());
        Ok(Connection { as_text, ..connection })
    }

    async fn greet<T: Transport<RoleClient> + 'static>(
        transport: T,
        handler: Handler,
        era: Era,
        label: &str,
        redactor: Redactor,
        as_text: bool,
    ) -> Result<Self, HandshakeError> {
        let traffic = handler.traffic().clone();
        let lifecycle = match era {
            Era::Handshake => ClientLifecycleMode::Initialize,
            Era::Discovery => {
                ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
            }
        };
        let ended = CancellationToken::new();
        let transport = PeerRequests::new(transport, traffic.clone());
        let greeted = HandshakeGuard::new(traffic.clone());
        let running = serve_client_with_lifecycle_and_ct(handler, transport, lifecycle, ended.clone()).await;
        greeted.done();
        let running = running.map_err(|error| HandshakeError::of(&error, &traffic, &redactor))?;
        Ok(Connection {
            peer: running.peer().clone(),
            traffic,
            label: label.to_owned(),
            redactor,
            as_text,
            running: Mutex::new(Some(running)),
            ended,
        })
    }

    /// Sends a request and waits for its result, as JSON. Messages of the server meanwhile go to the
    /// caller, if there is one.
    ///
    /// Dropping the future cancels the request at the server.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub(crate) async fn request(
        &self,
        request: RawRequest<'_>,
        caller: Option<&dyn CallerChannel>,
    ) -> Result<String, UpstreamError> {
        let outcome = if let Some(caller) = caller {
            let (listener, mut events) = MessageSender::new();
            answer_while(caller, &mut events, self.exchange(request, Listener::Caller(listener))).await
        } else {
            self.exchange(request, Listener::Deaf).await
        };
        outcome.map_err(|failure| failure.fault)
    }

    /// As [`Connection::request`] for a caller that does not listen, with more about a failure.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) async fn ask(&self, request: RawRequest<'_>) -> Result<String, Failure> {
        self.exchange(request, Listener::Deaf).await
    }

    async fn exchange(&self, request: RawRequest<'_>, listener: Listener) -> Result<String, Failure> {
        let lost = |fault: UpstreamError| Failure { fault, cause: FaultCause::Lost };
        if self.is_over() {
            return Err(lost(UpstreamError::Unavailable(self.end().reason)));
        }
        let message = self.message(request, listener).map_err(lost)?;
        let options = PeerRequestOptions::no_options();
        let Ok(mut sent) = self.peer.send_request_with_option(message, options).await else {
            return Err(lost(UpstreamError::Unavailable(self.end().reason)));
        };
        let mut abandoned = Abandoned { peer: &self.peer, id: Some(sent.id.clone()) };
        let outcome = tokio::select! {
            biased;
            outcome = &mut sent.rx => outcome.unwrap_or(Err(ServiceError::TransportClosed)),
            () = self.traffic.closed().cancelled() => Err(ServiceError::TransportClosed),
        };
        abandoned.id = None;
        match outcome {
            Ok(result) => text_of(result).map_err(lost),
            Err(ServiceError::TransportClosed) => Err(lost(UpstreamError::Lost(self.end().reason))),
            Err(error) => {
                let cause = FaultCause::of_service(&error);
                Err(Failure {
                    fault: UpstreamError::of_service(error)
                        .map(|text| self.redactor.redact(text).into_owned()),
                    cause,
                })
            }
        }
    }

    fn message(&self, request: RawRequest<'_>, listener: Listener) -> Result<ClientRequest, UpstreamError> {
        let RawRequest { method, parameters, meta } = request;
        let mut message = CustomRequest::new(method, None);
        if !meta.is_empty() {
            message.extensions.insert(RequestMetaObject(MetaObject(meta)));
        }
        let parameters = if self.as_text {
            Some(parameters)
        } else {
            let value = serde_json::from_str(parameters.get()).map_err(|error| {
                UpstreamError::Unavailable(format!("the parameters of {method} cannot be sent: {error}"))
            })?;
            message.params = Some(value);
            None
        };
        message.extensions.insert(Arc::new(Outgoing { parameters, listener }));
        Ok(ClientRequest::CustomRequest(message))
    }

    /// Reads all its lists.
    ///
    /// # Errors
    /// When its tools cannot be listed.
    pub(crate) async fn lists(&self) -> Result<Lists, UpstreamError> {
        Lists::read(self, self.offered(), &self.label).await
    }

    /// Reads a page of a list: the first without a cursor.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) async fn read_page(&self, method: &str, cursor: Option<String>) -> Result<String, Failure> {
        let parameters = match cursor {
            Some(cursor) => oxenv_wire::raw(&serde_json::json!({ "cursor": cursor })),
            None => RawValue::from_string("{}".to_owned()),
        };
        let parameters = parameters.unwrap_or_default();
        self.exchange(RawRequest { method, parameters, meta: Map::new() }, Listener::Ours).await
    }

    /// Whether the server gave it a session of its own: an `Mcp-Session-Id` over HTTP.
    pub(crate) fn has_session(&self) -> bool {
        self.traffic.has_session()
    }

    /// Its name in logs.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Which lists it has.
    pub(crate) fn offered(&self) -> ListCapabilities {
        let Some(info) = self.peer.peer_info() else { return ListCapabilities::default() };
        let ServerCapabilities { tools, resources, prompts, .. } = &info.capabilities;
        ListCapabilities {
            tools: tools.is_some(),
            resources: resources.is_some(),
            prompts: prompts.is_some(),
        }
    }

    /// Waits until its lists may have changed.
    pub(crate) async fn list_change(&self) {
        self.traffic.list_change().await;
    }

    /// Signals that its lists must be read again.
    pub(crate) fn lists_may_differ(&self) {
        self.traffic.lists_may_differ();
    }

    /// Keeps a subscription to its list changes, of which a server of 2026-07-28 notifies subscribers alone.
    /// Ends when there is nothing to subscribe to.
    pub(crate) async fn subscribe(&self) {
        let Some(filter) = self.subscription() else { return };
        let mut backoff = Backoff::default();
        while !self.is_over() {
            let begun = Instant::now();
            match self.peer.listen(filter.clone()).await {
                Ok(mut subscription) => {
                    // The notes themselves were taken on their way here.
                    while let Ok(Some(_)) = subscription.next().await {}
                    // A server that ends each one at once is asked ever less often.
                    if begun.elapsed() >= STEADY_AFTER {
                        backoff.reset();
                    }
                }
                Err(ServiceError::McpError(error)) if error.code == model::ErrorCode::METHOD_NOT_FOUND => {
                    return;
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.next_pause()).await;
            // Changes meanwhile are not reported.
            self.lists_may_differ();
        }
    }

    fn subscription(&self) -> Option<SubscriptionFilter> {
        let info = self.peer.peer_info()?;
        if info.protocol_version.has_initialize() {
            return None;
        }
        let ServerCapabilities { tools, resources, prompts, .. } = &info.capabilities;
        let tools = tools.as_ref().and_then(|tools| tools.list_changed).unwrap_or(false);
        let resources = resources.as_ref().and_then(|resources| resources.list_changed).unwrap_or(false);
        let prompts = prompts.as_ref().and_then(|prompts| prompts.list_changed).unwrap_or(false);
        let mut filter = SubscriptionFilter::default();
        filter.tools_list_changed = tools.then_some(true);
        filter.resources_list_changed = resources.then_some(true);
        filter.prompts_list_changed = prompts.then_some(true);
        (tools || resources || prompts).then_some(filter)
    }

    /// Whether it is over, so that nothing can be sent.
    pub(crate) fn is_over(&self) -> bool {
        self.traffic.closed().is_cancelled()
    }

    /// Waits until it is over.
    pub(crate) async fn over(&self) {
        self.traffic.closed().cancelled().await;
    }

    /// How it ended.
    pub(crate) fn end(&self) -> ConnectionEnd {
        self.traffic.end()
    }

    /// Ends it: requests in flight are lost, and the server's input closes.
    pub(crate) async fn close(&self, reason: &str) {
        self.traffic.close(reason);
        self.ended.cancel();
        let running = self.running.lock().take();
        if let Some(mut running) = running {
            // rmcp waits here for tasks that still answer a question whose answer is no longer
            // needed.
            let _ = running.close_with_timeout(CLOSE_TIMEOUT).await;
        }
    }
}

impl Pages for Connection {
    async fn page(&self, method: &'static str, cursor: Option<String>) -> Result<String, UpstreamError> {
        self.read_page(method, cursor).await.map_err(|failure| failure.fault)
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let reason = "the caller does not wait any more".to_owned();
        let notification =
            CancelledNotification::new(CancelledNotificationParam::new(Some(id), Some(reason)));
        // It is queued by the first poll unless the queue is full; then the server is not notified.
        let mut queue = std::pin::pin!(unconstrained(self.peer.send_notification(notification.into())));
        let _ = queue.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl HandshakeError {
    /// A failure in which the server had no part.
    pub(crate) fn failed(message: String) -> Self {
        HandshakeError { message, answered: false, by_server: false, cause: FaultCause::Lost }
    }

    fn of(error: &ClientInitializeError, traffic: &ConnectionState, redactor: &Redactor) -> Self {
        use ClientInitializeError as Failed;
        let (message, answered, cause) = match error {
            Failed::JsonRpcError(error) => {
                (format!("it refused the greeting: {}", error.message), true, FaultCause::Refused)
            }
            Failed::NoCompatibleProtocolVersion { server_supported, .. } => {
                let versions: Vec<&str> = server_supported.iter().map(ProtocolVersion::as_str).collect();
                let message = format!("it speaks only revisions that are not known: {}", versions.join(", "));
                (message, false, FaultCause::Version)
            }
            Failed::ConnectionClosed(_) => (traffic.end().reason, false, FaultCause::Lost),
            Failed::TransportError { error, .. } => {
                let message = error::describe(error.error.as_ref());
                // A server that knows only the other greeting may refuse this one with a status.
                let status = message.contains("unexpected server response: HTTP 4");
                (message, status, FaultCause::of_transport(error.error.as_ref()))
            }
            other => (other.to_string(), false, FaultCause::Alien),
        };
        let by_server = traffic.closed().is_cancelled() && traffic.end().by_server;
        HandshakeError { message: redactor.redact(&message).into_owned(), answered, by_server, cause }
    }
}

/// A result as JSON.
fn text_of(result: ServerResult) -> Result<String, UpstreamError> {
    match result {
        // As `lines.rs` hands it on.
        ServerResult::CustomResult(CustomResult(Value::String(text))) => Ok(text),
        typed => serde_json::to_string(&typed)
            .map_err(|error| UpstreamError::Lost(format!("its answer cannot be read: {error}"))),
    }
}
