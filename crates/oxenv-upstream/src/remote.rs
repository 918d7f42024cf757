//! MCP servers over Streamable HTTP for callers that are not toolsets: one connection at a time, with typed
//! failures.
//!
//! Entry point: [`RemoteEndpoint::connect`]. Invariant: a request is sent once; a fault reports whether it
//! was delivered. Headers go to the endpoint's own host and no other, and no fault shows one.

mod fault;
mod probe;

use std::sync::Arc;
use std::time::Duration;

use oxenv_wire::{Tool, ToolResult};
use parking_lot::Mutex;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use crate::client::{
    Connection, Endpoint, Era, Failure, FaultCause, HandshakeError, Pages, QuestionPolicy, RawRequest,
    UpstreamError, list_tools, tool_result,
};
use oxenv_process::secret::{Redactor, Secret};

pub use fault::{RemoteError, RemoteErrorKind};

/// An MCP server's address, and what is sent to it.
pub struct RemoteEndpoint {
    /// Nothing once it was closed.
    endpoint: Mutex<Option<Arc<Endpoint>>>,
    shown: String,
    redactor: Redactor,
    /// How the server was greeted with success.
    era: Mutex<Era>,
}

/// A connection to an MCP server. Dropping it ends it.
pub struct Remote {
    connection: Connection,
}

/// The parameters of a call.
#[derive(Serialize)]
struct CallParameters<'a> {
    name: &'a str,
    arguments: &'a Value,
}

/// Reads pages, and keeps what stood in the way.
struct Reader<'a> {
    connection: &'a Connection,
    cause: Mutex<Option<FaultCause>>,
}

impl RemoteEndpoint {
    /// An endpoint with headers for every request, and the time that making a TCP connection may take.
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// When the URL is not http or https, or a header cannot be sent. The text holds no secret.
    pub fn new(url: &str, headers: &[(String, Secret)], connect_timeout: Duration) -> Result<Self, String> {
        let parsed = Url::parse(url).map_err(|error| format!("the url cannot be used: {error}"))?;
        let redactor = Redactor::new(&secrets(&parsed, headers));
        let shown = redactor.redact(without_user(&parsed).as_str()).into_owned();
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(format!("the url {shown} is none of http or https"));
        }
        let endpoint = Endpoint::new(&Secret::new(url), headers, connect_timeout)
            .map_err(|why| format!("{shown}: {}", redactor.redact(&why)))?
            .without_renewal();
        let endpoint = Mutex::new(Some(Arc::new(endpoint)));
        Ok(RemoteEndpoint { endpoint, shown, redactor, era: Mutex::new(Era::Handshake) })
    }

    /// Its URL for people: without user and password, and with `***` for the values of its query.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Connects and greets the server: as it was greeted last, and then the other way if it may know that.
    ///
    /// # Errors
    /// Why it cannot be talked to. Nothing was run there.
    pub async fn connect(&self, deadline: Instant) -> Result<Remote, RemoteError> {
        let era = *self.era.lock();
        let endpoint = self.endpoint.lock().clone();
        let Some(endpoint) = endpoint else { return Err(RemoteError::closed()) };
        let first = match self.greet(&endpoint, era, deadline).await {
            Ok(remote) => return Ok(remote),
            Err(first) => first,
        };
        if !may_know_the_other(&first) {
            return Err(RemoteError::of_greeting(first));
        }
        let other = if era == Era::Handshake { Era::Discovery } else { Era::Handshake };
        if let Ok(remote) = self.greet(&endpoint, other, deadline).await {
            *self.era.lock() = other;
            return Ok(remote);
        }
        let fault = RemoteError::of_greeting(first);
        if matches!(fault.kind, RemoteErrorKind::Status(400 | 404 | 405))
            && probe::speaks_old_transport(&endpoint, deadline).await
        {
            return Err(RemoteError::old_transport());
        }
        Err(fault)
    }

    /// Ends it for good: the sockets close with its last connection.
    pub fn close(&self) {
        self.endpoint.lock().take();
    }

    async fn greet(
        &self,
        endpoint: &Endpoint,
        era: Era,
        deadline: Instant,
    ) -> Result<Remote, HandshakeError> {
        let redactor = self.redactor.clone();
        let greeted = Connection::over_http(endpoint, era, &self.shown, redactor, QuestionPolicy::Refused);
        match timeout_at(deadline, greeted).await {
            Ok(connection) => Ok(Remote { connection: connection? }),
            Err(_) => Err(HandshakeError {
                cause: FaultCause::TimedOut,
                ..HandshakeError::failed("it did not answer its greeting in time".to_owned())
            }),
        }
    }
}

impl Remote {
    /// Lists its tools, all pages of them.
    ///
    /// # Errors
    /// Why they cannot be listed.
    pub async fn tools(&self, deadline: Instant) -> Result<Arc<[Tool]>, RemoteError> {
        let reader = Reader { connection: &self.connection, cause: Mutex::new(None) };
        let listed = timeout_at(deadline, list_tools(&reader, self.connection.label())).await;
        let Ok(listed) = listed else {
            return Err(RemoteError::timed_out("it did not list its tools in time"));
        };
        let offers = self.connection.offered().tools;
        match listed {
            Ok(tools) => Ok(tools.into()),
            // A server that does not declare tools may have none.
            Err(UpstreamError::Refused(_)) if !offers => Ok(Arc::default()),
            Err(fault) => {
                let cause = reader.cause.into_inner().unwrap_or(FaultCause::Refused);
                Err(RemoteError::of(Failure { fault, cause }))
            }
        }
    }

    /// Calls a tool, whose list may have declared a schema of its results. Dropping the future cancels
    /// the call at the server.
    ///
    /// # Errors
    /// Why there is no result, and whether the call was delivered.
    pub async fn call(
        &self,
        tool: &str,
        arguments: &Value,
        output_schema: Option<&Value>,
    ) -> Result<ToolResult, RemoteError> {
        let parameters = oxenv_wire::raw(&CallParameters { name: tool, arguments });
        let parameters = parameters.map_err(|error| RemoteError::unsendable(&error))?;
        let request = RawRequest { method: "tools/call", parameters, meta: Map::new() };
        let text = self.connection.ask(request).await.map_err(RemoteError::of)?;
        tool_result(&text, output_schema).map_err(RemoteError::of_result)
    }

    /// Waits until its list of tools may have changed since this was last asked.
    pub async fn list_change(&self) {
        self.connection.list_change().await;
    }

    /// Keeps a subscription to changes of its list where servers notify subscribers alone; ends where none
    /// is needed.
    pub async fn subscribe(&self) {
        self.connection.subscribe().await;
    }

    /// Waits until nothing can be sent over it any more.
    pub async fn over(&self) {
        self.connection.over().await;
    }

    /// Whether nothing can be sent over it any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.connection.is_over()
    }

    /// Ends it; calls in flight are lost.
    pub async fn close(&self) {
        self.connection.close("it was closed").await;
    }
}

impl Pages for Reader<'_> {
    async fn page(&self, method: &'static str, cursor: Option<String>) -> Result<String, UpstreamError> {
        let page = self.connection.read_page(method, cursor).await;
        page.map_err(|failure| {
            *self.cause.lock() = Some(failure.cause);
            failure.fault
        })
    }
}

/// Whether a server that refuses one greeting may know the other.
fn may_know_the_other(greeting: &HandshakeError) -> bool {
    greeting.answered && !matches!(greeting.cause, FaultCause::Status { status: 401 | 403 | 429, .. })
}

fn without_user(url: &Url) -> Url {
    let mut url = url.clone();
    // Only URLs without a host refuse these.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// What of a request no text may show.
fn secrets(url: &Url, headers: &[(String, Secret)]) -> Vec<Secret> {
    let header = |value: &Secret| {
        // `Bearer TOKEN`: the token alone is one too.
        let last = value.expose().rsplit(' ').next().unwrap_or_default();
        [value.clone(), Secret::new(last)]
    };
    let headers = headers.iter().flat_map(|(_, value)| header(value));
    let raw = url.query().unwrap_or_default().split('&').filter_map(|pair| Some(pair.split_once('=')?.1));
    let query = raw.chain(url.password()).map(Secret::new);
    headers.chain(query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str, headers: &[(String, Secret)]) -> Result<RemoteEndpoint, String> {
        RemoteEndpoint::new(url, headers, Duration::from_secs(1))
    }

    #[test]
    fn no_secret_of_a_url_shows() {
        let shown = endpoint("http://user:hunter22@host/mcp?token=abcdefgh&a=1", &[]).unwrap();
        assert_eq!(shown.url(), "http://host/mcp?token=***&a=1");
        for url in ["ftp://user:hunter22@host/", "http://", "host"] {
            let message = endpoint(url, &[]).err().unwrap();
            assert!(message.contains("url") && !message.contains("hunter22"), "{message}");
        }
        let headers = [("x-key".to_owned(), Secret::new("hunter\n22"))];
        let message = endpoint("http://host/", &headers).err().unwrap();
        assert!(message.contains("x-key") && !message.contains("hunter"), "{message}");
    }
}
