//! Sockets are always read: pings, frames sent ahead, and a client that goes away in the middle.

use std::time::Duration;

use futures_util::StreamExt;
use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{RawWs, Ws, soon, until};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

#[tokio::test]
async fn a_ping_is_answered_while_a_step_hangs() {
    for path in ["/ws", "/mcp"] {
        let served = serve().await;
        let mut socket = served.ws(path).await;
        socket.send(&hanging(path)).await;
        served.stage.entered().await;
        for payload in ["one", "two"] {
            socket.send_message(Message::Ping(payload.into())).await;
            match soon(socket.0.next()).await {
                Some(Ok(Message::Pong(pong))) => assert_eq!(&pong[..], payload.as_bytes()),
                other => panic!("no pong: {other:?}"),
            }
        }
        served.stage.open("");
        socket.recv().await;
        socket.close().await;
        served.end().await;
    }
}

/// A request that hangs, in the spelling of that door.
fn hanging(path: &str) -> serde_json::Value {
    match path {
        "/ws" => json!({ "type": "step", "data": { "do": "wait" } }),
        _ => json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "wait" } }),
    }
}

#[tokio::test]
async fn a_thousand_frames_in_one_go_are_answered_in_order() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution);
        let served = Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
        let Ws(socket) = served.ws("/ws").await;
        let (mut write, mut read) = socket.split();
        let writing = tokio::spawn(async move {
            use futures_util::SinkExt;
            for number in 1..=1000 {
                let frame = match number % 100 {
                    0 => json!({ "type": "state" }),
                    _ => json!({ "type": "step", "data": {} }),
                };
                write.send(Message::text(frame.to_string())).await.unwrap();
            }
            write
        });
        let mut count = 0;
        for number in 1..=1000 {
            let Some(Ok(Message::Text(text))) = soon(read.next()).await else { panic!("the socket ended") };
            let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
            if number % 100 == 0 {
                assert_eq!((&reply["type"], &reply["data"]["count"]), (&json!("state"), &json!(count)));
            } else {
                count += 1;
                assert_eq!(reply["data"]["observation"]["count"], count, "{execution:?}");
            }
        }
        let whole = writing.await.unwrap().reunite(read).unwrap();
        Ws(whole).close().await;
        served.end().await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_cancels_its_step() {
    for path in ["/ws", "/mcp"] {
        for politely in [true, false] {
            let served = serve().await;
            let mut socket = served.ws(path).await;
            socket.send(&hanging(path)).await;
            served.stage.entered().await;
            assert_eq!(served.active(), 1);
            if politely {
                socket.0.close(None).await.unwrap();
            }
            drop(socket);
            until("the step is cancelled", || served.stage.cancelled() == 1).await;
            until("the slot is free", || served.active() == 0).await;
            served.end().await;
        }
    }
}

/// More frames than the server keeps: it stops reading, and must notice all the same.
#[tokio::test]
async fn a_client_that_vanishes_behind_many_frames_cancels_its_step() {
    let stage = Stage::default();
    let config = ServerConfig { ping_every: Duration::from_millis(20), ..ServerConfig::default() };
    let factory = Scripted::new(&stage, Execution::Task);
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let mut socket = RawWs::connect(served.address, "/ws").await;
    socket.step(&json!({ "do": "wait" })).await;
    stage.entered().await;
    for _ in 0..200 {
        socket.step(&json!({ "do": "note" })).await;
    }
    drop(socket);
    until("the step is cancelled", || stage.cancelled() == 1).await;
    assert!(stage.notes().is_empty(), "a step of a client that is gone was run");
    served.end().await;
}

/// A client that sent more than is kept while a step took longer than a dead socket is given: it
/// was not read, so nothing says that it is dead.
#[tokio::test]
async fn a_client_that_had_to_wait_is_not_taken_for_dead() {
    let stage = Stage::default();
    let config = ServerConfig {
        ping_every: Duration::from_millis(20),
        dead_after: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let factory = Scripted::new(&stage, Execution::Task);
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let mut socket = served.ws("/ws").await;
    // As many as fill the space for frames sent ahead, and none to spare.
    for _ in 0..=64 {
        socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    }
    for _ in 0..=64 {
        stage.entered().await;
        if stage.notes().is_empty() {
            // Longer than the limit; only time can show that nothing happens in it.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        stage.open("");
        assert_eq!(socket.recv().await["data"]["reward"], 2);
    }
    socket.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_client_of_http_that_vanishes_cancels_its_step() {
    let served = serve().await;
    let mut client = TcpStream::connect(served.address).await.unwrap();
    let body = json!({ "action": { "do": "wait" } }).to_string();
    let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    client.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    served.stage.entered().await;
    drop(client);
    until("the step is cancelled", || served.stage.cancelled() == 1).await;
    until("the connection is gone", || served.app.connections() == 0).await;
    let reply = oxenv_test_support::post(served.address, "/step", &json!({ "action": {} })).await;
    assert_eq!((reply.status, &reply.json()["oxenv"]["code"]), (409, &json!("RESET_REQUIRED")));
    assert_eq!(oxenv_test_support::post(served.address, "/reset", &json!({})).await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn a_close_frame_of_ours_ends_the_socket_without_a_reply() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    socket.step(&json!({})).await;
    socket.send(&json!({ "type": "close" })).await;
    // What is sent after it is not looked at.
    socket.send(&json!({ "type": "step", "data": { "do": "note" } })).await;
    assert_eq!(socket.closed().await, 1000);
    assert!(served.stage.notes().is_empty());
    served.end().await;
}

#[tokio::test]
async fn a_client_that_stops_writing_is_gone() {
    let served = serve().await;
    let mut socket = RawWs::connect(served.address, "/ws").await;
    socket.step(&json!({ "do": "wait" })).await;
    served.stage.entered().await;
    socket.0.shutdown().await.unwrap();
    until("the step is cancelled", || served.stage.cancelled() == 1).await;
    while socket.recv().await.is_some() {}
    drop(socket);
    served.end().await;
}

#[tokio::test]
async fn a_session_of_a_socket_ends_with_it() {
    let served = serve().await;
    for path in ["/ws", "/mcp"] {
        let sockets = [served.ws(path).await, served.ws(path).await, served.ws(path).await];
        until("each has a session", || served.active() == 3).await;
        let [polite, rude, silent] = sockets;
        polite.close().await;
        drop(rude);
        until("two are gone", || served.active() == 1).await;
        drop(silent);
        until("all are gone", || served.active() == 0).await;
    }
    served.end().await;
}
