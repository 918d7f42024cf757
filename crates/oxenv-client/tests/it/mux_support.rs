//! Endpoints for the multiplexer: one whose every answer a test chooses, and one on rmcp; with counts of what
//! is left.
//!
//! Invariant: every wait has an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::serve::ListenerExt;
use futures_util::{Stream, StreamExt, stream};
use oxenv_client::{ClientError, MultiplexOptions, Multiplexer, Strictness, ToolListing};
use oxenv_test_support::until;
use parking_lot::Mutex;
use rmcp::model::ProtocolVersion;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

#[path = "../../../oxenv-upstream/tests/servers/fixture.rs"]
mod fixture;
pub(crate) use fixture::Fixture;

/// The longest that anything may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a fake endpoint was sent.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `GET`, `POST`, `DELETE`.
    pub(crate) http: String,
    pub(crate) path: String,
    /// JSON-RPC's method, or nothing.
    pub(crate) rpc: String,
    pub(crate) body: Value,
    pub(crate) headers: Vec<(String, String)>,
    /// How many of its kind came before.
    pub(crate) before: usize,
}

/// What a fake endpoint does.
pub(crate) enum Act {
    /// A result, as the endpoint frames them.
    Result(Value),
    /// The text of a result.
    Text(String),
    /// A JSON-RPC error.
    Error(i32, &'static str),
    /// Nothing but a status, with a header and a body.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// No answer.
    Hang,
    /// Events that end before the answer.
    Cut,
}

/// How a fake endpoint frames its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Json,
    Events,
}

type Script = dyn Fn(&Seen) -> Act + Send + Sync;

/// An endpoint whose every answer a test chooses.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Seen>>>,
    server: JoinHandle<()>,
}

impl Fake {
    /// An endpoint with plain JSON and no sessions.
    pub(crate) async fn start(script: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Self {
        Self::framed(Framing::Json, None, script).await
    }

    pub(crate) async fn framed(
        framing: Framing,
        session: Option<&'static str>,
        script: impl Fn(&Seen) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), framing, session, Arc::new(script)).await
    }

    pub(crate) async fn at(
        address: SocketAddr,
        framing: Framing,
        session: Option<&'static str>,
        script: Arc<Script>,
    ) -> Self {
        let log: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let noted = log.clone();
        let handler = move |request: Request| {
            let (script, log) = (script.clone(), noted.clone());
            async move { answer(request, framing, session, &*script, &log).await }
        };
        let listener = listen(address);
        let address = listener.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let server = tokio::spawn(async move {
            axum::serve(listener, axum::Router::new().fallback(handler)).await.unwrap();
        });
        Fake { address, log, server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// What came with that JSON-RPC method.
    pub(crate) fn seen(&self, rpc: &str) -> Vec<Seen> {
        self.log.lock().iter().filter(|seen| seen.rpc == rpc).cloned().collect()
    }

    pub(crate) fn everything(&self) -> Vec<Seen> {
        self.log.lock().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn listen(address: SocketAddr) -> tokio::net::TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket.listen(64).unwrap()
}

async fn answer(
    request: Request,
    framing: Framing,
    session: Option<&str>,
    script: &Script,
    log: &Mutex<Vec<Seen>>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let rpc = body["method"].as_str().unwrap_or_default().to_owned();
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let (http, path) = (head.method.to_string(), head.uri.path().to_owned());
    let mut seen = Seen { http, path, rpc, body, headers: headers.collect(), before: 0 };
    {
        let mut log = log.lock();
        seen.before = log.iter().filter(|other| other.rpc == seen.rpc && other.http == seen.http).count();
        log.push(seen.clone());
    }
    let id = &seen.body["id"];
    let answer = match script(&seen) {
        Act::Result(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        Act::Text(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#),
        Act::Error(code, message) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } }).to_string()
        }
        Act::Status(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            return response.body(body.into()).unwrap();
        }
        Act::Hang => std::future::pending().await,
        Act::Cut => {
            let some = stream::iter([Ok::<_, std::io::Error>(": nothing yet\n\n")]);
            return events(some);
        }
    };
    let response = Response::builder().status(if id.is_null() { 202 } else { 200 });
    let response = match session.filter(|_| seen.rpc == "initialize") {
        Some(session) => response.header("mcp-session-id", session),
        None => response,
    };
    match framing {
        _ if id.is_null() => response.body(Body::empty()).unwrap(),
        Framing::Json => response.header("content-type", "application/json").body(answer.into()).unwrap(),
        Framing::Events => {
            let text = format!("event: message\ndata: {answer}\n\n");
            response.header("content-type", "text/event-stream").body(text.into()).unwrap()
        }
    }
}

/// A response of events.
pub(crate) fn events(
    events: impl Stream<Item = Result<&'static str, std::io::Error>> + Send + 'static,
) -> Response<Body> {
    let response = Response::builder().status(StatusCode::OK).header("content-type", "text/event-stream");
    response.body(Body::from_stream(events.map(|event| event.map(str::as_bytes)))).unwrap()
}

/// What a well-behaved endpoint with these tools answers; each tool gives back its name.
pub(crate) fn well_behaved(seen: &Seen, tools: &[&str]) -> Act {
    match (&*seen.http, &*seen.rpc) {
        ("GET", _) => Act::Status(405, &[], ""),
        ("DELETE", _) => Act::Status(204, &[], ""),
        (_, "initialize") => Act::Result(json!({
            "protocolVersion": seen.body["params"]["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "fake", "version": "1" },
        })),
        (_, "tools/list") => {
            Act::Result(json!({ "tools": tools.iter().map(|name| tool(name)).collect::<Vec<_>>() }))
        }
        (_, "tools/call") => {
            Act::Result(json!({ "content": [{ "type": "text", "text": seen.body["params"]["name"] }] }))
        }
        (_, rpc) if rpc.starts_with("notifications/") => Act::Result(Value::Null),
        _ => Act::Error(-32601, "Method not found"),
    }
}

/// A tool that takes a number `n` and nothing else, if it takes anything.
pub(crate) fn tool(name: &str) -> Value {
    let schema = json!({
        "type": "object", "properties": { "n": { "type": "integer" } }, "additionalProperties": false
    });
    json!({ "name": name, "description": format!("The tool {name}."), "inputSchema": schema })
}

/// rmcp's own server, in a runtime of its own, so that it can be ended with all its connections.
pub(crate) struct Rmcp {
    runtime: Option<Runtime>,
    pub(crate) address: SocketAddr,
}

impl Rmcp {
    pub(crate) async fn start(versions: &'static [ProtocolVersion], address: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fixture = Fixture::new(versions);
        let service = StreamableHttpService::new(
            move || Ok(fixture.clone()),
            Arc::new(LocalSessionManager::default()),
            StreamableHttpServerConfig::default(),
        );
        let router = axum::Router::new().nest_service("/mcp", service);
        let address: SocketAddr = address.parse().unwrap();
        let bound = runtime.spawn(async move {
            let listener = listen(address);
            let address = listener.local_addr().unwrap();
            let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await });
            address
        });
        let address = bound.await.unwrap();
        Rmcp { runtime: Some(runtime), address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Rmcp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A multiplexer that is quick to give up.
pub(crate) fn multiplexer(urls: &[String], strictness: Strictness) -> Multiplexer {
    let options = MultiplexOptions {
        strictness,
        connect_timeout: Duration::from_secs(2),
        timeout: Duration::from_secs(5),
        ..MultiplexOptions::default()
    };
    Multiplexer::new(urls, options).unwrap()
}

pub(crate) fn names(listing: &ToolListing) -> Vec<&str> {
    listing.tools.iter().map(|tool| &*tool.name).collect()
}

/// The text that a tool gives.
pub(crate) async fn say(mux: &Multiplexer, tool: &str) -> String {
    mux.call_tool(tool, json!({})).await.unwrap().text()
}

pub(crate) async fn fault(mux: &Multiplexer, tool: &str) -> ClientError {
    mux.call_tool(tool, json!({})).await.unwrap_err()
}

/// A URL where nobody listens.
pub(crate) fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/mcp", listener.local_addr().unwrap())
}

/// What is alive: tasks, and sockets of this process.
pub(crate) fn alive() -> (usize, usize) {
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let sockets = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let sockets = sockets.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    (tasks, sockets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}

/// Waits until no more is alive than before.
pub(crate) async fn wait_until_gone(before: (usize, usize)) {
    until("nothing is left", || {
        let now = alive();
        now.0 <= before.0 && (now.1 <= before.1 || std::env::var_os("NEXTEST").is_none())
    })
    .await;
}

pub(crate) async fn within_limit<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(CALL_TIMEOUT, future).await.expect("it takes too long")
}
