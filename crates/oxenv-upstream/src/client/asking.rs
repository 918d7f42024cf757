//! Questions of upstreams to callers: sampling, elicitation, roots.
//!
//! Invariant: a question goes to the caller during whose call it was asked, and nowhere else.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use oxenv_core::{Caller, RequestFault};
use rmcp::model::{
    ClientCapabilities, ClientConfig, ClientResult, CustomResult, ElicitationCapability, ErrorCode,
    ErrorData, FormElicitationCapability, Implementation, ProtocolVersion, RootsCapabilities,
    SamplingCapability, ServerNotification, ServerRequest, UrlElicitationCapability,
};
use rmcp::service::{InboundStreamOrigin, NotificationContext, RequestContext, Service};
use rmcp::{ErrorData as McpError, RoleClient};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::traffic::{Event, Question, Traffic, number};

/// What becomes of the questions that a server asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Questions {
    /// Callers answer them.
    Passed,
    /// Nobody is there to answer, and the server is told so in advance.
    Refused,
}

/// Our side of a connection: answers what the server asks.
pub(crate) struct Handler {
    traffic: Arc<Traffic>,
    questions: Questions,
}

impl Handler {
    pub(crate) fn new(traffic: Arc<Traffic>, questions: Questions) -> Self {
        Handler { traffic, questions }
    }

    /// What passes over its connection.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    async fn ask(
        &self,
        request: ServerRequest,
        context: RequestContext<RoleClient>,
    ) -> Result<Value, RequestFault> {
        let origin = match context.extensions.get::<InboundStreamOrigin>() {
            Some(InboundStreamOrigin::OutboundRequest(id)) => number(id),
            _ => None,
        };
        let (method, parameters) = spelled(request, &context);
        if !matches!(method.as_str(), "sampling/createMessage" | "elicitation/create" | "roots/list") {
            return Err(RequestFault::new(-32601, format!("Method not found: {method}")));
        }
        let Some(events) = self.traffic.listener(origin) else {
            let says = format!("{method}: there is not exactly one call whose caller can be asked");
            return Err(RequestFault::new(-32600, says));
        };
        let (answer, answered) = oneshot::channel();
        let question = Question { method, parameters, answer };
        let busy = |_| RequestFault::new(-32603, "the caller has too many questions to answer");
        events.try_send(Event::Question(question)).map_err(busy)?;
        drop(events);
        tokio::select! {
            answer = answered => {
                answer.unwrap_or_else(|_| Err(RequestFault::new(-32603, "the call is over")))
            }
            () = context.ct.cancelled() => Err(RequestFault::new(-32603, "the question was withdrawn")),
        }
    }
}

impl Service<RoleClient> for Handler {
    async fn handle_request(
        &self,
        request: ServerRequest,
        context: RequestContext<RoleClient>,
    ) -> Result<ClientResult, McpError> {
        if matches!(request, ServerRequest::PingRequest(_)) {
            return Ok(ClientResult::empty(()));
        }
        match self.ask(request, context).await {
            Ok(answer) => Ok(ClientResult::CustomResult(CustomResult(answer))),
            Err(fault) => {
                let data = (!fault.data.is_null()).then_some(fault.data);
                Err(ErrorData::new(ErrorCode(fault.code), fault.message, data))
            }
        }
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
        if self.questions == Questions::Refused {
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

/// Waits for a response while the caller hears what the server says, and answers what it asks.
pub(crate) async fn converse<T>(
    caller: &dyn Caller,
    events: &mut mpsc::Receiver<Event>,
    response: impl Future<Output = T>,
) -> T {
    let mut response = std::pin::pin!(response);
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            // What came before the response is heard before it.
            biased;
            Some(event) = events.recv() => match event {
                Event::Note(note) => caller.tell(note),
                Event::Question(question) => answers.push(answer(caller, question)),
            },
            outcome = &mut response => return outcome,
            Some(()) = answers.next() => {}
        }
    }
}

async fn answer(caller: &dyn Caller, question: Question) {
    let Question { method, parameters, answer: mut waiting } = question;
    let answer = tokio::select! {
        answer = caller.ask(&method, parameters) => answer,
        () = waiting.closed() => return,
    };
    let _ = waiting.send(answer);
}

/// The method and the parameters of a request, as MCP spells them.
fn spelled(request: ServerRequest, context: &RequestContext<RoleClient>) -> (String, Value) {
    let mut spelled = match request {
        ServerRequest::CustomRequest(custom) => {
            return (custom.method, custom.params.unwrap_or(Value::Null));
        }
        typed => serde_json::to_value(typed).unwrap_or_default(),
    };
    let mut parameters = spelled["params"].take();
    // rmcp has moved the metadata out of the request.
    if !context.meta.0.0.is_empty()
        && let Some(fields) = parameters.as_object_mut()
    {
        fields.insert("_meta".to_owned(), Value::Object(context.meta.0.0.clone()));
    }
    (spelled["method"].as_str().unwrap_or_default().to_owned(), parameters)
}
