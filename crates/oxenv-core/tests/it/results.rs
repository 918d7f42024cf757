//! The table of `docs/results.md`: each kind of result in each spelling, to the byte.
//!
//! Invariant: a result is read as a server of MCP sends it, and written by what writes every reply.

use expect_test::expect_file;
use oxenv_core::render::{self, Envelope};
use oxenv_core::{CallReply, GraphReply, StepReply};
use oxenv_wire::{ErrorCode, McpEra, Spelling, ToolError, ToolErrorType, ToolResult, raw, write_mcp_call};
use serde_json::value::RawValue;
use serde_json::{Value, json};

type Outcome = Result<ToolResult, ToolError>;

/// The kinds of results by their headings in the page, as their servers send them.
const SENT: [(&str, &str); 10] = [
    ("Text", r#"{"content":[{"type":"text","text":"hi"}]}"#),
    ("Structured", r#"{"content":[{"type":"text","text":"{\"n\": 1}"}],"structuredContent":{"n":1}}"#),
    (
        "Wrapped",
        r#"{"content":[{"type":"text","text":"hi"}],"structuredContent":{"result":"hi"},"_meta":{"fastmcp":{"wrap_result":true}}}"#,
    ),
    ("Image", r#"{"content":[{"type":"image","data":"AA==","mimeType":"image/png"}]}"#),
    ("Audio", r#"{"content":[{"type":"audio","data":"AA==","mimeType":"audio/wav"}]}"#),
    ("Resource link", r#"{"content":[{"type":"resource_link","uri":"file:///a","name":"a"}]}"#),
    ("Embedded resource", r#"{"content":[{"type":"resource","resource":{"uri":"file:///a","text":"hi"}}]}"#),
    ("Empty", r#"{"content":[]}"#),
    ("Failed, with text", r#"{"content":[{"type":"text","text":"no such file"}],"isError":true}"#),
    (
        "Failed, with structure",
        r#"{"content":[{"type":"text","text":"late"}],"structuredContent":{"after_s":5},"isError":true}"#,
    ),
];
const PROTOCOL_ERROR: &str = r#"{"code":-32603,"message":"it broke"}"#;

fn parsed(sent: &str) -> Outcome {
    Ok(ToolResult::parse(sent).unwrap())
}

/// Every row: its heading, what its server sent, and what it is to us.
fn rows() -> Vec<(&'static str, &'static str, Outcome)> {
    let mut rows: Vec<_> = SENT.iter().map(|(heading, sent)| (*heading, *sent, parsed(sent))).collect();
    let error: Value = serde_json::from_str(PROTOCOL_ERROR).unwrap();
    let error = ToolError::new(ToolErrorType::ExecutionError, error["message"].as_str().unwrap());
    rows.push(("Protocol error", PROTOCOL_ERROR, Err(error)));
    let lost =
        ToolError::new(ToolErrorType::TransportError, "toolset 'a' went away during the call: it ended");
    rows.push(("No answer", "", Err(lost.with_code(ErrorCode::UpstreamLost))));
    rows
}

/// The observation of a step's reply.
fn observation(reply: &StepReply<'_>) -> String {
    let text = render::step(reply, Envelope::Data);
    let reply: std::collections::HashMap<&str, &RawValue> = serde_json::from_str(&text).unwrap();
    reply["observation"].get().to_owned()
}

fn spelled(spelling: Spelling, outcome: &Outcome) -> String {
    let reply = CallReply { outcome: outcome.clone(), reward: None, metadata: None, done: false };
    observation(&StepReply::Call { spelling, name: "tool".into(), reply })
}

fn graph(outcome: &Outcome) -> String {
    let results = vec![("a".to_owned(), outcome.clone())];
    observation(&StepReply::Graph(GraphReply { results, reward: None, metadata: None, done: false }))
}

fn mcp(era: McpEra, outcome: &Outcome) -> String {
    let mut out = String::new();
    write_mcp_call(&mut out, era, outcome.as_ref());
    out
}

/// The lines of a row.
fn row(sent: &str, outcome: &Outcome) -> String {
    let columns = [
        ("sent", sent.to_owned()),
        ("stock", spelled(Spelling::Stock, outcome)),
        ("journal", spelled(Spelling::Journal, outcome)),
        ("UnifiedAction", spelled(Spelling::Unified, outcome)),
        ("call_tools", graph(outcome)),
        ("MCP 2025-11-25", mcp(McpEra::Handshake, outcome)),
        ("MCP 2026-07-28", mcp(McpEra::Stateless, outcome)),
    ];
    let lines = columns.iter().filter(|(_, text)| !text.is_empty());
    lines.map(|(column, text)| format!("{column:<16}{text}\n")).collect()
}

#[test]
fn the_page_shows_what_is_written() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results.md");
    let mut page = std::fs::read_to_string(path).unwrap();
    for (heading, sent, outcome) in rows() {
        let lines = row(sent, &outcome);
        for line in lines.lines().filter(|line| line.len() > 16) {
            assert!(serde_json::from_str::<Value>(&line[16..]).is_ok(), "{line}");
        }
        let start = format!("### {heading}\n\n```text\n");
        let at = page.find(&start).unwrap_or_else(|| panic!("the page has no '{heading}'")) + start.len();
        let end = at + page[at..].find("```").unwrap();
        page.replace_range(at..end, &lines);
    }
    expect_file![path].assert_eq(&page);
}

/// What each spelling must hold of a result, whatever the page says.
#[test]
fn no_spelling_loses_a_part_of_a_result() {
    for (heading, sent, outcome) in rows() {
        let Ok(result) = &outcome else { continue };
        let sent: Value = serde_json::from_str(sent).unwrap();
        let read = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let bare = |blocks: &Value| {
            let mut blocks = blocks.clone();
            for block in blocks.as_array_mut().unwrap() {
                block.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            }
            blocks
        };
        for era in [McpEra::Handshake, McpEra::Stateless] {
            let told = read(mcp(era, &outcome));
            for key in ["content", "structuredContent", "_meta"] {
                assert_eq!(told.get(key), sent.get(key), "{heading}");
            }
        }
        for spelling in [Spelling::Stock, Spelling::Unified] {
            let seen = read(spelled(spelling, &outcome));
            let whole = match result.is_error {
                true => &seen["metadata"]["oxenv"]["result"],
                false => &seen["result"],
            };
            assert_eq!(bare(&whole["content"]), sent["content"], "{heading}");
            assert_eq!(whole["structured_content"], sent["structuredContent"], "{heading}");
            assert_eq!(seen["error"].is_null(), !result.is_error, "{heading}");
            assert_eq!(seen["result"].is_null(), result.is_error, "{heading}");
        }
        let seen = &read(spelled(Spelling::Journal, &outcome))["metadata"];
        if result.is_error {
            assert_eq!(seen["error"], json!(result.text()), "{heading}");
            assert_eq!(bare(&seen["oxenv"]["result"]["content"]), sent["content"], "{heading}");
        } else if seen.get("content").is_some() {
            assert_eq!(bare(&seen["content"]), sent["content"], "{heading}");
        } else {
            let is_text = sent["content"].as_array().unwrap().iter().all(|block| block["type"] == "text");
            assert!(is_text && seen["result"] == read(result.value().into_owned()), "{heading}");
        }
        let seen = read(graph(&outcome));
        let of_call = match result.is_error {
            true => &seen["metadata"]["oxenv"]["calls"]["a"]["result"],
            false => &seen["results"]["a"]["result"],
        };
        assert_eq!(bare(&of_call["content"]), sent["content"], "{heading}");
    }
}

/// A rubric adds its scores beside what a call says of itself, and changes no byte of that.
#[test]
fn what_is_added_to_metadata_leaves_a_result_as_it_is() {
    const BIG: &str = "123456789012345678901234567890";
    let sent = format!(r#"{{"content":[],"structuredContent":{{"n":{BIG}}},"isError":true}}"#);
    let added = raw(&json!({ "oxenv": { "scores": { "a": 0.5 } }, "note": 1 })).unwrap();
    let told = |spelling, outcome: Outcome| {
        let metadata = Some(added.clone());
        let reply = CallReply { outcome, reward: None, metadata, done: false };
        observation(&StepReply::Call { spelling, name: "tool".into(), reply })
    };
    for spelling in [Spelling::Stock, Spelling::Journal, Spelling::Unified] {
        let text = told(spelling, parsed(&sent));
        assert!(text.contains(&format!(r#""structured_content":{{"n":{BIG}}}"#)), "{text}");
        let seen: Value = serde_json::from_str(&text).unwrap();
        let metadata = &seen["metadata"];
        assert_eq!(
            (&metadata["note"], &metadata["oxenv"]["scores"]["a"]),
            (&json!(1), &json!(0.5)),
            "{text}"
        );
        assert_eq!(metadata["oxenv"]["result"]["is_error"], true, "{text}");
    }
    let text = told(Spelling::Journal, parsed(&sent.replace("true", "false")));
    assert!(text.contains(&format!(r#""result":{{"n":{BIG}}}"#)), "{text}");
}
