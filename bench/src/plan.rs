//! What one run does, with the request already built.
//!
//! Invariant: a plan is validated before a socket is opened.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::args::{ActionArgs, ECHO_ACTION, LoadArgs};
use crate::load_kind::LoadKind;
use crate::reply_checker::FirstReply;
use crate::request;
use crate::target::Target;

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
        let request = request::build(kind, &target, action)?;
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
