//! Identifies the caller of a request by its token.
//!
//! Invariant: headers alone decide. A session's id is never a credential.

use std::sync::Arc;

use axum::http::HeaderMap;
use oxenv_core::{Failure, Principal, SessionStore};
use oxenv_wire::ErrorCode;

use super::agents::AgentTokens;
use super::caller::Caller;
use super::presented::{Presented, presented};
use super::tokens::Tokens;

/// Every token of a server: what operators gave, and what agents got.
pub(crate) struct Guard {
    tokens: Tokens,
    agents: AgentTokens,
}

impl Guard {
    /// The guard of a server with those tokens; `None` where there are none.
    pub(crate) fn new(tokens: &Tokens) -> Option<Self> {
        (!tokens.is_empty()).then(|| Guard { tokens: tokens.clone(), agents: AgentTokens::new() })
    }

    /// The token of a session's agent.
    pub(crate) fn agent_token(&self, session_id: &str) -> String {
        self.agents.issue(session_id)
    }

    /// The caller that sent those headers. An agent's token is good for as long as its session lives.
    pub(super) fn caller(&self, store: &SessionStore, headers: &HeaderMap) -> Result<Caller, Failure> {
        let token = match presented(headers) {
            Presented::Token(token) => token,
            Presented::Nothing => {
                return Err(unauthorized("this server wants a token: send 'Authorization: Bearer TOKEN'"));
            }
            Presented::Unreadable(why) => return Err(unauthorized(why)),
        };
        if let Some(known) = self.tokens.find(&token) {
            let (principal, name) = (known.principal, Some(Arc::clone(&known.name)));
            return Ok(Caller { principal, name, session: None });
        }
        let Some(id) = self.agents.session(&token) else {
            return Err(unauthorized("the token is not known here"));
        };
        match store.get(id) {
            Ok(session) if session.ended().is_none() => {
                Ok(Caller { principal: Principal::Agent, name: None, session: Some(id.into()) })
            }
            _ => Err(unauthorized("the session of this agent's token has ended, and the token with it")),
        }
    }
}

/// The failure of a request whose token is not one of this server's.
pub(super) fn unauthorized(message: &str) -> Failure {
    Failure::new(ErrorCode::Unauthorized, message)
}
