//! Messages made to cost much, against the built binary with its memory limited: it answers each, takes
//! memory by the bytes that were sent, and goes on.
//!
//! Invariant: a server takes some 35 MiB, and a message of 8 MiB little more than itself, whatever stands in
//! it.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;

use crate::process::{Serving, oxenv};

/// The address space that a server may take, in KiB; it keeps a mistake from taking the machine.
const ADDRESS_SPACE: u64 = 6 << 20;
/// Bytes that a case repeats its piece up to.
const SIZE: usize = 8 << 20;
/// The most memory that a server takes for one such message, in MiB, the server itself included.
const MEMORY: u64 = 80;
/// How long an answer is waited for. Nothing here takes a tenth of it, without optimisation.
const READ_TIMEOUT: Duration = Duration::from_secs(100);

/// A server whose memory is limited.
fn limited(environment: &str) -> Serving {
    let mut shell = std::process::Command::new("/bin/sh");
    let serve = format!("ulimit -v {ADDRESS_SPACE}; exec \"$0\" serve {environment} --port 0");
    shell.env_clear().arg("-c").arg(serve).arg(oxenv().get_program());
    Serving::of(&mut shell)
}

/// The most memory that the server ever had, in MiB.
fn peak(server: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Sends a body; gives the status and the reply's length.
fn send(server: &Serving, path: &str, body: &str) -> (u16, usize) {
    let mut stream = server.connect();
    stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let head = String::from_utf8_lossy(&reply[..reply.len().min(20)]).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_else(|| panic!("no reply: {head:?}"));
    (status.parse().unwrap(), reply.len())
}

/// A piece again and again, with a comma between if it is a value.
fn many(piece: &str) -> String {
    let mut text = piece.repeat(SIZE / piece.len());
    if text.ends_with(',') {
        text.pop();
    }
    text
}

fn check(environment: &str, path: &str, body: &str, status: u16) {
    let server = limited(environment);
    assert_eq!(server.post("/reset", &json!({})).0, 200);
    let shown = format!("{}… to {path}", &body[..body.len().min(160)]);
    let (answered, length) = send(&server, path, body);
    assert_eq!(answered, status, "{shown}");
    assert!(length < 2 * body.len() + (64 << 10), "{shown}: a reply of {length} bytes");
    let peak = peak(&server);
    assert!(peak < MEMORY, "{shown}: {peak} MiB");
    assert_eq!(server.get("/health").0, 200);
    server.stop();
}

fn call(tool: &str, more: &str) -> String {
    format!("{{\"id\":\"a\",\"tool_name\":\"{tool}\"{more}}}")
}

fn graph(calls: &str) -> String {
    format!("{{\"action\":{{\"type\":\"call_tools\",\"calls\":[{calls}]}}}}")
}

#[test]
fn references_that_lead_nowhere() {
    let arguments = format!(",\"arguments\":{{\"message\":\"{}\"}}", many("${b}"));
    check("echo", "/step", &graph(&call("echo_message", &arguments)), 422);
}

#[test]
fn needs_that_lead_nowhere() {
    let needs = format!(",\"needs\":[{}]", many("\"b\","));
    check("echo", "/step", &graph(&call("echo_message", &needs)), 422);
}

#[test]
fn calls_without_end() {
    check("echo", "/step", &graph(&many(&format!("{},", call("", "")))), 422);
}

#[test]
fn results_that_are_put_into_each_other() {
    let text = format!("{{\"message\":\"{}\"}}", "x".repeat(1 << 20));
    let first = format!("{{\"id\":\"0\",\"tool_name\":\"echo_message\",\"arguments\":{text}}}");
    let double = |id: usize| {
        let twice = "${0}${0}";
        format!(
            "{{\"id\":\"{id}\",\"tool_name\":\"echo_message\",\"arguments\":{{\"message\":\"{twice}\"}}}}"
        )
    };
    let calls: Vec<String> = std::iter::once(first).chain((1..200).map(double)).collect();
    let server = limited("echo");
    server.post("/reset", &json!({}));
    let (status, length) = send(&server, "/step", &graph(&calls.join(",")));
    // An echo holds its message four times.
    assert!(status == 200 && length < 4 * (20 << 20), "{status}, {length} bytes");
    let peak = peak(&server);
    assert!(peak < 2 * MEMORY, "{peak} MiB");
    server.stop();
}

#[test]
fn objects_of_keys_alone() {
    check("echo", "/step", &format!("{{\"action\":{{{}}}}}", many("\"\":0,")), 422);
    check("echo", "/step", &format!("{{\"action\":{{\"type\":\"x\",{}}}}}", many("\"\\u0041\":0,")), 422);
    check("echo", "/mcp", &format!("{{{}}}", many("\"\":0,")), 400);
}

#[test]
fn values_that_nobody_reads() {
    let zeros = many("0,");
    let metadata = format!("{{\"action\":{{\"column\":3,\"metadata\":{{\"x\":[{zeros}]}}}}}}");
    check("connect4", "/step", &metadata, 200);
    let token = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"echo_message\",\
         \"arguments\":{{\"message\":\"a\"}},\"_meta\":{{\"progressToken\":[{zeros}]}}}}}}"
    );
    check("echo", "/mcp", &token, 413);
    let greeting = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{{\
         \"protocolVersion\":\"2025-11-25\",\
         \"capabilities\":{{\"experimental\":{{\"x\":{{\"y\":[{zeros}]}}}}}},\
         \"clientInfo\":{{\"name\":\"a\",\"version\":\"1\"}}}}}}"
    );
    check("echo", "/mcp", &greeting, 413);
}

#[test]
fn a_wait_that_no_clock_can_hold() {
    check("echo", "/sessions", "{\"queue_s\":1e19}", 201);
    check("echo", "/sessions", "{\"resume_s\":1e300,\"queue_s\":1e300}", 201);
}
