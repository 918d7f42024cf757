//! The handshake that opens an MCP session.
//!
//! Entry point: [`open`]. None of it is measured.

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::http::{HttpConnection, HttpSession};
use crate::http_response;
use crate::protocol::{MCP_PATH, McpProtocol, accepting_json_and_sse, client_info};
use crate::reply_checker::excerpt;
use crate::target::Target;

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
    let id = initialize(&mut connection, &target.post(MCP_PATH, &body.to_string())).await?;

    let target = target
        .with_header("MCP-Protocol-Version", McpProtocol::Stateful.name())
        .with_header("Mcp-Session-Id", &id);
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let reply = connection.exchange(&target.post(MCP_PATH, &notification.to_string())).await?;
    if reply.head.status != 202 {
        bail!("`notifications/initialized` got HTTP {} instead of 202", reply.head.status);
    }
    let request = insert_header(request, &format!("Mcp-Session-Id: {id}"))?;
    Ok(HttpSession::new(connection, request.into()).with_closing_request(target.bodyless("DELETE", MCP_PATH)))
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

/// Inserts a header line after the request line.
fn insert_header(request: &[u8], line: &str) -> anyhow::Result<Vec<u8>> {
    let end = request.windows(2).position(|two| two == b"\r\n").context("a request without a line")?;
    let (first, rest) = request.split_at(end);
    Ok([first, b"\r\n", line.as_bytes(), rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_behind_the_first() {
        assert_eq!(insert_header(b"A\r\nB: c\r\n\r\n{}", "X: y").unwrap(), b"A\r\nX: y\r\nB: c\r\n\r\n{}");
        assert!(insert_header(b"A", "X: y").is_err());
    }
}
