//! The routes: the one table from which the router, the access rules and the OpenAPI document are made.
//!
//! Invariant: a route cannot exist without an access rule, and production mode has no control route; a route
//! that is absent answers 404 like any path that never was.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::on;

use crate::app::App;
use crate::auth::access::Access::{
    self, AnyToken, Control, ControlOrAgent, ControlOrObserver, Everybody, Nobody,
};
use crate::openapi::headers;
use crate::route::Method::{Delete, Get, Post};
use crate::route::{Listed, QueryParameter, Reply, Route, RouteDocs};
use crate::{auth, http, mcp, openapi, ws};

/// The routes of a server.
pub(crate) fn router(app: Arc<App>) -> Router {
    let production = app.production();
    let mut router = Router::new();
    for route in ROUTES {
        let access = route.access(production);
        if access == Nobody {
            continue;
        }
        let mut handler = (route.handler)(route.method.filter());
        if app.guard.is_some() {
            handler = handler.layer(from_fn_with_state((Arc::clone(&app), access), auth::layer));
        }
        router = router.route(route.path, handler);
    }
    let document = openapi::document(app.store.spec(), &app.config, ROUTES);
    // Another router of the same application has the same document.
    let _ = app.openapi.set(document.to_string());
    router
        .fallback(http::fallback::not_found)
        .method_not_allowed_fallback(http::fallback::method_not_allowed)
        .with_state(app)
}

/// Failures of a request that names a session.
const SESSION_FAILURES: &[u16] = &[404, 410];
/// Failures of a request with a body.
const BODY_FAILURES: &[u16] = &[400, 408, 413, 422];
/// Failures of a reset or a step of the default session.
const EPISODE_FAILURES: &[u16] = &[400, 408, 409, 413, 422, 500, 501, 503, 504];
/// Failures of a reset or a step of a session that is named.
const SESSION_EPISODE_FAILURES: &[u16] = &[400, 404, 408, 409, 410, 413, 422, 500, 501, 503, 504];
/// Failures of making sessions.
const CREATE_FAILURES: &[u16] = &[400, 408, 409, 413, 422, 500, 501, 503, 504];
/// Failures of copying a session.
const COPY_FAILURES: &[u16] = &[400, 404, 408, 409, 410, 413, 422, 500, 501, 503, 504];
/// Failures of the Task API.
const TASKS_FAILURES: &[u16] = &[400, 404, 408, 413, 422, 500, 501];

const LIMIT: QueryParameter =
    QueryParameter { name: "limit", kind: "integer", description: "1 to 1000; by default 100" };
const EPOCH: QueryParameter =
    QueryParameter { name: "epoch", kind: "integer", description: "The epoch that calls are for" };

const STEP_REPLY: &[Reply] =
    &[Reply::json(200, "StepResponse").headers(&[headers::SEQ.required(), headers::REPEATED])];
const CREATED_REPLY: &[Reply] = &[Reply::json(201, "SessionCreated").headers(&[headers::REPEATED])];
const RPC_REPLIES: &[Reply] = &[
    Reply::json(200, "JsonRpcResponse").headers(&[headers::MCP_SESSION]),
    Reply::text("text/event-stream", "Events").headers(&[headers::NO_CACHE, headers::NO_BUFFERING]),
    Reply::json(202, "Nothing"),
];
const EVENTS_REPLY: &[Reply] = &[Reply::text("text/event-stream", "Events")
    .headers(&[headers::NO_CACHE.required(), headers::NO_BUFFERING.required()])];

/// Every route, in the order of docs/principals.md.
const ROUTES: &[Route] = &[
    route(
        Get,
        "/health",
        |method| on(method, http::info::health),
        Everybody,
        Everybody,
        RouteDocs::new(
            "Health",
            "Whether the server is alive",
            &[Reply::json(200, "Health"), Reply::json(503, "Health")],
        ),
    ),
    route(
        Get,
        "/ready",
        |method| on(method, http::info::ready),
        Everybody,
        Everybody,
        RouteDocs::new(
            "Health",
            "Whether the server can take one more session",
            &[Reply::json(200, "Ready"), Reply::json(503, "Ready")],
        ),
    ),
    route(
        Get,
        "/metrics",
        |method| on(method, http::metrics::page),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new(
            "Health",
            "The server in numbers, for Prometheus",
            &[Reply::text("text/plain", "Page")],
        )
        .listed(Listed::WithMetrics),
    ),
    route(
        Get,
        "/metadata",
        |method| on(method, http::info::metadata),
        AnyToken,
        AnyToken,
        RouteDocs::new("Environment Info", "What the environment is", &[Reply::json(200, "Metadata")]),
    ),
    route(
        Get,
        "/schema",
        |method| on(method, http::info::schema),
        AnyToken,
        AnyToken,
        RouteDocs::new(
            "Schema",
            "JSON Schemas of actions, observations and state",
            &[Reply::json(200, "Schemas")],
        ),
    ),
    route(
        Get,
        "/tools",
        |method| on(method, http::info::tools),
        AnyToken,
        AnyToken,
        RouteDocs::new("Environment Info", "The environment's tools", &[Reply::json(200, "Tools")]),
    ),
    route(
        Get,
        "/openapi.json",
        |method| on(method, http::info::openapi),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Environment Info", "This document", &[Reply::json(200, "Any")]),
    ),
    route(
        Get,
        "/docs",
        |method| on(method, http::docs::page),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Environment Info", "This document for people", &[Reply::text("text/html", "Page")]),
    ),
    route(
        Get,
        "/redoc",
        |method| on(method, http::docs::page),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new(
            "Environment Info",
            "This document for people, at its other address",
            &[Reply::text("text/html", "Page")],
        ),
    ),
    route(
        Get,
        "/list_environments",
        |method| on(method, http::tasks::environments),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "The environment's name", &[Reply::json(200, "Names")]),
    ),
    route(
        Get,
        "/{environment}/splits",
        |method| on(method, http::tasks::splits),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "The environment's task splits", &[Reply::json(200, "Splits")])
            .failures(&[400, 404, 500, 501]),
    ),
    route(
        Post,
        "/{environment}/tasks",
        |method| on(method, http::tasks::tasks),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "All tasks of a split", &[Reply::json(200, "EnvironmentTasks")])
            .body("SplitRequest")
            .failures(TASKS_FAILURES),
    ),
    route(
        Post,
        "/{environment}/num_tasks",
        |method| on(method, http::tasks::num_tasks),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "How many tasks a split has", &[Reply::json(200, "NumTasks")])
            .body("SplitRequest")
            .failures(TASKS_FAILURES),
    ),
    route(
        Post,
        "/{environment}/task",
        |method| on(method, http::tasks::task),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "One task", &[Reply::json(200, "OneTask")])
            .body("TaskRequest")
            .failures(TASKS_FAILURES),
    ),
    route(
        Post,
        "/{environment}/task_range",
        |method| on(method, http::tasks::task_range),
        ControlOrObserver,
        ControlOrObserver,
        RouteDocs::new("Task API", "A range of tasks", &[Reply::json(200, "Tasks")])
            .body("RangeRequest")
            .failures(TASKS_FAILURES),
    ),
    websocket("/ws", |method| on(method, ws::control::upgrade), Control, ControlOrAgent),
    route(
        Post,
        "/mcp",
        |method| on(method, mcp::post),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new("MCP", "One message of MCP or of its OpenEnv dialect", RPC_REPLIES)
            .body("JsonRpcRequest")
            .query(&[EPOCH])
            .rpc_failures(&[400, 404, 408, 413, 503]),
    ),
    route(
        Get,
        "/mcp",
        |method| on(method, mcp::socket_or_events),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new("MCP", "The events of an MCP session", EVENTS_REPLY).rpc_failures(&[400, 404, 405]),
    ),
    route(
        Delete,
        "/mcp",
        |method| on(method, mcp::delete),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new("MCP", "The end of an MCP session", &[Reply::json(202, "Nothing")])
            .rpc_failures(&[400, 404, 405]),
    ),
    route(
        Post,
        "/sessions/{id}/mcp",
        |method| on(method, mcp::post),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new(
            "MCP",
            "One message of MCP or of its OpenEnv dialect, to the tools of one session",
            RPC_REPLIES,
        )
        .body("JsonRpcRequest")
        .query(&[EPOCH])
        .rpc_failures(&[400, 404, 408, 410, 413, 503]),
    ),
    route(
        Get,
        "/sessions/{id}/mcp",
        |method| on(method, mcp::events),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new("MCP", "The events of an MCP session", EVENTS_REPLY)
            .rpc_failures(&[400, 404, 405, 410]),
    ),
    route(
        Delete,
        "/sessions/{id}/mcp",
        |method| on(method, mcp::delete),
        ControlOrAgent,
        ControlOrAgent,
        RouteDocs::new("MCP", "The end of an MCP session", &[Reply::json(202, "Nothing")])
            .rpc_failures(&[400, 404, 405, 410]),
    ),
    route(
        Post,
        "/reset",
        |method| on(method, http::control::reset),
        Control,
        Nobody,
        RouteDocs::new("Environment Control", "Begin an episode of the default session", STEP_REPLY)
            .optional_body("ResetRequest")
            .idempotent()
            .numbered()
            .failures(EPISODE_FAILURES),
    ),
    route(
        Post,
        "/step",
        |method| on(method, http::control::step),
        Control,
        Nobody,
        RouteDocs::new("Environment Control", "Take one action in the default session", STEP_REPLY)
            .body("StepRequest")
            .idempotent()
            .numbered()
            .failures(EPISODE_FAILURES),
    ),
    route(
        Get,
        "/state",
        |method| on(method, http::control::state),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("State Management", "The default session's state", &[Reply::json(200, "State")])
            .failures(&[500, 503]),
    ),
    route(
        Post,
        "/batch",
        |method| on(method, http::batch::run),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Many requests to many sessions", &[Reply::json(200, "BatchResponse")])
            .body("BatchRequest")
            .failures(BODY_FAILURES),
    ),
    route(
        Post,
        "/restore",
        |method| on(method, http::fork::restore),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Make a session of a snapshot", CREATED_REPLY)
            .body("RestoreRequest")
            .idempotent()
            .failures(CREATE_FAILURES),
    ),
    route(
        Post,
        "/sessions",
        |method| on(method, http::sessions::create),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Make a session", CREATED_REPLY)
            .optional_body("SessionCreate")
            .idempotent()
            .failures(CREATE_FAILURES),
    ),
    route(
        Get,
        "/sessions",
        |method| on(method, http::sessions::list),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Sessions", "All sessions", &[Reply::json(200, "SessionList")]),
    ),
    route(
        Get,
        "/sessions/{id}",
        |method| on(method, http::sessions::show),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Sessions", "One session in numbers", &[Reply::json(200, "SessionInfo")])
            .failures(SESSION_FAILURES),
    ),
    route(
        Delete,
        "/sessions/{id}",
        |method| on(method, http::sessions::close),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Close a session", &[Reply::json(200, "SessionClosed")])
            .failures(SESSION_FAILURES),
    ),
    route(
        Post,
        "/sessions/{id}/reset",
        |method| on(method, http::sessions::reset),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Begin an episode of a session", STEP_REPLY)
            .optional_body("ResetRequest")
            .idempotent()
            .numbered()
            .failures(SESSION_EPISODE_FAILURES),
    ),
    route(
        Post,
        "/sessions/{id}/step",
        |method| on(method, http::sessions::step),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Take one action in a session", STEP_REPLY)
            .body("StepRequest")
            .idempotent()
            .numbered()
            .failures(SESSION_EPISODE_FAILURES),
    ),
    route(
        Get,
        "/sessions/{id}/state",
        |method| on(method, http::sessions::state),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Sessions", "A session's state", &[Reply::json(200, "State")])
            .failures(&[404, 410, 500]),
    ),
    route(
        Get,
        "/sessions/{id}/logs",
        |method| on(method, http::sessions::logs),
        ControlOrObserver,
        Nobody,
        RouteDocs::new(
            "Sessions",
            "The end of what the processes of a session's environment wrote",
            &[Reply::json(200, "SessionLog")],
        )
        .failures(&[404, 410, 501]),
    ),
    route(
        Post,
        "/sessions/{id}/fork",
        |method| on(method, http::fork::fork),
        Control,
        Nobody,
        RouteDocs::new(
            "Sessions",
            "Make sessions that go on from a session's present state",
            &[Reply::json(201, "Forked").headers(&[headers::REPEATED])],
        )
        .optional_body("ForkRequest")
        .idempotent()
        .failures(COPY_FAILURES),
    ),
    route(
        Post,
        "/sessions/{id}/snapshot",
        |method| on(method, http::fork::snapshot),
        Control,
        Nobody,
        RouteDocs::new("Sessions", "Save a session", &[Reply::json(200, "SessionSnapshot")])
            .failures(COPY_FAILURES),
    ),
    route(
        Post,
        "/sessions/{id}/keepalive",
        |method| on(method, http::sessions::keep_alive),
        Control,
        Nobody,
        RouteDocs::new(
            "Sessions",
            "Let a session's lease begin anew",
            &[Reply::json(200, "SessionProgress")],
        )
        .failures(SESSION_FAILURES),
    ),
    route(
        Get,
        "/trajectories",
        |method| on(method, http::trajectories::list),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Records", "Recorded sessions", &[Reply::json(200, "TrajectoryList")])
            .listed(Listed::WithRecords)
            .failures(&[422, 500])
            .query(&[
                QueryParameter {
                    name: "environment",
                    kind: "string",
                    description: "Only sessions of that environment",
                },
                QueryParameter {
                    name: "since_us",
                    kind: "integer",
                    description: "Only sessions opened since then, in microseconds since 1970",
                },
                QueryParameter {
                    name: "after",
                    kind: "string",
                    description: "The `next` of the page before",
                },
                LIMIT,
            ]),
    ),
    route(
        Get,
        "/trajectories/{id}",
        |method| on(method, http::trajectories::show),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Records", "One recorded session", &[Reply::json(200, "Trajectory")])
            .listed(Listed::WithRecords)
            .failures(&[404, 500]),
    ),
    route(
        Get,
        "/trajectories/{id}/steps",
        |method| on(method, http::trajectories::steps),
        ControlOrObserver,
        Nobody,
        RouteDocs::new("Records", "What a recorded session did", &[Reply::json(200, "TrajectorySteps")])
            .listed(Listed::WithRecords)
            .failures(&[404, 422, 500])
            .query(&[
                QueryParameter {
                    name: "after",
                    kind: "integer",
                    description: "The `next` of the page before",
                },
                LIMIT,
            ]),
    ),
];

type Handler = fn(axum::routing::MethodFilter) -> axum::routing::MethodRouter<Arc<App>>;

const fn route(
    method: crate::route::Method,
    path: &'static str,
    handler: Handler,
    simulation: Access,
    production: Access,
    docs: RouteDocs,
) -> Route {
    Route { method, path, handler, simulation, production, docs: Some(docs) }
}

const fn websocket(path: &'static str, handler: Handler, simulation: Access, production: Access) -> Route {
    Route { method: Get, path, handler, simulation, production, docs: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which callers may, in the page's spelling.
    fn described(access: Access) -> &'static str {
        match access {
            Everybody => "everybody",
            AnyToken => "control, observers, agents",
            ControlOrObserver => "control, observers",
            ControlOrAgent => "control, agents",
            Control => "control",
            Nobody => "nobody",
        }
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let rows = ROUTES.iter().map(|route| {
            let (simulation, production) = (described(route.simulation), described(route.production));
            format!("| `{} {}` | {simulation} | {production} |\n", route.method.name(), route.path)
        });
        let table: String = rows.collect();
        let documentation = include_str!("../../../docs/principals.md");
        assert!(documentation.contains(&table), "docs/principals.md has another table than this:\n{table}");
    }

    #[test]
    fn each_route_stands_once() {
        for (index, route) in ROUTES.iter().enumerate() {
            let again =
                ROUTES[..index].iter().any(|other| (other.method, other.path) == (route.method, route.path));
            assert!(!again, "{} {}", route.method.name(), route.path);
        }
    }
}
