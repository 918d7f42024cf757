//! The entry point of an MCP client: its identity, and which session its requests mean.
//!
//! Invariant: only control is ever at an endpoint that leads to more than one session.

use std::sync::Arc;

use oxenv_core::{Session, TraceContext};

use super::target::McpTarget;
use crate::auth::caller::Caller;
use crate::config::Mode;

/// Where a caller's request came in, and so which session it means.
#[derive(Clone, Copy)]
pub(crate) struct McpEndpoint<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) place: EndpointPath<'a>,
    /// The caller's place in a trace, by the headers of the request.
    pub(super) trace: Option<TraceContext>,
}

/// Which address or socket an endpoint is. Only control is ever at one that leads to more than one session.
#[derive(Clone, Copy)]
pub(crate) enum EndpointPath<'a> {
    /// `/mcp`: the session that the parameters name, else the default one.
    Open,
    /// A socket: its own session, unless the parameters name another.
    Socket(&'a Arc<Session>),
    /// `/sessions/{id}/mcp`, and every endpoint of an agent: that session and no other.
    Session(&'a Arc<Session>),
}

impl<'a> McpEndpoint<'a> {
    /// `/mcp` or `/sessions/{id}/mcp`; `session` is the only one that the caller may reach there, if it is
    /// limited to one.
    pub(super) fn http(caller: &'a Caller, session: Option<&'a Arc<Session>>) -> Self {
        McpEndpoint { caller, place: session.map_or(EndpointPath::Open, EndpointPath::Session), trace: None }
    }

    /// A socket that has that session.
    pub(crate) fn socket(caller: &'a Caller, session: &'a Arc<Session>) -> Self {
        let place =
            if caller.controls() { EndpointPath::Socket(session) } else { EndpointPath::Session(session) };
        McpEndpoint { caller, place, trace: None }
    }

    /// What a request that names no session is connected to.
    pub(super) fn target(self, mode: Mode) -> McpTarget {
        match self.place {
            EndpointPath::Open if mode == Mode::Production => McpTarget::Server,
            EndpointPath::Open => McpTarget::Default,
            EndpointPath::Socket(session) | EndpointPath::Session(session) => {
                McpTarget::Named(Arc::clone(session))
            }
        }
    }

    /// The one session that it leads to, if it leads to one only.
    pub(super) fn session_id(&self) -> Option<&str> {
        match self.place {
            EndpointPath::Session(session) => Some(session.id()),
            EndpointPath::Open | EndpointPath::Socket(_) => None,
        }
    }
}
