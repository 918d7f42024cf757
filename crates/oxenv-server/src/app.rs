//! What every handler shares, and the routes.
//!
//! Invariant: production mode has no control route; a route that is absent answers 404 like any
//! path that never was.

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use oxenv_core::{SessionStore, Toolbox};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Mode, ServerConfig};
use crate::{http, mcp, ws};

/// The shared part of every handler.
pub struct App {
    /// The sessions.
    pub store: SessionStore,
    /// Limits and times.
    pub config: ServerConfig,
    /// The tools that need no session.
    pub(crate) server_tools: Arc<Toolbox>,
    /// Cancelled when a stop was asked for: finish what runs, begin nothing.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the time for finishing is over.
    pub(crate) killed: CancellationToken,
    /// Every connection and socket task.
    pub(crate) tasks: TaskTracker,
    pub(crate) openapi: String,
}

impl App {
    /// Puts sessions behind doors.
    #[must_use]
    pub fn new(store: SessionStore, config: ServerConfig) -> Arc<Self> {
        let openapi = http::openapi::document(store.spec(), config.mode).to_string();
        Arc::new(App {
            server_tools: store.factory().server_tools(),
            store,
            config,
            stopping: CancellationToken::new(),
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            openapi,
        })
    }

    /// Connections and sockets that are open or still being ended.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn production(&self) -> bool {
        self.config.mode == Mode::Production
    }
}

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    let mut routes = Router::new()
        .route("/health", get(http::info::health))
        .route("/ready", get(http::info::ready))
        .route("/metadata", get(http::info::metadata))
        .route("/schema", get(http::info::schema))
        .route("/tools", get(http::info::tools))
        .route("/openapi.json", get(http::openapi::serve))
        .route("/docs", get(http::docs::page))
        .route("/redoc", get(http::docs::page))
        .route("/list_environments", get(http::tasks::environments))
        .route("/{environment}/splits", get(http::tasks::splits))
        .route("/{environment}/tasks", post(http::tasks::tasks))
        .route("/{environment}/num_tasks", post(http::tasks::num_tasks))
        .route("/{environment}/task", post(http::tasks::task))
        .route("/{environment}/task_range", post(http::tasks::task_range))
        .route("/ws", get(ws::control::upgrade))
        .route("/mcp", post(mcp::post).get(ws::mcp::upgrade))
        .route("/sessions/{id}/mcp", post(mcp::post_session));
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
