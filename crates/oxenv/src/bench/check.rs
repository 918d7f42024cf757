//! Is a reply good?
//!
//! The invariant: a failed call is never counted as a request served. The first good reply is parsed; later
//! ones that are the same bytes need only a comparison, and those that differ are parsed again.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Replies up to this size are remembered for comparison.
const REMEMBERED: usize = 64 * 1024;

/// How many characters of a reply a report shows.
const SAMPLED: usize = 4096;

/// What kind of reply is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// An observation frame of `/ws`.
    Frame,
    /// The body of `POST /step`.
    Body,
    /// A JSON-RPC result that is not a tool's error.
    Result,
}

/// Checks the replies of one connection.
#[derive(Debug)]
pub(super) struct Checker {
    expect: Expect,
    good: Vec<u8>,
    sample: Sample,
}

/// The first good reply of a run, so that a report shows what was measured.
pub(super) type Sample = Arc<OnceLock<String>>;

/// `{"type":"observation","data":{…}}`
#[derive(Deserialize)]
struct FrameReply<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// `{"observation":{…},"reward":…,"done":…}`
#[derive(Deserialize)]
struct StepReply {
    observation: Observed,
}

/// The one field of an observation that says a call failed, in the shape of a stock `ToolError`.
#[derive(Deserialize)]
struct Observed {
    #[serde(default)]
    error: Value,
}

/// A JSON-RPC reply.
#[derive(Deserialize)]
struct RpcReply {
    #[serde(default)]
    error: Value,
    result: Option<Called>,
}

/// The result of `tools/call`, in either spelling.
#[derive(Deserialize)]
struct Called {
    #[serde(default, alias = "isError")]
    is_error: bool,
}

impl Checker {
    pub(super) fn new(expect: Expect, sample: Sample) -> Self {
        Self { expect, good: Vec::new(), sample }
    }

    /// Fails with the reason and the beginning of the reply if it is not what was asked for.
    pub(super) fn check(&mut self, reply: &[u8]) -> anyhow::Result<()> {
        if !self.good.is_empty() && self.good == reply {
            return Ok(());
        }
        match self.expect {
            Expect::Frame => frame(reply),
            Expect::Body => body(reply),
            Expect::Result => result(reply),
        }
        .map_err(|error| anyhow!("{error:#}: {}", excerpt(reply)))?;
        self.sample.get_or_init(|| String::from_utf8_lossy(reply).chars().take(SAMPLED).collect());
        if reply.len() <= REMEMBERED {
            self.good.clear();
            self.good.extend_from_slice(reply);
        }
        Ok(())
    }
}

/// The beginning of a reply, for an error message.
pub(super) fn excerpt(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let mut short: String = text.trim().chars().take(300).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

fn frame(reply: &[u8]) -> anyhow::Result<()> {
    let reply: FrameReply<'_> = serde_json::from_slice(reply).context("not a message of /ws")?;
    if reply.kind != "observation" {
        bail!("not an observation");
    }
    body(reply.data.get().as_bytes())
}

fn body(reply: &[u8]) -> anyhow::Result<()> {
    let reply: StepReply = serde_json::from_slice(reply).context("not the reply to a step")?;
    if reply.observation.error.is_object() { bail!("the tool call failed") } else { Ok(()) }
}

fn result(reply: &[u8]) -> anyhow::Result<()> {
    let reply: RpcReply = serde_json::from_slice(reply).context("not a JSON-RPC reply")?;
    if !reply.error.is_null() {
        bail!("a JSON-RPC error");
    }
    if reply.result.context("no JSON-RPC result")?.is_error { bail!("the tool call failed") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(expect: Expect, replies: &[&str]) -> Vec<bool> {
        let mut checker = Checker::new(expect, Sample::default());
        replies.iter().map(|reply| checker.check(reply.as_bytes()).is_ok()).collect()
    }

    #[test]
    fn only_observations_without_a_tool_error_are_good_frames() {
        let good = r#"{"type":"observation","data":{"observation":{"error":null},"reward":1,"done":false}}"#;
        let typed = r#"{"type":"observation","data":{"observation":{"error":""},"reward":null,"done":true}}"#;
        let failed = r#"{"type":"observation","data":{"observation":{"error":{"error_type":"x"}}}}"#;
        let refused = r#"{"type":"error","data":{"message":"no","code":"EXECUTION_ERROR"}}"#;
        let replies = [good, good, typed, failed, refused, good, "{", "[]"];
        let expected = [true, true, true, false, false, true, false, false];
        assert_eq!(verdicts(Expect::Frame, &replies), expected);
    }

    #[test]
    fn only_results_of_tools_that_did_not_fail_are_good_replies() {
        let replies = [
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"is_error":false}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
        ];
        assert_eq!(verdicts(Expect::Result, &replies), [true, false, false, false]);
    }

    #[test]
    fn the_first_good_reply_is_the_sample() {
        let sample = Sample::default();
        let mut checker = Checker::new(Expect::Result, sample.clone());
        assert!(checker.check(b"{}").is_err());
        assert!(checker.check(br#"{"result":{"n":1}}"#).is_ok());
        assert!(checker.check(br#"{"result":{"n":2}}"#).is_ok());
        assert_eq!(sample.get().map(String::as_str), Some(r#"{"result":{"n":1}}"#));
    }

    #[test]
    fn an_excerpt_is_short() {
        assert_eq!(excerpt(b" x "), "x");
        assert_eq!(excerpt("é".repeat(400).as_bytes()).chars().count(), 301);
    }
}
