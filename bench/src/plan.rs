//! What one run does, with every byte it will send already built.
//!
//! The invariant: a plan is checked before a socket is opened, so a typo in `--message` is no measurement.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::{ActionArgs, ECHO_ACTION, LoadArgs};
use crate::client_steps::ClientProtocol;
use crate::frame;
use crate::mcp::McpProtocol;
use crate::multiplexed;
use crate::reply_checker::{ExpectedReply, Sample};
use crate::target::Target;

/// Which door is under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadKind {
    Ws,
    /// Many sessions on one socket, a step in each frame.
    Multiplex,
    /// The same with that many steps in each frame.
    Batch(usize),
    /// Steps through the Rust client.
    Client(ClientProtocol),
    /// The same, many sessions on one connection, with that many steps in each frame.
    ClientMany(usize),
    Http,
    /// `tools/call` at `/mcp`.
    Call(McpProtocol),
    /// `tools/list` at `/mcp`.
    List(McpProtocol),
    Tools,
    Churn,
}

/// One run: where, what, how many, how long.
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
    /// The bytes of one request: a masked WebSocket frame, or a whole HTTP request.
    pub(crate) request: Arc<[u8]>,
    /// The action, for frames that are built once their sessions are known.
    pub(crate) action: Value,
    /// Where the first good reply is left for the report.
    pub(crate) sample: Sample,
}

impl LoadKind {
    /// The name of the subcommand.
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

    /// What a good reply looks like.
    pub(crate) fn expected_reply(self) -> ExpectedReply {
        match self {
            Self::Ws | Self::Churn => ExpectedReply::Frame,
            Self::Multiplex => ExpectedReply::Numbered,
            Self::Batch(_) => ExpectedReply::Batch,
            Self::Http => ExpectedReply::Body,
            Self::Client(_) | Self::ClientMany(_) => ExpectedReply::Observation,
            Self::Call(_) => ExpectedReply::Result,
            Self::List(_) => ExpectedReply::RpcTools,
            Self::Tools => ExpectedReply::Tools,
        }
    }

    /// How MCP is spoken, if it is.
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
    /// Checks the arguments of a load that sends an action, and builds the request.
    pub(crate) fn with_action(kind: LoadKind, args: ActionArgs) -> anyhow::Result<Self> {
        let action: Value = serde_json::from_str(&args.message)
            .with_context(|| format!("--message is not JSON: `{}`", args.message))?;
        if !action.is_object() {
            bail!("--message must be a JSON object, such as {ECHO_ACTION}");
        }
        Self::new(kind, args.load, &action)
    }

    /// Checks the arguments and builds the request.
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
            sample: Sample::default(),
        })
    }
}

fn request(kind: LoadKind, target: &Target, action: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(match kind {
        LoadKind::Ws | LoadKind::Churn => {
            frame::text(json!({ "type": "step", "data": action }).to_string().as_bytes())
        }
        // What stands for the frames that name real sessions, whose ids are as long as this one.
        LoadKind::Multiplex | LoadKind::Batch(_) => {
            let id = "00000000-0000-4000-8000-000000000000".to_owned();
            let steps = if let LoadKind::Batch(steps) = kind { steps } else { 1 };
            frame::text(multiplexed::frame_text(kind, 0, &vec![&id; steps], action).as_bytes())
        }
        // The client builds the frames.
        LoadKind::Client(_) | LoadKind::ClientMany(_) => action.to_string().into_bytes(),
        LoadKind::Http => target.post("/step", &json!({ "action": action }).to_string()),
        LoadKind::Call(protocol) => protocol.request(target, "tools/call", call_params(action)?),
        LoadKind::List(protocol) => protocol.request(target, "tools/list", json!({})),
        LoadKind::Tools => target.bodyless("GET", "/tools"),
    })
}

/// The params of `tools/call`, from those params or from a `call_tool` action.
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
