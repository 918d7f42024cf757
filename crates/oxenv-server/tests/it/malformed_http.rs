//! HTTP that is wrong: heads, bodies, types, paths. Each gets an answer in the protocol's shape, and
//! the next client notices nothing.

use std::time::Duration;

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{Reply, get, http, post, post_text, raw, soon, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

/// The type and the place of the first issue of a refusal with 422.
#[track_caller]
fn issue(reply: &Reply) -> (String, Value) {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let body = reply.json();
    let issue = &body["detail"][0];
    assert!(issue["msg"].is_string() && issue.get("input").is_some(), "{body}");
    (issue["type"].as_str().unwrap().to_owned(), issue["loc"].clone())
}

#[tokio::test]
async fn what_is_no_http_gets_400_or_nothing() {
    let served = serve().await;
    for bytes in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        b"GET /health HTTP/1.1\r\nna\xffme: x\r\n\r\n",
        b"POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"POST /step HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let got = raw(served.address, bytes).await;
        let shown = String::from_utf8_lossy(&got);
        assert!(
            got.is_empty() || shown.starts_with("HTTP/1.1 4") || shown.starts_with("HTTP/1.0 4"),
            "{shown}"
        );
    }
    served.end().await;
}

#[tokio::test]
async fn a_head_that_is_too_large() {
    let served = serve().await;
    let long = "x".repeat(1 << 20);
    let got = raw(
        served.address,
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: {long}\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(got.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&got));
    let path = "x".repeat(100_000);
    let got =
        raw(served.address, format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await;
    assert!(got.starts_with(b"HTTP/1.1 414 "), "{}", String::from_utf8_lossy(&got));
    let many = "x: y\r\n".repeat(1000);
    let got = raw(served.address, format!("GET /health HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(got.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&got));
    // What one connection may bring still goes.
    let some = "x".repeat(10_000);
    let reply = http(served.address, "GET", "/health", &[("x-long", &some)], b"").await;
    assert_eq!(reply.status, 200);
    served.end().await;
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let served = serve().await;
    for path in ["/", "/nope", "/ws/", "/sessions/a/b/c", "//", "/%2e%2e/etc/passwd", "/health/", "/ws"] {
        let reply = get(served.address, path).await;
        assert_eq!((reply.status, reply.json()), (404, json!({ "detail": "Not Found" })), "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/reset", "POST"),
        ("GET", "/step", "POST"),
        ("POST", "/state", "GET,HEAD"),
        ("PUT", "/mcp", "POST,GET,DELETE"),
        ("DELETE", "/mcp", "POST"),
        ("GET", "/mcp", "POST"),
        ("POST", "/ws", "GET,HEAD"),
        ("PATCH", "/sessions", "GET,HEAD"),
        ("POST", "/sessions/x", "DELETE"),
        ("GET", "/sessions/x/step", "POST"),
        ("POST", "/health", "GET,HEAD"),
        ("OPTIONS", "/step", "POST"),
        ("BREW", "/step", "POST"),
        ("GET", "/scripted/task", "POST"),
    ] {
        let reply = http(served.address, method, path, &[], b"").await;
        assert_eq!(
            (reply.status, reply.json()),
            (405, json!({ "detail": "Method Not Allowed" })),
            "{method} {path}"
        );
        let allowed = reply.header("allow").unwrap_or_default();
        assert!(allow.split(',').all(|one| allowed.contains(one)), "{method} {path} allows '{allowed}'");
        assert!(!allowed.contains(method), "{method} {path} allows '{allowed}'");
    }
    let head = http(served.address, "HEAD", "/health", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    served.end().await;
}

#[tokio::test]
async fn paths_and_queries_that_are_not_text() {
    let served = serve().await;
    for (method, path) in [
        ("GET", "/sessions/%ff"),
        ("GET", "/sessions/%ff/state"),
        ("DELETE", "/sessions/%c3%28"),
        ("POST", "/sessions/%ff/reset"),
        ("POST", "/sessions/%ff/step"),
        ("POST", "/sessions/%ff/mcp"),
        ("GET", "/%ff/splits"),
        ("POST", "/%ff/tasks"),
    ] {
        let reply = http(served.address, method, path, &[], b"").await;
        assert!((400..500).contains(&reply.status), "{method} {path}: {}", reply.status);
        assert!(reply.json()["detail"].is_string(), "{method} {path}: {}", reply.text());
    }
    // A stray percent sign stands for itself.
    for path in ["/sessions/%", "/sessions/%zz", "/sessions/%2"] {
        assert_eq!(get(served.address, path).await.status, 404, "{path}");
    }
    for query in
        ["epoch=x", "epoch=-1", "epoch=1.5", "epoch=99999999999999999999999", "epoch=1&epoch=2", "epoch="]
    {
        let path = format!("/sessions/unknown/mcp?{query}");
        let reply =
            post(served.address, &path, &json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).await;
        assert!((400..500).contains(&reply.status), "{query}");
        assert!(!reply.json()["detail"].is_null(), "{query}: {}", reply.text());
    }
    served.end().await;
}

#[tokio::test]
async fn an_upgrade_that_is_wrong() {
    let served = serve().await;
    for path in ["/ws", "/mcp"] {
        for headers in [
            &[("connection", "upgrade"), ("upgrade", "websocket")][..],
            &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "8"),
                ("sec-websocket-key", "x"),
            ],
            &[("upgrade", "websocket"), ("sec-websocket-version", "13"), ("sec-websocket-key", "x")],
        ] {
            let reply = http(served.address, "GET", path, headers, b"").await;
            assert!((400..500).contains(&reply.status), "{path} {headers:?}: {}", reply.status);
            assert!(reply.json()["detail"].is_string(), "{}", reply.text());
        }
    }
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "x"),
    ];
    assert_eq!(http(served.address, "GET", "/elsewhere", &headers, b"").await.status, 403);
    // Two sessions at once cannot be meant.
    let reply = http(served.address, "GET", "/ws?session_id=a&session_id=b", &headers, b"").await;
    assert!((400..500).contains(&reply.status));
    assert!(!reply.json()["detail"].is_null(), "{}", reply.text());
    served.end().await;
}

#[tokio::test]
async fn bodies_that_are_no_json() {
    let served = serve().await;
    for (body, place) in [
        ("{", json!(["body", 1])),
        ("{\"action\":}", json!(["body", 10])),
        ("nope", json!(["body", 0])),
        ("{} {}", json!(["body", 3])),
        ("{\"a\":NaN}", json!(["body", 5])),
        ("{\"a\":-Infinity}", json!(["body", 5])),
        ("{\"é\":Infinity}", json!(["body", 5])),
        ("{\"a\":01}", json!(["body", 6])),
        ("{'a':1}", json!(["body", 1])),
        ("\u{feff}{}", json!(["body", 0])),
        (" ", json!(["body", 1])),
        ("{\"a\":\"\u{1}\"}", json!(["body", 6])),
        ("{\"a\":\"\\ud8\"}", json!(["body", 8])),
    ] {
        for path in ["/reset", "/step", "/sessions"] {
            let reply = post_text(served.address, path, body).await;
            assert_eq!(issue(&reply), ("json_invalid".to_owned(), place.clone()), "{path} {body}");
        }
    }
    for bytes in [&b"\xff\xfe{}"[..], b"{\"a\":\"\xc3\x28\"}", b"\x80"] {
        for path in ["/reset", "/step", "/sessions"] {
            let reply =
                http(served.address, "POST", path, &[("content-type", "application/json")], bytes).await;
            assert_eq!(reply.status, 400, "{path}");
            assert!(reply.json()["detail"].as_str().unwrap().contains("UTF-8"), "{}", reply.text());
        }
    }
    served.end().await;
}

#[tokio::test]
async fn bodies_of_the_wrong_shape() {
    let served = serve().await;
    for body in ["[]", "\"x\"", "5", "1.5", "true"] {
        for path in ["/reset", "/step", "/sessions"] {
            let found = issue(&post_text(served.address, path, body).await);
            assert_eq!(found, ("model_attributes_type".to_owned(), json!(["body"])), "{path} {body}");
        }
    }
    for (path, body, kind, place) in [
        ("/step", "", "missing", json!(["body"])),
        ("/step", "null", "missing", json!(["body"])),
        ("/step", "{}", "missing", json!(["body", "action"])),
        ("/step", r#"{"action":null}"#, "dict_type", json!(["body", "action"])),
        ("/step", r#"{"action":[]}"#, "dict_type", json!(["body", "action"])),
        ("/step", r#"{"action":{},"timeout_s":0}"#, "greater_than", json!(["body", "timeout_s"])),
        ("/step", r#"{"action":{},"timeout_s":-1}"#, "greater_than", json!(["body", "timeout_s"])),
        ("/step", r#"{"action":{},"timeout_s":"1"}"#, "float_parsing", json!(["body", "timeout_s"])),
        ("/step", r#"{"action":{},"timeout_s":[]}"#, "float_type", json!(["body", "timeout_s"])),
        ("/step", r#"{"action":{},"timeout_s":1e999}"#, "float_type", json!(["body", "timeout_s"])),
        ("/step", r#"{"action":{},"request_id":5}"#, "string_type", json!(["body", "request_id"])),
        ("/step", r#"{"action":{},"action":{}}"#, "duplicate_key", json!(["body"])),
        ("/reset", r#"{"seed":-1}"#, "greater_than_equal", json!(["body", "seed"])),
        ("/reset", r#"{"seed":1.5}"#, "int_from_float", json!(["body", "seed"])),
        ("/reset", r#"{"seed":"7"}"#, "int_parsing", json!(["body", "seed"])),
        ("/reset", r#"{"seed":1e30}"#, "int_parsing_size", json!(["body", "seed"])),
        ("/reset", r#"{"seed":99999999999999999999}"#, "int_parsing_size", json!(["body", "seed"])),
        ("/reset", r#"{"seed":true}"#, "int_type", json!(["body", "seed"])),
        ("/reset", r#"{"episode_id":7}"#, "string_type", json!(["body", "episode_id"])),
        ("/reset", r#"{"episode_id":"\ud800"}"#, "string_unicode", json!(["body", "episode_id"])),
        ("/reset", r#"{"seed":1,"seed":2}"#, "duplicate_key", json!(["body"])),
        ("/sessions", r#"{"sed":1}"#, "extra_forbidden", json!(["body", "sed"])),
        ("/sessions", r#"{"resume_s":0}"#, "greater_than", json!(["body", "resume_s"])),
    ] {
        assert_eq!(
            issue(&post_text(served.address, path, body).await),
            (kind.to_owned(), place),
            "{path} {body}"
        );
    }
    let long = "é".repeat(256);
    let reply = post(served.address, "/reset", &json!({ "episode_id": long })).await;
    assert_eq!(issue(&reply).0, "string_too_long");
    let reply = post(served.address, "/reset", &json!({ "episode_id": &long[..510] })).await;
    assert_eq!(reply.status, 200);
    assert_eq!(served.active(), 0, "a body that was refused made a session");
    served.end().await;
}

#[tokio::test]
async fn a_body_must_say_that_it_is_json() {
    let served = serve().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx", "json", "\u{e9}"]
    {
        let reply =
            http(served.address, "POST", "/step", &[("content-type", kind)], br#"{"action":{}}"#).await;
        assert_eq!(issue(&reply).0, "model_attributes_type", "{kind}");
    }
    let reply = http(served.address, "POST", "/step", &[], br#"{"action":{}}"#).await;
    assert_eq!(issue(&reply).0, "model_attributes_type");
    for kind in ["application/json", "APPLICATION/JSON; charset=utf-8", "application/problem+json"] {
        let reply =
            http(served.address, "POST", "/step", &[("content-type", kind)], br#"{"action":{}}"#).await;
        assert_eq!(reply.status, 200, "{kind}");
    }
    // A reset needs no body, so it needs no type either.
    assert_eq!(http(served.address, "POST", "/reset", &[], b"").await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn nesting_without_end_and_numbers_without_end() {
    let served = serve().await;
    let deep =
        format!("{{\"action\":{{\"do\":\"count\",\"x\":{}{}}}}}", "[".repeat(200_000), "]".repeat(200_000));
    // The environment reads its action and says what it cannot read; the server does not break.
    let reply = post_text(served.address, "/step", &deep).await;
    assert!([200, 400, 422].contains(&reply.status), "{}", reply.status);
    let open = "[".repeat(1_000_000);
    assert_eq!(issue(&post_text(served.address, "/step", &open).await).0, "json_invalid");
    assert_eq!(
        issue(&post_text(served.address, "/step", &format!("{{\"action\":{open}")).await).0,
        "json_invalid"
    );
    let digits = "9".repeat(100_000);
    let reply = post_text(served.address, "/reset", &format!("{{\"seed\":{digits}}}")).await;
    assert!(issue(&reply).0.starts_with("int_"));
    let keys: Vec<String> = (0..50_000).map(|i| format!("\"k{i}\":0")).collect();
    let reply = post_text(served.address, "/reset", &format!("{{{}}}", keys.join(","))).await;
    assert_eq!(reply.status, 200);
    served.end().await;
}

#[tokio::test]
async fn a_timeout_beyond_every_clock_is_taken() {
    let served = serve().await;
    for timeout in ["1e9", "1e18", "9.3e18", "1e19", "1e300", "1e-300"] {
        let body = format!("{{\"action\":{{\"do\":\"count\"}},\"timeout_s\":{timeout}}}");
        let reply = post_text(served.address, "/step", &body).await;
        let expected = if timeout == "1e-300" { [200, 504] } else { [200, 200] };
        assert!(expected.contains(&reply.status), "{timeout}: {}", reply.text());
        post(served.address, "/reset", &json!({})).await;
    }
    served.end().await;
}

#[tokio::test]
async fn a_lease_beyond_every_clock_never_runs_out() {
    let stage = Stage::default();
    let limits = StoreLimits { idle: Duration::from_millis(30), ..StoreLimits::default() };
    let factory = Scripted::new(&stage, Execution::Task);
    let served = Served::start(&stage, factory, limits, ServerConfig::default()).await;
    let mut endless = Vec::new();
    for resume in ["1e18", "1e19", "1e300"] {
        let reply = post_text(served.address, "/sessions", &format!("{{\"resume_s\":{resume}}}")).await;
        assert_eq!(reply.status, 201, "{resume}");
        endless.push(reply.json()["session_id"].as_str().unwrap().to_owned());
    }
    for body in ["{}", "{\"resume_s\":1e-300}"] {
        assert_eq!(post_text(served.address, "/sessions", body).await.status, 201);
    }
    until("those with an end have ended", || served.active() == 3).await;
    for id in endless {
        let path = format!("/sessions/{id}");
        assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
    }
    served.end().await;
}

async fn small(stall: Duration) -> Served {
    let stage = Stage::default();
    let config = ServerConfig { max_message: 1000, stall, ..ServerConfig::default() };
    Served::start(&stage, Scripted::new(&stage, Execution::Task), StoreLimits::default(), config).await
}

#[tokio::test]
async fn a_body_that_is_too_large() {
    let served = small(Duration::from_secs(60)).await;
    let fits = format!("{{\"action\":{{}},\"x\":\"{}\"}}", "x".repeat(1000 - 20));
    assert_eq!(fits.len(), 1000);
    assert_eq!(post_text(served.address, "/step", &fits).await.status, 200);
    for path in ["/step", "/reset", "/sessions", "/mcp", "/scripted/tasks"] {
        let reply = post_text(served.address, path, &format!("{fits} ")).await;
        assert_eq!(reply.status, 413, "{path}");
        assert!(reply.json()["detail"].as_str().unwrap().contains("1000 bytes"), "{}", reply.text());
    }
    // One that does not say how long it is, and one that says so and never sends it.
    let chunks = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600)).repeat(3);
    let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let got =
        raw(served.address, format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").as_bytes())
            .await;
    assert!(got.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&got));
    served.end().await;
}

#[tokio::test]
async fn a_body_that_never_ends_gets_408() {
    let served = small(Duration::from_millis(50)).await;
    for path in ["/step", "/mcp"] {
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 500\r\n\r\n{{"
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        soon(slow.read_to_end(&mut got)).await.unwrap();
        assert!(got.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&got));
    }
    served.end().await;
}

/// Time is paused, so it jumps to the next timer whenever nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_given_up() {
    let served = serve().await;
    for begin in ["", "GET /hea", "GET /health HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut slow = TcpStream::connect(served.address).await.unwrap();
        slow.write_all(begin.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), slow.read_to_end(&mut got)).await;
        read.expect("the connection stays open").unwrap();
        let shown = String::from_utf8_lossy(&got);
        assert!(got.is_empty() || shown.starts_with("HTTP/1.1 408 "), "{shown}");
    }
    served.end().await;
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_order() {
    let served = serve().await;
    let one = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
               content-length: 27\r\n\r\n{\"action\":{\"do\":\"count\"}} \n";
    let last = "GET /state HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let got = raw(served.address, format!("{}{last}", one.repeat(20)).as_bytes()).await;
    let text = String::from_utf8(got).unwrap();
    let counts: Vec<usize> = text
        .match_indices("\"count\":")
        .map(|(at, _)| text[at + 8..].split([',', '}']).next().unwrap().parse().unwrap())
        .collect();
    let expected: Vec<usize> = (1..=20).chain([20]).collect();
    assert_eq!(counts, expected);
    served.end().await;
}
