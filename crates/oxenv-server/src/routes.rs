//! The routes: which path is which handler, in which mode.
//!
//! Invariant: production mode has no control route; a route that is absent answers 404 like any
//! path that never was. `openapi.rs` lists the same routes, and a test compares the two.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, delete, get, post};

use crate::app::App;
use crate::{http, mcp, ws};

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    let mut routes = Router::new()
        .route("/health", get(http::info::health))
        .route("/ready", get(http::info::ready))
        .route("/metadata", get(http::info::metadata))
        .route("/schema", get(http::info::schema))
        .route("/tools", get(http::info::tools))
        .route("/openapi.json", get(http::info::openapi))
        .route("/docs", get(http::docs::page))
        .route("/redoc", get(http::docs::page))
        .route("/list_environments", get(http::tasks::environments))
        .route("/{environment}/splits", get(http::tasks::splits))
        .route("/{environment}/tasks", post(http::tasks::tasks))
        .route("/{environment}/num_tasks", post(http::tasks::num_tasks))
        .route("/{environment}/task", post(http::tasks::task))
        .route("/{environment}/task_range", post(http::tasks::task_range))
        .route("/ws", get(ws::control::upgrade))
        .route("/mcp", post(mcp::post).get(mcp::get).delete(mcp::delete))
        .route("/sessions/{id}/mcp", session_mcp());
    if !app.production() {
        routes = routes
            .route("/reset", post(http::control::reset))
            .route("/step", post(http::control::step))
            .route("/state", get(http::control::state))
            .route("/sessions", post(http::sessions::create).get(http::sessions::list))
            .route("/sessions/{id}", delete(http::sessions::close).get(http::sessions::show))
            .route("/sessions/{id}/reset", post(http::sessions::reset))
            .route("/sessions/{id}/step", post(http::sessions::step))
            .route("/sessions/{id}/state", get(http::sessions::state));
    }
    routes
        .fallback(http::fallback::not_found)
        .method_not_allowed_fallback(http::fallback::method_not_allowed)
        .with_state(app)
}

fn session_mcp() -> MethodRouter<Arc<App>> {
    post(mcp::post_session).get(mcp::get_session).delete(mcp::delete_session)
}
