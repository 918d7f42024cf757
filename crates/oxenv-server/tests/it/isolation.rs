//! One session's trouble is its own: panics, hangs, resets through another door.

use oxenv_core::{Execution, SessionOptions, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{code, get, http, post, soon, until};
use serde_json::{Value, json};

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

async fn with(execution: Execution) -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, execution).tools(true).scoring();
    Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await
}

#[tokio::test]
async fn a_panic_on_a_socket_is_told_and_a_reset_heals_it() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let served = with(execution).await;
        let mut neighbour = served.ws("/ws").await;
        neighbour.step(&json!({})).await;
        let mut socket = served.ws("/ws").await;
        for round in 1..=3 {
            let reply = socket.step(&json!({ "do": "panic" })).await;
            assert_eq!(code(&reply), "EXECUTION_ERROR", "{execution:?}");
            assert_eq!(reply["data"]["oxenv"]["code"], "ENVIRONMENT_PANICKED");
            until("its slot is free", || served.active() == 1).await;
            assert_eq!(socket.ask(&json!({ "type": "reset" })).await["type"], "observation", "{round}");
            assert_eq!(socket.step(&json!({})).await["data"]["observation"]["count"], 1);
        }
        socket.step(&json!({ "do": "panic" })).await;
        // Whoever does not reset is told once more, and the socket closes.
        assert_eq!(code(&socket.step(&json!({})).await), "SESSION_ERROR");
        assert_eq!(socket.closed().await, 1000);
        assert_eq!(neighbour.step(&json!({})).await["data"]["observation"]["count"], 2);
        neighbour.close().await;
        served.end().await;
    }
}

#[tokio::test]
async fn a_panic_in_an_attached_session_is_not_healed_by_its_socket() {
    let served = serve().await;
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let mut socket = served.ws(&format!("/ws?session_id={}", session.id())).await;
    socket.step(&json!({ "do": "panic" })).await;
    assert_eq!(code(&socket.ask(&json!({ "type": "reset" })).await), "SESSION_ERROR");
    assert_eq!(socket.closed().await, 1000);
    drop(session);
    served.end().await;
}

#[tokio::test]
async fn every_place_a_panic_can_come_from_is_answered() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let served = with(execution).await;
        let reset = post(served.address, "/reset", &json!({ "do": "panic" })).await;
        assert_eq!((reset.status, &reset.json()["oxenv"]["phase"]), (500, &json!("reset")), "{execution:?}");
        post(served.address, "/reset", &json!({})).await;
        post(served.address, "/step", &json!({ "action": { "do": "state", "how": "panic" } })).await;
        let state = get(served.address, "/state").await;
        assert_eq!((state.status, &state.json()["oxenv"]["code"]), (500, &json!("ENVIRONMENT_PANICKED")));
        post(served.address, "/reset", &json!({})).await;
        let call =
            json!({ "type": "call_tool", "tool_name": "say", "arguments": { "after": { "do": "panic" } } });
        let scored = post(served.address, "/step", &json!({ "action": call })).await;
        assert_eq!((scored.status, &scored.json()["oxenv"]["phase"]), (500, &json!("verify")));
        post(served.address, "/reset", &json!({})).await;
        for tool in ["panic", "panic_later"] {
            let call = json!({ "type": "call_tool", "tool_name": tool });
            let reply = post(served.address, "/step", &json!({ "action": call })).await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.json()["observation"]["error"]["error_type"], "execution_error");
        }
        post(served.address, "/step", &json!({ "action": { "do": "drop_panics" } })).await;
        let id = served.app.store.list()[0].id().to_owned();
        assert_eq!(http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await.status, 200);
        served.end().await;
    }
}

#[tokio::test]
async fn many_sessions_and_every_third_panics() {
    let served = with(Execution::Task).await;
    let mut sockets = Vec::new();
    for _ in 0..60 {
        sockets.push(served.ws("/ws").await);
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        let script = if number % 3 == 0 { "panic" } else { "count" };
        socket.send(&json!({ "type": "step", "data": { "do": script } })).await;
    }
    for (number, socket) in sockets.iter_mut().enumerate() {
        let expected = if number % 3 == 0 { "error" } else { "observation" };
        assert_eq!(socket.recv().await["type"], expected);
    }
    until("a third is gone", || served.active() == 40).await;
    for socket in sockets {
        drop(socket);
    }
    served.end().await;
}

#[tokio::test]
async fn a_step_that_never_returns_can_be_ended() {
    let served = serve().await;
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let path = format!("/sessions/{}", session.id());
    drop(session);
    let stepping = tokio::spawn({
        let (address, path) = (served.address, format!("{path}/step"));
        async move { post(address, &path, &json!({ "action": { "do": "wait" } })).await }
    });
    served.stage.entered().await;
    // Everybody else goes on, and so do reads of this one.
    assert_eq!(post(served.address, "/step", &json!({ "action": {} })).await.status, 200);
    assert_eq!(get(served.address, &format!("{path}/state")).await.status, 200);
    assert_eq!(get(served.address, &path).await.status, 200);
    assert_eq!(get(served.address, "/health").await.status, 200);
    assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
    assert_eq!(soon(stepping).await.unwrap().status, 410);
    until("its slot is free", || served.active() == 0).await;
    served.end().await;
}

#[tokio::test]
async fn a_thread_that_never_returns_is_told_by_ready() {
    let served = with(Execution::Blocking).await;
    let mut socket = served.ws("/ws").await;
    socket.send(&json!({ "type": "step", "data": { "do": "block" } })).await;
    served.stage.entered().await;
    drop(socket);
    until("its slot is free", || served.active() == 0).await;
    let ready = get(served.address, "/ready").await.json();
    assert_eq!((&ready["status"], &ready["stuck_environments"]), (&json!("ready"), &json!(1)));
    assert_eq!(post(served.address, "/step", &json!({ "action": {} })).await.status, 200);
    served.stage.unblock();
    until("it came back", || served.app.store.status().stuck == 0).await;
    assert_eq!(get(served.address, "/ready").await.json()["stuck_environments"], 0);
    served.end().await;
}

#[tokio::test]
async fn a_reset_through_another_door_cancels_what_is_in_flight() {
    let served = serve().await;
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let path = format!("/sessions/{}", session.id());
    let mut socket = served.ws(&format!("/ws?session_id={}", session.id())).await;
    socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    served.stage.entered().await;
    let agents: Vec<_> = (0..3)
        .map(|id| {
            let (address, path) = (served.address, format!("{path}/mcp"));
            let request =
                json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": "wait" } });
            tokio::spawn(async move { post(address, &path, &request).await.json() })
        })
        .collect();
    for _ in 0..3 {
        served.stage.entered().await;
    }
    let reset = soon(post(served.address, &format!("{path}/reset"), &json!({}))).await;
    assert_eq!(reset.status, 200);
    let cancelled = |data: &Value| assert_eq!(data["oxenv"]["code"], "CANCELLED", "{data}");
    cancelled(&socket.recv().await["data"]);
    for agent in agents {
        cancelled(&soon(agent).await.unwrap()["error"]["data"]);
    }
    assert_eq!((served.stage.cancelled(), session.info().epoch, session.info().step_count), (4, 1, 0));
    assert_eq!(socket.step(&json!({})).await["data"]["observation"]["count"], 1);
    socket.close().await;
    session.end(oxenv_core::EndReason::Closed);
    drop(session);
    served.end().await;
}

#[tokio::test]
async fn a_reset_of_its_own_socket_waits_in_line() {
    let served = serve().await;
    let mut socket = served.ws("/ws").await;
    // On one socket replies come in order, so a reset is no way to cancel there.
    socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
    socket.send(&json!({ "type": "reset" })).await;
    served.stage.entered().await;
    served.stage.open("");
    assert_eq!(socket.recv().await["data"]["reward"], 2);
    assert_eq!(socket.recv().await["data"]["reward"], 0.0);
    socket.close().await;
    served.end().await;
}
