//! Pages in a browser that want to speak to a server on its own machine: every route refuses them.

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{http, raw};
use serde_json::json;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

const ROUTES: [(&str, &str); 7] = [
    ("GET", "/health"),
    ("POST", "/reset"),
    ("GET", "/tools"),
    ("POST", "/mcp"),
    ("GET", "/ws"),
    ("DELETE", "/sessions/x"),
    ("GET", "/nope"),
];

async fn status(served: &Served, method: &str, path: &str, headers: &str) -> u16 {
    let request =
        format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n");
    let got = raw(served.address, request.as_bytes()).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    text.split(' ').nth(1).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_loopback_server_answers_to_its_own_names_only() {
    let served = serve().await;
    for (method, path) in ROUTES {
        for host in ["evil.example", "evil.example:80", "10.0.0.1", "localhost.evil.example", ""] {
            let headers = format!("host: {host}\r\n");
            assert_eq!(status(&served, method, path, &headers).await, 403, "{method} {path} {host}");
        }
        for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:8000"] {
            let headers = format!("host: {host}\r\n");
            assert_ne!(status(&served, method, path, &headers).await, 403, "{method} {path} {host}");
        }
    }
    // The target of the request counts as well.
    assert_eq!(status(&served, "GET", "http://evil.example/health", "host: localhost\r\n").await, 403);
    let reply = http(served.address, "GET", "/health", &[("origin", "http://evil.example")], b"").await;
    assert_eq!(reply.status, 403);
    assert!(reply.json()["detail"].as_str().unwrap().contains("allowed_origins"), "{}", reply.text());
    served.end().await;
}

#[tokio::test]
async fn origins_are_looked_at_on_every_route() {
    let served = serve().await;
    let own = format!("http://{}", served.address);
    for (method, path) in ROUTES {
        for origin in ["http://evil.example", "null", "https://localhost.evil.example", "file://"] {
            let headers = format!("host: localhost\r\norigin: {origin}\r\n");
            assert_eq!(status(&served, method, path, &headers).await, 403, "{method} {path} {origin}");
        }
        for origin in [own.as_str(), "http://localhost:5173", "https://127.0.0.1"] {
            let headers = format!("host: localhost\r\norigin: {origin}\r\n");
            assert_ne!(status(&served, method, path, &headers).await, 403, "{method} {path} {origin}");
        }
    }
    // A socket too is opened for no foreign page.
    let upgrade = "host: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\norigin: http://evil.example\r\n";
    for path in ["/ws", "/mcp"] {
        assert_eq!(status(&served, "GET", path, upgrade).await, 403, "{path}");
    }
    served.end().await;
}

#[tokio::test]
async fn lists_let_others_in() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let config = ServerConfig {
        allowed_hosts: vec!["env.example".to_owned()],
        allowed_origins: vec!["https://app.example".to_owned()],
        ..ServerConfig::default()
    };
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    for (headers, expected) in [
        ("host: env.example\r\n", 200),
        ("host: localhost\r\n", 200),
        ("host: env.example\r\norigin: https://app.example\r\n", 200),
        ("host: env.example\r\norigin: http://env.example\r\n", 200),
        ("host: other.example\r\n", 403),
        ("host: env.example\r\norigin: http://app.example\r\n", 403),
    ] {
        assert_eq!(status(&served, "GET", "/health", headers).await, expected, "{headers}");
    }
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string();
    let allowed = [("origin", "https://app.example")];
    let reply = http(served.address, "POST", "/mcp", &allowed, list.as_bytes()).await;
    assert!(reply.json()["result"]["tools"].is_array());
    served.end().await;
}
