//! Replies of JSON-RPC: results of every method, every error code, every kind of id.
//!
//! Invariant: an id goes back exactly as it came, so nobody reads it as a number and writes it again.

use oxenv_wire::{RpcCode, RpcFault, RpcId, RpcRequest, write_rpc_error, write_rpc_result};
use serde_json::{Value, json};

use crate::golden::{Golden, check};
use crate::results::{results, tools};

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
    goldens
}

fn tools_list() -> String {
    let tools: Vec<String> = tools().iter().map(|tool| tool.for_dialect().get().to_owned()).collect();
    format!("{{\"tools\":[{}]}}", tools.join(","))
}

fn faults() -> Vec<(&'static str, &'static str, RpcFault)> {
    let fault = RpcFault::new;
    let capacity = "Server at capacity: 2/2 sessions active. Cannot accept new connections.";
    let oxenv = json!({ "oxenv": { "code": "DEADLINE_EXCEEDED", "kind": "timeout", "retryable": false } });
    let with = |code, message: &str, data: Value| RpcFault { code, message: message.to_owned(), data };
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
    ];
    for (code, number) in codes {
        assert_eq!(code as i32, number);
    }
}
