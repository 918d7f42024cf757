//! What the multiplexer adds to a tool call: over two endpoints, compared with the same call to one of them.
//!
//! Invariant: all calls go over HTTP to the same server and take turns, one in flight. Direct calls are made
//! with the multiplexer's own connection to an endpoint, with the MCP SDK's client, and with a request that
//! is built once. What the multiplexer adds is counted from the faster of the two clients. Prints one JSON
//! object with medians in microseconds.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use oxenv_client::{MultiplexOptions, Multiplexer};
use oxenv_core::{SessionStore, StoreLimits};
use oxenv_server::{Server, ServerConfig};
use oxenv_upstream::remote::{Remote, RemoteEndpoint};
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use serde_json::{Value, json};

const WARMUP: usize = 500;
const CALLS: usize = 5_000;
const TOOL: &str = "echo_message";

type Sdk = RunningService<rmcp::RoleClient, ()>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let urls = [serve(), serve()];
    let multiplexer = Multiplexer::new(&urls, MultiplexOptions::default()).expect("two URLs");
    let listing = multiplexer.list().await.expect("a listing");
    assert!(listing.endpoints.iter().all(|endpoint| endpoint.error.is_none()), "{:?}", listing.endpoints);
    let transport = StreamableHttpClientTransport::from_uri(urls[0].clone());
    let lifecycle = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    let sdk: Sdk = ().serve_with_lifecycle(transport, lifecycle).await.expect("a connection");
    let remote = connect(&urls[0]).await;
    let mut bare = Bare::new(&urls[0]);
    let arguments = json!({ "message": "hello" });
    let mut took: [Vec<f64>; 4] = Default::default();
    for round in 0..WARMUP + CALLS {
        let calls = [
            bare.call(),
            sdk_call(&sdk, &arguments).await,
            straight_call(&remote, &arguments).await,
            multiplexed_call(&multiplexer, &arguments).await,
        ];
        if round >= WARMUP {
            took.iter_mut().zip(calls).for_each(|(took, call)| took.push(call));
        }
    }
    let [bare, alone, straight, through] = took.map(median);
    println!(
        "{}",
        json!({
            "bench": "multiplexer",
            "calls": CALLS,
            "bare_us": bare,
            "sdk_us": alone,
            "straight_us": straight,
            "multiplexer_us": through,
            "added_us": ((through - straight.min(alone)) * 10.0).round() / 10.0,
        })
    );
    multiplexer.close().await;
    remote.close().await;
    let _ = sdk.cancel().await;
}

/// Starts a server on a thread of its own; returns the URL of its tools.
fn serve() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
            let address = "127.0.0.1:0".parse().expect("an address");
            let server = Server::bind(address, store, ServerConfig::default()).await.expect("a port");
            tell.send(server.address().expect("its address")).expect("somebody waits");
            server.run(std::future::pending()).await;
        });
    });
    format!("http://{}/mcp", told.recv().expect("an address"))
}

async fn connect(url: &str) -> Remote {
    let patience = Duration::from_secs(10);
    let endpoint = RemoteEndpoint::new(url, &[], patience).expect("a URL");
    endpoint.connect(tokio::time::Instant::now() + patience).await.expect("a connection")
}

async fn straight_call(remote: &Remote, arguments: &Value) -> f64 {
    let began = Instant::now();
    let result = remote.call(TOOL, arguments, None).await;
    assert!(!result.expect("a result").is_error, "a tool that echoes");
    began.elapsed().as_secs_f64() * 1e6
}

async fn sdk_call(client: &Sdk, arguments: &Value) -> f64 {
    let began = Instant::now();
    let arguments = arguments.as_object().cloned().unwrap_or_default();
    let result = client.call_tool(CallToolRequestParams::new(TOOL).with_arguments(arguments)).await;
    assert_ne!(result.expect("a result").is_error, Some(true), "a tool that echoes");
    began.elapsed().as_secs_f64() * 1e6
}

async fn multiplexed_call(multiplexer: &Multiplexer, arguments: &Value) -> f64 {
    let began = Instant::now();
    let result = multiplexer.call_tool(TOOL, arguments.clone()).await;
    assert!(!result.expect("a result").is_error, "a tool that echoes");
    began.elapsed().as_secs_f64() * 1e6
}

/// A keep-alive connection and the bytes of one call.
struct Bare {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl Bare {
    fn new(url: &str) -> Self {
        let address = url.trim_start_matches("http://").trim_end_matches("/mcp");
        let version = "2026-07-28";
        let body = json!({
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {
                "name": TOOL,
                "arguments": { "message": "hello" },
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": version,
                    "io.modelcontextprotocol/clientInfo": { "name": "bare", "version": "1" },
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            },
        })
        .to_string();
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {version}\r\n\
             Mcp-Method: tools/call\r\nMcp-Name: {TOOL}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Bare { stream, request: request.into_bytes(), reply: vec![0; 64 << 10] }
    }

    /// Blocks; the server runs on a thread of its own.
    fn call(&mut self) -> f64 {
        let began = Instant::now();
        self.stream.write_all(&self.request).expect("the server reads");
        let mut filled = 0;
        while !self.reply[..filled].ends_with(b"}") {
            filled += self.stream.read(&mut self.reply[filled..]).expect("the server answers");
        }
        let took = began.elapsed().as_secs_f64() * 1e6;
        assert!(
            self.reply.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.reply[..filled])
        );
        took
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 10.0).round() / 10.0
}
