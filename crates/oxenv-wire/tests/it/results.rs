//! Results of tools, in the spelling of the dialect and in MCP's own.
//!
//! Invariant: content that we did not make passes through byte for byte, odd keys and all.

use std::borrow::Cow;

use oxenv_wire::{CallOutcome, Content, RawJson, Spelling, Structured, Tool, ToolResult, call_metadata};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::golden::{Golden, check};

const IMAGE: &str = r#"{"type":"image","data":"iVBORw0KGgo=","mimeType":"image/png","_meta":{"big":123456789012345678901234567890}}"#;

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = Vec::new();
    for (name, result) in results() {
        let (mut dialect, mut mcp) = (String::new(), String::new());
        result.write_dialect(&mut dialect);
        result.write_mcp(&mut mcp);
        goldens.push(Golden::reply(format!("result-dialect-{name}"), dialect));
        goldens.push(Golden::reply(format!("result-mcp-{name}"), mcp));
    }
    goldens
}

/// The results that are written, by name.
pub(crate) fn results() -> Vec<(&'static str, ToolResult)> {
    let of = |value: serde_json::Value| ToolResult::from_value(&value).expect("a value is JSON");
    vec![
        ("text", of(json!("hi \"you\"\n\u{1}é😀"))),
        ("object", of(json!({ "message": "hi", "length": 2 }))),
        ("number", of(json!(0.5))),
        ("boolean", of(json!(true))),
        ("null", of(json!(null))),
        ("list", of(json!([1, "two", { "three": 3 }]))),
        ("image", image_result()),
        ("nothing", ToolResult::default()),
        ("failed", ToolResult { is_error: true, ..of(json!("no such file")) }),
        ("with-meta", ToolResult { meta: Some(raw(r#"{"vendor/trace":"t-1"}"#)), ..of(json!("hi")) }),
    ]
}

/// A text beside an image that came from another server, and no structured part.
pub(crate) fn image_result() -> ToolResult {
    ToolResult {
        content: [Content::Text("a picture".to_owned()), Content::Raw(raw(IMAGE))].into_iter().collect(),
        ..ToolResult::default()
    }
}

/// Two tools: one with everything a tool can have, one with the least.
pub(crate) fn tools() -> [Tool; 2] {
    let full = Tool {
        name: Cow::Borrowed("echo_message"),
        title: Some("Echo".to_owned()),
        description: "Echo back the provided message.".to_owned(),
        input_schema: json!({
            "type": "object", "properties": { "message": { "type": "string" } }, "required": ["message"]
        }),
        output_schema: Some(json!({ "type": "object", "properties": { "result": { "type": "string" } } })),
        annotations: Some(json!({ "readOnlyHint": true })),
        meta: Some(json!({ "vendor/tags": ["a"] })),
    };
    let least = Tool {
        name: Cow::Borrowed("noop"),
        title: None,
        description: String::new(),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        annotations: None,
        meta: None,
    };
    [full, least]
}

/// A JSON text as it is.
pub(crate) fn raw(text: &str) -> RawJson {
    RawValue::from_string(text.to_owned()).expect("the text is JSON")
}

#[test]
fn every_result_is_its_golden() {
    check(goldens());
}

#[test]
fn an_image_passes_through_to_the_byte() {
    let (mut dialect, mut mcp) = (String::new(), String::new());
    image_result().write_dialect(&mut dialect);
    image_result().write_mcp(&mut mcp);
    assert!(dialect.contains(IMAGE) && mcp.contains(IMAGE), "{dialect}\n{mcp}");
    assert_eq!(image_result().text(), "a picture", "a block that is no text has no text");
    assert_eq!(image_result().data(), "null");
}

/// The journal has a value alone, so blocks that say more stand beside it.
#[test]
fn the_journal_keeps_blocks_that_say_more_than_the_value() {
    let with = |content: Vec<Content>, structured: Structured| ToolResult {
        content: content.into_iter().collect(),
        structured,
        ..ToolResult::default()
    };
    let text = |text: &str| Content::Text(text.to_owned());
    let object = || Structured::Object(raw(r#"{"a":1,"b":[2]}"#));
    let image = || Content::Raw(raw(IMAGE));
    for (result, more) in [
        (with(vec![], Structured::None), false),
        (with(vec![text("hi")], Structured::None), false),
        (with(vec![text("hi")], Structured::Wrapped(raw(r#""hi""#))), false),
        (with(vec![text("{\n  \"b\": [2], \"a\": 1 }")], object()), false),
        (with(vec![text(r#"{"result":"hi"}"#)], Structured::Wrapped(raw(r#""hi""#))), false),
        (with(vec![text("in words")], object()), true),
        (with(vec![text("one"), text("two")], Structured::None), true),
        (with(vec![image()], Structured::None), true),
        (with(vec![text("5"), image()], Structured::Wrapped(raw("5"))), true),
    ] {
        let metadata = call_metadata(Spelling::Journal, &CallOutcome::new(Ok(&result)));
        let metadata: Value = serde_json::from_str(&metadata).expect("it is JSON");
        let mut whole = String::new();
        result.write_dialect(&mut whole);
        let whole: Value = serde_json::from_str(&whole).expect("it is JSON");
        assert_eq!(metadata.get("content"), more.then_some(&whole["content"]), "{whole}");
    }
}
