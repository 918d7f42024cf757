//! Requests of MCP, and the handshake that opens an MCP session.
//!
//! Invariant: every header and key that a revision requires is sent, so that strict servers can be measured.

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::http::{HttpConnection, HttpSession};
use crate::http_response;
use crate::reply_checker::excerpt;
use crate::target::Target;

const PATH: &str = "/mcp";

/// A revision of MCP, or OpenEnv's dialect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum McpProtocol {
    /// OpenEnv's dialect: plain JSON-RPC, without MCP's headers
    #[value(name = "openenv")]
    OpenEnv,
    /// With sessions; the server replies with JSON or server-sent events
    #[value(name = "2025-11-25")]
    Stateful,
    /// Without sessions
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

    /// The bytes of a request. [`open`] adds the session id that [`McpProtocol::Stateful`] needs.
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

/// Opens a connection and an MCP session on it, and adds the session's id to `request`.
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
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let reply = connection.exchange(&target.post(PATH, &notification.to_string())).await?;
    if reply.head.status != 202 {
        bail!("`notifications/initialized` got HTTP {} instead of 202", reply.head.status);
    }
    let request = insert_header(request, &format!("Mcp-Session-Id: {id}"))?;
    Ok(HttpSession::new(connection, request.into()).with_closing_request(target.bodyless("DELETE", PATH)))
}

/// Sends `initialize`; returns the session's id.
async fn initialize(connection: &mut HttpConnection, request: &[u8]) -> anyhow::Result<String> {
    let reply = connection.exchange(request).await?;
    let (head, content) = (reply.head, connection.content(&reply)?);
    if head.status != 200 {
        bail!("`initialize` got HTTP {}: {}", head.status, excerpt(&content));
    }
    let result: Value = serde_json::from_slice(&content).context("the reply to `initialize` is not JSON")?;
    let version = result["result"]["protocolVersion"].as_str();
    if version != Some(McpProtocol::Stateful.name()) {
        bail!("the server speaks MCP {version:?}: {}", excerpt(&content));
    }
    let id = http_response::header(connection.bytes(), "mcp-session-id")?;
    Ok(id
        .context("the server opened no session: its reply to `initialize` has no Mcp-Session-Id")?
        .to_owned())
}

/// Adds the `Accept` header that MCP requires of clients.
fn accepting_json_and_sse(target: &Target) -> Target {
    target.clone().with_header("Accept", "application/json, text/event-stream")
}

fn client_info() -> Value {
    json!({ "name": "oxenv bench", "version": env!("CARGO_PKG_VERSION") })
}

/// Inserts a header line after the request line.
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
