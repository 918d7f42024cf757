//! The table of `error.rs`: what each failure is over HTTP, on `/ws` and in JSON-RPC.

use std::time::Duration;

use oxenv_core::{EndReason, Execution, SessionOptions, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{code, get, post, rpc, rpc_code, until};
use serde_json::{Value, json};

use crate::served::{Served, serve};
use crate::stage::{Booting, Scripted, Stage};

/// Code, its kind where that decides, HTTP status, code on `/ws`, code in JSON-RPC.
const ROWS: [(&str, Option<&str>, u16, &str, i64); 19] = [
    ("VALIDATION_ERROR", None, 422, "VALIDATION_ERROR", -32602),
    ("CAPACITY_REACHED", None, 503, "CAPACITY_REACHED", -32000),
    ("DRAINING", None, 503, "CAPACITY_REACHED", -32000),
    ("FACTORY_ERROR", None, 500, "FACTORY_ERROR", -32000),
    ("SESSION_NOT_FOUND", None, 404, "SESSION_ERROR", -32602),
    ("SESSION_ENDED", None, 410, "SESSION_ERROR", -32602),
    ("DEADLINE_EXCEEDED", None, 504, "EXECUTION_ERROR", -32603),
    ("CANCELLED", None, 409, "EXECUTION_ERROR", -32603),
    ("RESET_REQUIRED", None, 409, "EXECUTION_ERROR", -32603),
    ("EPISODE_DONE", None, 409, "EXECUTION_ERROR", -32603),
    ("WRONG_EPOCH", None, 409, "EXECUTION_ERROR", -32603),
    ("MODE_REFUSED", None, 403, "EXECUTION_ERROR", -32603),
    ("UNSUPPORTED", None, 501, "EXECUTION_ERROR", -32603),
    ("EXECUTION_ERROR", Some("action"), 400, "EXECUTION_ERROR", -32603),
    ("EXECUTION_ERROR", Some("environment"), 500, "EXECUTION_ERROR", -32603),
    ("NON_FINITE_REWARD", None, 500, "EXECUTION_ERROR", -32603),
    ("ENVIRONMENT_PANICKED", None, 500, "EXECUTION_ERROR", -32603),
    ("INVALID_JSON", None, 422, "INVALID_JSON", -32603),
    ("SESSION_ERROR", None, 500, "SESSION_ERROR", -32602),
];

#[tokio::test]
async fn every_row_of_the_table() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Inline).tools(true).scoring();
    let served = Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
    for (name, kind, status, frame, rpc_error) in ROWS {
        let script = json!({ "do": "fail", "code": name, "kind": kind });
        let reply = post(served.address, "/step", &json!({ "action": script })).await;
        let body = reply.json();
        assert_eq!((reply.status, &body["detail"]), (status, &json!("made to fail")), "{name}");
        assert_eq!(body["oxenv"]["code"], name);
        assert!(body.get("reward").is_none() && body.get("observation").is_none(), "{body}");
        // Whoever may retry is told when.
        let retry = body["oxenv"]["retryable"] == true;
        assert_eq!(reply.header("retry-after").is_some(), retry, "{name}");

        let mut socket = served.ws("/ws").await;
        let reply = socket.step(&script).await;
        assert_eq!((code(&reply), &reply["data"]["message"]), (frame, &json!("made to fail")), "{name}");
        if name == "SESSION_ENDED" {
            assert_eq!(socket.closed().await, 1000);
        } else {
            assert_eq!(socket.step(&json!({})).await["type"], "observation", "{name}");
            socket.close().await;
        }

        let arguments = json!({ "name": "say", "arguments": { "text": "hi", "after": script } });
        let reply = rpc(served.address, "tools/call", arguments).await;
        assert_eq!(rpc_code(&reply), rpc_error, "{name}: {reply}");
        assert_eq!((&reply["id"], reply.get("result")), (&json!(1), None));
    }
    served.end().await;
}

#[tokio::test]
async fn a_failure_says_whose_fault_it_is_and_whether_to_retry() {
    let served = serve().await;
    let action = json!({ "do": "fail", "code": "EXECUTION_ERROR" });
    let body = post(served.address, "/step", &json!({ "action": action })).await.json();
    let expected = json!({
        "code": "EXECUTION_ERROR", "kind": "environment", "phase": "step", "delivered": "yes",
        "retryable": false,
    });
    assert_eq!(body["oxenv"], expected);
    let mut socket = served.ws("/ws").await;
    assert_eq!(socket.step(&action).await["data"]["oxenv"], expected);
    socket.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_full_server() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 2, queue: Duration::ZERO, ..StoreLimits::default() };
    let factory = Scripted::new(&stage, Execution::Inline);
    let served = Served::start(&stage, factory, limits, ServerConfig::default()).await;
    assert_eq!(get(served.address, "/ready").await.status, 200);
    let (first, second) = (served.ws("/ws").await, served.ws("/mcp").await);
    until("both have a session", || served.active() == 2).await;
    let ready = get(served.address, "/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("full")));
    assert_eq!(get(served.address, "/health").await.json(), json!({ "status": "healthy" }));
    let message = "Server at capacity: 2/2 sessions active. Cannot accept new connections.";

    let reply = post(served.address, "/sessions", &json!({})).await;
    assert_eq!((reply.status, &reply.json()["detail"]), (503, &json!(message)));
    assert!(reply.header("retry-after").is_some());

    let mut refused = served.ws("/ws").await;
    let expected = json!({ "type": "error", "data": {
        "message": message, "code": "CAPACITY_REACHED", "active_sessions": 2, "max_sessions": 2,
    } });
    assert_eq!(refused.recv().await, expected);
    assert_eq!(refused.closed().await, 1000);

    let mut refused = served.ws("/mcp").await;
    let reply = refused.recv().await;
    assert_eq!((rpc_code(&reply), &reply["id"]), (-32000, &Value::Null));
    assert_eq!(reply["error"]["data"], json!({ "active_sessions": 2, "max_sessions": 2 }));
    assert_eq!(refused.closed().await, 1000);

    let reply = rpc(served.address, "openenv/session/create", json!({})).await;
    assert_eq!(reply["error"]["data"], json!({ "active_sessions": 2, "max_sessions": 2 }));
    // The default session is outside the count.
    assert_eq!(post(served.address, "/reset", &json!({})).await.status, 200);
    // A place that becomes free can be taken.
    first.close().await;
    until("one is free", || served.active() == 1).await;
    let mut third = served.ws("/ws").await;
    assert_eq!(third.step(&json!({})).await["type"], "observation");
    third.close().await;
    second.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_server_that_drains() {
    let served = serve().await;
    let mut before = served.ws("/ws").await;
    before.step(&json!({})).await;
    served.app.store.drain();
    let reply = post(served.address, "/sessions", &json!({})).await;
    assert_eq!((reply.status, &reply.json()["oxenv"]["code"]), (503, &json!("DRAINING")));
    let mut refused = served.ws("/ws").await;
    let reply = refused.recv().await;
    assert_eq!((code(&reply), &reply["data"]["oxenv"]["code"]), ("CAPACITY_REACHED", &json!("DRAINING")));
    assert_eq!(refused.closed().await, 1000);
    let reply = rpc(served.address, "openenv/session/create", json!({})).await;
    assert_eq!((rpc_code(&reply), &reply["error"]["data"]["oxenv"]["code"]), (-32000, &json!("DRAINING")));
    assert_eq!(post(served.address, "/reset", &json!({})).await.status, 503);
    let ready = get(served.address, "/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("draining")));
    assert_eq!(before.step(&json!({})).await["type"], "observation");
    before.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_factory_that_fails_or_panics_or_never_finishes() {
    for booting in [Booting::Fails, Booting::Panics, Booting::PanicsLater, Booting::Never] {
        let stage = Stage::default();
        let limits = StoreLimits { boot: Duration::from_millis(20), ..StoreLimits::default() };
        let factory = Scripted::new(&stage, Execution::Task).tools(true).booting(booting);
        let served = Served::start(&stage, factory, limits, ServerConfig::default()).await;
        for (path, body) in
            [("/sessions", json!({})), ("/reset", json!({})), ("/step", json!({ "action": {} }))]
        {
            let reply = post(served.address, path, &body).await;
            assert_eq!(
                (reply.status, &reply.json()["oxenv"]["code"]),
                (500, &json!("FACTORY_ERROR")),
                "{booting:?}"
            );
        }
        assert_eq!(get(served.address, "/state").await.status, 500);
        let mut refused = served.ws("/ws").await;
        let reply = refused.recv().await;
        assert_eq!((code(&reply), &reply["data"]["factory_name"]), ("FACTORY_ERROR", &json!("scripted")));
        assert_eq!(refused.closed().await, 1000);
        let mut refused = served.ws("/mcp").await;
        assert_eq!(rpc_code(&refused.recv().await), -32000);
        assert_eq!(refused.closed().await, 1000);
        let reply = rpc(served.address, "tools/list", json!({})).await;
        assert_eq!((rpc_code(&reply), &reply["error"]["data"]["factory_name"]), (-32000, &json!("scripted")));
        // What needs no session is not affected.
        assert_eq!(get(served.address, "/schema").await.status, 200);
        served.end().await;
    }
}

#[tokio::test]
async fn a_session_that_never_was_and_one_that_has_ended() {
    let served = serve().await;
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let ended = session.id().to_owned();
    session.end(EndReason::Closed);
    drop(session);
    let odd = "no such/session\"\\\u{7}";
    for (id, in_path, in_query, status) in [
        (ended.as_str(), ended.as_str(), ended.as_str(), 410),
        ("unknown", "unknown", "unknown", 404),
        (odd, "no%20such%2Fsession%22%5C%07", "no+such%2Fsession%22%5C%07", 404),
    ] {
        for (method, path) in [
            ("GET", format!("/sessions/{in_path}")),
            ("GET", format!("/sessions/{in_path}/state")),
            ("DELETE", format!("/sessions/{in_path}")),
            ("POST", format!("/sessions/{in_path}/reset")),
            ("POST", format!("/sessions/{in_path}/step")),
            ("POST", format!("/sessions/{in_path}/mcp")),
        ] {
            let reply = oxenv_test_support::http(served.address, method, &path, &[], b"").await;
            assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
            assert!(reply.json()["detail"].as_str().unwrap().contains(id), "{}", reply.text());
        }
        let mut refused = served.ws(&format!("/ws?session_id={in_query}")).await;
        let reply = refused.recv().await;
        assert_eq!(code(&reply), "SESSION_ERROR");
        assert!(reply["data"]["message"].as_str().unwrap().contains(id), "{reply}");
        assert_eq!(refused.closed().await, 1000);
        for method in ["tools/list", "tools/call", "openenv/session/close"] {
            let reply = rpc(served.address, method, json!({ "name": "say", "session_id": id })).await;
            assert_eq!(rpc_code(&reply), -32602, "{method} {id}");
            if status == 404 {
                assert_eq!(reply["error"]["message"], format!("Unknown session_id: {id}"));
            }
        }
    }
    served.end().await;
}
