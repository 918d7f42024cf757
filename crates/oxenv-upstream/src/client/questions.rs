//! Questions of upstreams to callers: sampling, elicitation, roots.
//!
//! Invariant: a question goes to the caller during whose call it was asked, and nowhere else.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oxenv_core::{CallerChannel, RequestError};
use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientResult, ElicitationCapability, ErrorCode,
    FormElicitationCapability, GetExtensions, GetMeta, Implementation, ProtocolVersion, RootsCapabilities,
    SamplingCapability, ServerNotification, ServerRequest, UrlElicitationCapability,
};
use rmcp::service::{InboundStreamOrigin, NotificationContext, RequestContext, Service};
use rmcp::{ErrorData as McpError, RoleClient};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::state::{ConnectionState, ForwardedQuestion, ServerMessage, number};

/// What servers may ask callers.
pub(super) const QUESTION_METHODS: [&str; 3] = ["sampling/createMessage", "elicitation/create", "roots/list"];
/// How much of an unknown method's name a refusal repeats, in characters.
const MAX_METHOD_CHARS: usize = 100;
/// The longest request or notification of a server that is read into values.
pub(super) const MAX_REQUEST_BYTES: usize = 16 << 20;

/// Marks a request of a server that is longer than [`MAX_REQUEST_BYTES`]; it comes without its parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct TooLong;

/// How a server's questions are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuestionPolicy {
    /// Callers answer them.
    Passed,
    /// No client can answer; the server learns this in the handshake.
    Refused,
}

/// Our side of a connection as rmcp sees it: what we can answer.
pub(crate) struct Handler {
    traffic: Arc<ConnectionState>,
    questions: QuestionPolicy,
}

impl Handler {
    pub(crate) fn new(traffic: Arc<ConnectionState>, questions: QuestionPolicy) -> Self {
        Handler { traffic, questions }
    }

    /// What passes over its connection.
    pub(crate) fn traffic(&self) -> &Arc<ConnectionState> {
        &self.traffic
    }
}

impl Service<RoleClient> for Handler {
    async fn handle_request(
        &self,
        _: ServerRequest,
        _: RequestContext<RoleClient>,
    ) -> Result<ClientResult, McpError> {
        // Every request was answered by the transport.
        Err(McpError::new(ErrorCode::METHOD_NOT_FOUND, "Method not found", None))
    }

    async fn handle_notification(
        &self,
        _: ServerNotification,
        _: NotificationContext<RoleClient>,
    ) -> Result<(), McpError> {
        // What matters was taken by the transport.
        Ok(())
    }

    fn get_info(&self) -> ClientConfig {
        let mut capabilities = ClientCapabilities::default();
        let us = Implementation::new("oxenv", env!("CARGO_PKG_VERSION"));
        if self.questions == QuestionPolicy::Refused {
            return ClientConfig::new(capabilities, us)
                .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE);
        }
        capabilities.roots = Some(RootsCapabilities::default());
        capabilities.sampling = Some(SamplingCapability::default());
        let mut elicitation = ElicitationCapability::default();
        elicitation.form = Some(FormElicitationCapability::default());
        elicitation.url = Some(UrlElicitationCapability::default());
        capabilities.elicitation = Some(elicitation);
        ClientConfig::new(capabilities, us).with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
    }
}

/// A question of a server to the caller of one of its tools.
pub(super) struct PeerQuestion {
    method: String,
    parameters: Value,
    /// The request of ours on whose stream it came, if that is known.
    origin: Option<i64>,
}

impl PeerQuestion {
    /// Reads a request.
    ///
    /// # Errors
    /// If it is not one that callers answer.
    pub(super) fn of(request: ServerRequest) -> Result<Self, RequestError> {
        if request.extensions().get::<TooLong>().is_some() {
            let message = format!("the request is longer than {} MiB", MAX_REQUEST_BYTES >> 20);
            return Err(RequestError::new(ErrorCode::INVALID_REQUEST.0, message));
        }
        let origin = match request.extensions().get::<InboundStreamOrigin>() {
            Some(InboundStreamOrigin::OutboundRequest(id)) => number(id),
            _ => None,
        };
        let meta = request.get_meta().0.0.clone();
        let (method, mut parameters) = match request {
            ServerRequest::CustomRequest(custom) => (custom.method, custom.params.unwrap_or(Value::Null)),
            typed => {
                let mut spelled = serde_json::to_value(typed).unwrap_or_default();
                (spelled["method"].as_str().unwrap_or_default().to_owned(), spelled["params"].take())
            }
        };
        if !QUESTION_METHODS.contains(&method.as_str()) {
            let named: String = method.chars().take(MAX_METHOD_CHARS).collect();
            return Err(RequestError::new(
                ErrorCode::METHOD_NOT_FOUND.0,
                format!("Method not found: {named}"),
            ));
        }
        if !meta.is_empty()
            && let Some(fields) = parameters.as_object_mut()
        {
            fields.insert("_meta".to_owned(), Value::Object(meta));
        }
        Ok(PeerQuestion { method, parameters, origin })
    }

    /// The length of its parameters.
    pub(super) fn bytes(&self) -> usize {
        serde_json::to_string(&self.parameters).map_or(0, |text| text.len())
    }
}

/// Hands a question to its caller; returns a future of the answer, until the question is withdrawn.
///
/// # Errors
/// If there is no caller to ask.
pub(super) fn ask(
    traffic: &ConnectionState,
    question: PeerQuestion,
    withdrawn: CancellationToken,
) -> Result<impl Future<Output = Result<Value, RequestError>> + Send + 'static, RequestError> {
    let PeerQuestion { method, parameters, origin } = question;
    let Some(events) = traffic.listener(origin) else {
        let message = format!("{method}: there is not exactly one call whose caller can be asked");
        return Err(RequestError::new(ErrorCode::INVALID_REQUEST.0, message));
    };
    let (answer, answered) = oneshot::channel();
    if !events.ask(ForwardedQuestion { method, parameters, answer }) {
        let message = "the caller has too many questions to answer";
        return Err(RequestError::new(ErrorCode::INTERNAL_ERROR.0, message));
    }
    Ok(async move {
        let failed = |message| Err(RequestError::new(ErrorCode::INTERNAL_ERROR.0, message));
        tokio::select! {
            answer = answered => answer.unwrap_or_else(|_| failed("the call is over")),
            () = withdrawn.cancelled() => failed("the question was withdrawn"),
        }
    })
}

/// Waits for a response; meanwhile the caller gets the server's messages and its questions are
/// answered.
pub(crate) async fn answer_while<T>(
    caller: &dyn CallerChannel,
    events: &mut mpsc::Receiver<ServerMessage>,
    response: impl Future<Output = T>,
) -> T {
    let mut response = std::pin::pin!(response);
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Messages that came before the response are delivered before it.
            biased;
            Some(event) = events.recv() => match event {
                ServerMessage::Note { note, .. } => caller.tell(note),
                ServerMessage::Asked(asked) => answers.push(answer(caller, asked)),
            },
            outcome = &mut response => return outcome,
            Some(()) = answers.next() => {}
        }
    }
}

async fn answer(caller: &dyn CallerChannel, asked: ForwardedQuestion) {
    let ForwardedQuestion { method, parameters, answer: mut waiting } = asked;
    let answer = tokio::select! {
        answer = caller.ask(&method, parameters) => answer,
        () = waiting.closed() => return,
    };
    let _ = waiting.send(answer);
}
