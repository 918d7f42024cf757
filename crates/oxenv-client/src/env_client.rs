//! [`EnvClient`]: one session of an environment.
//!
//! Invariant: requests of one client are answered in their order; a request that is given up never gives its
//! reply to the next.

mod http;
mod ordered_socket;
mod reply;
mod schemas;
mod stock;
pub(crate) mod tools;

use std::fmt;
use std::time::Duration;

use oxenv_wire::{Delivered, ErrorCode, MULTI_PROTOCOL, RawJson, Tool, ToolResult, raw};
use serde::Serialize;
use serde_json::Value;

use self::http::HttpSession;
use self::schemas::ToolSchemas;
use self::stock::StockSession;
use crate::connection::{Connection, MultiSession};
use crate::dial::{ServerAddress, dial};
use crate::error::{ClientError, Code, Result};
use crate::options::{ClientOptions, OpenOptions, Protocol, ResetOptions, StepOptions};
use crate::result::StepResult;

/// One session of an environment, over any protocol. Dropping it ends the session.
///
/// A future of a client may be dropped at any time: a request that was not sent is not sent any more, and the
/// late reply to one that was is thrown away. A step that was sent is still taken, but over HTTP, where it is
/// cancelled.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::{EnvClient, ResetOptions};
/// use serde_json::json;
///
/// let env = EnvClient::connect("http://localhost:8000").await?;
/// env.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await?;
/// let step = env.step(&json!({ "message": "hi" })).await?;
/// println!("{} {:?} {}", step.observation, step.reward, step.done);
/// let echoed = env.call_tool("echo_message", json!({ "message": "hi" })).await?;
/// println!("{}", echoed.text());
/// env.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct EnvClient {
    session: AnySession,
    timeout: Duration,
    /// The tools' schemas, if arguments are checked.
    schemas: Option<ToolSchemas>,
}

/// The session, by protocol.
enum AnySession {
    Stock(StockSession),
    Http(Box<HttpSession>),
    Multi(MultiSession),
}

impl EnvClient {
    /// Connects to a server and opens a session, with defaults. `http`, `https`, `ws` and `wss` URLs are the
    /// same; without a scheme it is `http`.
    ///
    /// # Errors
    /// Why there is no session; see [`Code`](crate::Code).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, &ClientOptions::default(), &OpenOptions::default()).await
    }

    /// Connects to a server and opens a session. A server of the stock dialect reports only with the
    /// first reset that it is full.
    ///
    /// # Errors
    /// As [`EnvClient::connect`].
    pub async fn connect_with(url: &str, options: &ClientOptions, open: &OpenOptions) -> Result<Self> {
        let target = ServerAddress::parse(url, options)?;
        let offered = match options.protocol {
            Protocol::Http => {
                let session = HttpSession::open(target, options, open).await?;
                return Ok(Self::new(AnySession::Http(Box::new(session)), options));
            }
            Protocol::Stock => None,
            Protocol::Auto | Protocol::Oxenv1 => Some(MULTI_PROTOCOL),
        };
        let dialled = dial(&target, "/ws", offered, options).await?;
        if dialled.subprotocol.is_some() {
            let connection = Connection::new(dialled, target, options.clone());
            return Ok(Self::from_multi(connection.open_session(open).await?, options));
        }
        if options.protocol == Protocol::Oxenv1 {
            return Err(ClientError::new(
                Code::VersionMismatch,
                format!(
                    "{target} does not speak oxenv.1; use the stock dialect, or a server of ours in \
                     simulation mode"
                ),
            ));
        }
        let session = StockSession::new(dialled, &target, open)?;
        Ok(Self::new(AnySession::Stock(session), options))
    }

    /// Makes a session of a snapshot, over HTTP, which has room for those that no frame of `oxenv.1` holds.
    /// Of the options for opening it takes `resume` alone.
    ///
    /// # Errors
    /// [`Code::InvalidOptions`], if there are others; and why there is none.
    pub async fn restore(
        url: &str,
        snapshot: &str,
        options: &ClientOptions,
        open: &OpenOptions,
    ) -> Result<Self> {
        open.check_restorable()?;
        let session =
            HttpSession::restore(ServerAddress::parse(url, options)?, options, snapshot, open).await?;
        Ok(Self::new(AnySession::Http(Box::new(session)), options))
    }

    pub(crate) fn from_multi(session: MultiSession, options: &ClientOptions) -> Self {
        Self::new(AnySession::Multi(session), options)
    }

    /// The session of a shared socket, if it is one.
    pub(crate) fn multi(&self) -> Option<&MultiSession> {
        match &self.session {
            AnySession::Multi(session) => Some(session),
            _ => None,
        }
    }

    fn new(session: AnySession, options: &ClientOptions) -> Self {
        let schemas = options.validate_arguments.then(ToolSchemas::default);
        EnvClient { session, timeout: options.timeout, schemas }
    }

    /// Which protocol is spoken: never [`Protocol::Auto`].
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match &self.session {
            AnySession::Stock(_) => Protocol::Stock,
            AnySession::Http(_) => Protocol::Http,
            AnySession::Multi(_) => Protocol::Oxenv1,
        }
    }

    /// The session's id, if the protocol reports it.
    #[must_use]
    pub fn session_id(&self) -> Option<String> {
        match &self.session {
            AnySession::Stock(_) => None,
            AnySession::Http(session) => session.created().map(|made| made.session_id.clone()),
            AnySession::Multi(session) => Some(session.session_id().to_owned()),
        }
    }

    /// Where an agent finds the session's tools, absolute, if the protocol reports it.
    #[must_use]
    pub fn mcp_url(&self) -> Option<String> {
        match &self.session {
            AnySession::Stock(_) => None,
            AnySession::Http(session) => {
                session.created().map(|made| session.server().absolute_url(&made.mcp_url))
            }
            AnySession::Multi(session) => Some(session.mcp_url().to_owned()),
        }
    }

    /// What that agent has to show there, if anything.
    #[must_use]
    pub fn agent_token(&self) -> Option<String> {
        match &self.session {
            AnySession::Stock(_) => None,
            AnySession::Http(session) => session.created().and_then(|made| made.agent_token.clone()),
            AnySession::Multi(session) => session.agent_token().map(str::to_owned),
        }
    }

    /// The socket that it shares, if it speaks `oxenv.1`.
    #[must_use]
    pub fn connection(&self) -> Option<&Connection> {
        self.multi().map(MultiSession::connection)
    }

    /// Begins an episode.
    ///
    /// # Errors
    /// Why there is none, by its code. A failure has no reward.
    pub async fn reset(&self, options: &ResetOptions) -> Result<StepResult> {
        let within = options.timeout.unwrap_or(self.timeout);
        match &self.session {
            AnySession::Stock(session) => session.reset(options, within).await,
            AnySession::Http(session) => session.reset(options, within).await,
            AnySession::Multi(session) => session.reset(options, within).await,
        }
    }

    /// Takes an action, which must be an object.
    ///
    /// # Errors
    /// Why there is no observation. A failure has no reward.
    pub async fn step<A: Serialize + ?Sized>(&self, action: &A) -> Result<StepResult> {
        self.step_with(action, &StepOptions::default()).await
    }

    /// Takes an action with a deadline, an idempotency key or an expected step number.
    ///
    /// # Errors
    /// As [`EnvClient::step`]; [`ErrorCode::Unsupported`](oxenv_wire::ErrorCode::Unsupported), if the
    /// protocol has no keys.
    pub async fn step_with<A: Serialize + ?Sized>(
        &self,
        action: &A,
        options: &StepOptions,
    ) -> Result<StepResult> {
        let action = raw(action).map_err(|error| {
            ClientError::new(Code::InvalidOptions, format!("the action cannot be JSON: {error}"))
        })?;
        self.step_raw(action, options).await
    }

    /// The state, as the environment reports it.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn state(&self) -> Result<Value> {
        let state = match &self.session {
            AnySession::Stock(session) => session.state(self.timeout).await,
            AnySession::Http(session) => session.state(self.timeout).await,
            AnySession::Multi(session) => session.state(self.timeout).await,
        }?;
        serde_json::from_str(state.get()).map_err(|error| {
            let message = format!("the state cannot be read: {error}");
            ClientError::new(Code::InvalidReply, message).with_delivered(Delivered::Yes)
        })
    }

    /// The tools of the environment, listed anew. In the stock dialect and over HTTP this is a step, which
    /// servers may count.
    ///
    /// # Errors
    /// Why they cannot be listed.
    pub async fn list_tools(&self) -> Result<Vec<Tool>> {
        let tools = match &self.session {
            AnySession::Multi(session) => session.tools(self.timeout).await?,
            _ => {
                let step = self.step_raw(tools::list_action()?, &StepOptions::default()).await?;
                tools::parse_tools(step.observation.get())?
            }
        };
        if let Some(schemas) = &self.schemas {
            schemas.replace(&tools);
        }
        Ok(tools)
    }

    /// Calls a tool, as a step of the session. A tool that reports that it failed is a result with `is_error`
    /// set. The tools are listed first, if they were not yet or do not have that name, in a way that is no
    /// step where the server has one: then as agents see them. A tool that agents are not shown is found
    /// after [`EnvClient::list_tools`].
    ///
    /// # Errors
    /// [`Code::InvalidArguments`](crate::Code::InvalidArguments) before anything is sent, and why there is no
    /// result.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Result<ToolResult> {
        self.call_tool_with(name, arguments, &StepOptions::default()).await
    }

    /// Calls a tool with a deadline, an idempotency key or an expected step number.
    ///
    /// # Errors
    /// As [`EnvClient::call_tool`] and [`EnvClient::step_with`].
    pub async fn call_tool_with(
        &self,
        name: &str,
        arguments: Value,
        options: &StepOptions,
    ) -> Result<ToolResult> {
        let arguments = tools::encode_arguments(arguments)?;
        if let Some(schemas) = &self.schemas {
            // The call itself was not sent, whatever the listing returned.
            self.ensure_listed(schemas, name).await.map_err(|error| error.with_delivered(Delivered::No))?;
            schemas.check(name, &arguments.value).await?;
        }
        let called =
            tools::parse_call(&self.step_raw(tools::call_action(name, &arguments.json)?, options).await?);
        called.map_err(|error| match &self.schemas {
            Some(schemas) if error.code() == Code::ToolNotFound => {
                error.with_message_suffix(&schemas.describe_offered())
            }
            _ => error,
        })
    }

    /// New sessions that start from the present state.
    ///
    /// # Errors
    /// [`ErrorCode::Unsupported`](oxenv_wire::ErrorCode::Unsupported), if server or environment cannot.
    pub async fn fork(&self, n: usize) -> Result<Vec<EnvClient>> {
        let sessions: Vec<AnySession> = match &self.session {
            AnySession::Stock(_) => return Err(unsupported("forks")),
            AnySession::Http(session) if session.created().is_none() => return Err(unsupported("forks")),
            AnySession::Http(session) => {
                session.fork(n, self.timeout).await?.into_iter().map(Box::new).map(AnySession::Http).collect()
            }
            AnySession::Multi(session) => {
                session.fork(n, self.timeout).await?.into_iter().map(AnySession::Multi).collect()
            }
        };
        let of = |session| EnvClient { session, timeout: self.timeout, schemas: self.schemas.clone() };
        Ok(sessions.into_iter().map(of).collect())
    }

    /// The session as one opaque text.
    ///
    /// # Errors
    /// As [`EnvClient::fork`].
    pub async fn snapshot(&self) -> Result<String> {
        match &self.session {
            AnySession::Stock(_) => Err(unsupported("snapshots")),
            AnySession::Http(session) if session.created().is_none() => Err(unsupported("snapshots")),
            AnySession::Http(session) => session.snapshot(self.timeout).await,
            AnySession::Multi(session) => session.snapshot(self.timeout).await,
        }
    }

    /// Ends the session and waits for that. Closing twice is not an error.
    ///
    /// # Errors
    /// If the server does not say that it is closed.
    pub async fn close(&self) -> Result<()> {
        match &self.session {
            AnySession::Stock(session) => session.close(self.timeout).await,
            AnySession::Http(session) => session.close(self.timeout).await,
            AnySession::Multi(session) => session.close(self.timeout).await,
        }
    }

    /// Lists the tools if that one is not known: in a way that is no step, where there is one.
    async fn ensure_listed(&self, schemas: &ToolSchemas, name: &str) -> Result<()> {
        if schemas.contains(name) {
            return Ok(());
        }
        let quietly = match &self.session {
            AnySession::Stock(session) => session.tools(self.timeout).await?,
            AnySession::Http(session) => session.tools(self.timeout).await?,
            AnySession::Multi(_) => None,
        };
        match quietly {
            Some(tools) => schemas.add(&tools),
            None => drop(self.list_tools().await?),
        }
        Ok(())
    }

    async fn step_raw(&self, action: RawJson, options: &StepOptions) -> Result<StepResult> {
        if !action.get().starts_with('{') {
            return Err(ClientError::new(Code::InvalidOptions, "an action must be a JSON object"));
        }
        let within = options.timeout.unwrap_or(self.timeout);
        match &self.session {
            AnySession::Stock(session) => session.step(action, options, within).await,
            AnySession::Http(session) => session.step(action, options, within).await,
            AnySession::Multi(session) => session.step(action, options, within).await,
        }
    }
}

impl fmt::Debug for EnvClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvClient")
            .field("protocol", &self.protocol())
            .field("session_id", &self.session_id())
            .finish_non_exhaustive()
    }
}

fn unsupported(what: &str) -> ClientError {
    let message = format!("this server has no {what}; use one of ours, with oxenv.1 or its HTTP sessions");
    ClientError::new(Code::Server(ErrorCode::Unsupported), message)
}
