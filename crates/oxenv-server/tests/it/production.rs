//! Production mode: agents only, whatever door is tried.

use oxenv_core::SessionOptions;
use oxenv_test_support::{code, get, http, post, rpc, rpc_code, until};
use serde_json::{Value, json};

use crate::served::serve_production;

fn call(tool: &str, arguments: &Value) -> Value {
    json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments })
}

#[tokio::test]
async fn the_control_routes_are_not_there() {
    let served = serve_production().await;
    for (method, path) in [
        ("POST", "/reset"),
        ("POST", "/step"),
        ("GET", "/state"),
        ("POST", "/sessions"),
        ("GET", "/sessions"),
        ("GET", "/sessions/x"),
        ("DELETE", "/sessions/x"),
        ("POST", "/sessions/x/reset"),
        ("POST", "/sessions/x/step"),
        ("GET", "/sessions/x/state"),
    ] {
        let reply = http(served.address, method, path, &[("content-type", "application/json")], b"{}").await;
        assert_eq!((reply.status, reply.json()), (404, json!({ "detail": "Not Found" })), "{method} {path}");
    }
    for path in [
        "/health",
        "/ready",
        "/metadata",
        "/schema",
        "/tools",
        "/openapi.json",
        "/docs",
        "/list_environments",
    ] {
        assert_eq!(get(served.address, path).await.status, 200, "{path}");
    }
    served.end().await;
}

#[tokio::test]
async fn a_control_socket_lists_and_calls_tools_and_nothing_else() {
    let served = serve_production().await;
    let mut socket = served.ws("/ws").await;
    let listed = socket.step(&json!({ "type": "list_tools" })).await;
    assert_eq!(listed["data"]["observation"]["tools"][0]["name"], "say");
    let called = socket.step(&call("say", &json!({ "text": "hi" }))).await;
    assert_eq!(
        (&called["data"]["observation"]["result"]["data"], &called["data"]["reward"]),
        (&json!("hi"), &Value::Null)
    );
    for frame in [
        json!({ "type": "reset" }),
        json!({ "type": "reset", "data": { "seed": 1 } }),
        json!({ "type": "state" }),
        json!({ "type": "step", "data": {} }),
        json!({ "type": "step", "data": { "do": "count" } }),
        json!({ "type": "step", "data": { "action_type": "code", "code": "1" } }),
    ] {
        let reply = socket.ask(&frame).await;
        assert_eq!(
            (code(&reply), &reply["data"]["oxenv"]["code"]),
            ("EXECUTION_ERROR", &json!("MODE_REFUSED")),
            "{frame}"
        );
    }
    let reply = socket
        .ask(&json!({ "type": "mcp", "data": { "jsonrpc": "2.0", "id": 1, "method": "tools/list" } }))
        .await;
    assert!(reply["data"]["result"]["tools"].is_array());
    socket.close().await;
    served.end().await;
}

/// A stock tool client makes its session over HTTP, attaches to it and calls over HTTP.
#[tokio::test]
async fn a_stock_tool_client_may_attach() {
    let served = serve_production().await;
    let created = rpc(served.address, "openenv/session/create", json!({})).await;
    let id = created["result"]["session_id"].as_str().unwrap().to_owned();
    let mut socket = served.ws(&format!("/ws?session_id={id}")).await;
    socket.step(&call("say", &json!({}))).await;
    let reply = rpc(
        served.address,
        "tools/call",
        json!({ "name": "say", "session_id": id, "arguments": { "text": "x" } }),
    )
    .await;
    assert_eq!(reply["result"]["data"], "x");
    assert_eq!(served.app.store.get(&id).unwrap().info().step_count, 2);
    let closing = rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
    assert_eq!(closing["result"], json!({ "session_id": id, "closed": false, "closing": true }));
    socket.close().await;
    until("it is closed", || served.active() == 0).await;
    served.end().await;
}

#[tokio::test]
async fn who_names_no_session_sees_only_the_servers_tools() {
    let served = serve_production().await;
    let listed = rpc(served.address, "tools/list", json!({})).await;
    assert!(listed["result"]["tools"].is_array());
    let called =
        rpc(served.address, "tools/call", json!({ "name": "say", "arguments": { "text": "hi" } })).await;
    assert_eq!(called["result"]["data"], "hi");
    assert!(served.app.store.list().is_empty(), "a request without a session made one");
    assert_eq!(rpc_code(&rpc(served.address, "tools/call", json!({ "name": "reset" })).await), -32603);
    let session = served.app.store.create(SessionOptions::default()).await.unwrap();
    let path = format!("/sessions/{}/mcp", session.id());
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "say" } });
    assert!(post(served.address, &path, &request).await.json()["result"].is_object());
    assert_eq!(session.info().step_count, 1);
    session.end(oxenv_core::EndReason::Closed);
    drop(session);
    served.end().await;
}
