//! Who calls, and whether they may: tokens in, a [`Caller`] out.
//!
//! Invariant: one layer, behind the choice of a route and before its handler, decides from the
//! headers alone by the access of that route. A session's id is never a credential.
//!
//! Without tokens there is no layer, and everybody is control, as on a machine of one's own.

mod agents;
mod presented;
mod tokens;

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use oxenv_core::{Failure, Principal, Session, SessionOptions};
use oxenv_wire::ErrorCode;

use crate::app::App;
use crate::error::Refusal;
use crate::route::Access;

use agents::AgentTokens;
use presented::{Presented, presented};

pub use tokens::{TokenError, Tokens};

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    /// What its token is called; none for agents, and where there are no tokens.
    pub(crate) name: Option<Arc<str>>,
    /// The one session that an agent may reach; none for others.
    pub(crate) session: Option<Arc<str>>,
}

/// Knows every token.
pub(crate) struct Guard {
    tokens: Tokens,
    agents: AgentTokens,
}

/// The layer of one route. It stands in front of the handlers of a server that has tokens.
pub(crate) async fn layer(
    State((app, access)): State<(Arc<App>, Access)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match admit(&app, access, &mut parts).await {
        Ok(caller) => {
            if let Some(caller) = caller {
                parts.extensions.insert(caller);
            }
            next.run(Request::from_parts(parts, body)).await
        }
        Err(failure) => {
            let path = parts.uri.path();
            tracing::warn!(method = %parts.method, path, code = ?failure.code, "refused a request");
            Refusal::from(failure).into_response()
        }
    }
}

/// Who calls, where that matters: not where everybody is let in.
async fn admit(app: &App, access: Access, parts: &mut Parts) -> Result<Option<Caller>, Failure> {
    let Some(guard) = app.guard.as_ref().filter(|_| access != Access::Everybody) else { return Ok(None) };
    let caller = guard.caller(app, &parts.headers)?;
    // Nothing behind this layer needs it, and so nothing can let it out.
    parts.headers.remove(header::AUTHORIZATION);
    let allowed = access.admits(caller.principal) && is_own_session(&caller, parts).await;
    match allowed {
        true => Ok(Some(caller)),
        false => {
            let path = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
            Err(caller.forbidden(&format!("{} {path}", parts.method)))
        }
    }
}

/// Whether the session that the path names, if it names one, is one that the caller may reach.
async fn is_own_session(caller: &Caller, parts: &mut Parts) -> bool {
    let Some(own) = &caller.session else { return true };
    match RawPathParams::from_request_parts(parts, &()).await {
        Ok(params) => params.iter().all(|(_, id)| id == &**own),
        Err(_) => false,
    }
}

impl Guard {
    /// What keeps a server with those tokens; nothing where there are none.
    pub(crate) fn new(tokens: &Tokens) -> Option<Self> {
        (!tokens.is_empty()).then(|| Guard { tokens: tokens.clone(), agents: AgentTokens::new() })
    }

    /// The token of a session's agent.
    pub(crate) fn agent_token(&self, session_id: &str) -> String {
        self.agents.issue(session_id)
    }

    fn caller(&self, app: &App, headers: &HeaderMap) -> Result<Caller, Failure> {
        let token = match presented(headers) {
            Presented::Token(token) => token,
            Presented::Nothing => {
                return Err(unauthorized("this server wants a token: send 'Authorization: Bearer TOKEN'"));
            }
            Presented::Unreadable(why) => return Err(unauthorized(why)),
        };
        if let Some((principal, name)) = self.tokens.holder(&token) {
            return Ok(Caller { principal, name: Some(Arc::clone(name)), session: None });
        }
        let Some(id) = self.agents.session(&token) else {
            return Err(unauthorized("the token is not known here"));
        };
        match app.store.get(id) {
            Ok(session) if session.ended().is_none() => {
                Ok(Caller { principal: Principal::Agent, name: None, session: Some(id.into()) })
            }
            _ => Err(unauthorized("the session of this agent's token has ended, and the token with it")),
        }
    }
}

impl Caller {
    /// Who calls a server that has no tokens.
    pub(crate) fn unauthenticated() -> Self {
        Caller { principal: Principal::Control, name: None, session: None }
    }

    /// Whom the layer let in. A server with tokens whose layer did not run lets nobody in.
    pub(crate) fn of(app: &App, extensions: &Extensions) -> Result<Self, Failure> {
        match (extensions.get::<Caller>(), &app.guard) {
            (Some(caller), _) => Ok(caller.clone()),
            (None, None) => Ok(Caller::unauthenticated()),
            (None, Some(_)) => Err(unauthorized("this server wants a token, and none was looked for here")),
        }
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
    pub(crate) fn own_session(&self, app: &App) -> Result<Option<Arc<Session>>, Failure> {
        self.session.as_deref().map(|id| app.store.get(id)).transpose()
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

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        Ok(Caller::of(app, &parts.extensions)?)
    }
}

fn unauthorized(message: &str) -> Failure {
    Failure::new(ErrorCode::Unauthorized, message)
}
