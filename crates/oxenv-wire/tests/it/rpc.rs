//! Replies of JSON-RPC: results of every method, every error code, every kind of id.
//!
//! Invariant: an id goes back exactly as it came, so nobody reads it as a number and writes it again.

use oxenv_wire::{
    ErrorCode, Json, McpEra, RpcCode, RpcError, RpcId, RpcRequest, ToolError, ToolErrorType, ToolResult,
    write_mcp_call, write_mcp_tools, write_rpc_error, write_rpc_result,
};
use serde_json::{Value, json};

use crate::golden::{Golden, check};
use crate::results::{raw, results, tools};

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = vec![
        result("tools-list", "1", &tools_list()),
        result("session-create", "\"s-1\"", r#"{"session_id":"4a47a35c-53b3-48d9-aa62-197a7bef509a"}"#),
        result(
            "session-close",
            "null",
            r#"{"session_id":"4a47a35c-53b3-48d9-aa62-197a7bef509a","closed":true}"#,
        ),
        result("session-closing", "-7", r#"{"session_id":"s","closed":false,"closing":true}"#),
    ];
    goldens.extend(results().into_iter().filter(|(_, value)| !value.is_error).map(|(name, value)| {
        let mut text = String::new();
        value.write_dialect(&mut text);
        result(&format!("tools-call-{name}"), "2", &text)
    }));
    goldens.extend(faults().into_iter().map(|(name, id, fault)| {
        let mut out = String::new();
        with_id(id, |id| write_rpc_error(&mut out, id, &fault));
        Golden::reply(format!("rpc-error-{name}"), out)
    }));
    goldens.extend(mcp());
    goldens
}

/// What MCP's clients get where stock clients get the dialect, in both eras.
fn mcp() -> Vec<Golden> {
    let text = ToolResult::from_value("hi").expect("a string is JSON");
    let image = crate::results::image_result();
    let wanted =
        r#"{"resultType":"input_required","inputRequests":{"q":{"method":"roots/list","params":{}}}}"#;
    let wants = ToolResult { input_required: Some(raw(wanted)), ..ToolResult::default() };
    let refused = ToolError::new(ToolErrorType::InvalidArgs, "call[add]: 'a' is missing");
    let denied = ToolError::new(ToolErrorType::ExecutionError, "tool 'add' is not allowed here")
        .with_code(ErrorCode::Denied);
    let calls = [
        ("text", Ok(&text)),
        ("image", Ok(&image)),
        ("input-required", Ok(&wants)),
        ("refused", Err(&refused)),
        ("denied", Err(&denied)),
    ];
    let listed: Vec<String> = tools().iter().map(|tool| tool.for_mcp().get().to_owned()).collect();
    let listed = format!("[{}]", listed.join(","));
    let mut goldens = Vec::new();
    for (era, name) in [(McpEra::Handshake, "handshake"), (McpEra::Stateless, "stateless")] {
        for (call, outcome) in calls {
            let mut out = String::new();
            write_mcp_call(&mut out, era, outcome);
            // Where there is no way to ask, the door gives an error instead.
            if era == McpEra::Stateless || call != "input-required" {
                goldens.push(result(&format!("mcp-{name}-call-{call}"), "2", &out));
            }
        }
        let mut out = String::new();
        write_mcp_tools(&mut out, era, &listed);
        goldens.push(result(&format!("mcp-{name}-tools"), "1", &out));
    }
    goldens
}

fn tools_list() -> String {
    let tools: Vec<String> = tools().iter().map(|tool| tool.for_dialect().get().to_owned()).collect();
    format!("{{\"tools\":[{}]}}", tools.join(","))
}

fn faults() -> Vec<(&'static str, &'static str, RpcError)> {
    let fault = RpcError::new;
    let capacity = "Server at capacity: 2/2 sessions active. Cannot accept new connections.";
    let oxenv = json!({ "oxenv": { "code": "DEADLINE_EXCEEDED", "kind": "timeout", "retryable": false } });
    let with = |code, message: &str, data: Value| RpcError { code, message: message.to_owned(), data };
    vec![
        (
            "parse-error",
            "null",
            fault(RpcCode::ParseError, "Parse error: Expecting value: line 1 column 1 (char 0)"),
        ),
        (
            "invalid-request",
            "null",
            fault(RpcCode::InvalidRequest, "Invalid request: the key 'id' appears twice"),
        ),
        ("method-not-found", "\"a\"", fault(RpcCode::MethodNotFound, "Method not found: ping")),
        ("invalid-params", "5", fault(RpcCode::InvalidParams, "Missing 'name' in params")),
        ("internal-error", "3", fault(RpcCode::InternalError, "Unknown tool: 'nope'")),
        (
            "capacity",
            "24",
            with(RpcCode::ServerError, capacity, json!({ "active_sessions": 2, "max_sessions": 2 })),
        ),
        (
            "oxenv-data",
            "170141183460469231731687303715884105727",
            with(RpcCode::InternalError, "out of time", oxenv),
        ),
    ]
}

fn result(name: &str, id: &str, value: &str) -> Golden {
    let mut out = String::new();
    with_id(id, |id| write_rpc_result(&mut out, id, |out| out.push_str(value)));
    Golden::reply(format!("rpc-result-{name}"), out)
}

/// An id as a client sends it: only a request can carry one in.
fn with_id(id: &str, then: impl FnOnce(RpcId<'_>)) {
    let request = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#);
    let parsed = RpcRequest::parse(&request).expect("the id is one");
    assert_eq!(parsed.id.get(), id);
    assert_eq!(parsed.has_id, id != "null");
    then(parsed.id);
}

#[test]
fn every_json_rpc_reply_is_its_golden() {
    check(goldens());
}

#[test]
fn codes_are_json_rpcs_numbers() {
    let codes = [
        (RpcCode::ParseError, -32700),
        (RpcCode::InvalidRequest, -32600),
        (RpcCode::MethodNotFound, -32601),
        (RpcCode::InvalidParams, -32602),
        (RpcCode::InternalError, -32603),
        (RpcCode::ServerError, -32000),
        (RpcCode::MissingCapability, -32021),
    ];
    for (code, number) in codes {
        assert_eq!(code as i32, number);
    }
}

#[test]
fn parameters_are_asked_for_what_is_in_them() {
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","_meta":{"progressToken":7,"a/b":{"c":1}},"cursor":null}}"#;
    let params =
        RpcRequest::parse(request).expect("it is a request").read_params().expect("they are an object");
    let meta = params.meta().expect("there is metadata");
    assert_eq!(meta.get("progressToken").map(Json::get), Some("7"));
    assert_eq!(meta.get("a/b").map(Json::get), Some(r#"{"c":1}"#));
    assert!(params.get("cursor").is_none(), "null counts as absent");
    for without in [r#"{}"#, r#"{"_meta":null}"#, r#"{"_meta":[]}"#, r#"{"_meta":{"a":1,"a":2}}"#] {
        let request = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m","params":{without}}}"#);
        let params = RpcRequest::parse(&request).expect("it is a request").read_params();
        assert!(params.expect("they are an object").meta().is_none(), "{without}");
    }
}
