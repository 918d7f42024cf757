//! What every handler shares.
//!
//! Invariant: nothing here knows a handler; `routes.rs` does.

use std::sync::{Arc, OnceLock};

use oxenv_core::{SessionStore, Toolbox};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::guard::Guard;
use crate::config::{Mode, ServerConfig};
use crate::connections::Connections;
use crate::mcp::transport_sessions::Transports;

/// The shared part of every handler.
///
/// ```
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{App, ServerConfig};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
/// let app = App::new(store, ServerConfig::default());
/// assert_eq!(app.store.status().active, 0);
/// assert_eq!(app.connections(), 0);
/// # Ok(())
/// # }
/// ```
pub struct App {
    /// The sessions.
    pub store: Arc<SessionStore>,
    /// Limits and times.
    pub config: ServerConfig,
    /// The tools that need no session.
    pub(crate) server_tools: Arc<Toolbox>,
    /// Every tool that a session has, for lists that are requested without one.
    pub(crate) all_tools: Arc<Toolbox>,
    /// The clients of MCP that shook hands.
    pub(crate) transports: Arc<Transports>,
    /// Cancelled when a stop was requested: finish what runs, begin nothing.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the time for finishing is over.
    pub(crate) killed: CancellationToken,
    /// Every connection that was accepted, and how many there may be.
    pub(crate) accepted: Connections,
    /// Every connection and socket task.
    pub(crate) tasks: TaskTracker,
    /// The OpenAPI document of the routes, which the router writes.
    pub(crate) openapi: OnceLock<String>,
    /// Which tokens may do what; absent: every caller has control.
    pub(crate) guard: Option<Guard>,
}

impl App {
    /// Puts sessions behind doors.
    #[must_use]
    pub fn new(store: SessionStore, config: ServerConfig) -> Arc<Self> {
        let stopping = CancellationToken::new();
        let transports = Transports::new(config.max_mcp_sessions, config.mcp_idle, stopping.clone());
        Arc::new(App {
            server_tools: store.factory().server_tools(),
            all_tools: store.factory().all_tools(),
            guard: Guard::new(&config.tokens),
            store: Arc::new(store),
            config,
            transports,
            stopping,
            killed: CancellationToken::new(),
            accepted: Connections::new(),
            tasks: TaskTracker::new(),
            openapi: OnceLock::new(),
        })
    }

    /// Connections and sockets that are open or still being ended.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tasks.len()
    }

    /// MCP sessions of clients that shook hands.
    #[must_use]
    pub fn mcp_sessions(&self) -> usize {
        self.transports.len()
    }

    /// The token with which an agent reaches that session and nothing else, for as long as the session
    /// lives. `None` on a server without tokens, where none is needed.
    #[must_use]
    pub fn agent_token(&self, session_id: &str) -> Option<String> {
        self.guard.as_ref().map(|guard| guard.agent_token(session_id))
    }

    pub(crate) fn production(&self) -> bool {
        self.config.mode == Mode::Production
    }
}
