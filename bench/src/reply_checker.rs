//! Checks that replies are successful.
//!
//! Invariant: a failed call never counts as a request. A reply is parsed unless it equals the last successful
//! one.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Longer replies are not kept for comparison. A list of 1,000 tools is shorter.
const MAX_REMEMBERED_BYTES: usize = 1024 * 1024;

/// Length of the reply in the report.
const SAMPLE_CHARS: usize = 4096;

/// The kind of a successful reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedReply {
    /// An observation frame of `/ws`.
    ObservationFrame,
    /// An observation frame of `oxenv.1`, whose sequence numbers differ from reply to reply.
    NumberedFrame,
    /// The reply to a batch, whose results are all observations.
    BatchFrame,
    /// The body of `POST /step`.
    StepBody,
    /// An observation without its frame, as the Rust client returns it.
    Observation,
    /// A JSON-RPC result of `tools/call` that is not an error.
    ToolResult,
    /// A JSON-RPC result of `tools/list` with at least one tool.
    RpcToolList,
    /// The body of `GET /tools` with at least one tool.
    ToolList,
}

/// Checks the replies of one connection.
#[derive(Debug)]
pub(crate) struct ReplyChecker {
    expected: ExpectedReply,
    last_accepted: Vec<u8>,
    first_reply: FirstReply,
}

/// The first successful reply of a run, which all sessions share.
pub(crate) type FirstReply = Arc<OnceLock<ReplySample>>;

/// A reply as the report shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplySample {
    /// The first [`SAMPLE_CHARS`] characters.
    pub(crate) text: String,
    /// The length of the whole reply in bytes.
    pub(crate) bytes: usize,
}

/// `{"type":"observation","data":{…}}`
#[derive(Deserialize)]
struct FrameReply<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// `{"id":…,"type":"batch","data":{"results":[…]}}`
#[derive(Deserialize)]
struct BatchReply<'a> {
    #[serde(borrow)]
    data: BatchResults<'a>,
}

#[derive(Deserialize)]
struct BatchResults<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

/// `{"observation":{…},"reward":…,"done":…}`
#[derive(Deserialize)]
struct StepReply {
    observation: ObservationError,
}

/// The field of an observation that is an object (`ToolError`) if the tool call failed.
#[derive(Deserialize)]
struct ObservationError {
    #[serde(default)]
    error: Value,
}

/// A JSON-RPC reply.
#[derive(Deserialize)]
struct RpcResponse<R> {
    #[serde(default)]
    error: Value,
    result: Option<R>,
}

/// The result of `tools/call`, in MCP or in OpenEnv's dialect.
#[derive(Deserialize)]
struct ToolCallResult {
    #[serde(default, alias = "isError")]
    is_error: bool,
}

/// `{"tools":[…]}`
#[derive(Deserialize)]
struct ToolList<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
}

impl ReplyChecker {
    pub(crate) fn new(expected: ExpectedReply, first_reply: FirstReply) -> Self {
        Self { expected, last_accepted: Vec::new(), first_reply }
    }

    /// Fails with the reason and the beginning of the reply if it is not what was expected.
    pub(crate) fn check(&mut self, reply: &[u8]) -> anyhow::Result<()> {
        let known = match self.expected {
            ExpectedReply::NumberedFrame | ExpectedReply::BatchFrame => {
                equal_except_numbers(&self.last_accepted, reply)
            }
            _ => self.last_accepted == reply,
        };
        if !self.last_accepted.is_empty() && known {
            return Ok(());
        }
        match self.expected {
            ExpectedReply::NumberedFrame => check_numbered_frame(reply),
            ExpectedReply::BatchFrame => check_batch(reply),
            ExpectedReply::ObservationFrame => check_frame(reply),
            ExpectedReply::StepBody => check_step_body(reply),
            ExpectedReply::Observation => serde_json::from_slice(reply)
                .context("not an observation")
                .and_then(|observed| check_observation(&observed)),
            ExpectedReply::ToolResult => check_tool_result(reply),
            ExpectedReply::RpcToolList => rpc_result(reply).and_then(|listed| check_not_empty(&listed)),
            ExpectedReply::ToolList => serde_json::from_slice(reply)
                .context("not a list of tools")
                .and_then(|listed| check_not_empty(&listed)),
        }
        .map_err(|error| anyhow!("{error:#}: {}", excerpt(reply)))?;
        self.first_reply.get_or_init(|| ReplySample {
            text: String::from_utf8_lossy(reply).chars().take(SAMPLE_CHARS).collect(),
            bytes: reply.len(),
        });
        if reply.len() <= MAX_REMEMBERED_BYTES {
            self.last_accepted.clear();
            self.last_accepted.extend_from_slice(reply);
        }
        Ok(())
    }
}

/// The beginning of a reply, for an error message.
pub(crate) fn excerpt(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply);
    let mut short: String = text.trim().chars().take(300).collect();
    if short.len() < text.trim().len() {
        short.push('…');
    }
    short
}

fn check_frame(reply: &[u8]) -> anyhow::Result<()> {
    let reply: FrameReply<'_> = serde_json::from_slice(reply).context("not a message of /ws")?;
    if reply.kind != "observation" {
        bail!("not an observation");
    }
    check_step_body(reply.data.get().as_bytes())
}

fn check_numbered_frame(reply: &[u8]) -> anyhow::Result<()> {
    check_frame(reply).context("not an observation of oxenv.1")
}

fn check_batch(reply: &[u8]) -> anyhow::Result<()> {
    let reply: BatchReply<'_> = serde_json::from_slice(reply).context("not the reply to a batch")?;
    if reply.data.results.is_empty() {
        bail!("a batch without results");
    }
    reply.data.results.iter().try_for_each(|result| check_frame(result.get().as_bytes()))
}

/// Whether two replies are equal when runs of digits are ignored.
fn equal_except_numbers(mut one: &[u8], mut other: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    loop {
        let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
        (one, other) = (&one[same..], &other[same..]);
        let (here, there) = (digits(one), digits(other));
        match (one.is_empty() && other.is_empty(), here + there) {
            (true, _) => return true,
            (false, 0) => return false,
            _ => (one, other) = (&one[here..], &other[there..]),
        }
    }
}

fn check_step_body(reply: &[u8]) -> anyhow::Result<()> {
    let reply: StepReply = serde_json::from_slice(reply).context("not the reply to a step")?;
    check_observation(&reply.observation)
}

fn check_observation(observed: &ObservationError) -> anyhow::Result<()> {
    if observed.error.is_object() { bail!("the tool call failed") } else { Ok(()) }
}

fn check_tool_result(reply: &[u8]) -> anyhow::Result<()> {
    if rpc_result::<ToolCallResult>(reply)?.is_error { bail!("the tool call failed") } else { Ok(()) }
}

fn check_not_empty(listed: &ToolList<'_>) -> anyhow::Result<()> {
    if listed.tools.is_empty() { bail!("no tools are listed") } else { Ok(()) }
}

fn rpc_result<'a, R: Deserialize<'a>>(reply: &'a [u8]) -> anyhow::Result<R> {
    let reply: RpcResponse<R> = serde_json::from_slice(reply).context("not a JSON-RPC reply")?;
    if !reply.error.is_null() {
        bail!("a JSON-RPC error");
    }
    reply.result.context("no JSON-RPC result")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(expected: ExpectedReply, replies: &[&str]) -> Vec<bool> {
        let mut checker = ReplyChecker::new(expected, FirstReply::default());
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
        assert_eq!(verdicts(ExpectedReply::ObservationFrame, &replies), expected);
        let observations = [r#"{"error":null}"#, r#"{"x":1}"#, r#"{"error":{"error_type":"x"}}"#, "{"];
        assert_eq!(verdicts(ExpectedReply::Observation, &observations), [true, true, false, false]);
    }

    #[test]
    fn replies_of_many_sessions_are_good_whatever_their_numbers() {
        let good = |seq: u64| {
            format!(
                r#"{{"id":0,"session":"a1","seq":{seq},"type":"observation","data":{{"observation":{{}}}}}}"#
            )
        };
        let refused = r#"{"id":0,"session":"a1","type":"error","data":{"message":"no"}}"#;
        let numbered = [&good(9), &good(10), refused, &good(1234)];
        assert_eq!(verdicts(ExpectedReply::NumberedFrame, &numbered), [true, true, false, true]);
        let batch = |items: &[&str]| {
            format!(r#"{{"id":0,"type":"batch","data":{{"results":[{}]}}}}"#, items.join(","))
        };
        let (all, one) = (batch(&[&good(99), &good(7)]), batch(&[&good(100), refused]));
        let none = batch(&[]);
        assert_eq!(
            verdicts(ExpectedReply::BatchFrame, &[&all, &all, &one, &none]),
            [true, true, false, false]
        );
    }

    #[test]
    fn replies_that_differ_in_more_than_numbers_are_not_alike() {
        for (one, other, same) in [
            ("a9b", "a10b", true),
            ("a19", "a1", true),
            ("", "", true),
            ("a1b", "a1c", false),
            ("abc", "ab", false),
            ("1x", "2", false),
        ] {
            assert_eq!(equal_except_numbers(one.as_bytes(), other.as_bytes()), same, "{one} and {other}");
        }
    }

    #[test]
    fn only_results_of_tools_that_did_not_fail_are_good_replies() {
        let replies = [
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"is_error":false}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[],"isError":true}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
        ];
        assert_eq!(verdicts(ExpectedReply::ToolResult, &replies), [true, false, false, false]);
    }

    #[test]
    fn only_lists_with_tools_in_them_are_good() {
        let tools = r#"{"tools":[{"name":"a"}]}"#;
        let result = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{tools}}}"#);
        let empty = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}"#;
        let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
        assert_eq!(
            verdicts(ExpectedReply::RpcToolList, &[&result, empty, error, tools]),
            [true, false, false, false]
        );
        assert_eq!(
            verdicts(ExpectedReply::ToolList, &[tools, r#"{"tools":[]}"#, &result]),
            [true, false, false]
        );
    }

    #[test]
    fn the_first_successful_reply_is_kept() {
        let first = FirstReply::default();
        let mut checker = ReplyChecker::new(ExpectedReply::ToolResult, first.clone());
        assert!(checker.check(b"{}").is_err());
        assert!(checker.check(br#"{"result":{"n":1}}"#).is_ok());
        assert!(checker.check(br#"{"result":{"n":2}}"#).is_ok());
        let text = r#"{"result":{"n":1}}"#.to_owned();
        assert_eq!(first.get(), Some(&ReplySample { text, bytes: 18 }));
    }

    #[test]
    fn an_excerpt_is_short() {
        assert_eq!(excerpt(b" x "), "x");
        assert_eq!(excerpt("é".repeat(400).as_bytes()).chars().count(), 301);
    }
}
