//! The kinds of load.
//!
//! Entry point: [`LoadKind`].

use crate::protocol::{ClientProtocol, McpProtocol};
use crate::reply_checker::ExpectedReply;

/// Which requests are sent, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadKind {
    /// Steps over `/ws`, one session per socket.
    Ws,
    /// Steps of many sessions on one socket, one step per frame.
    Multiplex,
    /// Steps of many sessions on one socket, with this number of steps per frame.
    Batch(usize),
    /// Steps through the Rust client, one session per connection.
    Client(ClientProtocol),
    /// Steps through the Rust client, many sessions on one connection, with this number of steps per frame.
    ClientMany(usize),
    /// `POST /step`.
    Http,
    /// `tools/call` at `/mcp`.
    Call(McpProtocol),
    /// `tools/list` at `/mcp`.
    List(McpProtocol),
    /// `GET /tools`.
    Tools,
    /// Short sessions over `/ws`: connect, reset, step, close.
    Churn,
}

impl LoadKind {
    /// The value of `bench` in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Multiplex => "ws-multiplex",
            Self::Batch(_) => "ws-batch",
            Self::Client(_) => "client",
            Self::ClientMany(1) => "client-multiplex",
            Self::ClientMany(_) => "client-batch",
            Self::Http => "http",
            Self::Call(_) | Self::List(_) => "mcp",
            Self::Tools => "tools",
            Self::Churn => "churn",
        }
    }

    /// The form of a successful reply.
    pub(crate) fn expected_reply(self) -> ExpectedReply {
        match self {
            Self::Ws | Self::Churn => ExpectedReply::ObservationFrame,
            Self::Multiplex => ExpectedReply::NumberedFrame,
            Self::Batch(_) => ExpectedReply::BatchFrame,
            Self::Http => ExpectedReply::StepBody,
            Self::Client(_) | Self::ClientMany(_) => ExpectedReply::Observation,
            Self::Call(_) => ExpectedReply::ToolResult,
            Self::List(_) => ExpectedReply::RpcToolList,
            Self::Tools => ExpectedReply::ToolList,
        }
    }

    /// The revision of MCP, if MCP is spoken.
    pub(crate) fn protocol(self) -> Option<McpProtocol> {
        match self {
            Self::Call(protocol) | Self::List(protocol) => Some(protocol),
            _ => None,
        }
    }

    /// Number of sessions or connections where `--sessions` is not given.
    pub(crate) fn default_sessions(self) -> usize {
        match self {
            Self::Ws | Self::Multiplex | Self::Batch(_) | Self::Client(_) | Self::ClientMany(_) => 64,
            Self::Http | Self::Call(_) | Self::List(_) | Self::Tools => 32,
            Self::Churn => 16,
        }
    }
}
