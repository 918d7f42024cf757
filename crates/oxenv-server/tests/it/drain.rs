//! Stopping: what runs may finish for a bounded time, nothing new begins, and then nothing is left.

use std::time::{Duration, Instant};

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{RawWs, post, soon, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

async fn with(execution: Execution, drain: Duration) -> Served {
    let stage = Stage::default();
    let config = ServerConfig { drain, ..ServerConfig::default() };
    Served::start(&stage, Scripted::new(&stage, execution).tools(true), StoreLimits::default(), config).await
}

#[tokio::test]
async fn a_step_that_runs_may_finish() {
    let mut served = serve().await;
    let mut socket = served.ws("/ws").await;
    socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    let overhttp = tokio::spawn({
        let address = served.address;
        async move { post(address, "/step", &json!({ "action": { "do": "wait", "at": "http" } })).await }
    });
    served.stage.entered().await;
    served.stage.entered().await;
    served.stop();
    until("it drains", || served.app.store.status().draining).await;
    until("the port is closed", || std::net::TcpStream::connect(served.address).is_err()).await;
    served.stage.open("");
    served.stage.open("http");
    assert_eq!(socket.recv().await["data"]["reward"], 2);
    assert_eq!(socket.closed().await, 1001);
    assert_eq!(soon(overhttp).await.unwrap().status, 200);
    served.gone().await;
}

#[tokio::test]
async fn what_the_end_of_the_drain_cuts_off_is_answered() {
    let tool = json!({ "type": "call_tool", "tool_name": "wait", "arguments": { "at": "never" } });
    for (execution, action) in [
        (Execution::Task, json!({ "do": "wait", "at": "never" })),
        (Execution::Blocking, json!({ "do": "block" })),
        (Execution::Inline, tool),
    ] {
        let mut served = with(execution, Duration::from_millis(100)).await;
        let mut socket = served.ws("/ws").await;
        socket.send(&json!({ "type": "step", "data": action })).await;
        let overhttp = tokio::spawn({
            let (address, action) = (served.address, action.clone());
            async move { post(address, "/step", &json!({ "action": action })).await }
        });
        let agent = tokio::spawn({
            let address = served.address;
            let params = json!({ "name": "wait", "arguments": { "at": "agent" } });
            let call = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
            async move { post(address, "/mcp", &call).await }
        });
        for _ in 0..3 {
            served.stage.entered().await;
        }
        let started = Instant::now();
        served.stop();
        let told = socket.recv().await;
        assert_eq!(told["data"]["oxenv"]["code"], "DRAINING", "{told}");
        assert_eq!(told["data"]["oxenv"]["delivered"], "maybe", "{told}");
        assert_eq!(socket.closed().await, 1001);
        let told = soon(overhttp).await.unwrap();
        assert_eq!(told.status, 503, "{}", told.text());
        assert!(told.text().contains("\"delivered\":\"maybe\""), "{}", told.text());
        let told = soon(agent).await.unwrap();
        assert!(told.text().contains("\"id\":7") && told.text().contains("DRAINING"), "{}", told.text());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        // A thread cannot be ended; the server does not wait for it.
        served.stopped().await;
        served.stage.unblock();
        served.stage.unblock();
        served.gone().await;
    }
}

#[tokio::test]
async fn idle_sockets_and_connections_do_not_hold_it_up() {
    let mut served = serve().await;
    let (control, agent) = (served.ws("/ws").await, served.ws("/mcp").await);
    until("each has a session", || served.active() == 2).await;
    let mut kept = TcpStream::connect(served.address).await.unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    soon(kept.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let started = Instant::now();
    served.stop();
    assert_eq!(control.closed().await, 1001);
    assert_eq!(agent.closed().await, 1001);
    soon(kept.read_to_end(&mut Vec::new())).await.unwrap();
    drop(kept);
    served.gone().await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn peers_that_do_nothing_hold_it_up_no_longer_than_the_drain() {
    let mut served = with(Execution::Task, Duration::from_millis(200)).await;
    // One never answers the close frame, one never ends its head, one never ends its body.
    let silent = RawWs::connect(served.address, "/ws").await;
    let mut half_head = TcpStream::connect(served.address).await.unwrap();
    half_head.write_all(b"GET /health HT").await.unwrap();
    let mut half_body = TcpStream::connect(served.address).await.unwrap();
    let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 99\r\n\r\n{";
    half_body.write_all(head.as_bytes()).await.unwrap();
    until("all are connected", || served.active() == 1 && served.app.connections() >= 3).await;
    let started = Instant::now();
    served.stop();
    served.stopped().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    drop((silent, half_head, half_body));
    served.gone().await;
}

#[tokio::test]
async fn a_server_with_nothing_to_do_stops_at_once() {
    let mut served = serve().await;
    let started = Instant::now();
    served.stop();
    served.gone().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
