//! The paths: which server each goes through, what is sent before, and what is sent each time.

use std::sync::Arc;

use oxenv_server::App;
use serde_json::{Value, json};

use crate::connection::{Connection, post, request, text};
use crate::servers;

/// All paths, by the names that `bench/counts.json` has them under.
pub(crate) const NAMES: [&str; 12] = [
    "ws-echo-step",
    "ws-typed-step",
    "ws-recorded-step",
    "ws-measured-step",
    "ws-judged-call",
    "ws-batch-64",
    "http-step",
    "http-fork-and-close",
    "mcp-dialect-call",
    "mcp-stateless-call",
    "mcp-session-call",
    "mcp-list-1000",
];

const ECHO_ACTION: &str =
    r#"{"type":"call_tool","tool_name":"echo_message","arguments":{"message":"hello"}}"#;
const ECHO_CALL: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","#,
    r#""params":{"name":"echo_message","arguments":{"message":"hello"}}}"#,
);
const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");

/// A path that has been prepared.
pub(crate) struct Walk {
    connection: Connection,
    each: Each,
    /// What every reply must contain: one that is an error is not the path.
    wanted: &'static str,
    /// Keeps the server.
    _app: Arc<App>,
}

enum Each {
    Frame(Vec<u8>),
    Request(Vec<u8>),
    /// Forks a session and closes the fork, whose id only the reply tells.
    Fork(Vec<u8>),
}

/// Starts the server of a path and does what comes before the first time.
pub(crate) async fn open(name: &str) -> Walk {
    match name {
        "ws-echo-step" => ws_step(servers::echo(), ECHO_ACTION, "hello").await,
        "ws-typed-step" => ws_step(servers::counter(), r#"{"add":1}"#, r#""value":"#).await,
        "ws-recorded-step" => ws_step(servers::recording(), ECHO_ACTION, "hello").await,
        "ws-measured-step" => ws_step(servers::measuring(), ECHO_ACTION, "hello").await,
        "ws-judged-call" => {
            let action = r#"{"type":"call_tool","tool_name":"say","arguments":{"message":"hello"}}"#;
            ws_step(servers::judged(), action, r#""reward":0.25"#).await
        }
        "ws-batch-64" => ws_batch(servers::echo()).await,
        "http-step" => {
            let action = format!(r#"{{"action":{ECHO_ACTION}}}"#);
            let app = servers::echo();
            let mut connection = Connection::open(&app);
            connection.exchange(&post("/reset", &[], "{}")).await;
            Walk { connection, each: Each::Request(post("/step", &[], &action)), wanted: "hello", _app: app }
        }
        "http-fork-and-close" => fork(servers::connect4()).await,
        "mcp-dialect-call" => mcp(servers::echo(), post("/mcp", &[], ECHO_CALL), "hello"),
        "mcp-stateless-call" => mcp(servers::echo(), stateless_call(), "hello"),
        "mcp-session-call" => mcp_session(servers::echo()).await,
        "mcp-list-1000" => {
            let list = post("/mcp", &[], r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
            mcp(servers::thousand_tools(), list, "set49_tool19")
        }
        unknown => panic!("there is no path '{unknown}'; they are {}", NAMES.join(", ")),
    }
}

impl Walk {
    /// Goes the path one time.
    pub(crate) async fn once(&mut self) {
        let (connection, wanted) = (&mut self.connection, self.wanted);
        match &self.each {
            Each::Frame(frame) => assert_reply(connection.frame(frame).await, wanted),
            Each::Request(request) => assert_reply(connection.exchange(request).await.body(), wanted),
            Each::Fork(fork) => {
                let reply: Value =
                    serde_json::from_str(connection.exchange(fork).await.body()).expect("JSON");
                let id =
                    reply["sessions"][0]["session_id"].as_str().unwrap_or_else(|| panic!("no fork: {reply}"));
                let close = request("DELETE", &format!("/sessions/{id}"), &[], "");
                let closed = connection.exchange(&close).await;
                assert!(closed.head().starts_with("HTTP/1.1 2"), "{}", closed.head());
            }
        }
    }
}

fn assert_reply(reply: &str, wanted: &str) {
    assert!(reply.contains(wanted), "a reply without {wanted}: {reply}");
}

async fn ws_step(app: Arc<App>, action: &str, wanted: &'static str) -> Walk {
    let mut connection = Connection::open(&app);
    connection.upgrade(None).await;
    assert_reply(connection.frame(&text(r#"{"type":"reset","data":{}}"#)).await, "observation");
    let step = text(&format!(r#"{{"type":"step","data":{action}}}"#));
    Walk { connection, each: Each::Frame(step), wanted, _app: app }
}

async fn ws_batch(app: Arc<App>) -> Walk {
    let mut connection = Connection::open(&app);
    connection.upgrade(Some("oxenv.1")).await;
    let mut steps = Vec::new();
    for _ in 0..64 {
        let opened = connection.frame(&text(r#"{"type":"open","id":1}"#)).await;
        let opened: Value = serde_json::from_str(opened).expect("JSON");
        let action: Value = serde_json::from_str(ECHO_ACTION).expect("JSON");
        steps.push(json!({ "type": "step", "session": opened["session"], "data": action }));
    }
    let resets: Vec<Value> =
        steps.iter().map(|step| json!({ "type": "reset", "session": step["session"], "data": {} })).collect();
    let batch = |items: Vec<Value>| {
        text(&json!({ "type": "batch", "id": 1, "data": { "items": items } }).to_string())
    };
    assert_reply(connection.frame(&batch(resets)).await, "observation");
    Walk { connection, each: Each::Frame(batch(steps)), wanted: "hello", _app: app }
}

async fn fork(app: Arc<App>) -> Walk {
    let mut connection = Connection::open(&app);
    let made: Value =
        serde_json::from_str(connection.exchange(&post("/sessions", &[], "{}")).await.body()).expect("JSON");
    let session = format!("/sessions/{}", made["session_id"].as_str().expect("an id"));
    connection.exchange(&post(&format!("{session}/reset"), &[], r#"{"seed":7}"#)).await;
    let fork = post(&format!("{session}/fork"), &[], "{}");
    Walk { connection, each: Each::Fork(fork), wanted: "", _app: app }
}

fn mcp(app: Arc<App>, request: Vec<u8>, wanted: &'static str) -> Walk {
    Walk { connection: Connection::open(&app), each: Each::Request(request), wanted, _app: app }
}

/// A call of revision 2026-07-28, which stands alone.
fn stateless_call() -> Vec<u8> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "echo_message", "arguments": { "message": "hello" },
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": { "name": "counts", "version": "1" },
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    } });
    let headers = [
        ACCEPT,
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "echo_message"),
    ];
    post("/mcp", &headers, &body.to_string())
}

/// Calls within a session that began with a handshake of revision 2025-11-25.
async fn mcp_session(app: Arc<App>) -> Walk {
    let mut connection = Connection::open(&app);
    let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": { "name": "counts", "version": "1" },
    } });
    let greeted = connection.exchange(&post("/mcp", &[ACCEPT], &initialize.to_string())).await;
    let id = greeted.header("mcp-session-id").expect("a session").to_owned();
    let headers = [ACCEPT, ("MCP-Protocol-Version", "2025-11-25"), ("Mcp-Session-Id", &id)];
    let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let noted = connection.exchange(&post("/mcp", &headers, note)).await;
    assert!(noted.head().starts_with("HTTP/1.1 202"), "{}", noted.head());
    Walk { connection, each: Each::Request(post("/mcp", &headers, ECHO_CALL)), wanted: "hello", _app: app }
}
