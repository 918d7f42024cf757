//! The options of a session.
//!
//! Invariant: every deadline has a default, so that no call waits without limit unless configured
//! to.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{ClientError, Code, Result};

/// How a server is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// A WebSocket: `oxenv.1` if the server offers it, else the stock dialect.
    #[default]
    Auto,
    /// The stock dialect on a WebSocket of its own.
    Stock,
    /// `oxenv.1`; a server without it is a
    /// [`Code::VersionMismatch`](crate::Code::VersionMismatch).
    Oxenv1,
    /// HTTP requests: the session of `POST /sessions` where the server has that route, else the server's only
    /// one.
    Http,
}

/// How to connect.
///
/// ```
/// use std::time::Duration;
///
/// use oxenv_client::{ClientOptions, Protocol};
///
/// let options = ClientOptions {
///     protocol: Protocol::Http,
///     token: Some("secret".to_owned()),
///     timeout: Duration::from_secs(5),
///     ..ClientOptions::default()
/// };
/// assert!(!format!("{options:?}").contains("secret"));
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// How the server is talked to.
    pub protocol: Protocol,
    /// A token, sent as a bearer token; else what stands in the URL, as `http://oxenv:TOKEN@host`.
    pub token: Option<String>,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// How long connecting may take: 10 s.
    pub connect_timeout: Duration,
    /// How long a reply may take, where the call names nothing else: 60 s.
    pub timeout: Duration,
    /// Largest reply that is read, in bytes: 100 MiB. A snapshot over HTTP may have 512 MiB if this is less.
    pub max_message: usize,
    /// Whether arguments of tool calls are checked against the tool's schema before they are sent: yes. The
    /// schemas are listed at the first call.
    pub validate_arguments: bool,
}

/// How to open a session.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// The seed that the session's seeds come from; in the stock dialect that of the first reset, if it has
    /// none.
    pub seed: Option<u64>,
    /// The client's name for the first episode.
    pub episode_id: Option<String>,
    /// Keep the session that long after its socket was lost, and come back to it: requests in flight are then
    /// sent again with their keys, so that each runs once. Needs `oxenv.1`; over HTTP on one of our servers
    /// it is how long the session lives between requests.
    pub resume: Option<Duration>,
    /// How long to wait for a free slot; the server's own patience if absent, and in the stock dialect.
    pub queue: Option<Duration>,
}

/// How to begin an episode.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResetOptions {
    /// The episode's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The client's name for the episode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub episode_id: Option<String>,
    /// What else the environment takes.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
    /// How long the reply may take.
    #[serde(skip)]
    pub timeout: Option<Duration>,
}

/// How to take a step.
#[derive(Debug, Clone, Default)]
pub struct StepOptions {
    /// How long the reply may take. The server gets it too where the protocol has a field for it.
    pub timeout: Option<Duration>,
    /// The key under which a repeat is the same step. Needs `oxenv.1` or one of our servers over HTTP.
    pub key: Option<String>,
    /// The number that the step is to have within its episode. As `key`.
    pub expected_step: Option<u64>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            protocol: Protocol::Auto,
            token: None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(60),
            max_message: 100 << 20,
            validate_arguments: true,
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ClientOptions")
            .field("protocol", &self.protocol)
            .field("token", &self.token.is_some())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl OpenOptions {
    /// Refuses options that a session has already which is made of a snapshot.
    pub(crate) fn check_restorable(&self) -> Result<()> {
        if self.seed.is_some() || self.episode_id.is_some() || self.queue.is_some() {
            let message = "a session that is restored has its seed and its episode already, and does not \
                           queue: leave those options out";
            return Err(ClientError::new(Code::InvalidOptions, message));
        }
        Ok(())
    }
}
