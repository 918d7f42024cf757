//! A tool's result, as its server sent it, in our own shape.
//!
//! Invariant: every block of content but plain text, the structured part and the metadata keep their bytes.

use std::borrow::Cow;

use oxenv_core::RequestFault;
use oxenv_wire::{Content, Structured, ToolResult};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::CallFault;

/// A result of `tools/call`, read as far as its parts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    structured_content: Option<&'a RawValue>,
    #[serde(rename = "_meta", borrow, default)]
    meta: Option<&'a RawValue>,
    #[serde(default)]
    is_error: Option<bool>,
    #[serde(borrow, default)]
    result_type: Option<Cow<'a, str>>,
    /// What servers of 2024 answer where there is no content.
    #[serde(rename = "toolResult", borrow, default)]
    old_result: Option<&'a RawValue>,
}

/// A block of nothing but text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainText<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    text: String,
}

/// Reads a result of `tools/call`.
///
/// # Errors
/// When it is no result of a call; the call has run then.
pub(crate) fn tool_result(text: &str) -> Result<ToolResult, CallFault> {
    let garbage = |what: &dyn std::fmt::Display| {
        let says = format!("its server sent what is no tool result: {what}");
        CallFault::Refused(RequestFault::new(-32603, says))
    };
    if !text.starts_with('{') {
        return Err(garbage(&"it is no object"));
    }
    let parts: Parts<'_> = serde_json::from_str(text).map_err(|error| garbage(&error))?;
    if parts.result_type.as_deref() == Some("input_required") {
        let whole = serde_json::from_str(text).ok();
        return Ok(ToolResult { input_required: whole, ..ToolResult::default() });
    }
    let blocks = parts.content.unwrap_or_default();
    let mut result = ToolResult {
        content: blocks.into_iter().map(block).collect(),
        structured: match parts.structured_content {
            None => Structured::None,
            Some(value) if value.get().starts_with('{') => Structured::Object(value.to_owned()),
            Some(value) => Structured::Wrapped(value.to_owned()),
        },
        meta: parts.meta.map(ToOwned::to_owned),
        is_error: parts.is_error.unwrap_or(false),
        input_required: None,
    };
    if let Some(old) = parts.old_result.filter(|_| result.content.is_empty()) {
        result.content.push(Content::Text(old.get().to_owned()));
    }
    Ok(result)
}

fn block(block: &RawValue) -> Content {
    match serde_json::from_str::<PlainText<'_>>(block.get()) {
        Ok(PlainText { kind, text }) if kind == "text" => Content::Text(text),
        _ => Content::Raw(block.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        let mut out = String::new();
        tool_result(text).unwrap().write_mcp(&mut out);
        out
    }

    #[test]
    fn what_is_not_plain_text_keeps_its_bytes() {
        for block in [
            r#"{"type":"text","text":"a","annotations":{"audience":["user"],"new":1.50}}"#,
            r#"{"type":"image","data":"AAAA","mimeType":"image/png","later":12345678901234567890123}"#,
            r#"{"type":"resource","resource":{"uri":"a:b","text":"x","other":[null]},"_meta":{"k":1}}"#,
            r#"{"type":"not_yet_known","x":"\u00e9"}"#,
        ] {
            let text = format!(r#"{{"content":[{block}],"isError":false}}"#);
            assert_eq!(written(&text), text);
        }
        let text = r#"{"content":[{"type":"text","text":"5"}],"structuredContent":{"a":1.0,"b":123456789012345678901},"_meta":{"x": 1},"isError":true}"#;
        assert_eq!(written(text), text);
    }

    #[test]
    fn what_is_absent_or_old_is_taken() {
        assert_eq!(written("{}"), r#"{"content":[],"isError":false}"#);
        let text = r#"{"content":null,"structuredContent":null,"isError":null}"#;
        assert_eq!(written(text), r#"{"content":[],"isError":false}"#);
        assert_eq!(
            written(r#"{"toolResult":{"a":1}}"#),
            r#"{"content":[{"type":"text","text":"{\"a\":1}"}],"isError":false}"#
        );
    }

    #[test]
    fn a_want_of_input_is_kept_whole() {
        let text = r#"{"resultType":"input_required","inputRequests":{"a":{}},"requestState":"s"}"#;
        let result = tool_result(text).unwrap();
        assert_eq!(result.input_required.unwrap().get(), text);
        let text = r#"{"resultType":"complete","content":[]}"#;
        assert!(tool_result(text).unwrap().input_required.is_none());
    }

    #[test]
    fn what_is_no_result_is_refused() {
        for text in ["[]", "5", r#"{"content":5}"#, r#"{"content":[],"isError":"no"}"#] {
            let Err(CallFault::Refused(fault)) = tool_result(text) else { panic!("{text} was taken") };
            assert!(
                fault.message.starts_with("its server sent what is no tool result: "),
                "{}",
                fault.message
            );
        }
    }
}
