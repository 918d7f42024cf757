//! What can be set about the doors.
//!
//! Invariant: plain data; everything here was parsed before a port is bound.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::tokens::Tokens;
use crate::metrics::Metrics;
use crate::trajectories::TrajectorySource;

/// Which doors are open.
///
/// ```
/// use oxenv_server::Mode;
///
/// assert_eq!(Mode::default(), Mode::Simulation);
/// assert_eq!(Mode::Production.name(), "production");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Both: control and agents.
    #[default]
    Simulation,
    /// Agents only.
    Production,
}

impl Mode {
    /// Its name, as `OPENENV_MODE` spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Mode::Simulation => "simulation",
            Mode::Production => "production",
        }
    }
}

/// Limits and times of the doors.
///
/// ```
/// use oxenv_server::{Mode, ServerConfig};
///
/// let config = ServerConfig {
///     mode: Mode::Production,
///     allowed_hosts: vec!["env.example".to_owned()],
///     ..ServerConfig::default()
/// };
/// assert_eq!(config.max_message, 100 << 20);
/// ```
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Which doors are open.
    pub mode: Mode,
    /// Largest frame and largest body in bytes. Default 100 MiB, as stock clients accept.
    pub max_message: usize,
    /// How often a quiet socket is pinged. Default 10 s.
    pub ping_every: Duration,
    /// A socket that has sent nothing for this long is closed, at the next ping's time: with the defaults
    /// after 30 to 40 s. Default 30 s.
    pub dead_after: Duration,
    /// A body that is not there after this long is refused; a reader that takes nothing for this
    /// long is gone. Default 60 s.
    pub stall: Duration,
    /// MCP sessions at once, of clients that shook hands; the one that was not used for the longest
    /// time makes room for another. Default 1024.
    pub max_mcp_sessions: usize,
    /// How long an MCP session lives that has no open stream and no request. Default 15 minutes.
    pub mcp_idle: Duration,
    /// Hosts that a request may name, as `host` or `host:port`. Empty (the default): a server on a
    /// loopback address takes the names of that address, any other server takes every name.
    pub allowed_hosts: Vec<String>,
    /// Origins that a browser's request may come from, as `scheme://host[:port]`, beside the server's
    /// own and those on this machine. Default none.
    pub allowed_origins: Vec<String>,
    /// Which tokens may do what. Default none: every caller has control.
    pub tokens: Tokens,
    /// How long calls in flight may go on after a stop was requested. Default 5 s.
    pub drain: Duration,
    /// What `/metrics` shows. Default none: the route answers that there are no metrics, and
    /// nothing is counted.
    pub metrics: Option<Arc<Metrics>>,
    /// What `/trajectories` shows. Default none: the routes answer that nothing is recorded.
    pub trajectories: Option<Arc<dyn TrajectorySource>>,
    /// Whether the sessions' observer wants to know of callers' traces. Default no: they are not read.
    pub traces: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            mode: Mode::Simulation,
            max_message: 100 * 1024 * 1024,
            ping_every: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            max_mcp_sessions: 1024,
            mcp_idle: Duration::from_secs(15 * 60),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            tokens: Tokens::default(),
            drain: Duration::from_secs(5),
            metrics: None,
            trajectories: None,
            traces: false,
        }
    }
}
