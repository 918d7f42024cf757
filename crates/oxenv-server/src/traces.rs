//! The caller's place in a trace: a `traceparent` in the headers of a request, or in the `_meta` of an
//! MCP request, which is closer to the call and so goes first.
//!
//! Invariant: nothing is read unless an observer needs it; what cannot be read is no error of a
//! request (W3C Trace Context, 4.3).

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use oxenv_core::TraceContext;
use oxenv_wire::{RpcParams, read};
use rmcp::model::RequestMetaObject;

use crate::app::App;

const TRACEPARENT: &str = "traceparent";

/// The place that the headers of a request name.
pub(crate) struct CallersTrace(pub(crate) Option<TraceContext>);

impl FromRequestParts<Arc<App>> for CallersTrace {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        Ok(CallersTrace(of_headers(app, &parts.headers)))
    }
}

pub(crate) fn of_headers(app: &App, headers: &HeaderMap) -> Option<TraceContext> {
    wanted(app)?;
    TraceContext::parse(headers.get(TRACEPARENT)?.to_str().ok()?)
}

/// The place that the parameters of an MCP request name, else the given one.
pub(crate) fn of_params(
    app: &App,
    params: &RpcParams<'_>,
    headers: Option<TraceContext>,
) -> Option<TraceContext> {
    wanted(app)?;
    let named = || TraceContext::parse(read::<&str>(params.meta()?.get(TRACEPARENT)?).ok()?);
    named().or(headers)
}

/// The place that the metadata of an MCP request names, once rmcp has read it, else that of its headers.
pub(crate) fn of_meta(app: &App, meta: &RequestMetaObject, headers: &HeaderMap) -> Option<TraceContext> {
    wanted(app)?;
    let named = || TraceContext::parse(meta.get_traceparent()?);
    named().or_else(|| of_headers(app, headers))
}

fn wanted(app: &App) -> Option<()> {
    app.config.traces.then_some(())
}
