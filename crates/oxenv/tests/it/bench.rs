//! `oxenv bench` against real servers, and against one that answers with events.
//!
//! Invariant: no figure is looked at but counts; how fast something is, is never a test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::process::{Ended, Serving, run};

/// Runs a short load and gives its report.
fn load(url: &str, arguments: &[&str]) -> Value {
    let short = ["--json", "--url", url, "--sessions", "2", "--duration", "0.2", "--warmup", "0"];
    let ended = run(&[&["bench"], arguments, &short].concat());
    let report: Value = serde_json::from_str(ended.succeeded()).unwrap();
    assert_eq!((&report["errors"], &report["opened"]), (&json!(0), &json!(2)), "{arguments:?}: {report}");
    assert!(report["requests"].as_u64().unwrap() > 0, "{arguments:?}: {report}");
    report
}

#[test]
fn every_load_can_be_run() {
    let server = Serving::start(&[]);
    let url = server.url();
    for (door, says) in [("ws", "hello"), ("http", "hello"), ("churn", "hello"), ("tools", "echo_message")] {
        let report = load(&url, &[door]);
        assert_eq!((&report["bench"], &report["protocol"]), (&json!(door), &Value::Null));
        assert!(report["reply"].as_str().unwrap().contains(says), "{report}");
    }
    for protocol in ["openenv", "2025-11-25", "2026-07-28"] {
        let called = load(&url, &["mcp", "--protocol", protocol]);
        assert_eq!(called["protocol"], protocol);
        let listed = load(&url, &["mcp", "--protocol", protocol, "--list"]);
        assert!(listed["reply_bytes"].as_u64() > called["reply_bytes"].as_u64(), "{listed}");
    }
    server.stop();
}

#[test]
fn idle_sessions_are_measured_in_the_memory_of_the_server() {
    let server = Serving::start(&[]);
    let (url, pid) = (server.url(), server.pid().to_string());
    let report = run(&[
        "bench",
        "idle",
        "--json",
        "--url",
        &url,
        "--pid",
        &pid,
        "--sessions",
        "3",
        "--duration",
        "0.1",
    ]);
    let report: Value = serde_json::from_str(report.succeeded()).unwrap();
    assert_eq!((&report["bench"], &report["opened"]), (&json!("idle"), &json!(3)), "{report}");
    assert_eq!((&report["lost"], &report["errors"]), (&json!(0), &json!(0)), "{report}");
    assert!(report["rss_idle_bytes"].as_u64() > Some(0) && report["bytes_per_session"].is_i64(), "{report}");
    server.stop();
}

#[test]
fn one_socket_takes_the_load_of_many_sessions() {
    let server = Serving::start(&["grid_world"]);
    let url = server.url();
    for (door, name) in
        [(["ws", "--multiplex"].as_slice(), "ws-multiplex"), (&["ws", "--batch", "8"], "ws-batch")]
    {
        let report = load(&url, &[door, &["--message", r#"{"action":"UP"}"#]].concat());
        assert_eq!(report["bench"], name);
        assert!(report["reply"].as_str().unwrap().contains("A wall is in the way"), "{report}");
    }
    let done = r#"{"action":"NOWHERE"}"#;
    let short = ["--duration", "0.1", "--warmup", "0", "--sessions", "2", "--json", "--message", done];
    let ended = run(&[&["bench", "ws", "--url", &url, "--batch", "2"], &short[..]].concat());
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    server.stop();
}

#[test]
fn the_client_takes_the_same_load() {
    let server = Serving::start(&["grid_world"]);
    let url = server.url();
    for (door, name) in [
        (["ws", "--client"].as_slice(), "client"),
        (&["ws", "--client=stock", "--depth", "2"], "client"),
        (&["ws", "--client", "--multiplex"], "client-multiplex"),
        (&["ws", "--client", "--batch", "8"], "client-batch"),
    ] {
        let report = load(&url, &[door, &["--message", r#"{"action":"UP"}"#]].concat());
        assert_eq!((&report["bench"], &report["errors"]), (&Value::from(name), &Value::from(0)));
        assert!(report["reply"].as_str().unwrap().contains("A wall is in the way"), "{report}");
    }
    let short = ["--duration", "0.1", "--warmup", "0", "--sessions", "2", "--json", "--message"];
    let wrong =
        [&["bench", "ws", "--url", &url, "--client"], &short[..], &[r#"{"action":"NOWHERE"}"#]].concat();
    let ended = run(&wrong);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    assert!(ended.stderr.contains("no request succeeded"), "{ended:#?}");
    server.stop();
}

#[test]
fn a_call_that_fails_is_no_request() {
    let server = Serving::start(&[]);
    let nope = r#"{"name":"nope","arguments":{}}"#;
    for protocol in ["openenv", "2025-11-25", "2026-07-28"] {
        let short = ["--duration", "0.1", "--warmup", "0", "--sessions", "1", "--message", nope, "--json"];
        let ended =
            run(&[&["bench", "mcp", "--url", &server.url(), "--protocol", protocol], &short[..]].concat());
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        assert!(ended.stderr.contains("no request succeeded"), "{ended:#?}");
        let report: Value = serde_json::from_str(&ended.stdout).unwrap();
        assert!(report["errors"].as_u64() > Some(0) && report["requests"] == 0, "{report}");
    }
    server.stop();
}

/// A server that answers every request with these bytes, on connections that it keeps.
fn always(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_each(stream, answer));
        }
    });
    address
}

fn answer_each(mut stream: TcpStream, answer: &str) {
    // The load sends the next request when the last is answered, each in one piece.
    while stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn replies_may_come_as_events() {
    let address = always(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         16\r\nid: 0\nretry: 3\ndata:\n\n\r\n\
         20\r\ndata: {\"id\":1,\"result\":{\"n\":2}}\n\r\n1\r\n\n\r\n0\r\n\r\n",
    );
    let report = load(&format!("http://{address}"), &["mcp", "--protocol", "2026-07-28"]);
    assert_eq!(report["reply"], r#"{"id":1,"result":{"n":2}}"#);
}

#[test]
fn a_server_that_makes_no_session_is_told() {
    let stateless = always(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 47\r\n\r\n\
         {\"result\":{\"protocolVersion\":\"2025-11-25\"}}    ",
    );
    let old = always(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 47\r\n\r\n\
         {\"result\":{\"protocolVersion\":\"2024-11-05\"}}    ",
    );
    for (address, says) in [(stateless, "Mcp-Session-Id"), (old, "2024-11-05")] {
        let url = format!("http://{address}");
        let short = ["--duration", "0.1", "--warmup", "0", "--sessions", "1"];
        let ended = run(&[&["bench", "mcp", "--url", &url, "--protocol", "2025-11-25"], &short[..]].concat());
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        assert!(ended.stderr.contains(says), "{ended:#?}");
    }
}

/// A server that says this again and again to whoever has asked for a WebSocket, and reads nothing more.
fn flooding(upgraded: bool, flood: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, flood) = (stream.unwrap(), flood.clone());
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
                if upgraded {
                    let accept = derive_accept_key(key.unwrap().as_bytes());
                    let answer = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-accept: {accept}\r\n\r\n"
                    );
                    stream.write_all(answer.as_bytes()).unwrap();
                }
                while stream.write_all(&flood).is_ok() {}
            });
        }
    });
    address
}

/// Within 1.5 GB of address space, most of which is the program's own.
#[test]
fn a_server_that_sends_without_end_is_given_up() {
    let ping = [&[0x89, 125][..], &[b'p'; 125]].concat().repeat(500);
    let body =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000\r\n{}", "x".repeat(1 << 20));
    for (door, address, says) in [
        ("ws", flooding(true, ping), "the server sends pings but does not read the pongs"),
        ("ws", flooding(false, b"HTTP/1.1 101 and so on ".repeat(100)), "has no end"),
        ("http", flooding(false, body.into_bytes()), "a response of more than"),
    ] {
        let binary = env!("CARGO_BIN_EXE_oxenv");
        let asked =
            format!("bench {door} --url http://{address} --sessions 1 --duration 0.2 --warmup 0 --threads 1");
        let script = format!("ulimit -v 1500000; exec '{binary}' {asked}");
        let ended = Ended::of(Command::new("/bin/sh").args(["-c", &script]).output().unwrap());
        assert_eq!(ended.code, Some(1), "{ended:#?}");
        assert!(ended.stderr.contains(says), "{ended:#?}");
    }
}
