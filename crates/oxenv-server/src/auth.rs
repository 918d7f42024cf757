//! Authentication of callers: tokens in, a [`Caller`] out.
//!
//! Invariant: one layer, behind the choice of a route and before its handler, decides from the
//! headers alone by the access of that route. A session's id is never a credential.
//!
//! Without tokens there is no layer, and every caller has control, as on a developer's own machine.

pub(crate) mod access;
mod agents;
pub(crate) mod caller;
pub(crate) mod guard;
mod presented;
pub(crate) mod tokens;

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use oxenv_core::Failure;

use crate::app::App;
use crate::error::Refusal;

use access::Access;
use caller::Caller;

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

/// The caller, where that matters: not where all callers are let in.
async fn admit(app: &App, access: Access, parts: &mut Parts) -> Result<Option<Caller>, Failure> {
    let Some(guard) = app.guard.as_ref().filter(|_| access != Access::Everybody) else { return Ok(None) };
    let caller = guard.caller(&app.store, &parts.headers)?;
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

/// The caller that the layer let in. A server with tokens whose layer did not run lets no caller
/// in.
impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        match (parts.extensions.get::<Caller>(), &app.guard) {
            (Some(caller), _) => Ok(caller.clone()),
            (None, None) => Ok(Caller::unauthenticated()),
            (None, Some(_)) => {
                let message = "this server wants a token, and none was looked for here";
                Err(guard::unauthorized(message).into())
            }
        }
    }
}
