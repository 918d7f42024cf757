//! Which HTTP statuses `POST /mcp` gives: 200 always to OpenEnv's dialect, MCP's own to others.

use oxenv_test_support::{Reply, get, http};
use serde_json::{Value, json};

use crate::served::{Served, serve};

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
const NOTIFICATION: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const STREAMS: (&str, &str) = ("accept", "application/json, text/event-stream");

async fn ask(served: &Served, headers: &[(&str, &str)], body: &str) -> Reply {
    http(served.address, "POST", "/mcp", headers, body.as_bytes()).await
}

#[tokio::test]
async fn the_dialect_gets_200_whatever_it_says() {
    let served = serve().await;
    for headers in [
        &[][..],
        &[("accept", "*/*")],
        &[("accept", "application/json")],
        &[("content-type", "application/json")],
    ] {
        for body in
            ["{}", "", "nope", "[]", LIST, NOTIFICATION, r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#]
        {
            let reply = ask(&served, headers, body).await;
            assert_eq!(reply.status, 200, "{headers:?} {body}");
            assert_eq!(reply.json()["jsonrpc"], "2.0");
        }
    }
    // As `openenv validate` asks: an empty object gets an error and a null id.
    let reply = ask(&served, &[], "{}").await.json();
    assert_eq!((&reply["error"]["code"], &reply["id"]), (&json!(-32600), &Value::Null));
    served.end().await;
}

#[tokio::test]
async fn a_client_of_mcp_gets_its_statuses() {
    let served = serve().await;
    for headers in [
        &[STREAMS][..],
        &[("mcp-protocol-version", "2025-11-25")],
        &[("mcp-protocol-version", "2025-06-18"), STREAMS],
    ] {
        for (body, status) in
            [("", 400), ("nope", 400), ("{}", 400), ("[]", 400), (LIST, 200), (NOTIFICATION, 202)]
        {
            let reply = ask(&served, headers, body).await;
            assert_eq!(reply.status, status, "{headers:?} {body}: {}", reply.text());
            match status {
                202 => assert!(reply.body.is_empty()),
                200 => assert!(reply.json()["result"].is_object()),
                _ => assert!(reply.json()["error"].is_object()),
            }
        }
    }
    for revision in ["1999-01-01", "", "2025-11-25 ", "draft"] {
        let reply = ask(&served, &[("mcp-protocol-version", revision), STREAMS], LIST).await;
        // Blanks around a header's value are no part of it.
        let status = if revision.trim() == "2025-11-25" { 200 } else { 400 };
        assert_eq!(reply.status, status, "'{revision}'");
    }
    let reply = ask(&served, &[("mcp-session-id", "nope")], LIST).await;
    assert_eq!(reply.status, 404);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("Mcp-Session-Id"));
    served.end().await;
}

/// What 2026-07-28 says of a request that leaves out what it must say of itself.
#[tokio::test]
async fn a_request_that_stands_alone_says_who_asks() {
    let served = serve().await;
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let list = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{{{meta}}}}}"#);
    let call =
        format!(r#"{{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{{"name":"say",{meta}}}}}"#);
    let ping = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"ping","params":{{{meta}}}}}"#);
    let other = list.replace("2026-07-28", "2027-01-01");
    let version = ("mcp-protocol-version", "2026-07-28");
    let (lists, calls) = (("mcp-method", "tools/list"), ("mcp-method", "tools/call"));
    for (headers, body, status, code) in [
        (&[version, lists][..], list.as_str(), 200, None),
        (&[version, calls, ("mcp-name", "say")], &call, 200, None),
        (&[version, calls, ("mcp-name", "=?base64?c2F5?=")], &call, 200, None),
        (&[version, lists, ("mcp-session-id", "nope")], &list, 200, None),
        (&[version, lists], LIST, 400, Some(-32602)),
        (&[version], &list, 400, Some(-32020)),
        (&[version, calls], &list, 400, Some(-32020)),
        (&[version, lists, lists], &list, 400, Some(-32020)),
        (&[version, calls], &call, 400, Some(-32020)),
        (&[version, calls, ("mcp-name", "wait")], &call, 400, Some(-32020)),
        (&[version, calls, ("mcp-name", "=?base64?!?=")], &call, 400, Some(-32020)),
        (&[STREAMS, lists], &list, 400, Some(-32020)),
        (&[version, lists], &other, 400, Some(-32020)),
        (&[("mcp-protocol-version", "2027-01-01"), lists], &other, 400, Some(-32022)),
        (&[version, ("mcp-method", "ping")], &ping, 404, Some(-32601)),
        (&[version, lists], "", 400, Some(-32700)),
        (&[version, lists], "[]", 400, Some(-32700)),
        (&[version, lists, ("accept", "application/json")], &list, 200, None),
        (&[version, ("mcp-method", "ping"), ("accept", "application/json")], &ping, 406, Some(-32000)),
    ] {
        let reply = ask(&served, headers, body).await;
        let answer = reply.json();
        assert_eq!(reply.status, status, "{headers:?} {body}: {answer}");
        assert_eq!(answer["error"]["code"].as_i64(), code, "{headers:?} {body}: {answer}");
        let sent: Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(answer["id"], sent["id"], "{answer}");
    }
    served.end().await;
}

#[tokio::test]
async fn a_get_that_is_no_websocket_is_not_allowed() {
    let served = serve().await;
    let reply = get(served.address, "/mcp").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    assert_eq!(reply.json(), json!({ "detail": "Method Not Allowed" }));
    served.end().await;
}
