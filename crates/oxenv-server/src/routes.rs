//! The routes: which path is which handler, in which mode.
//!
//! Invariant: production mode has no control route; a route that is absent answers 404 like any
//! path that never was. `openapi.rs` lists the same routes, and a test compares the two.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};

use crate::app::App;
use crate::{auth, http, mcp, ws};

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    let mut routes = Router::new()
        .route("/health", get(http::info::health))
        .route("/ready", get(http::info::ready))
        .route("/metrics", get(http::metrics::page))
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
            .route("/sessions/{id}/state", get(http::sessions::state))
            .route("/sessions/{id}/fork", post(http::fork::fork))
            .route("/sessions/{id}/snapshot", post(http::fork::snapshot))
            .route("/sessions/{id}/keepalive", post(http::sessions::keep_alive))
            .route("/restore", post(http::fork::restore))
            .route("/batch", post(http::batch::run))
            .route("/trajectories", get(http::trajectories::list))
            .route("/trajectories/{id}", get(http::trajectories::show))
            .route("/trajectories/{id}/steps", get(http::trajectories::steps));
    }
    let mut routes = routes
        .fallback(http::fallback::not_found)
        .method_not_allowed_fallback(http::fallback::method_not_allowed);
    if app.guard.is_some() {
        routes = routes.layer(from_fn_with_state(Arc::clone(&app), auth::layer));
    }
    routes.with_state(app)
}

fn session_mcp() -> MethodRouter<Arc<App>> {
    post(mcp::post_session).get(mcp::get_session).delete(mcp::delete_session)
}
