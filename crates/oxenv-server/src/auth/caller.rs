//! The caller, and which sessions are its own.
//!
//! Invariant: an agent has one session, and reaches no other by any name.

use std::sync::Arc;

use oxenv_core::{Failure, Principal, Session, SessionOptions, SessionStore};
use oxenv_wire::ErrorCode;

/// The sender of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    /// What its token is called; none for agents, and where there are no tokens.
    pub(crate) name: Option<Arc<str>>,
    /// The one session that an agent may reach; none for others.
    pub(crate) session: Option<Arc<str>>,
}

impl Caller {
    /// The caller of a server that has no tokens.
    pub(crate) fn unauthenticated() -> Self {
        Caller { principal: Principal::Control, name: None, session: None }
    }

    /// Whether it may make, name and close sessions.
    pub(crate) fn controls(&self) -> bool {
        self.principal == Principal::Control
    }

    /// The options of a session that it makes: the session counts as its own.
    pub(crate) fn options(&self) -> SessionOptions {
        SessionOptions { owner: self.name.clone(), ..SessionOptions::default() }
    }

    /// The session that an agent's token is for; none for others.
    pub(crate) fn own_session(&self, store: &SessionStore) -> Result<Option<Arc<Session>>, Failure> {
        self.session.as_deref().map(|id| store.get(id)).transpose()
    }

    /// The session that a socket is to take: the one that is named, or an agent's own.
    pub(crate) fn session_for(&self, named: Option<String>) -> Result<Option<String>, Failure> {
        match (&self.session, named) {
            (None, named) => Ok(named),
            (Some(own), None) => Ok(Some(own.to_string())),
            (Some(own), Some(named)) if named == **own => Ok(Some(named)),
            (Some(_), Some(_)) => Err(self.forbidden("another session than its own")),
        }
    }

    /// The refusal of something that this caller may not do.
    pub(crate) fn forbidden(&self, what: &str) -> Failure {
        let whose = match self.principal {
            Principal::Control => "a control token",
            Principal::Agent => "an agent's token",
            Principal::Observer => "an observer's token",
        };
        Failure::new(ErrorCode::Forbidden, format!("{whose} does not allow {what}"))
    }
}
