//! A call that has begun before it is known whether its reply is one JSON text or a stream.
//!
//! Invariant: a call is begun once. Most have finished after one poll and have sent no notes, so
//! their client gets one JSON text; any other moves on, unchanged, to the owner of an open stream.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use axum::body::Bytes;
use oxenv_core::{AgentCall, Failure, TraceContext};
use rmcp::service::{Peer, RoleServer};
use serde_json::value::RawValue;

use super::client_channel::{ClientChannel, ClientHandle, NotificationFilter};
use super::tool_access::{CallResult, ToolAccess};

/// A call, owned, so that it can outlive the request that it came with.
pub(crate) struct OwnedCall {
    pub(crate) access: ToolAccess,
    pub(crate) name: String,
    /// The arguments as JSON, an object.
    pub(crate) arguments: Option<Bytes>,
    /// The parameters of the request as JSON.
    pub(crate) request: Option<Bytes>,
    pub(crate) epoch: Option<u64>,
    pub(crate) trace: Option<TraceContext>,
}

/// A call in flight, or just landed.
pub(crate) struct StartedCall {
    line: Arc<ClientChannel>,
    call: CallState,
}

/// The outcome of a call's first poll.
pub(crate) enum FirstPoll {
    /// It is done and has sent no notification.
    Finished(Result<CallResult, Failure>),
    /// It goes on, or has sent notifications that must be delivered before its outcome.
    Running(StartedCall),
}

enum CallState {
    Running(Pin<Box<dyn Future<Output = Result<CallResult, Failure>> + Send>>),
    Finished(Result<CallResult, Failure>),
}

/// A call on its way through rmcp to the handler that goes on with it.
#[derive(Clone)]
pub(crate) struct CallHandover(Arc<Mutex<Option<StartedCall>>>);

/// The epoch that the URL of a request names.
#[derive(Clone, Copy)]
pub(super) struct Epoch(pub(super) Option<u64>);

impl StartedCall {
    pub(crate) fn new(asked: OwnedCall, wants: NotificationFilter) -> Self {
        let line = ClientChannel::new(wants);
        let caller = Arc::clone(&line);
        let call = Box::pin(async move {
            let call = AgentCall {
                name: asked.name.as_str().into(),
                arguments: asked.arguments.as_ref().and_then(json),
                epoch: asked.epoch,
                caller: Some(&*caller),
                request: asked.request.as_ref().and_then(json),
            };
            asked.access.call(call, asked.trace).await
        });
        StartedCall { line, call: CallState::Running(call) }
    }

    /// Polls the call once.
    pub(crate) async fn poll_once(mut self) -> FirstPoll {
        if let CallState::Running(call) = &mut self.call
            && let Poll::Ready(outcome) = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await
        {
            self.call = CallState::Finished(outcome);
        }
        match self.call {
            CallState::Finished(outcome) if self.line.is_quiet() => FirstPoll::Finished(outcome),
            call => FirstPoll::Running(StartedCall { line: self.line, call }),
        }
    }

    /// Waits for the outcome, and passes on the tool's messages meanwhile: none comes after the
    /// outcome. Dropping the future cancels the call.
    pub(crate) async fn finish(self, client: ClientHandle) -> Result<CallResult, Failure> {
        let StartedCall { line, call } = self;
        let peer: Peer<RoleServer> = client.peer.clone();
        line.connect(client);
        let running = async {
            let outcome = match call {
                CallState::Running(call) => call.await,
                CallState::Finished(outcome) => outcome,
            };
            line.disconnect();
            outcome
        };
        tokio::join!(running, line.deliver(&peer)).0
    }

    pub(crate) fn hand_over(self) -> CallHandover {
        CallHandover(Arc::new(Mutex::new(Some(self))))
    }
}

impl CallHandover {
    pub(crate) fn take(&self) -> Option<StartedCall> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The text was checked when its message was read.
fn json(text: &Bytes) -> Option<&RawValue> {
    serde_json::from_slice(text).ok()
}
