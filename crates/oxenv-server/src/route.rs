//! A route: which request it answers, which callers may use it, and its entry in the OpenAPI
//! document.

use std::sync::Arc;

use axum::routing::{MethodFilter, MethodRouter};

use crate::app::App;
use crate::auth::access::Access;
use crate::openapi::headers::{self, ReplyHeader};

/// One route. `routes.rs` has the table of all; the router, the access rules and the OpenAPI document are
/// made from it.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// The handler, for the method that the route answers.
    pub(crate) handler: fn(MethodFilter) -> MethodRouter<Arc<App>>,
    /// Which callers may use it in simulation.
    pub(crate) simulation: Access,
    /// Which callers may use it in production.
    pub(crate) production: Access,
    /// Its entry in the document; absent for a WebSocket, which OpenAPI cannot describe.
    pub(crate) docs: Option<RouteDocs>,
}

/// The methods that routes answer. One for GET answers HEAD as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

/// The OpenAPI document's description of a route.
#[derive(Clone, Copy)]
pub(crate) struct RouteDocs {
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    /// When the document lists the route.
    pub(crate) listed: Listed,
    pub(crate) request: Option<RequestBody>,
    /// Whether a key in a header makes a repeat of the request get its first reply.
    pub(crate) idempotent: bool,
    /// The parameters of its query, all of them optional.
    pub(crate) query: &'static [QueryParameter],
    pub(crate) replies: &'static [Reply],
    /// The statuses of its failures, beside those of tokens and of the check of hosts.
    pub(crate) failures: &'static [u16],
    /// The headers that any of its failures may have.
    pub(crate) failure_headers: &'static [ReplyHeader],
    /// The schema of their bodies.
    pub(crate) failure: &'static str,
}

/// When the document lists a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    Always,
    /// Where metrics are counted.
    WithMetrics,
    /// Where sessions are recorded.
    WithRecords,
}

/// The body of a request, by the name of its schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestBody {
    pub(crate) schema: &'static str,
    pub(crate) required: bool,
}

/// A parameter of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueryParameter {
    pub(crate) name: &'static str,
    /// The type of its value in JSON Schema.
    pub(crate) kind: &'static str,
    pub(crate) description: &'static str,
}

/// A reply that is not a failure, by the name of its body's schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) media: &'static str,
    pub(crate) schema: &'static str,
    pub(crate) headers: &'static [ReplyHeader],
}

impl Method {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }

    pub(crate) const fn filter(self) -> MethodFilter {
        match self {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Delete => MethodFilter::DELETE,
        }
    }
}

impl Route {
    /// Which callers may use it in a mode.
    pub(crate) fn access(&self, production: bool) -> Access {
        if production { self.production } else { self.simulation }
    }
}

impl RouteDocs {
    /// A route without a body, a query or failures of its own.
    pub(crate) const fn new(tag: &'static str, summary: &'static str, replies: &'static [Reply]) -> Self {
        RouteDocs {
            tag,
            summary,
            listed: Listed::Always,
            request: None,
            idempotent: false,
            query: &[],
            replies,
            failures: &[],
            failure_headers: &[],
            failure: "Failure",
        }
    }

    pub(crate) const fn listed(self, listed: Listed) -> Self {
        RouteDocs { listed, ..self }
    }

    /// With a body that must be there.
    pub(crate) const fn body(self, schema: &'static str) -> Self {
        RouteDocs { request: Some(RequestBody { schema, required: true }), ..self }
    }

    /// With a body that may be absent.
    pub(crate) const fn optional_body(self, schema: &'static str) -> Self {
        RouteDocs { request: Some(RequestBody { schema, required: false }), ..self }
    }

    pub(crate) const fn idempotent(self) -> Self {
        RouteDocs { idempotent: true, ..self }
    }

    /// With the number of the request in its session, which also failures may have.
    pub(crate) const fn numbered(self) -> Self {
        RouteDocs { failure_headers: &[headers::SEQ, headers::REPEATED], ..self }
    }

    pub(crate) const fn query(self, query: &'static [QueryParameter]) -> Self {
        RouteDocs { query, ..self }
    }

    pub(crate) const fn failures(self, failures: &'static [u16]) -> Self {
        RouteDocs { failures, ..self }
    }

    /// With failures that have the shape of the other routes' or that of JSON-RPC.
    pub(crate) const fn rpc_failures(self, failures: &'static [u16]) -> Self {
        RouteDocs { failures, failure: "RpcFailure", ..self }
    }
}

impl Reply {
    /// A body of JSON.
    pub(crate) const fn json(status: u16, schema: &'static str) -> Self {
        Reply { status, media: "application/json", schema, headers: &[] }
    }

    /// A body of status 200 in another format.
    pub(crate) const fn text(media: &'static str, schema: &'static str) -> Self {
        Reply { status: 200, media, schema, headers: &[] }
    }

    pub(crate) const fn headers(self, headers: &'static [ReplyHeader]) -> Self {
        Reply { headers, ..self }
    }
}
