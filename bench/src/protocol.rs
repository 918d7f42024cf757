//! The protocols that a load can speak.
//!
//! Invariant: every header and key that a revision of MCP requires is sent, so that strict servers can be
//! measured.

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::target::Target;

/// Path of the MCP endpoint.
pub(crate) const MCP_PATH: &str = "/mcp";

/// The protocol that the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientProtocol {
    /// The best one that the server offers
    Auto,
    /// The stock dialect
    Stock,
    /// POST /step
    Http,
}

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

    /// The bytes of a request. `mcp::open` adds the session id that [`McpProtocol::Stateful`] needs.
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
        target.post(MCP_PATH, &body.to_string())
    }
}

/// Adds the `Accept` header that MCP requires of clients.
pub(crate) fn accepting_json_and_sse(target: &Target) -> Target {
    target.clone().with_header("Accept", "application/json, text/event-stream")
}

pub(crate) fn client_info() -> Value {
    json!({ "name": "oxenv bench", "version": env!("CARGO_PKG_VERSION") })
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
}
