//! What `oxenv serve` tells of its work: spans to a receiver of OTLP, numbers at `/metrics`, slow steps
//! in the log.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Serving, run};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A receiver of OTLP over HTTP. Its thread ends with the process, which nextest gives each test.
struct Receiver {
    url: String,
    /// Each request: its head, and its body.
    requests: mpsc::Receiver<(String, Value)>,
}

impl Receiver {
    /// One that answers its requests with these statuses in turn, and then with 200.
    fn start(statuses: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            let mut statuses = statuses.iter();
            for stream in listener.incoming() {
                receive(&stream.unwrap(), statuses.next().unwrap_or(&"200 OK"), &sender);
            }
        });
        Receiver { url, requests }
    }

    /// All spans that came, once the server has ended.
    fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for (head, body) in self.requests.try_iter() {
            assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
            assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
            let resource = &body["resourceSpans"][0];
            let service = json!({ "key": "service.name", "value": { "stringValue": "oxenv" } });
            assert!(resource["resource"]["attributes"].as_array().unwrap().contains(&service), "{resource}");
            spans.extend(resource["scopeSpans"][0]["spans"].as_array().unwrap().clone());
        }
        spans
    }
}

/// Reads one request and answers it.
fn receive(stream: &TcpStream, status: &str, sender: &mpsc::Sender<(String, Value)>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap() == 0 {
            return;
        }
    }
    let length = head.to_lowercase().split("content-length: ").nth(1).unwrap().to_owned();
    let mut body = vec![0; length.split("\r\n").next().unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    if status.starts_with("200") {
        let _ = sender.send((head, serde_json::from_slice(&body).unwrap()));
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
    let _ = (&mut &*stream).write_all(answer.as_bytes());
}

/// A request with headers; gives the body of the reply.
fn post(server: &Serving, path: &str, headers: &str, body: &Value) -> Value {
    let (mut stream, body) = (server.connect(), body.to_string());
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn echo(name: &str) -> Value {
    json!({ "action": { "type": "call_tool", "tool_name": name, "arguments": { "message": "hi" } } })
}

fn rpc(meta: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": { "name": "echo_message", "arguments": { "message": "secret words" }, "_meta": meta } })
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a Value {
    let attributes = span["attributes"].as_array().unwrap().iter();
    attributes
        .filter(|attribute| attribute["key"] == key)
        .map(|attribute| &attribute["value"])
        .next()
        .unwrap()
}

#[test]
fn spans_are_part_of_the_callers_trace() {
    let receiver = Receiver::start(&[]);
    let server = Serving::start(&["--otlp", &receiver.url, "--otlp-sample", "0"]);
    let traced = format!("traceparent: {CALLER}\r\n");
    post(&server, "/reset", &traced, &json!({}));
    post(&server, "/step", &traced, &echo("echo_message"));
    // Nobody's trace, and one that its caller does not record.
    post(&server, "/step", "", &echo("echo_message"));
    post(&server, "/step", &traced.replace("-01", "-00"), &echo("echo_message"));
    // One that cannot be read is no error.
    post(&server, "/step", "traceparent: 00-what\r\n", &echo("echo_message"));
    server.stop();
    let spans = receiver.spans();
    let (resets, steps) = (named(&spans, "reset"), named(&spans, "step"));
    let calls = named(&spans, "execute_tool echo_message");
    assert_eq!((resets.len(), steps.len(), calls.len(), spans.len()), (1, 1, 1, 3), "{spans:#?}");
    for span in &spans {
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        let (from, to) = (&span["startTimeUnixNano"], &span["endTimeUnixNano"]);
        let nanos = |time: &Value| time.as_str().unwrap().parse::<u64>().unwrap();
        assert!(nanos(from) <= nanos(to) && nanos(from) > 1_700_000_000_000_000_000, "{span}");
        assert!(span.get("status").is_none(), "{span}");
    }
    assert_eq!(resets[0]["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(steps[0]["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(calls[0]["parentSpanId"], steps[0]["spanId"]);
    assert_eq!(attribute(steps[0], "oxenv.environment")["stringValue"], "echo");
    assert_eq!(attribute(steps[0], "oxenv.epoch")["intValue"], "1");
    assert_eq!(attribute(calls[0], "gen_ai.tool.name")["stringValue"], "echo_message");
    assert_eq!(attribute(calls[0], "oxenv.session.id"), attribute(steps[0], "oxenv.session.id"));
}

#[test]
fn agents_name_their_trace_in_a_header_or_in_meta() {
    let receiver = Receiver::start(&[]);
    let server = Serving::start(&["--otlp", &receiver.url, "--otlp-sample", "0"]);
    let other = CALLER.replace("4bf92f35", "11111111");
    let header = format!("traceparent: {CALLER}\r\n");
    let session = "accept: application/json, text/event-stream\r\n";
    let stateless = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n\
                     mcp-method: tools/call\r\nmcp-name: echo_message\r\n";
    let era = json!({ "traceparent": other, "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                      "io.modelcontextprotocol/clientCapabilities": {} });
    post(&server, "/reset", "", &json!({}));
    // The dialect, MCP without a handshake, and MCP whose requests stand alone.
    post(&server, "/mcp", &header, &rpc(&json!({})));
    post(&server, "/mcp", "", &rpc(&json!({ "traceparent": other })));
    post(&server, "/mcp", &format!("{header}{session}"), &rpc(&json!({ "traceparent": other })));
    post(&server, "/mcp", &format!("{header}{stateless}"), &rpc(&era));
    server.stop();
    let spans = receiver.spans();
    let agents = named(&spans, "agent_call");
    let of = |trace: &str| {
        agents.iter().filter(|span| span["traceId"].as_str().unwrap().starts_with(trace)).count()
    };
    assert_eq!((of("4bf92f35"), of("11111111")), (1, 3), "{spans:#?}");
    for call in named(&spans, "execute_tool echo_message") {
        let parents = agents.iter().filter(|span| span["spanId"] == call["parentSpanId"]);
        assert!(parents.clone().all(|span| span["traceId"] == call["traceId"]));
        assert_eq!(parents.count(), 1, "{call}");
    }
    assert!(!format!("{spans:?}").contains("secret words"));
}

#[test]
fn failures_show_in_spans() {
    let receiver = Receiver::start(&[]);
    let server = Serving::start(&["connect4", "--otlp", &receiver.url]);
    post(&server, "/reset", "", &json!({}));
    // A column that is not there ends the game, and then there is nothing to play.
    post(&server, "/step", "", &json!({ "action": { "column": 99 } }));
    let (status, _) = server.post("/step", &json!({ "action": { "column": 3 } }));
    assert_eq!(status, 400);
    server.stop();
    let spans = receiver.spans();
    let failed: Vec<&Value> = spans.iter().filter(|span| span["status"]["code"] == 2).collect();
    assert_eq!((failed.len(), spans.len()), (1, 3), "{spans:#?}");
    assert_eq!(attribute(failed[0], "oxenv.failure.kind")["stringValue"], "action");
    assert_eq!(attribute(failed[0], "oxenv.failure.phase")["stringValue"], "step");
    // Each operation began a trace of its own.
    assert!(spans.iter().all(|span| span.get("parentSpanId").is_none()));
    assert_ne!(spans[0]["traceId"], spans[1]["traceId"]);
}

#[test]
fn a_receiver_that_is_busy_is_asked_again() {
    let receiver = Receiver::start(&["503 Service Unavailable"]);
    let server = Serving::start(&["--otlp", &receiver.url]);
    post(&server, "/reset", "", &json!({}));
    let (_, body) = receiver.requests.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "reset");
    assert!(!server.stop().stderr.contains("lost"));
}

#[test]
fn what_could_not_be_sent_is_told_and_the_end_is_in_time() {
    // Nothing listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://user:password@{gone}");
    let server = Serving::start(&["--otlp", &url]);
    post(&server, "/reset", "", &json!({}));
    post(&server, "/step", "", &echo("echo_message"));
    let ended = server.stop();
    assert!(ended.stderr.contains("traces were lost") && ended.stderr.contains("spans=3"), "{ended:#?}");
    assert!(!ended.stderr.contains("password"), "{ended:#?}");
}

#[test]
fn slow_steps_are_logged() {
    let server = Serving::start(&["--slow-step", "0.000000001"]);
    post(&server, "/reset", "", &json!({}));
    post(&server, "/step", "", &echo("echo_message"));
    let ended = server.stop();
    let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("slow operation")).collect();
    assert_eq!(lines.len(), 2, "{ended:#?}");
    for word in ["WARN", "kind=\"step\"", "session=", "epoch=1", "waited=", "took=", "environment=\"echo\""] {
        assert!(lines[1].contains(word), "{word}: {}", lines[1]);
    }
    let server = Serving::start(&["--slow-step", "1h"]);
    post(&server, "/reset", "", &json!({}));
    assert!(!server.stop().stderr.contains("slow operation"));
}

#[test]
fn a_served_session_is_counted() {
    let server = Serving::start(&["--metrics"]);
    post(&server, "/reset", "", &json!({}));
    for _ in 0..3 {
        post(&server, "/step", "", &echo("echo_message"));
    }
    post(&server, "/step", "", &echo("no_such_tool"));
    post(&server, "/mcp", "", &rpc(&json!({})));
    let page = page(&server);
    for line in [
        "oxenv_operation_seconds_count{environment=\"echo\",kind=\"reset\"} 1",
        "oxenv_operation_seconds_count{environment=\"echo\",kind=\"step\"} 4",
        "oxenv_operation_wait_seconds_count{environment=\"echo\",kind=\"step\"} 4",
        "oxenv_operation_seconds_count{environment=\"echo\",kind=\"agent_call\"} 1",
        "oxenv_stuck_environments 0",
    ] {
        assert!(page.lines().any(|shown| shown == line), "no {line} in {page}");
    }
    let calls =
        page.lines().find(|line| line.starts_with("oxenv_tool_call_seconds_count{tool=\"echo_message\""));
    assert!(calls.is_some_and(|line| line.ends_with(" 4")), "{calls:?}");
    assert!(!page.contains("no_such_tool"), "a name that nobody has became a series");
    server.stop();
}

#[test]
fn calls_that_need_no_session_are_counted() {
    let server = Serving::start(&["--metrics", "--mode", "production"]);
    for _ in 0..2 {
        post(&server, "/mcp", "", &rpc(&json!({})));
    }
    let page = page(&server);
    let calls =
        page.lines().find(|line| line.starts_with("oxenv_tool_call_seconds_count{tool=\"echo_message\""));
    assert!(calls.is_some_and(|line| line.ends_with(" 2")), "{calls:?}");
    let opened = page.lines().find(|line| line.starts_with("oxenv_sessions_opened_total"));
    assert!(opened.is_none_or(|line| line.ends_with(" 0")), "{opened:?}");
    server.stop();
}

fn page(server: &Serving) -> String {
    let mut stream = server.connect();
    let host = server.address;
    write!(stream, "GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

#[test]
fn what_cannot_be_meant_is_refused_before_a_port_is_bound() {
    for (flags, says) in [
        (["--otlp", "localhost:4318"], "http://127.0.0.1:4318"),
        (["--otlp-sample", "1.5"], "from 0 to 1"),
        (["--otlp-sample", "NaN"], "from 0 to 1"),
        (["--slow-step", "0"], "longer than 0"),
    ] {
        let ended = run(&["serve", "--port", "0", flags[0], flags[1]]);
        ended.failed(2, &[says, flags[0]]);
    }
}
