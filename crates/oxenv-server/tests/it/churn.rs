//! Two thousand sessions that come and go by every door and in every manner.

use std::time::Duration;

use oxenv_test_support::{http, post, rpc};
use serde_json::json;

use crate::served::{Served, serve};

const CLIENTS: usize = 20;
const SESSIONS: usize = 100;

#[tokio::test]
async fn two_thousand_sessions_leave_nothing() {
    let served = serve().await;
    let mut clients = tokio::task::JoinSet::new();
    let served = std::sync::Arc::new(served);
    for client in 0..CLIENTS {
        let served = std::sync::Arc::clone(&served);
        clients.spawn(async move {
            for session in 0..SESSIONS {
                one(&served, client + session).await;
            }
        });
    }
    // A bound for a machine with much else to do; alone it takes a few seconds.
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(180), all).await.expect("the clients hang");
    let served = std::sync::Arc::into_inner(served).unwrap();
    assert_eq!(served.stage.notes().len(), CLIENTS * SESSIONS, "not every session was stepped");
    served.end().await;
}

/// One session, opened, stepped and ended in one of five ways.
async fn one(served: &Served, way: usize) {
    let note = json!({ "do": "note", "text": "stepped" });
    match way % 5 {
        0 => {
            let mut socket = served.ws("/ws").await;
            assert_eq!(socket.ask(&json!({ "type": "reset" })).await["type"], "observation");
            socket.step(&note).await;
            socket.close().await;
        }
        1 => {
            let mut socket = served.ws("/ws").await;
            socket.step(&note).await;
            // Gone in the middle of a step.
            socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
        }
        2 => {
            let created = post(served.address, "/sessions", &json!({})).await.json();
            let path = format!("/sessions/{}", created["session_id"].as_str().unwrap());
            assert_eq!(post(served.address, &format!("{path}/reset"), &json!({})).await.status, 200);
            assert_eq!(
                post(served.address, &format!("{path}/step"), &json!({ "action": note })).await.status,
                200
            );
            assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
        }
        3 => {
            let created = rpc(served.address, "openenv/session/create", json!({})).await;
            let id = created["result"]["session_id"].as_str().unwrap().to_owned();
            let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
            socket.step(&note).await;
            drop(socket);
            rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
        }
        _ => {
            let mut socket = served.ws("/ws").await;
            socket.step(&note).await;
            socket.step(&json!({ "do": "panic" })).await;
        }
    }
}
