//! What every handler shares.
//!
//! Invariant: nothing here knows a handler; `routes.rs` does.

use std::sync::Arc;

use oxenv_core::{SessionStore, Toolbox};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Mode, ServerConfig};
use crate::openapi;

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
        let openapi = openapi::document(store.spec(), config.mode).to_string();
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
