//! Sockets that attach to a session: the last one wins, and none takes the session along.

use std::time::Duration;

use futures_util::StreamExt;
use oxenv_test_support::{code, http, post, rpc, rpc_code, until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::served::{Served, serve};

async fn create(served: &Served) -> String {
    let created = post(served.address, "/sessions", &json!({})).await.json();
    created["session_id"].as_str().unwrap().to_owned()
}

async fn delete(served: &Served, id: &str) {
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await.status, 200);
}

fn attached(served: &Served, id: &str) -> u32 {
    served.app.store.get(id).unwrap().info().attached
}

#[tokio::test]
async fn an_attached_socket_gives_the_session_back() {
    let served = serve().await;
    let id = create(&served).await;
    for count in 1..=3 {
        let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
        assert_eq!(socket.step(&json!({})).await["data"]["observation"]["count"], count);
        assert_eq!(attached(&served, &id), 1);
        if count == 2 {
            drop(socket);
        } else {
            socket.close().await;
        }
        until("it is detached", || attached(&served, &id) == 0).await;
    }
    delete(&served, &id).await;
    served.end().await;
}

#[tokio::test]
async fn the_last_attach_wins() {
    let served = serve().await;
    let id = create(&served).await;
    let path = format!("/ws?session_id={id}");
    let mut first = served.ws(&path).await;
    first.step(&json!({})).await;
    let mut second = served.ws(&path).await;
    let told = first.recv().await;
    assert_eq!(code(&told), "SESSION_ERROR");
    assert!(told["data"]["message"].as_str().unwrap().contains("another socket"), "{told}");
    assert_eq!(first.closed().await, 1000);
    assert_eq!(second.step(&json!({})).await["data"]["observation"]["count"], 2);
    assert_eq!(attached(&served, &id), 1);
    second.close().await;
    delete(&served, &id).await;
    served.end().await;
}

#[tokio::test]
async fn the_one_that_loses_still_gets_the_reply_it_waits_for() {
    let served = serve().await;
    let id = create(&served).await;
    let path = format!("/ws?session_id={id}");
    let mut first = served.ws(&path).await;
    first.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    served.stage.entered().await;
    let mut second = served.ws(&path).await;
    // What needs no lock is answered at once, the step comes after the one that runs.
    assert_eq!(second.ask(&json!({ "type": "state" })).await["data"]["step_count"], 0);
    second.send(&json!({ "type": "step", "data": {} })).await;
    served.stage.open("");
    assert_eq!(first.recv().await["data"]["reward"], 2);
    assert_eq!(code(&first.recv().await), "SESSION_ERROR");
    assert_eq!(first.closed().await, 1000);
    assert_eq!(second.recv().await["data"]["observation"]["count"], 102);
    second.close().await;
    delete(&served, &id).await;
    served.end().await;
}

/// A client whose socket hangs takes its own session over with a new one.
#[tokio::test]
async fn a_session_that_a_socket_made_can_be_taken_over() {
    let served = serve().await;
    let mut first = served.ws("/ws").await;
    first.step(&json!({})).await;
    let create =
        json!({ "type": "mcp", "data": { "jsonrpc": "2.0", "id": 1, "method": "openenv/session/create" } });
    let told = first.ask(&create).await;
    let id = told["data"]["result"]["session_id"].as_str().unwrap().to_owned();
    let mut second = served.ws(&format!("/ws?session_id={id}")).await;
    assert_eq!(code(&first.recv().await), "SESSION_ERROR");
    assert_eq!(first.closed().await, 1000);
    assert_eq!(second.step(&json!({})).await["data"]["observation"]["count"], 2);
    second.close().await;
    // Nobody owns it any more, so it lives until it is closed or its lease runs out.
    until("it is detached", || attached(&served, &id) == 0).await;
    delete(&served, &id).await;
    served.end().await;
}

#[tokio::test]
async fn a_close_by_method_waits_for_the_socket() {
    let served = serve().await;
    let created = rpc(served.address, "openenv/session/create", json!({})).await;
    let id = created["result"]["session_id"].as_str().unwrap().to_owned();
    let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
    socket.step(&json!({})).await;
    for _ in 0..2 {
        let reply = rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
        assert_eq!(reply["result"], json!({ "session_id": id, "closed": false, "closing": true }));
    }
    assert_eq!(socket.step(&json!({})).await["type"], "observation");
    socket.close().await;
    until("it is closed", || served.active() == 0).await;
    let reply = rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
    assert_eq!(rpc_code(&reply), -32602);

    let created = rpc(served.address, "openenv/session/create", json!({})).await;
    let id = created["result"]["session_id"].as_str().unwrap().to_owned();
    let reply = rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
    assert_eq!(reply["result"], json!({ "session_id": id, "closed": true }));
    served.end().await;
}

#[tokio::test]
async fn a_socket_cannot_close_its_own_session_by_method() {
    let served = serve().await;
    for (path, framed) in [("/ws", true), ("/mcp", false)] {
        let mut socket = served.ws(path).await;
        let id = Value::from(1);
        let ask = |method: &str, params: Value| {
            let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
            if framed { json!({ "type": "mcp", "data": request }) } else { request }
        };
        let reply = |frame: Value| if framed { frame["data"].clone() } else { frame };
        let created = reply(socket.ask(&ask("openenv/session/create", json!({}))).await);
        let own = created["result"]["session_id"].clone();
        let refused = reply(socket.ask(&ask("openenv/session/close", json!({ "session_id": own }))).await);
        assert_eq!(rpc_code(&refused), -32600, "{path}");
        let called = reply(socket.ask(&ask("tools/call", json!({ "name": "say", "session_id": own }))).await);
        assert!(called["result"].is_object(), "{called}");
        socket.close().await;
    }
    served.end().await;
}

#[tokio::test]
async fn a_session_that_ends_under_its_socket() {
    let served = serve().await;
    let id = create(&served).await;
    let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
    socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    served.stage.entered().await;
    delete(&served, &id).await;
    let reply = socket.recv().await;
    assert_eq!((code(&reply), &reply["data"]["oxenv"]["code"]), ("SESSION_ERROR", &json!("SESSION_ENDED")));
    assert_eq!(socket.closed().await, 1000);
    served.end().await;
}

/// An answered ping is life: the lease runs only once the socket is gone. Time is paused, so it
/// jumps to the next timer whenever nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn a_lease_waits_for_the_socket() {
    let served = serve().await;
    let id = create(&served).await;
    let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
    // Half a minute each: twice the lease.
    for _ in 0..60 {
        let next = tokio::time::timeout(Duration::from_secs(60), socket.0.next()).await;
        let next = next.expect("no ping").unwrap().unwrap();
        assert!(matches!(next, Message::Ping(_)), "{next:?}");
    }
    assert_eq!(socket.step(&json!({})).await["type"], "observation");
    socket.close().await;
    tokio::time::sleep(Duration::from_secs(14 * 60)).await;
    assert_eq!(served.active(), 1);
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(served.active(), 0);
    let reply = oxenv_test_support::get(served.address, &format!("/sessions/{id}")).await;
    assert_eq!(reply.status, 410);
    assert!(reply.json()["detail"].as_str().unwrap().contains("lease ran out"), "{}", reply.text());
    served.end().await;
}
