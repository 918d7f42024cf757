//! What one run does, with the request already built.
//!
//! Invariant: a plan is validated before a socket is opened.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::{ActionArgs, ECHO_ACTION, LoadArgs};
use crate::client_steps::ClientProtocol;
use crate::frame;
use crate::mcp::McpProtocol;
use crate::multiplexed;
use crate::reply_checker::{ExpectedReply, FirstReply};
use crate::target::Target;

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

/// The parameters of one run.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    pub(crate) kind: LoadKind,
    pub(crate) url: String,
    pub(crate) headers: Vec<String>,
    pub(crate) target: Target,
    pub(crate) pid: Option<u32>,
    pub(crate) sessions: usize,
    pub(crate) threads: usize,
    pub(crate) depth: usize,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) rate: Option<f64>,
    /// One request as sent: a masked WebSocket frame, or an HTTP request with its body.
    pub(crate) request: Arc<[u8]>,
    /// The action, for frames that can be built only when session ids are known.
    pub(crate) action: Value,
    /// The first successful reply, for the report.
    pub(crate) first_reply: FirstReply,
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

    /// What a successful reply looks like.
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

    fn default_sessions(self) -> usize {
        match self {
            Self::Ws | Self::Multiplex | Self::Batch(_) | Self::Client(_) | Self::ClientMany(_) => 64,
            Self::Http | Self::Call(_) | Self::List(_) | Self::Tools => 32,
            Self::Churn => 16,
        }
    }
}

impl LoadPlan {
    /// A plan for a load that sends the action given by `--message`.
    pub(crate) fn with_action(kind: LoadKind, args: ActionArgs) -> anyhow::Result<Self> {
        let action: Value = serde_json::from_str(&args.message)
            .with_context(|| format!("--message is not JSON: `{}`", args.message))?;
        if !action.is_object() {
            bail!("--message must be a JSON object, such as {ECHO_ACTION}");
        }
        Self::new(kind, args.load, &action)
    }

    /// Validates the arguments and builds the request.
    pub(crate) fn new(kind: LoadKind, args: LoadArgs, action: &Value) -> anyhow::Result<Self> {
        let target = Target::parse(&args.server.url, &args.server.headers)?;
        let request = request(kind, &target, action)?;
        let sessions = args.sessions.map_or(kind.default_sessions(), std::num::NonZero::get);
        Ok(Self {
            kind,
            url: args.server.url,
            headers: args.server.headers,
            target,
            pid: args.server.pid,
            sessions,
            threads: args.threads.get().min(sessions),
            depth: 1,
            warmup: args.warmup,
            duration: args.duration,
            rate: args.rate,
            request: request.into(),
            action: action.clone(),
            first_reply: FirstReply::default(),
        })
    }
}

fn request(kind: LoadKind, target: &Target, action: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(match kind {
        LoadKind::Ws | LoadKind::Churn => {
            frame::text(json!({ "type": "step", "data": action }).to_string().as_bytes())
        }
        // Only its length is used: the real frames have session ids, which are as long as this one.
        LoadKind::Multiplex | LoadKind::Batch(_) => {
            let id = "00000000-0000-4000-8000-000000000000".to_owned();
            let steps = if let LoadKind::Batch(steps) = kind { steps } else { 1 };
            frame::text(multiplexed::frame_text(kind, 0, &vec![&id; steps], action).as_bytes())
        }
        // The client builds its own frames.
        LoadKind::Client(_) | LoadKind::ClientMany(_) => action.to_string().into_bytes(),
        LoadKind::Http => target.post("/step", &json!({ "action": action }).to_string()),
        LoadKind::Call(protocol) => protocol.request(target, "tools/call", call_params(action)?),
        LoadKind::List(protocol) => protocol.request(target, "tools/list", json!({})),
        LoadKind::Tools => target.bodyless("GET", "/tools"),
    })
}

/// The params of `tools/call`; a `call_tool` action is converted.
fn call_params(action: &Value) -> anyhow::Result<Value> {
    if action.get("name").is_some() {
        return Ok(action.clone());
    }
    let Some(name) = action.get("tool_name") else {
        bail!("--message for mcp must name a tool: {{\"name\":…,\"arguments\":…}} or a call_tool action");
    };
    Ok(json!({ "name": name, "arguments": action.get("arguments").unwrap_or(&json!({})) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_becomes_the_params_of_a_call() {
        let action: Value = serde_json::from_str(ECHO_ACTION).unwrap();
        let expected = json!({ "name": "echo_message", "arguments": { "message": "hello" } });
        assert_eq!(call_params(&action).unwrap(), expected);
        assert_eq!(call_params(&expected).unwrap(), expected);
        assert!(call_params(&json!({ "message": "hi" })).is_err());
    }
}
