//! [`SessionRequest`]: what every door asks of a session.
//!
//! A door builds one and hands it to [`Session::submit`](super::Session::submit).

use std::borrow::Cow;
use std::time::Duration;

use oxenv_wire::{Action, RawJson};
use serde_json::value::RawValue;

use crate::idempotency::Idempotency;
use crate::observe::TraceContext;
use crate::principal::Principal;
use crate::toolset::CallerChannel;

/// One request to a session.
pub struct SessionRequest<'a> {
    /// What to do.
    pub operation: SessionOperation<'a>,
    /// How repeats of a reset or a step are recognised, and what it expects of the session. Default:
    /// they are not.
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
    /// List the tools that a caller may call; counted as a step, as in the reference.
    List(Principal),
}

/// An agent's call.
#[derive(Clone, Default)]
pub struct AgentCall<'a> {
    /// The tool's name.
    pub name: Cow<'a, str>,
    /// The arguments, an object.
    pub arguments: Option<&'a RawValue>,
    /// The epoch that the caller believes in; another is refused.
    pub epoch: Option<u64>,
    /// The client behind the call, where the door can carry messages both ways.
    pub caller: Option<&'a dyn CallerChannel>,
    /// The parameters of the MCP request that the call is.
    pub request: Option<&'a RawValue>,
}

/// How to begin an episode.
#[derive(Debug, Clone, Default)]
pub struct ResetOptions {
    /// Its seed; absent: derived from the session's seed and the epoch.
    pub seed: Option<u64>,
    /// Its id; absent: a UUID.
    pub episode_id: Option<String>,
    /// The whole object that the client sent.
    pub arguments: Option<RawJson>,
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

    /// The tools that a caller may call.
    #[must_use]
    pub fn list(principal: Principal) -> Self {
        Self::new(SessionOperation::List(principal))
    }
}
