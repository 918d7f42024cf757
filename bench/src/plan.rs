//! What one run does, with every byte it will send already built.
//!
//! The invariant: a plan is checked before a socket is opened, so a typo in `--message` is no measurement.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::args::{ActionArgs, ECHO, LoadArgs};
use crate::client_steps::Spoken;
use crate::frame;
use crate::mcp::Protocol;
use crate::multiplexed;
use crate::reply_checker::{Expect, Sample};
use crate::target::Target;

/// Which door is under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ws,
    /// Many sessions on one socket, a step in each frame.
    Multiplex,
    /// The same with that many steps in each frame.
    Batch(usize),
    /// Steps through the Rust client.
    Client(Spoken),
    /// The same, many sessions on one connection, with that many steps in each frame.
    ClientMany(usize),
    Http,
    /// `tools/call` at `/mcp`.
    Call(Protocol),
    /// `tools/list` at `/mcp`.
    List(Protocol),
    Tools,
    Churn,
}

/// One run: where, what, how many, how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
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

impl Kind {
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
    pub(crate) fn expect(self) -> Expect {
        match self {
            Self::Ws | Self::Churn => Expect::Frame,
            Self::Multiplex => Expect::Numbered,
            Self::Batch(_) => Expect::Batch,
            Self::Http => Expect::Body,
            Self::Client(_) | Self::ClientMany(_) => Expect::Observation,
            Self::Call(_) => Expect::Result,
            Self::List(_) => Expect::RpcTools,
            Self::Tools => Expect::Tools,
        }
    }

    /// How MCP is spoken, if it is.
    pub(crate) fn protocol(self) -> Option<Protocol> {
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

impl Plan {
    /// Checks the arguments of a load that sends an action, and builds the request.
    pub(crate) fn of(kind: Kind, args: ActionArgs) -> anyhow::Result<Self> {
        let action: Value = serde_json::from_str(&args.message)
            .with_context(|| format!("--message is not JSON: `{}`", args.message))?;
        if !action.is_object() {
            bail!("--message must be a JSON object, such as {ECHO}");
        }
        Self::new(kind, args.load, &action)
    }

    /// Checks the arguments and builds the request.
    pub(crate) fn new(kind: Kind, args: LoadArgs, action: &Value) -> anyhow::Result<Self> {
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

fn request(kind: Kind, target: &Target, action: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(match kind {
        Kind::Ws | Kind::Churn => {
            frame::text(json!({ "type": "step", "data": action }).to_string().as_bytes())
        }
        // What stands for the frames that name real sessions, whose ids are as long as this one.
        Kind::Multiplex | Kind::Batch(_) => {
            let id = "00000000-0000-4000-8000-000000000000".to_owned();
            let steps = if let Kind::Batch(steps) = kind { steps } else { 1 };
            frame::text(multiplexed::payload(kind, 0, &vec![&id; steps], action).as_bytes())
        }
        // The client builds the frames.
        Kind::Client(_) | Kind::ClientMany(_) => action.to_string().into_bytes(),
        Kind::Http => target.post("/step", &json!({ "action": action }).to_string()),
        Kind::Call(protocol) => protocol.request(target, "tools/call", call_params(action)?),
        Kind::List(protocol) => protocol.request(target, "tools/list", json!({})),
        Kind::Tools => target.bare("GET", "/tools"),
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
        let action: Value = serde_json::from_str(ECHO).unwrap();
        let expected = json!({ "name": "echo_message", "arguments": { "message": "hello" } });
        assert_eq!(call_params(&action).unwrap(), expected);
        assert_eq!(call_params(&expected).unwrap(), expected);
        assert!(call_params(&json!({ "message": "hi" })).is_err());
    }
}
