//! The operations of the requests of a batch and of an `oxenv.1` socket: one path for both doors.
//!
//! Invariant: a request is found, run and answered here and nowhere else, so an item of `POST /batch`
//! means what the same frame means on a socket. A failure is an answer of its own, never a reward.

mod batch;
mod create;
mod socket_sessions;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use futures_util::FutureExt as _;
use oxenv_core::render::{self, Envelope};
use oxenv_core::{
    EndReason, Failure, Idempotency, IdempotentReply, Principal, ResetOptions, Session, SessionRequest,
    SnapshotRoom, StepReply,
};
use oxenv_wire::{
    Action, ErrorCode, MultiRequest, Operation, ReplyHead, ReplyKind, ResetRequest, Seconds, SessionSnapshot,
    ToolSpelling, write_multi_reply,
};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::auth::caller::Caller;
use crate::error;

/// Bytes that a reply with a snapshot has beside it, at most.
const REPLY_OVERHEAD_BYTES: usize = 1 << 10;

pub(crate) use batch::RunningBatch;
pub(crate) use create::{CreatedSessions, progress};
pub(crate) use socket_sessions::SocketSessions;

/// The caller, and which sessions it may name.
pub(crate) struct RequestContext {
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    /// The name by which the client called this server, if it gave one.
    pub(crate) host: Option<String>,
    /// The sessions of a socket; absent over HTTP, where any session may be named.
    pub(crate) held: Option<Arc<SocketSessions>>,
}

/// The outcome of a request.
pub(crate) enum OperationReply<'a> {
    /// A reset or a step.
    Answered(IdempotentReply<StepReply<'a>>),
    /// Anything else.
    Control(ControlReply),
}

/// A reply that is neither a step's nor a reset's.
pub(crate) struct ControlReply {
    kind: ReplyKind,
    /// The session that was made, where the request named none.
    session: Option<String>,
    seq: Option<u64>,
    repeated: bool,
    /// The data, as JSON text.
    data: String,
}

pub(crate) type RequestOutcome<'a> = Result<OperationReply<'a>, Failure>;

/// The progress of a request once it has begun.
pub(crate) enum StartedRequest<'a> {
    Done(RequestOutcome<'a>),
    /// It has to wait for something, and has not begun.
    Waiting(Arc<Session>, SessionRequest<'a>),
    /// It is neither a reset nor a step, and has not begun.
    Other,
}

impl ControlReply {
    /// A session's answer about itself.
    fn about(session: &Session, kind: ReplyKind, data: &impl Serialize) -> Self {
        ControlReply::text(session, kind, json!(data).to_string())
    }

    fn text(session: &Session, kind: ReplyKind, data: String) -> Self {
        ControlReply { kind, session: None, seq: Some(session.seq()), repeated: false, data }
    }
}

impl RequestContext {
    /// The context of a request over HTTP.
    pub(crate) fn over_http(app: Arc<App>, caller: Caller, headers: &HeaderMap) -> Self {
        RequestContext { app, caller, host: host(headers), held: None }
    }

    /// Begins a request, and does it if it takes no waiting, as most steps do not. `timeout_s` is the
    /// deadline of a step that names none. A panic is the failure of this request alone.
    pub(crate) fn begin<'a>(
        &self,
        request: &MultiRequest<'a>,
        timeout_s: Option<Seconds>,
    ) -> StartedRequest<'a> {
        catch_unwind(AssertUnwindSafe(|| self.begin_now(request, timeout_s)))
            .unwrap_or_else(|_| StartedRequest::Done(Err(panicked())))
    }

    fn begin_now<'a>(&self, request: &MultiRequest<'a>, timeout_s: Option<Seconds>) -> StartedRequest<'a> {
        if !matches!(request.operation, Operation::Step(_) | Operation::Reset(_)) {
            return StartedRequest::Other;
        }
        let session = self.session(&request.session);
        let operation = match &request.operation {
            Operation::Step(action) => {
                let read = match &session {
                    Ok(session) => session.spec().read_action(action),
                    Err(_) => Action::from_object(action),
                };
                match read {
                    Ok(action) => SessionRequest::step(action),
                    Err(issues) => return StartedRequest::Done(Err(Failure::invalid(issues))),
                }
            }
            Operation::Reset(asked) => SessionRequest::reset(reset(asked)),
            _ => return StartedRequest::Other,
        };
        let session = match session {
            Ok(session) => session,
            Err(failure) => return self.done(request, Err(failure)),
        };
        let timeout = request.timeout_s.or(timeout_s).map(Duration::from);
        let asked = SessionRequest { once: once(request), timeout, ..operation };
        match session.try_submit(&asked) {
            Some(answer) => self.done(request, Ok(OperationReply::Answered(answer))),
            None => StartedRequest::Waiting(session, asked),
        }
    }

    /// Waits for what takes waiting. Dropping the future cancels it, unless the request has a key or a
    /// number. A panic is the failure of this request alone.
    pub(crate) fn finish<'a>(
        &self,
        request: &MultiRequest<'a>,
        started: StartedRequest<'a>,
    ) -> impl Future<Output = RequestOutcome<'a>> + Send {
        AssertUnwindSafe(self.finish_now(request, started))
            .catch_unwind()
            .map(|ended| ended.unwrap_or_else(|_| Err(panicked())))
    }

    async fn finish_now<'a>(
        &self,
        request: &MultiRequest<'a>,
        started: StartedRequest<'a>,
    ) -> RequestOutcome<'a> {
        let outcome = match started {
            StartedRequest::Done(outcome) => return outcome,
            StartedRequest::Waiting(session, asked) => {
                Ok(OperationReply::Answered(session.submit(asked).await))
            }
            // Boxed, so that the future of a step is not as large as that of other requests.
            StartedRequest::Other => Box::pin(self.other(request)).await,
        };
        self.tidy(&request.session, &outcome);
        outcome
    }

    fn done<'a>(&self, request: &MultiRequest<'_>, outcome: RequestOutcome<'a>) -> StartedRequest<'a> {
        self.tidy(&request.session, &outcome);
        StartedRequest::Done(outcome)
    }

    async fn other(&self, request: &MultiRequest<'_>) -> RequestOutcome<'static> {
        let key = request.key.as_deref();
        match &request.operation {
            Operation::Open(asked) => return self.open(asked, key).await.map(OperationReply::Control),
            Operation::Restore(asked) => return self.restore(asked, key).await.map(OperationReply::Control),
            Operation::Attach => return self.attach(&request.session).map(OperationReply::Control),
            Operation::Fork(asked) => {
                return self.fork(&request.session, asked, key).await.map(OperationReply::Control);
            }
            _ => {}
        }
        let session = self.session(&request.session)?;
        Ok(OperationReply::Control(match &request.operation {
            Operation::State => ControlReply::text(&session, ReplyKind::State, session.state().await?),
            Operation::Snapshot => {
                let snapshot = self.snapshot(&session).await?;
                let key = self.app.store.snapshot_key_source().name().to_owned();
                ControlReply::about(&session, ReplyKind::Snapshot, &SessionSnapshot { snapshot, key })
            }
            Operation::Tools => {
                session.settled().await;
                let tools = session.toolbox().listing(Principal::Control, ToolSpelling::Step);
                ControlReply::text(&session, ReplyKind::Tools, format!("{{\"tools\":{tools}}}"))
            }
            Operation::Close => {
                session.end(EndReason::Closed);
                self.forget(session.id());
                ControlReply::text(&session, ReplyKind::Closed, "{}".to_owned())
            }
            _ => {
                session.keep_alive();
                ControlReply::about(&session, ReplyKind::KeptAlive, &progress(&session))
            }
        }))
    }

    /// A snapshot that fits into a frame, which a client can send back.
    async fn snapshot(&self, session: &Arc<Session>) -> Result<String, Failure> {
        let frame = self.app.config.max_message as u64;
        let more = "a frame or a batch has no room for more, and POST /sessions/{id}/snapshot has";
        let room = SnapshotRoom { bytes: frame / 4 * 3, more };
        let sealed = self.app.store.sealed_snapshot(session, room).await?;
        // Base64 takes a third more, and there is something around it.
        SnapshotRoom { bytes: frame, more }.holds((sealed.text_len() + REPLY_OVERHEAD_BYTES) as u64)?;
        Ok(sealed.into_text())
    }

    /// The session of that id, if it is this caller's to name.
    fn session(&self, id: &str) -> Result<Arc<Session>, Failure> {
        let Some(held) = &self.held else { return self.app.store.get(id) };
        held.session(id).unwrap_or_else(|| {
            // Why it is not one of the socket's: it never was, or has ended, or belongs to another
            // socket.
            let session = self.app.store.get(id)?;
            let message =
                format!("session {} is not attached to this socket: attach to it first", session.id());
            Err(Failure::new(ErrorCode::SessionError, message))
        })
    }

    fn forget(&self, id: &str) {
        if let Some(held) = &self.held {
            held.forget(id);
        }
    }

    /// Drops what can be of no use any more after that outcome.
    fn tidy(&self, session: &str, outcome: &RequestOutcome<'_>) {
        let failure = match outcome {
            Err(failure) => Some(failure),
            Ok(OperationReply::Answered(answer)) => answer.outcome().err(),
            Ok(_) => None,
        };
        if failure.is_some_and(|failure| {
            use ErrorCode::{Draining, EnvironmentPanicked, SessionEnded};
            matches!(failure.code, SessionEnded | EnvironmentPanicked | Draining)
        }) {
            self.forget(session);
        }
    }
}

/// Appends the reply to a request for that session, or to one that named none.
pub(crate) fn write_outcome(out: &mut String, head: ReplyHead<'_>, outcome: &RequestOutcome<'_>) {
    match outcome {
        Ok(OperationReply::Answered(answer)) => {
            let seq = Some(answer.seq).filter(|seq| *seq > 0);
            let head = ReplyHead { seq, repeated: answer.repeated, ..head };
            match answer.outcome() {
                Ok(reply) => stepped(out, &head, reply),
                Err(failure) => error::multi(out, &head, failure),
            }
        }
        Ok(OperationReply::Control(reply)) => {
            let session = reply.session.as_deref().or(head.session);
            let head = ReplyHead { session, seq: reply.seq, repeated: reply.repeated, ..head };
            write_multi_reply(out, &head, reply.kind, |out| out.push_str(&reply.data));
        }
        Err(failure) => error::multi(out, &head, failure),
    }
}

fn stepped(out: &mut String, head: &ReplyHead<'_>, reply: &StepReply<'_>) {
    write_multi_reply(out, head, ReplyKind::Observation, |out| render::step_into(out, reply, Envelope::Data));
}

fn once(request: &MultiRequest<'_>) -> Idempotency {
    Idempotency {
        key: request.key.as_deref().map(str::to_owned),
        seq: request.seq,
        expected_step: request.expected_step,
    }
}

/// The failure of a request that panicked here; the log has the panic.
pub(crate) fn panicked() -> Failure {
    Failure::infrastructure(
        "the server panicked at this request, and nobody knows how far it came; its log says where",
    )
}

/// The name by which a client called this server.
pub(crate) fn host(headers: &HeaderMap) -> Option<String> {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned)
}

/// The options of a requested reset.
pub(crate) fn reset(asked: &ResetRequest<'_>) -> ResetOptions {
    ResetOptions {
        seed: asked.seed,
        episode_id: asked.episode_id.as_deref().map(str::to_owned),
        arguments: asked.arguments.map(RawValue::to_owned),
    }
}
