//! What the requests of a batch and of an `oxenv.1` socket do: one road for both doors.
//!
//! Invariant: a request is found, run and answered here and nowhere else, so an item of `POST /batch`
//! means what the same frame means on a socket. A failure is an answer of its own, never a reward.

mod batch;
mod held;
mod making;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use oxenv_core::render::{self, Envelope};
use oxenv_core::{
    Answer, EndReason, Failure, Once, Principal, ResetOptions, Session, StepOptions, StepReply, TraceContext,
};
use oxenv_wire::{
    Action, ErrorCode, FrameFault, MultiRequest, Operation, ReplyHead, ReplyKind, ResetRequest,
    SessionSnapshot, ToolSpelling, write_multi_reply,
};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::auth::Caller;
use crate::error;

pub(crate) use batch::Batch;
pub(crate) use held::Held;
pub(crate) use making::progress;

/// Who asks, and which sessions are theirs to name.
pub(crate) struct Desk {
    pub(crate) app: Arc<App>,
    pub(crate) caller: Caller,
    /// The name by which the client called this server, if it said one.
    pub(crate) host: Option<String>,
    /// The sessions of a socket; absent over HTTP, where any session may be named.
    pub(crate) held: Option<Arc<Held>>,
}

/// What came of a request.
pub(crate) enum Done<'a> {
    /// A step was taken, with that number.
    Stepped(StepReply<'a>, u64),
    /// A reset or a step that may have been asked for before.
    Answered(Answer<StepReply<'static>>),
    /// Anything else.
    Told(Told),
}

/// A reply that is neither a step's nor a reset's.
pub(crate) struct Told {
    kind: ReplyKind,
    /// The session that was made, where the request named none.
    session: Option<String>,
    seq: Option<u64>,
    repeated: bool,
    /// The data, as JSON text.
    data: String,
}

pub(crate) type Outcome<'a> = Result<Done<'a>, Failure>;

impl Told {
    /// What a session answers about itself.
    fn about(session: &Session, kind: ReplyKind, data: &impl Serialize) -> Self {
        Told::text(session, kind, json!(data).to_string())
    }

    fn text(session: &Session, kind: ReplyKind, data: String) -> Self {
        Told { kind, session: None, seq: Some(session.seq()), repeated: false, data }
    }
}

impl Desk {
    /// The desk of a request over HTTP.
    pub(crate) fn over_http(app: Arc<App>, caller: Caller, headers: &HeaderMap) -> Self {
        Desk { app, caller, host: host(headers), held: None }
    }

    /// Does what is asked for; `timeout_s` is the deadline of a step that names none. Dropping the
    /// future cancels it, unless the request has a key or a number.
    pub(crate) async fn perform<'a>(
        &self,
        request: &MultiRequest<'a>,
        timeout_s: Option<f64>,
    ) -> Outcome<'a> {
        let outcome = self.act(request, timeout_s).await;
        self.tidy(&request.session, &outcome);
        outcome
    }

    /// Does at once what can be done so, as most steps can; none if it takes waiting, and then nothing
    /// has happened.
    pub(crate) fn at_once<'a>(&self, request: &MultiRequest<'a>) -> Option<Outcome<'a>> {
        let Operation::Step(action) = &request.operation else { return None };
        let plain = request.key.is_none() && request.seq.is_none() && request.expected_step.is_none();
        let session = self.session(&request.session).ok().filter(|_| plain)?;
        let action = Action::from_object(action).ok()?;
        let taken = session.step_at_once(&action, None)?;
        let outcome = taken.map(|(reply, seq)| Done::Stepped(reply, seq));
        self.tidy(&request.session, &outcome);
        Some(outcome)
    }

    async fn act<'a>(&self, request: &MultiRequest<'a>, timeout_s: Option<f64>) -> Outcome<'a> {
        let Operation::Step(action) = &request.operation else {
            // Boxed, so that the future of a step is not as large as that of whatever else is asked.
            return Box::pin(self.other(request)).await;
        };
        let session = self.session(&request.session)?;
        let options = StepOptions { timeout: timeout(request.timeout_s.or(timeout_s)), trace: None };
        if request.key.is_some() || request.seq.is_some() || request.expected_step.is_some() {
            let once = once(request);
            return Box::pin(session.step_once(action.json().raw(), &once, options))
                .await
                .map(Done::Answered);
        }
        let action = Action::from_object(action).map_err(Failure::invalid)?;
        let (reply, seq) = session.step_numbered(action, options).await?;
        Ok(Done::Stepped(reply, seq))
    }

    async fn other(&self, request: &MultiRequest<'_>) -> Outcome<'static> {
        let key = request.key.as_deref();
        match &request.operation {
            Operation::Open(asked) => return self.open(asked, key).await.map(Done::Told),
            Operation::Restore(asked) => return self.restore(asked, key).await.map(Done::Told),
            Operation::Attach => return self.attach(&request.session).map(Done::Told),
            _ => {}
        }
        let session = self.session(&request.session)?;
        Ok(Done::Told(match &request.operation {
            Operation::Reset(asked) => {
                return session.reset_once(reset(asked, None), &once(request)).await.map(Done::Answered);
            }
            Operation::Fork(asked) => self.fork(&session, asked, key).await?,
            Operation::State => Told::text(&session, ReplyKind::State, session.state().await?),
            Operation::Snapshot => {
                let snapshot = self.app.store.snapshot(&session).await?;
                Told::about(&session, ReplyKind::Snapshot, &SessionSnapshot { snapshot })
            }
            Operation::Tools => {
                session.toolbox().settled().await;
                let tools = session.toolbox().listing(Principal::Control, ToolSpelling::Step);
                Told::text(&session, ReplyKind::Tools, format!("{{\"tools\":{tools}}}"))
            }
            Operation::Close => {
                session.end(EndReason::Closed);
                self.forget(session.id());
                Told::text(&session, ReplyKind::Closed, "{}".to_owned())
            }
            _ => {
                session.keep_alive();
                Told::about(&session, ReplyKind::KeptAlive, &progress(&session))
            }
        }))
    }

    /// The session of that id, if it is this caller's to name.
    fn session(&self, id: &str) -> Result<Arc<Session>, Failure> {
        let Some(held) = &self.held else { return self.app.store.get(id) };
        held.session(id).unwrap_or_else(|| {
            // Why it is none of the socket's: it never was, or has ended, or is somebody else's.
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
    fn tidy(&self, session: &str, outcome: &Outcome<'_>) {
        let failure = match outcome {
            Err(failure) => Some(failure),
            Ok(Done::Answered(answer)) => answer.outcome.as_ref().as_ref().err(),
            Ok(_) => None,
        };
        if failure.is_some_and(|failure| {
            matches!(failure.code, ErrorCode::SessionEnded | ErrorCode::EnvironmentPanicked)
        }) {
            self.forget(session);
        }
    }
}

/// What cannot be read as a request, as a failure.
pub(crate) fn unread(fault: FrameFault) -> Failure {
    match fault {
        FrameFault::Json(fault) => Failure::new(ErrorCode::InvalidJson, format!("Invalid JSON: {fault}")),
        FrameFault::NotObject(name) => {
            Failure::new(ErrorCode::SessionError, format!("a frame is a JSON object, not a {name}"))
        }
        FrameFault::UnknownType(name) => {
            Failure::new(ErrorCode::UnknownType, format!("Unknown message type: {name}"))
        }
        FrameFault::Invalid(issues) => Failure::invalid(issues),
    }
}

/// Appends the reply to a request for that session, or to one that named none.
pub(crate) fn write_outcome(out: &mut String, head: ReplyHead<'_>, outcome: &Outcome<'_>) {
    match outcome {
        Ok(Done::Stepped(reply, seq)) => stepped(out, &ReplyHead { seq: Some(*seq), ..head }, reply),
        Ok(Done::Answered(answer)) => {
            let seq = Some(answer.seq).filter(|seq| *seq > 0);
            let head = ReplyHead { seq, repeated: answer.repeated, ..head };
            match answer.outcome.as_ref() {
                Ok(reply) => stepped(out, &head, reply),
                Err(failure) => error::multi(out, &head, failure),
            }
        }
        Ok(Done::Told(told)) => {
            let session = told.session.as_deref().or(head.session);
            let head = ReplyHead { session, seq: told.seq, repeated: told.repeated, ..head };
            write_multi_reply(out, &head, told.kind, |out| out.push_str(&told.data));
        }
        Err(failure) => error::multi(out, &head, failure),
    }
}

fn stepped(out: &mut String, head: &ReplyHead<'_>, reply: &StepReply<'_>) {
    write_multi_reply(out, head, ReplyKind::Observation, |out| render::step_into(out, reply, Envelope::Data));
}

fn once(request: &MultiRequest<'_>) -> Once {
    Once {
        key: request.key.as_deref().map(str::to_owned),
        seq: request.seq,
        expected_step: request.expected_step,
    }
}

/// The name by which a client called this server.
pub(crate) fn host(headers: &HeaderMap) -> Option<String> {
    headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned)
}

/// The options of a reset that was asked for.
pub(crate) fn reset(asked: &ResetRequest<'_>, trace: Option<TraceContext>) -> ResetOptions {
    ResetOptions {
        seed: asked.seed,
        episode_id: asked.episode_id.as_deref().map(str::to_owned),
        arguments: asked.arguments.map(RawValue::to_owned),
        trace,
    }
}

/// A timeout in seconds; one too long for a clock is none.
pub(crate) fn timeout(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}
