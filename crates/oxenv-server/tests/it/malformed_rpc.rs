//! JSON-RPC that is wrong, at all of its doors: `POST /mcp`, `POST /sessions/{id}/mcp`, `WS /mcp`
//! and `mcp` frames on `/ws`. Always one answer, always JSON-RPC.

use oxenv_test_support::{http, post_text, rpc, rpc_code};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::served::serve;

/// A message and the code it gets; a message without id and one that cannot be trusted get id null.
const WRONG: [(&str, i64); 28] = [
    ("", -32700),
    ("{", -32700),
    ("nope", -32700),
    ("{} {}", -32700),
    ("{\"id\":NaN}", -32700),
    ("[]", -32700),
    ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}]", -32700),
    ("5", -32700),
    ("null", -32700),
    ("\"tools/list\"", -32700),
    ("{}", -32600),
    ("{\"id\":1}", -32600),
    ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":2.0,\"id\":1,\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":5}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":true,\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":\"\\ud800\",\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"params\":[]}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\",\"extra\":1}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"tools/list\"}", -32600),
    ("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"nope\"}", -32601),
    ("{\"jsonrpc\":\"2.0\",\"method\":\"\"}", -32601),
    ("{\"jsonrpc\":\"2.0\",\"method\":\"reset\"}", -32601),
    ("{\"jsonrpc\":\"2.0\",\"method\":\"tools/call\"}", -32602),
    ("{\"jsonrpc\":\"2.0\",\"method\":\"tools/list\",\"params\":{\"session_id\":5}}", -32602),
];

#[track_caller]
fn refused(reply: &Value, code: i64, message: &str) {
    assert_eq!(rpc_code(reply), code, "{message}: {reply}");
    let error = reply["error"].as_object().unwrap();
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{reply}");
    assert!(error.contains_key("data"), "{reply}");
    assert_eq!((&reply["jsonrpc"], &reply["id"]), (&json!("2.0"), &Value::Null), "{message}");
}

/// An id is echoed, so it has a bound; one of 255 characters is echoed whole.
#[tokio::test]
async fn an_id_of_any_length_is_not_echoed() {
    let served = serve().await;
    let mut mcp = served.ws("/mcp").await;
    let mut ws = served.ws("/ws").await;
    for (id, taken) in [("é".repeat(255), true), ("é".repeat(256), false), ("x".repeat(10 << 20), false)] {
        let message = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" });
        let replies = [
            post_text(served.address, "/mcp", &message.to_string()).await.json(),
            mcp.ask(&message).await,
            ws.ask(&json!({ "type": "mcp", "data": message })).await["data"].clone(),
        ];
        for reply in replies {
            match taken {
                true => assert_eq!(reply["id"], id.as_str()),
                false => {
                    refused(&reply, -32600, "a long id");
                    assert!(reply.to_string().len() < 1000, "{} bytes", reply.to_string().len());
                }
            }
        }
    }
    mcp.close().await;
    ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn every_wrong_message_gets_one_error_at_every_door() {
    let served = serve().await;
    let reply = oxenv_test_support::post(served.address, "/sessions", &json!({})).await.json();
    let id = reply["session_id"].as_str().unwrap().to_owned();
    let mut mcp = served.ws("/mcp").await;
    let mut ws = served.ws("/ws").await;
    for (message, code) in WRONG {
        for path in ["/mcp".to_owned(), format!("/sessions/{id}/mcp")] {
            let reply = post_text(served.address, &path, message).await;
            assert_eq!(reply.status, 200, "{path} {message}");
            refused(&reply.json(), code, message);
        }
        mcp.send_text(message).await;
        refused(&mcp.recv().await, code, message);
        // Within a frame, what is no JSON object is the frame's fault.
        if code != -32700 {
            ws.send_text(&format!("{{\"type\":\"mcp\",\"data\":{message}}}")).await;
            let reply = ws.recv().await;
            assert_eq!(reply["type"], "mcp", "{reply}");
            refused(&reply["data"], code, message);
        }
    }
    mcp.close().await;
    ws.close().await;
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    served.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let served = serve().await;
    for bytes in [&b"\xff\xfe"[..], b"{\"id\":\"\xc3\x28\"}"] {
        let reply =
            http(served.address, "POST", "/mcp", &[("content-type", "application/json")], bytes).await;
        assert_eq!(reply.status, 200);
        refused(&reply.json(), -32700, "bytes");
    }
    // The type is not looked at: the dialect's clients send what they like.
    let list = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for kind in ["text/plain", "", "application/json; charset=latin-1"] {
        let reply = http(served.address, "POST", "/mcp", &[("content-type", kind)], list).await;
        assert!(reply.json()["result"]["tools"].is_array(), "{kind}");
    }
    let mut mcp = served.ws("/mcp").await;
    mcp.send_message(Message::binary(list.to_vec())).await;
    refused(&mcp.recv().await, -32700, "binary");
    mcp.send_text(str::from_utf8(list).unwrap()).await;
    assert!(mcp.recv().await["result"]["tools"].is_array());
    mcp.close().await;
    served.end().await;
}

#[tokio::test]
async fn wrong_parameters_of_a_call() {
    let served = serve().await;
    for (params, code, message) in [
        (json!({}), -32602, "Missing 'name' in params"),
        (json!({ "name": null }), -32602, "Missing 'name' in params"),
        (json!({ "name": 5 }), -32602, "'name' is a string"),
        (json!({ "name": "say", "arguments": [] }), -32602, "'arguments' is an object"),
        (json!({ "name": "say", "arguments": "x" }), -32602, "'arguments' is an object"),
        (json!({ "name": "say", "session_id": [] }), -32602, "'session_id' is a string"),
        (json!({ "name": "nope" }), -32603, "Unknown tool"),
        (json!({ "name": "" }), -32603, "Unknown tool"),
        (json!({ "name": "reset" }), -32603, "Unknown tool"),
        (json!({ "name": "fail" }), -32603, "it broke"),
        (json!({ "name": "complain" }), -32603, "cannot do that"),
        (json!({ "name": "panic" }), -32603, "panicked"),
        (json!({ "name": "panic_later" }), -32603, "panicked"),
    ] {
        let reply = rpc(served.address, "tools/call", params.clone()).await;
        assert_eq!((rpc_code(&reply), &reply["id"]), (code, &json!(1)), "{params}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(message), "{reply}");
    }
    let reply = rpc(served.address, "openenv/session/close", json!({})).await;
    assert_eq!(reply["error"]["message"], "Invalid params - 'session_id' is required");
    let twice = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"say","name":"fail"}}"#;
    assert_eq!(rpc_code(&post_text(served.address, "/mcp", twice).await.json()), -32602);
    // Null counts as absent.
    let reply =
        rpc(served.address, "tools/call", json!({ "name": "say", "arguments": null, "session_id": null }))
            .await;
    assert_eq!(reply["result"]["data"], Value::Null);
    served.end().await;
}

/// An id goes back exactly as it came.
#[tokio::test]
async fn ids_are_echoed() {
    let served = serve().await;
    for id in
        ["0", "-7", "9007199254740993", "123456789012345678901234567890", "\"\"", "\"\\u00e9\\n\"", "null"]
    {
        let request = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}");
        let reply = post_text(served.address, "/mcp", &request).await;
        assert!(
            reply.text().starts_with(&format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":")),
            "{}",
            reply.text()
        );
    }
    served.end().await;
}

#[tokio::test]
async fn the_agents_door_reaches_no_control() {
    let served = serve().await;
    let reply = oxenv_test_support::post(served.address, "/sessions", &json!({})).await.json();
    let id = reply["session_id"].as_str().unwrap().to_owned();
    let path = format!("/sessions/{id}/mcp");
    for method in
        ["openenv/session/create", "openenv/session/close", "reset", "step", "state", "close", "fork"]
    {
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": { "session_id": id } });
        let reply = oxenv_test_support::post(served.address, &path, &request).await.json();
        assert_eq!(rpc_code(&reply), -32601, "{method}");
    }
    // Nor another session.
    let other = served.app.store.create(oxenv_core::SessionOptions::default()).await.unwrap();
    let params = json!({ "name": "say", "session_id": other.id() });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let reply = oxenv_test_support::post(served.address, &path, &request).await.json();
    assert_eq!(reply["error"]["message"], format!("Unknown session_id: {}", other.id()));
    assert_eq!(other.info().step_count, 0);
    // Its own may be named.
    let params = json!({ "name": "say", "session_id": id });
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    assert!(oxenv_test_support::post(served.address, &path, &request).await.json()["result"].is_object());
    other.end(oxenv_core::EndReason::Closed);
    drop(other);
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    served.end().await;
}
