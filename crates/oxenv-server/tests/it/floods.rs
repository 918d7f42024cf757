//! Peers that send without end and read nothing: memory stays bounded, and they are ended.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::{App, ServerConfig, serve_pipe};
use oxenv_test_support::{RawWs, http, masked_frame, soon, until};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::mcp_wire::BOTH;
use crate::served::Served;
use crate::stage::{Scripted, Stage};

/// How much this process may grow by what a peer sends, in MiB.
const MAX_GROWTH: u64 = 64;

/// Memory of this process that is in use, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Fails once this process has grown too much since its start.
struct Growth(u64);

impl Growth {
    fn new() -> Self {
        Growth(resident())
    }

    #[track_caller]
    fn check(&self) -> u64 {
        let growth = resident().saturating_sub(self.0);
        assert!(growth < MAX_GROWTH, "the process grew by {growth} MiB");
        growth
    }
}

async fn served(stall: Duration) -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let config = ServerConfig { stall, ..ServerConfig::default() };
    Served::start(&stage, factory, StoreLimits::default(), config).await
}

/// Pings and reads nothing until the server ends the connection.
async fn flood(socket: &mut RawWs) -> u64 {
    let pings = masked_frame(0x89, &[b'p'; 125]).repeat(1000);
    let (growth, start) = (Growth::new(), Instant::now());
    while start.elapsed() < Duration::from_secs(60) {
        let wrote = timeout(Duration::from_secs(30), socket.0.write_all(&pings)).await;
        growth.check();
        if wrote.expect("the server neither reads nor ends the connection").is_err() {
            return growth.check();
        }
    }
    panic!("the connection was never ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_pings_and_reads_nothing_is_ended() {
    for (path, protocol, busy) in
        [("/ws", None, false), ("/ws", None, true), ("/mcp", None, false), ("/ws", Some("oxenv.1"), false)]
    {
        let served = served(Duration::from_secs(3)).await;
        let mut socket = match protocol {
            None => RawWs::connect(served.address, path).await,
            Some(protocol) => RawWs::with_protocol(served.address, path, protocol).await,
        };
        if busy {
            socket.step(&json!({ "do": "wait" })).await;
            served.stage.entered().await;
        }
        let growth = flood(&mut socket).await;
        eprintln!("{path} {protocol:?} {busy}: the process grew by {growth} MiB");
        until("its session is gone", || served.active() == 0).await;
        assert_eq!(served.stage.cancelled(), usize::from(busy));
        drop(socket);
        served.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_that_pings_gets_its_large_reply() {
    let served = served(Duration::from_secs(20)).await;
    let mut socket = RawWs::connect(served.address, "/ws").await;
    let bytes = 64 << 20;
    socket.step(&json!({ "do": "big", "bytes": bytes })).await;
    for _ in 0..100 {
        socket.send(0x89, b"still here").await;
    }
    let (mut pongs, mut reply) = (0, Vec::new());
    while pongs < 100 || reply.is_empty() {
        if pongs % 50 == 0 {
            // Nothing is read for a while: the buffers of the sockets fill up.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        match socket.recv().await {
            Some((0x8a, payload)) => {
                assert_eq!(payload, b"still here");
                pongs += 1;
            }
            Some((0x81, payload)) => reply = payload,
            other => panic!("{other:?}"),
        }
    }
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply["data"]["observation"]["text"].as_str().unwrap().len(), bytes);
    socket.send(0x88, &1000_u16.to_be_bytes()).await;
    drop(socket);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_on_talking_cannot_hold_up_a_close() {
    let served = served(Duration::from_secs(20)).await;
    let mut socket = RawWs::connect(served.address, "/ws").await;
    socket.send(0x81, json!({ "type": "close" }).to_string().as_bytes()).await;
    let (mut reader, mut writer) = socket.0.into_split();
    let talking = tokio::spawn(async move {
        while writer.write_all(&masked_frame(0x89, b"more")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut said = Vec::new();
    soon(reader.read_to_end(&mut said)).await.ok();
    soon(talking).await.unwrap();
    drop(reader);
    served.end().await;
}

/// What a client on a pipe says first.
fn greeting() -> String {
    let params = json!({
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "by hand", "version": "1" },
    });
    let greeting = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
    let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    format!("{greeting}\n{initialized}\n")
}

/// A client on a pipe that is answered nothing it could read.
async fn flood_pipe(app: Arc<App>, line: impl Fn(u64) -> String) -> u64 {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(ours);
    let serving = tokio::spawn(serve_pipe(app, input, output, std::future::pending()));
    let (_unread, mut writer) = tokio::io::split(theirs);
    let growth = Growth::new();
    writer.write_all(greeting().as_bytes()).await.unwrap();
    let writing = async {
        for round in 0.. {
            let lines: String = (round * 1000..(round + 1) * 1000).map(&line).collect();
            if writer.write_all(lines.as_bytes()).await.is_err() {
                return;
            }
            growth.check();
        }
    };
    timeout(Duration::from_secs(60), writing).await.expect("the client is never disconnected");
    soon(serving).await.unwrap().unwrap();
    growth.check()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_a_pipe_that_takes_no_answers_is_disconnected() {
    for (method, params) in [
        ("ping", json!({})),
        ("tools/list", json!({})),
        ("tools/call", json!({ "name": "say", "arguments": { "text": "x".repeat(500) } })),
        ("tools/call", json!({ "name": "wait", "arguments": { "text": "x".repeat(500) } })),
    ] {
        let served = served(Duration::from_secs(1)).await;
        let growth = flood_pipe(Arc::clone(&served.app), |id| {
            format!("{}\n", json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))
        })
        .await;
        eprintln!("{method} {}: the process grew by {growth} MiB", params["name"]);
        until("its session has ended", || served.active() == 0).await;
        served.end().await;
    }
}

/// Requests beyond the bound are refused, and those within it are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_on_a_pipe_has_bounded_requests_in_flight() {
    let served = served(Duration::from_secs(60)).await;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(ours);
    let serving = tokio::spawn(serve_pipe(Arc::clone(&served.app), input, output, std::future::pending()));
    let (reader, mut writer) = tokio::io::split(theirs);
    let mut lines = BufReader::new(reader).lines();
    let writing = tokio::spawn(async move {
        writer.write_all(greeting().as_bytes()).await.unwrap();
        for id in 1..=1100 {
            let params = json!({ "name": "wait" });
            let call = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
            writer.write_all(format!("{call}\n").as_bytes()).await.unwrap();
        }
        writer
    });
    let mut refused = 0;
    while refused < 1100 - 1024 {
        let line = soon(lines.next_line()).await.unwrap().unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        if let Some(says) = answer["error"]["message"].as_str() {
            assert!(says.contains("too many requests at once: at most 1024"), "{says}");
            refused += 1;
        }
    }
    drop(soon(writing).await.unwrap());
    drop(lines);
    soon(serving).await.unwrap().unwrap();
    served.end().await;
}

/// A client that shakes hands, begins calls and goes away from each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_their_client_went_away_from_are_bounded() {
    let served = served(Duration::from_secs(60)).await;
    let headers = |session: &str| {
        format!(
            "POST /mcp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nmcp-session-id: {session}\r\n",
            served.address
        )
    };
    let greeting = greeting();
    let initialize = greeting.lines().next().unwrap();
    let accept = [("accept", BOTH), ("content-type", "application/json")];
    let reply = http(served.address, "POST", "/mcp", &accept, initialize.as_bytes()).await;
    let session = reply.header("mcp-session-id").unwrap().to_owned();
    let mut refused = 0;
    for id in 0..1200 {
        let params = json!({ "name": "wait", "arguments": { "text": "x".repeat(1000) } });
        let body =
            json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string();
        let request = format!("{}content-length: {}\r\n\r\n{body}", headers(&session), body.len());
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        soon(stream.read_exact(&mut status)).await.unwrap();
        match &status {
            b"HTTP/1.1 200" => {}
            b"HTTP/1.1 503" => refused += 1,
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert!(refused >= 1200 - 1024, "{refused} were refused");
    let end = [("mcp-session-id", session.as_str())];
    http(served.address, "DELETE", "/mcp", &end, b"").await;
    served.end().await;
}
