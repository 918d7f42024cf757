//! The one entry to a session: what every door asks for, and how it is begun.
//!
//! A door builds a [`SessionRequest`] and hands it to [`Session::submit`].

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::Action;

use super::settle::Settled;
use super::steps::{AgentCall, ResetOptions, StepReply};
use super::{Expected, Session};
use crate::idempotency::{Idempotency, IdempotentReply};
use crate::observe::TraceContext;
use crate::principal::Principal;

/// One request to a session.
pub struct SessionRequest<'a> {
    /// What to do.
    pub operation: SessionOperation<'a>,
    /// How a reset or a step is told from its repeats, and what it expects of the session. Default: it is
    /// not.
    pub once: Idempotency,
    /// Deadline of a step, waiting included. Default none. A reset has the session's.
    pub timeout: Option<Duration>,
    /// The trace that it is part of. Default none.
    pub trace: Option<TraceContext>,
}

/// What can be asked of a session.
pub enum SessionOperation<'a> {
    /// Begin an episode: calls in flight are cancelled, a new epoch begins, the environment is reset.
    Reset(ResetOptions),
    /// Take an orchestrator's action.
    Step(Action<'a>),
    /// Call a tool for an agent: a step that is counted and scored, whose reward no agent sees.
    Call(AgentCall<'a>),
    /// List the tools that somebody may call; counted as a step, as in the reference.
    List(Principal),
}

impl<'a> SessionRequest<'a> {
    fn new(operation: SessionOperation<'a>) -> Self {
        SessionRequest { operation, once: Idempotency::default(), timeout: None, trace: None }
    }

    /// A reset.
    #[must_use]
    pub fn reset(options: ResetOptions) -> Self {
        Self::new(SessionOperation::Reset(options))
    }

    /// An orchestrator's action.
    #[must_use]
    pub fn step(action: Action<'a>) -> Self {
        Self::new(SessionOperation::Step(action))
    }

    /// An agent's call.
    #[must_use]
    pub fn call(call: AgentCall<'a>) -> Self {
        Self::new(SessionOperation::Call(call))
    }

    /// The tools that somebody may call.
    #[must_use]
    pub fn list(principal: Principal) -> Self {
        Self::new(SessionOperation::List(principal))
    }
}

impl Session {
    /// Does what is asked for, and counts it. Dropping the future cancels it, unless it has a key or a
    /// number: then it runs to its end, so that whoever asks again gets its reply.
    ///
    /// The outcome is a failure with a code when there is nothing to show: no reward, no observation. A
    /// tool's own error is no failure but an observation. After a reset that failed the session demands
    /// another.
    pub async fn submit<'a>(self: &Arc<Self>, request: SessionRequest<'a>) -> IdempotentReply<StepReply<'a>> {
        match request.once.identity() {
            // Boxed, because most requests have no key.
            Some(identity) => Box::pin(self.submit_once(identity, request)).await,
            None => {
                let Settled { outcome, seq } = self.run(request).await;
                IdempotentReply::own(outcome, seq)
            }
        }
    }

    /// Does what is asked for if that takes no waiting: a typed step of an environment that does not suspend,
    /// while nothing else of its session runs and nobody records. None otherwise; then nothing has happened.
    pub fn try_submit<'a>(
        self: &Arc<Self>,
        request: &SessionRequest<'a>,
    ) -> Option<IdempotentReply<StepReply<'a>>> {
        let plain = request.once.identity().is_none();
        let settled = plain.then(|| self.step_inline(request)).flatten();
        settled.map(|Settled { outcome, seq }| IdempotentReply::own(outcome, seq))
    }

    async fn run<'a>(self: &Arc<Self>, request: SessionRequest<'a>) -> Settled<'a> {
        let _busy = self.lease.busy();
        let SessionRequest { operation, once, timeout, trace } = request;
        let expect = Expected::of(&once);
        match operation {
            SessionOperation::Step(action) => self.step_expecting(action, timeout, expect, trace).await,
            // Boxed, so that the future of a step is not as large as that of whatever else is asked.
            SessionOperation::Reset(asked) => Box::pin(self.reset_expecting(asked, expect, trace)).await,
            SessionOperation::Call(call) => self.agent_call(call, trace).await,
            SessionOperation::List(principal) => self.list(principal, trace).await,
        }
    }
}
