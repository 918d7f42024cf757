//! Calls that are made again, to bring the state of a toolset back that was declared with `on_fork: replay`.
//!
//! Invariant: only a new instance of the toolset gets them, in the order they were made in, and only those
//! that policy and schema let through now; a call with another result than the first time is a failure,
//! never a fork in another state.

use oxenv_core::{CallContext, CallRequest, CopySource, EpisodeCall, Failure, ForkMode, Mount, Toolbox};
use oxenv_wire::{Delivered, ErrorCode, RawJson, ToolError, ToolResult};
use serde::{Deserialize, Serialize};

/// Bytes of an error's message that are compared: a toolbox shortens longer ones.
const MAX_COMPARED_BYTES: usize = 8 << 10;

/// A call to make again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// Its number among the calls of the episode, from 1.
    number: usize,
    /// The caller: a role as policies name it.
    principal: String,
    pub(super) toolset: String,
    /// The tool's name as it was called.
    tool: String,
    arguments: Option<RawJson>,
    /// The outcome of the first time.
    came: String,
}

/// The calls of the present episode to toolsets that are forked by replay.
///
/// # Errors
/// Names a call that cannot be made again.
pub(super) fn of(original: &CopySource<'_>, base: usize) -> Result<Vec<Repeat>, Failure> {
    let mounts = original.toolbox.mounts();
    if !mounts[base..].iter().any(by_replay) {
        return Ok(Vec::new());
    }
    let mut repeats = Vec::new();
    for (number, EpisodeCall { principal, record: call }) in (1..).zip(original.calls) {
        let delivered = call.outcome.as_ref().map_or_else(ToolError::delivered, |_| Delivered::Yes);
        if delivered == Delivered::No {
            continue;
        }
        let Some(mount) = original.toolbox.find(&call.tool).mount() else {
            let tool = &call.tool;
            let message = format!("call {number} was of the tool '{tool}', which no toolset offers any more");
            return Err(unrepeatable(&message));
        };
        if mount < base || !by_replay(&mounts[mount]) {
            continue;
        }
        let toolset = mounts[mount].toolset.name().to_owned();
        if delivered == Delivered::Maybe {
            let tool = &call.tool;
            let message =
                format!("nobody knows what call {number}, of '{tool}' of toolset '{toolset}', has done");
            return Err(unrepeatable(&message));
        }
        repeats.push(Repeat {
            number,
            principal: principal.to_string(),
            toolset,
            tool: call.tool.clone(),
            arguments: call.arguments.clone(),
            came: outcome_text(&call.outcome),
        });
    }
    Ok(repeats)
}

/// Makes the calls again, each as the principal that made it first. Their audit records say `repeat`, and no
/// rate limit counts them.
///
/// # Errors
/// Names the first call that is refused, or that came to another result.
pub(super) async fn repeat_calls(
    repeats: &[Repeat],
    session_id: &str,
    toolbox: &Toolbox,
) -> Result<(), Failure> {
    for repeat in repeats {
        repeat.once(session_id, toolbox).await?;
    }
    Ok(())
}

impl Repeat {
    async fn once(&self, session_id: &str, toolbox: &Toolbox) -> Result<(), Failure> {
        let Repeat { number, toolset, tool, .. } = self;
        if !toolbox.mounts().iter().any(|mount| mount.toolset.name() == toolset) {
            return Err(unrepeatable(&format!("there is no toolset '{toolset}'")));
        }
        // A tool's name depends on the tools of the others too.
        toolbox.settled().await;
        let found = toolbox.find(tool);
        if found.toolset().is_some_and(|owner| owner != toolset) {
            let why =
                format!("call {number} was of '{tool}' of toolset '{toolset}', which is another's here");
            return Err(unrepeatable(&why));
        }
        let principal = self.principal.parse().map_err(|why: String| unrepeatable(&why))?;
        let context = CallContext { session_id: Some(session_id), ..CallContext::sessionless(principal) };
        let outcome = found.repeat(&CallRequest::new(context, self.arguments.as_deref())).await;
        if outcome_text(&outcome) == self.came {
            return Ok(());
        }
        Err(self.failure(&outcome))
    }

    /// The failure of a fork in which the call had another result.
    fn failure(&self, outcome: &Result<ToolResult, ToolError>) -> Failure {
        let Repeat { number, toolset, tool, .. } = self;
        let refused = match outcome {
            Err(error) if error.delivered() == Delivered::No => Some(error),
            Err(error) if error.code == Some(ErrorCode::DeadlineExceeded) => {
                return Failure::infrastructure(format!(
                    "call {number}, of toolset '{toolset}', was made again for the fork: {}",
                    error.message
                ));
            }
            _ => None,
        };
        match refused {
            Some(ToolError {
                code: Some(code @ (ErrorCode::UpstreamUnavailable | ErrorCode::AuditUnavailable)),
                message,
                ..
            }) => Failure::new(*code, message.clone()),
            Some(error) => unrepeatable(&format!("call {number} is refused now: {}", error.message)),
            None => Failure::environment(format!(
                "toolset '{toolset}' cannot be forked by replay: call {number}, of its tool '{tool}', came \
                 to another result when it was made again; declare another on_fork for tools that tell the \
                 time, draw lots, or keep something beyond a restart"
            )),
        }
    }
}

fn by_replay(mount: &Mount) -> bool {
    mount.toolset.fork() == ForkMode::Replay
}

/// An outcome as a text that two of them can be compared by.
fn outcome_text(outcome: &Result<ToolResult, ToolError>) -> String {
    let mut text = String::new();
    match outcome {
        Ok(result) => result.write_mcp(&mut text),
        Err(error) => {
            let end = error.message.floor_char_boundary(MAX_COMPARED_BYTES);
            text = format!("{:?}: {}", error.error_type, &error.message[..end]);
        }
    }
    text
}

fn unrepeatable(why: &str) -> Failure {
    Failure::unsupported(format!("the calls of this episode cannot be made again for a fork: {why}"))
}
