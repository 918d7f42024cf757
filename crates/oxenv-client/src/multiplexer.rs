//! [`Multiplexer`]: the tools of many MCP endpoints as one.
//!
//! Invariant: the map from names to owners is replaced as a whole with each listing; a call goes to the
//! endpoint whose tool was listed, and is repeated only if it surely was not delivered.

mod call;
mod catalogue;
mod endpoint;
mod endpoint_error;
mod state;

use std::sync::Arc;
use std::time::Duration;

use oxenv_process::secret::Secret;
use oxenv_wire::{Tool, ToolResult};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio_util::sync::DropGuard;

use crate::error::{Code, Result};
use state::MultiplexerState;

/// How a listing goes on when an endpoint cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strictness {
    /// The listing fails.
    Strict,
    /// The others' tools are listed, and the report names the one that is missing.
    #[default]
    Degraded,
}

/// How to talk to endpoints.
#[derive(Debug, Clone, Default)]
pub struct MultiplexOptions {
    /// How a listing goes on when an endpoint cannot be reached.
    pub strictness: Strictness,
    /// Headers that every endpoint gets.
    pub headers: Vec<(String, Secret)>,
    /// Time limit for connecting an endpoint and listing its tools; 0: 10 s.
    pub connect_timeout: Duration,
    /// How long a call may take, with all that it waits for; 0: 60 s.
    pub timeout: Duration,
    /// Those of the URLs that may be absent: status 404 there is not a failure even if all are demanded.
    pub optional: Vec<String>,
}

/// Two endpoints offer the same name; the earlier one owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// The tool's name.
    pub name: String,
    /// The URL of the endpoint that owns it.
    pub owner: String,
    /// The URLs of the others that offer it.
    pub shadowed: Vec<String>,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointReport {
    /// Its URL, without user and password, and with `***` for the values of its query.
    pub url: String,
    /// How many tools it offers, those that another owns included.
    pub tools: usize,
    /// Why it cannot be used, if it cannot.
    pub error: Option<String>,
    /// The error's code; written as its name, such as `CONNECT_FAILED`.
    #[serde(serialize_with = "serialize_code_name")]
    pub code: Option<Code>,
    /// Whether it answered that there is nothing (status 404).
    pub absent: bool,
}

/// The tools of all endpoints.
#[derive(Debug, Clone)]
pub struct ToolListing {
    /// The tools, in the order of the endpoints and of each one's list; each name once, as its owner has it.
    pub tools: Vec<Tool>,
    /// Names that more than one endpoint offers.
    pub conflicts: Vec<Conflict>,
    /// How each endpoint is, in the order given.
    pub endpoints: Vec<EndpointReport>,
}

/// Many MCP endpoints as one. Cheap to clone; connections close with its last user.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::{MultiplexOptions, Multiplexer};
/// use serde_json::json;
///
/// let urls = ["https://host/api/v1/mcp", "https://host/mcp"];
/// let tools = Multiplexer::new(&urls, MultiplexOptions::default())?;
/// let listing = tools.list().await?;
/// for endpoint in listing.endpoints.iter().filter(|endpoint| endpoint.error.is_some()) {
///     eprintln!("{} {}", endpoint.url, endpoint.error.as_deref().unwrap_or_default());
/// }
/// let result = tools.call_tool("computer", json!({ "action": "screenshot" })).await?;
/// println!("{}", result.text());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Multiplexer {
    state: Arc<MultiplexerState>,
    /// Ends what runs in the background.
    _stop: Arc<DropGuard>,
}

impl Multiplexer {
    /// A multiplexer over endpoints of Streamable HTTP, in the order of their precedence. Nothing is
    /// connected yet.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if a URL or a header is wrong, or there is no URL.
    pub fn new(urls: &[impl AsRef<str>], options: MultiplexOptions) -> Result<Self> {
        let urls: Vec<&str> = urls.iter().map(AsRef::as_ref).collect();
        let shared = MultiplexerState::new(&urls, options)?;
        let stop = Arc::new(shared.signals.stop.clone().drop_guard());
        Ok(Multiplexer { state: Arc::new(shared), _stop: stop })
    }

    /// Connects where that is not done yet, lists all endpoints together, and replaces the owner map. An
    /// endpoint that does not answer holds this up for [`MultiplexOptions::connect_timeout`] at most.
    ///
    /// # Errors
    /// [`Code::EndpointUnavailable`], if none can be used, or not all and all are demanded; its data has the
    /// `endpoints`. The owner map stays as it was then. [`Code::Closed`].
    pub async fn list(&self) -> Result<ToolListing> {
        self.state.list().await
    }

    /// The tools of [`Multiplexer::list`].
    ///
    /// # Errors
    /// As [`Multiplexer::list`].
    pub async fn list_tools(&self) -> Result<Vec<Tool>> {
        Ok(self.list().await?.tools)
    }

    /// Calls a tool at its owner; lists first if nothing was listed yet or a list has changed. A tool that
    /// reports that it failed is a result with `is_error` set. An owner that is away keeps its tools: the
    /// call fails, and no other endpoint gets it.
    ///
    /// Dropping the future cancels the call at the endpoint.
    ///
    /// # Errors
    /// [`Code::ToolNotFound`], [`Code::InvalidArguments`], [`Code::EndpointUnavailable`] if it was not
    /// delivered, [`Code::ConnectionLost`] if it may have been, [`Code::TimedOut`] after
    /// [`MultiplexOptions::timeout`], [`Code::ToolFailed`] if the endpoint answered with an error instead of
    /// a result, [`Code::InvalidReply`], [`Code::Closed`]. Where the failure is an endpoint's, the data has
    /// its `endpoint`.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<ToolResult> {
        self.state.call(name, arguments).await
    }

    /// Waits until a list may have changed since the last [`Multiplexer::list`] began: an endpoint reported
    /// it, went away, or came back. Returns at once if that was before, and when the multiplexer is closed.
    pub async fn changed(&self) {
        self.state.changed().await;
    }

    /// Ends all connections; calls in flight are lost. Closing twice is not an error.
    pub async fn close(&self) {
        self.state.close().await;
    }
}

fn serialize_code_name<S: Serializer>(
    code: &Option<Code>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    code.map(Code::name).serialize(serializer)
}
