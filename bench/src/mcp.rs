//! MCP as its clients speak it: the requests, and the handshake that a session begins with.
//!
//! The invariant: every header and key that a revision asks for is sent, so that a strict server is measured
//! as its clients use it.

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::http::{HttpConnection, HttpSession};
use crate::http_response;
use crate::reply_checker::excerpt;
use crate::target::Target;

const PATH: &str = "/mcp";

/// How MCP is spoken at `/mcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpProtocol {
    /// OpenEnv's dialect: JSON-RPC and nothing around it
    #[value(name = "openenv")]
    OpenEnv,
    /// A session by handshake; replies are JSON or events, as the server likes
    #[value(name = "2025-11-25")]
    Stateful,
    /// Each request stands alone
    #[value(name = "2026-07-28")]
    Stateless,
}

impl McpProtocol {
    /// Its name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenEnv => "openenv",
            Self::Stateful => "2025-11-25",
            Self::Stateless => "2026-07-28",
        }
    }

    /// The bytes of a request. One of a session still lacks the session's id.
    pub(crate) fn request(self, target: &Target, method: &str, mut params: Value) -> Vec<u8> {
        let target = match self {
            Self::OpenEnv => target.clone(),
            Self::Stateful => accepting_json_and_sse(target).with_header("MCP-Protocol-Version", self.name()),
            Self::Stateless => {
                params["_meta"] = json!({
                    "io.modelcontextprotocol/protocolVersion": self.name(),
                    "io.modelcontextprotocol/clientInfo": client_info(),
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
                let target = accepting_json_and_sse(target)
                    .with_header("MCP-Protocol-Version", self.name())
                    .with_header("Mcp-Method", method);
                match params["name"].as_str() {
                    Some(name) => target.with_header("Mcp-Name", name),
                    None => target,
                }
            }
        };
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        target.post(PATH, &body.to_string())
    }
}

/// Opens a connection and a session on it, whose id is added to `request`.
pub(crate) async fn open(target: &Target, request: &[u8]) -> anyhow::Result<HttpSession> {
    let target = accepting_json_and_sse(target);
    let mut connection = HttpConnection::open(&target).await?;
    let body = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {
            "protocolVersion": McpProtocol::Stateful.name(), "capabilities": {}, "clientInfo": client_info(),
        },
    });
    let id = initialize(&mut connection, &target.post(PATH, &body.to_string())).await?;

    let target = target
        .with_header("MCP-Protocol-Version", McpProtocol::Stateful.name())
        .with_header("Mcp-Session-Id", &id);
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let reply = connection.exchange(&target.post(PATH, &note.to_string())).await?;
    if reply.head.status != 202 {
        bail!("`notifications/initialized` got HTTP {} instead of 202", reply.head.status);
    }
    let request = insert_header(request, &format!("Mcp-Session-Id: {id}"))?;
    Ok(HttpSession::new(connection, request.into()).with_closing_request(target.bodyless("DELETE", PATH)))
}

/// Shakes hands; gives the session's id.
async fn initialize(connection: &mut HttpConnection, request: &[u8]) -> anyhow::Result<String> {
    let reply = connection.exchange(request).await?;
    let (head, content) = (reply.head, connection.content(&reply)?);
    if head.status != 200 {
        bail!("`initialize` got HTTP {}: {}", head.status, excerpt(&content));
    }
    let result: Value = serde_json::from_slice(&content).context("the reply to `initialize` is not JSON")?;
    let spoken = result["result"]["protocolVersion"].as_str();
    if spoken != Some(McpProtocol::Stateful.name()) {
        bail!("the server speaks {spoken:?}: {}", excerpt(&content));
    }
    let id = http_response::header(connection.bytes(), "mcp-session-id")?;
    Ok(id.context("the server made no session: `initialize` was answered without Mcp-Session-Id")?.to_owned())
}

/// What a client of MCP takes as a reply.
fn accepting_json_and_sse(target: &Target) -> Target {
    target.clone().with_header("Accept", "application/json, text/event-stream")
}

fn client_info() -> Value {
    json!({ "name": "oxenv bench", "version": env!("CARGO_PKG_VERSION") })
}

/// Adds a header line behind the request line.
fn insert_header(request: &[u8], line: &str) -> anyhow::Result<Vec<u8>> {
    let end = request.windows(2).position(|two| two == b"\r\n").context("a request without a line")?;
    let (first, rest) = request.split_at(end);
    Ok([first, b"\r\n", line.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(protocol: McpProtocol, method: &str, params: Value) -> (String, Value) {
        let target = Target::parse("http://127.0.0.1:9", &[]).unwrap();
        let text = String::from_utf8(protocol.request(&target, method, params)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), serde_json::from_str(body).unwrap())
    }

    #[test]
    fn a_stateless_request_says_who_asks_and_for_what() {
        let params = json!({ "name": "echo_message", "arguments": {} });
        let (head, body) = request(McpProtocol::Stateless, "tools/call", params);
        for line in ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: echo_message"] {
            assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
        }
        let meta = body["params"]["_meta"].as_object().unwrap();
        assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert_eq!(meta.len(), 3);

        let (head, body) = request(McpProtocol::Stateless, "tools/list", json!({}));
        assert!(!head.contains("Mcp-Name") && body["params"]["_meta"].is_object(), "{head}");
    }

    #[test]
    fn the_dialect_sends_no_header_of_mcp() {
        let (head, body) = request(McpProtocol::OpenEnv, "tools/list", json!({}));
        assert!(!head.contains("Accept") && !head.to_lowercase().contains("mcp-"), "{head}");
        assert_eq!(body["params"], json!({}));
    }

    #[test]
    fn a_line_goes_behind_the_first() {
        assert_eq!(insert_header(b"A\r\nB: c\r\n\r\n{}", "X: y").unwrap(), b"A\r\nX: y\r\nB: c\r\n\r\n{}");
        assert!(insert_header(b"A", "X: y").is_err());
    }
}
