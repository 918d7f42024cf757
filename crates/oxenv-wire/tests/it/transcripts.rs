//! The recorded exchanges as fixtures: every request that a running reference server answered is
//! read by this crate, and must be taken or refused as it was there.
//!
//! Invariant: a difference is listed in [`ALLOWED`] with its reason; an entry that no longer differs
//! fails. What the wire crate does not see (headers, sessions, tools) is compared by the replay of
//! the same files against a running server.

use std::fs;
use std::path::Path;

use oxenv_wire::{
    Action, CallOutcome, ClientFrame, FrameError, JsonError, ObservationParts, ResetRequest, RpcCode,
    RpcParams, RpcRequest, Spelling, StepRequest, ToolError, ToolErrorType, ToolResult, ValidationIssue,
    default_call, write_call_fields, write_observation_body, write_observation_frame,
};
use serde_json::Value;
use serde_json::value::RawValue;

const FILES: [&str; 4] =
    ["openenv-core-0.3.0-ws", "openenv-0.10.0-ws", "openenv-core-0.3.0-http", "openenv-0.10.0-http"];

/// Where we differ from the recordings: the request, the outcome here, the reason.
const ALLOWED: [(&str, &str, &str); 3] = [
    (
        r#"{"type": "reset", "data": {"seed": -1}}"#,
        r#"VALIDATION_ERROR [["greater_than_equal",["data","seed"]]]"#,
        "the reference does not validate the data of a reset on the socket, a marked flaw",
    ),
    (
        r#"{"type": "reset", "data": {"seed": "abc"}}"#,
        r#"VALIDATION_ERROR [["int_parsing",["data","seed"]]]"#,
        "the reference does not validate the data of a reset on the socket, a marked flaw",
    ),
    (
        "/mcp []",
        "rpc -32700",
        "on the socket the reference's own code trips over an array (-32000); over HTTP it answers -32700",
    ),
];

/// One recorded request: which door, what was sent, the outcome that the reply shows.
struct Exchange {
    door: &'static str,
    sent: String,
    recorded: String,
}

#[test]
fn requests_are_taken_and_refused_as_recorded() {
    let mut allowed = vec![0; ALLOWED.len()];
    let mut problems = Vec::new();
    for file in FILES {
        let exchanges = exchanges(file);
        assert!(exchanges.len() >= 25, "{file}: the recording has requests: {}", exchanges.len());
        for Exchange { door, sent, recorded } in exchanges {
            let ours = outcome(door, &sent);
            let name = if door == "/mcp socket" { format!("/mcp {sent}") } else { sent.clone() };
            let entry = ALLOWED.iter().position(|(request, outcome, _)| *request == name && *outcome == ours);
            match entry {
                _ if ours == recorded => {}
                Some(entry) => allowed[entry] += 1,
                None => problems.push(format!(
                    "{file} {door}\n  sent     {sent}\n  recorded {recorded}\n  ours     {ours}"
                )),
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    for ((request, _, _), count) in ALLOWED.iter().zip(allowed) {
        assert_eq!(count, 2, "{request} differs in the recordings of both versions; else the entry is stale");
    }
}

/// What 0.10.0 wrote for its calls is what we write for them, to the byte.
#[test]
fn recorded_observations_of_calls_are_written_to_the_byte() {
    let mut written = 0;
    for (file, line) in ["openenv-0.10.0-ws", "openenv-0.10.0-http"]
        .iter()
        .flat_map(|file| read(file).lines().map(|line| (*file, line.to_owned())).collect::<Vec<_>>())
    {
        let line = line.strip_prefix("< ").unwrap_or(&line);
        let Ok(reply) = serde_json::from_str::<Value>(line) else { continue };
        let data = if file.ends_with("ws") { &reply["data"] } else { &reply };
        let observation = &data["observation"];
        let Some(name) = observation["tool_name"].as_str() else { continue };
        let outcome = match observation["error"].is_null() {
            true => Ok(ToolResult::from_value(&observation["result"]["data"]).expect("data is JSON")),
            false => Err(tool_error(&observation["error"])),
        };
        let parts = ObservationParts { metadata: "{}", reward: None, done: false };
        let mut ours = String::new();
        let outcome = CallOutcome::new(outcome.as_ref());
        let fields = |out: &mut String| write_call_fields(out, Spelling::Stock, name, &outcome);
        match file.ends_with("ws") {
            true => write_observation_frame(&mut ours, &parts, fields),
            false => write_observation_body(&mut ours, &parts, fields),
        }
        assert_eq!(ours, line, "{file}");
        written += 1;
    }
    assert!(written >= 10, "the recordings hold calls: {written}");
}

fn tool_error(error: &Value) -> ToolError {
    let kind: ToolErrorType =
        serde_json::from_value(error["error_type"].clone()).expect("one of the five types");
    ToolError::new(kind, error["message"].as_str().expect("a message"))
}

/// What this crate makes of a request, in the words of [`recorded_frame`] and its like.
fn outcome(door: &str, sent: &str) -> String {
    match door {
        "/ws" => frame(sent),
        "/reset" => {
            body(sent, |value| ResetRequest::parse(value, &["body"]).map(|_| "observation".to_owned()))
        }
        "/step" => body(sent, |value| {
            let step = StepRequest::parse(value, &["body"])?;
            action(step.action.raw()).map_err(|issues| issues.into_iter().collect())
        }),
        _ => rpc(sent),
    }
}

fn frame(sent: &str) -> String {
    let issues = |found: &[ValidationIssue]| format!("VALIDATION_ERROR {}", types_and_locs(found));
    match ClientFrame::parse(sent) {
        Err(FrameError::Json(fault)) => format!("INVALID_JSON Invalid JSON: {fault}"),
        Err(FrameError::NotObject(kind)) => format!("SESSION_ERROR '{kind}' object has no attribute 'get'"),
        Err(FrameError::UnknownType(name)) => format!("UNKNOWN_TYPE Unknown message type: {name}"),
        Err(FrameError::Invalid(found)) => issues(&found),
        Ok(ClientFrame::Reset(_)) => "observation".to_owned(),
        Ok(ClientFrame::Step(value)) => action(value.json().raw()).unwrap_or_else(|found| issues(&found)),
        Ok(ClientFrame::State) => "state".to_owned(),
        Ok(ClientFrame::Close) => "closed".to_owned(),
        Ok(ClientFrame::Mcp(message)) => rpc(message.get()),
    }
}

/// The recorded environment is one of tools, where any other action is read as a call.
fn action(value: &RawValue) -> Result<String, Vec<ValidationIssue>> {
    match Action::parse(value)? {
        Action::Typed(typed) => default_call(typed).map(|_| "observation".to_owned()),
        _ => Ok("observation".to_owned()),
    }
}

fn body(sent: &str, parse: impl FnOnce(&RawValue) -> Result<String, Vec<ValidationIssue>>) -> String {
    let parsed = match serde_json::from_str::<&RawValue>(sent) {
        Ok(value) => parse(value),
        Err(_) => Err(vec![ValidationIssue::syntax(&JsonError::diagnose(sent))]),
    };
    parsed.unwrap_or_else(|found| format!("VALIDATION_ERROR {}", types_and_locs(&found)))
}

/// The code of a refusal; requests that the server must look into further are `request METHOD`.
fn rpc(sent: &str) -> String {
    let request = match RpcRequest::parse(sent) {
        Ok(request) => request,
        Err(fault) => return format!("rpc {}", fault.code as i32),
    };
    let params = RpcParams::parse(request.params).expect("no recorded request has wrong parameters");
    let refused = match request.method.as_ref() {
        "tools/call" => params.tool_call().err().map(|fault| fault.code),
        "openenv/session/close" if params.session_id().expect("a string").is_none() => {
            Some(RpcCode::InvalidParams)
        }
        "tools/list" | "openenv/session/create" | "openenv/session/close" => None,
        _ => Some(RpcCode::MethodNotFound),
    };
    refused.map_or_else(|| "taken".to_owned(), |code| format!("rpc {}", code as i32))
}

fn types_and_locs(found: &[ValidationIssue]) -> String {
    let issues: Vec<Value> = found.iter().map(|issue| serde_json::json!([issue.kind, issue.loc])).collect();
    Value::Array(issues).to_string()
}

/// The same of a recorded list of issues.
fn recorded_issues(issues: &Value) -> String {
    let issues = issues.as_array().expect("a list of issues");
    let issues: Vec<Value> =
        issues.iter().map(|issue| serde_json::json!([issue["type"], issue["loc"]])).collect();
    format!("VALIDATION_ERROR {}", Value::Array(issues))
}

fn recorded_frame(reply: &str) -> String {
    if reply.starts_with("!! ConnectionClosedOK") {
        return "closed".to_owned();
    }
    let reply: Value = serde_json::from_str(reply).expect("a whole reply");
    let data = &reply["data"];
    match reply["type"].as_str().expect("a type") {
        "error" => match data["code"].as_str().expect("a code") {
            "VALIDATION_ERROR" => recorded_issues(&data["errors"]),
            code => format!("{code} {}", data["message"].as_str().expect("a message")),
        },
        "mcp" => recorded_rpc(data),
        kind => kind.to_owned(),
    }
}

/// A request that was refused for what only a server knows (a tool, a session, a slot) was taken.
fn recorded_rpc(reply: &Value) -> String {
    let error = &reply["error"];
    let taken_elsewhere = [
        "Unknown tool",
        "Unknown session_id",
        "Server at capacity",
        "Cannot close active",
        "1 validation error for call",
    ];
    match error["message"].as_str() {
        None => "taken".to_owned(),
        Some(message) if taken_elsewhere.iter().any(|text| message.starts_with(text)) => "taken".to_owned(),
        Some(_) => format!("rpc {}", error["code"]),
    }
}

fn exchanges(file: &str) -> Vec<Exchange> {
    let text = read(file);
    if file.ends_with("http") { http(&text) } else { sockets(&text) }
}

/// A `> ` line and the `< ` line after it. Binary frames are not text and so not for this crate.
fn sockets(text: &str) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut door = "/ws";
    let mut waiting: Option<&str> = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("== ") {
            door = if title.starts_with("/mcp") { "/mcp socket" } else { "/ws" };
        } else if let Some(sent) = line.strip_prefix("> ") {
            assert!(waiting.is_none(), "a request without a reply: {waiting:?}");
            waiting = (!sent.starts_with("b'")).then_some(sent);
        } else if let (Some(reply), Some(sent)) = (line.strip_prefix("< "), waiting) {
            let recorded = match door {
                "/ws" => recorded_frame(reply),
                _ => recorded_rpc(&serde_json::from_str(reply).expect("a whole reply")),
            };
            exchanges.push(Exchange { door, sent: sent.to_owned(), recorded });
            waiting = None;
        }
    }
    assert!(waiting.is_none(), "a request without a reply: {waiting:?}");
    exchanges
}

/// A `### -X POST …` line, and the last line that is not empty before the next one. A body without a
/// content type is the server's to refuse.
fn http(text: &str) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    for record in text.split("### ").filter(|record| record.starts_with("-X POST ")) {
        let (head, rest) = record.split_once('\n').expect("a reply follows");
        let Some((address, sent)) = head.split_once(" -H content-type: application/json -d ") else {
            continue;
        };
        let door =
            ["/reset", "/step", "/mcp"].into_iter().find(|door| address.ends_with(door)).expect("a door");
        let (_, reply) = rest.split_once("\n\n").expect("a body follows the headers");
        let reply = reply.lines().next().expect("a body");
        let reply: Value = serde_json::from_str(reply).expect("a whole reply");
        let recorded = match door {
            "/mcp" => recorded_rpc(&reply),
            _ if reply["detail"].is_array() => recorded_issues(&reply["detail"]),
            _ => "observation".to_owned(),
        };
        exchanges.push(Exchange { door, sent: sent.to_owned(), recorded });
    }
    exchanges
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/transcripts/{file}.txt"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
