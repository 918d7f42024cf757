//! Calls that are made again, to bring the state of a toolset back that was declared with `on_fork: replay`.
//!
//! Invariant: only a new instance of the toolset gets them, in the order they were made in; a call that comes to
//! another result than the first time is a failure, never a fork in another state.

use oxenv_core::{CallContext, Failure, ForkMode, Mount, Original, Principal, Toolbox};
use oxenv_wire::{Delivered, RawJson, ToolError, ToolResult};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

/// Bytes of an error's message that are compared: a toolbox shortens longer ones.
const COMPARED: usize = 8 << 10;

/// A call to make again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Repeat {
    /// Its number among the calls of the episode, from 1.
    pub(super) number: usize,
    pub(super) toolset: String,
    /// The name that the toolset has for the tool.
    pub(super) tool: String,
    pub(super) arguments: Option<RawJson>,
    /// What came of it the first time.
    pub(super) came: String,
}

/// The calls of the present episode to toolsets that are forked by replay.
///
/// # Errors
/// Names a call that cannot be made again.
pub(super) fn of(original: &Original<'_>, base: usize) -> Result<Vec<Repeat>, Failure> {
    let mounts = original.toolbox.mounts();
    if !mounts[base..].iter().any(by_replay) {
        return Ok(Vec::new());
    }
    let mut repeats = Vec::new();
    for (number, call) in (1..).zip(original.calls) {
        let delivered = call.outcome.as_ref().map_or_else(ToolError::delivered, |_| Delivered::Yes);
        if delivered == Delivered::No {
            continue;
        }
        let Some((mount, tool)) = original.toolbox.find(&call.tool).place() else {
            let tool = &call.tool;
            let message = format!("call {number} was of the tool '{tool}', which no toolset offers any more");
            return Err(unrepeatable(&message));
        };
        if mount < base || !by_replay(&mounts[mount]) {
            continue;
        }
        let toolset = mounts[mount].toolset.name().to_owned();
        if delivered == Delivered::Maybe {
            let message =
                format!("nobody knows what call {number}, of '{tool}' of toolset '{toolset}', has done");
            return Err(unrepeatable(&message));
        }
        let (arguments, came) = (call.arguments.clone(), told(&call.outcome));
        repeats.push(Repeat { number, toolset, tool, arguments, came });
    }
    Ok(repeats)
}

/// Makes the calls again. They were judged when they were made first, so no policy, rate limit or audit
/// record is for them.
///
/// # Errors
/// Names the first call that came to another result.
pub(super) async fn again(repeats: &[Repeat], session_id: &str, toolbox: &Toolbox) -> Result<(), Failure> {
    for repeat in repeats {
        let Repeat { number, toolset, tool, arguments, came } = repeat;
        let mount = toolbox.mounts().iter().find(|mount| mount.toolset.name() == toolset);
        let mount = mount.ok_or_else(|| unrepeatable(&format!("there is no toolset '{toolset}'")))?;
        let context =
            CallContext { session_id: Some(session_id), ..CallContext::sessionless(Principal::Control) };
        let call = mount.toolset.call(context, tool, arguments.as_deref());
        let deadline = mount.deadline.unwrap_or(Toolbox::DEFAULT_DEADLINE);
        let outcome = timeout(deadline, call).await.map_err(|_| {
            let limit = deadline.as_secs_f64();
            Failure::infrastructure(format!(
                "call {number}, of '{tool}' of toolset '{toolset}', did not answer within {limit} s when it was \
                 made again for the fork"
            ))
        })?;
        if told(&outcome) != *came {
            return Err(Failure::environment(format!(
                "toolset '{toolset}' cannot be forked by replay: call {number}, of its tool '{tool}', came to \
                 another result when it was made again; declare another on_fork for tools that tell the time, \
                 draw lots, or keep something beyond a restart"
            )));
        }
    }
    Ok(())
}

fn by_replay(mount: &Mount) -> bool {
    mount.toolset.fork() == ForkMode::Replay
}

/// An outcome as a text that two of them can be compared by.
fn told(outcome: &Result<ToolResult, ToolError>) -> String {
    let mut text = String::new();
    match outcome {
        Ok(result) => result.write_mcp(&mut text),
        Err(error) => {
            let end = error.message.floor_char_boundary(COMPARED);
            text = format!("{:?}: {}", error.error_type, &error.message[..end]);
        }
    }
    text
}

fn unrepeatable(why: &str) -> Failure {
    Failure::unsupported(format!("the calls of this episode cannot be made again for a fork: {why}"))
}
