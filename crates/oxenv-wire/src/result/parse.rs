//! Reading a result of a tool, in either of its spellings.
//!
//! Invariant: the one reader of results. A key of one spelling has no meaning in the other. Every block
//! but plain text, the value and the metadata keep their bytes.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use smallvec::smallvec;

use super::{Content, Structured, ToolResult};
use crate::json::RawJson;

/// A result, read as far as its parts, which are named as MCP names them.
#[derive(Default, Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default, rename = "structuredContent")]
    structured: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(default, rename = "isError")]
    is_error: Option<bool>,
    #[serde(borrow, default, rename = "resultType")]
    result_type: Option<Cow<'a, str>>,
    /// What servers of 2024 answer where there is no content.
    #[serde(borrow, default, rename = "toolResult")]
    old_result: Option<&'a RawValue>,
}

/// A result as the dialect spells it.
#[derive(Deserialize)]
struct DialectParts<'a> {
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default, rename = "structured_content")]
    structured: Option<&'a RawValue>,
    /// The value without its wrapper.
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    meta: Option<&'a RawValue>,
    #[serde(default)]
    is_error: Option<bool>,
}

/// Keys that distinguish the spellings.
#[derive(Deserialize)]
struct Spelling {
    #[serde(default, rename = "structured_content")]
    structured: Option<IgnoredAny>,
    #[serde(default)]
    is_error: Option<IgnoredAny>,
    #[serde(default, rename = "structuredContent")]
    mcp_structured: Option<IgnoredAny>,
    #[serde(default, rename = "isError")]
    mcp_is_error: Option<IgnoredAny>,
}

impl Spelling {
    fn is_dialect(&self) -> bool {
        let of_mcp = self.mcp_structured.is_some() || self.mcp_is_error.is_some();
        !of_mcp && (self.structured.is_some() || self.is_error.is_some())
    }
}

/// A block of text; annotations that are null say nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainText<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    text: String,
    #[serde(default, rename = "annotations")]
    _annotations: (),
    #[serde(default, rename = "meta", alias = "_meta")]
    _meta: (),
}

/// The wrapper of a value that is not an object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapper<'a> {
    #[serde(borrow)]
    result: &'a RawValue,
}

impl ToolResult {
    /// Reads the result of a `tools/call` as MCP spells it. A value is unwrapped where the metadata mark it
    /// as wrapped, unless the tool reports that it failed. A server's own keys are left out.
    ///
    /// # Errors
    /// When the text is no such result.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let parts: Parts<'_> = serde_json::from_str(text)?;
        if parts.result_type.as_deref() == Some("input_required") {
            let whole = RawValue::from_string(text.to_owned())?;
            return Ok(ToolResult { input_required: Some(whole), ..ToolResult::default() });
        }
        Ok(Self::of_parts(parts, None))
    }

    /// Reads a result in the dialect, known by its own `structured_content` or `is_error`, or else in MCP's
    /// spelling. The dialect's `data` marks a wrapped value as well.
    ///
    /// # Errors
    /// When the text is no such result.
    pub fn parse_dialect(text: &str) -> Result<Self, serde_json::Error> {
        if !serde_json::from_str::<Spelling>(text)?.is_dialect() {
            return Self::parse(text);
        }
        let DialectParts { content, structured, data, meta, is_error } = serde_json::from_str(text)?;
        Ok(Self::of_parts(Parts { content, structured, meta, is_error, ..Parts::default() }, data))
    }

    fn of_parts(parts: Parts<'_>, data: Option<&RawValue>) -> Self {
        let blocks = parts.content.unwrap_or_default();
        let mut result = ToolResult {
            content: blocks.into_iter().map(block).collect(),
            structured: match parts.structured.or(data) {
                None => Structured::None,
                Some(value) if value.get().starts_with('{') => Structured::Object(value.to_owned()),
                Some(value) => Structured::Wrapped(value.to_owned()),
            },
            meta: parts.meta.map(ToOwned::to_owned),
            is_error: parts.is_error.unwrap_or(false),
            input_required: None,
        };
        if let Some(old) = parts.old_result.filter(|_| result.content.is_empty()) {
            result.content = smallvec![Content::Text(old.get().to_owned())];
        }
        let is_wrapped = result.meta.as_deref().is_some_and(says_wrapped)
            || data.zip(parts.structured).is_some_and(|(data, structured)| is_within(data, structured));
        if is_wrapped && !result.is_error { result.unwrapped() } else { result }
    }

    /// The result with its value unwrapped, if the tool's output schema marks it as wrapped.
    /// FastMCP puts a value that is not an object into `{"result": value}`, and marks the schema
    /// with `x-fastmcp-wrap-result`.
    #[must_use]
    pub fn unwrapped_by(self, output_schema: Option<&Value>) -> Self {
        match output_schema {
            // The result of a failed tool is not a value of the declared type.
            Some(schema) if schema["x-fastmcp-wrap-result"] == true && !self.is_error => self.unwrapped(),
            _ => self,
        }
    }

    /// The result with its value unwrapped. An object with more than a wrapper stays as it is.
    #[must_use]
    pub fn unwrapped(mut self) -> Self {
        if let Structured::Object(object) = &self.structured
            && let Ok(Wrapper { result }) = serde_json::from_str(object.get())
        {
            self.structured = Structured::Wrapped(result.to_owned());
        }
        self
    }
}

/// Whether FastMCP marked in a result's metadata that it wrapped the value.
fn says_wrapped(meta: &RawValue) -> bool {
    // Metadata is small and rare; most results have none.
    serde_json::from_str::<Value>(meta.get()).is_ok_and(|meta| meta["fastmcp"]["wrap_result"] == true)
}

/// Whether a structured part is a wrapper of that value.
fn is_within(data: &RawValue, structured: &RawValue) -> bool {
    serde_json::from_str::<Wrapper<'_>>(structured.get())
        .is_ok_and(|wrapper| wrapper.result.get() == data.get())
}

fn block(block: &RawValue) -> Content {
    match serde_json::from_str::<PlainText<'_>>(block.get()) {
        Ok(PlainText { kind, text, .. }) if kind == "text" => Content::Text(text),
        _ => Content::Raw(block.to_owned()),
    }
}

/// The text of a block that another server sent, if it is one of text.
pub(super) fn text_of(block: &RawJson) -> Option<String> {
    #[derive(Deserialize)]
    struct Text<'a> {
        #[serde(rename = "type", borrow)]
        kind: Cow<'a, str>,
        #[serde(borrow, default)]
        text: Option<&'a RawValue>,
    }
    let block: Text<'_> = serde_json::from_str(block.get()).ok()?;
    let text = block.text.filter(|_| block.kind == "text")?;
    serde_json::from_str(text.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ToolResult {
        ToolResult::parse_dialect(text).unwrap()
    }

    #[test]
    fn a_key_of_one_spelling_says_nothing_in_the_other() {
        for text in [
            r#"{"content":[{"type":"text","text":"ok"}],"data":[1],"isError":false}"#,
            r#"{"content":[{"type":"text","text":"ok"}],"data":{"a":1}}"#,
            r#"{"content":[{"type":"text","text":"ok"}],"_meta":{"k":1},"meta":{"k":2}}"#,
            r#"{"content":[{"type":"text","text":"ok"}],"isError":false,"is_error":true}"#,
            r#"{"content":[{"type":"text","text":"ok"}],"is_error":true,"structured_content":{}}"#,
        ] {
            let result = ToolResult::parse(text).unwrap();
            assert_eq!(
                (result.text().as_str(), result.data(), result.is_error),
                ("ok", "null", false),
                "{text}"
            );
            let meta = result.meta.map(|meta| meta.get().to_owned());
            assert!(meta.is_none_or(|meta| meta == r#"{"k":1}"#), "{text}");
        }
        let both = r#"{"content":[],"isError":true,"is_error":false,"data":1}"#;
        assert!(read(both).is_error, "a client reads it as MCP too");
        let dialect = r#"{"content":[],"is_error":true,"_meta":{"k":1},"meta":{"k":2}}"#;
        assert_eq!(read(dialect).meta.unwrap().get(), r#"{"k":2}"#);
    }

    #[test]
    fn the_dialect_reads_back_to_the_byte() {
        for text in [
            r#"{"content":[{"type":"text","text":"3","annotations":null,"meta":null}],"structured_content":{"result":3},"meta":{"fastmcp":{"wrap_result":true}},"data":3,"is_error":false}"#,
            r#"{"content":[{"type":"text","text":"a","annotations":{"priority":1.50},"meta":null}],"structured_content":null,"meta":null,"data":null,"is_error":true}"#,
            r#"{"content":[],"structured_content":{"a":1.0},"meta":{"k":1},"data":{"a":1.0},"is_error":false}"#,
        ] {
            let mut out = String::new();
            read(text).write_dialect(&mut out);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn the_dialects_data_tells_that_a_value_was_wrapped() {
        let text = r#"{"content":[],"structured_content":{"result":"hi"},"data":"hi","is_error":false}"#;
        assert_eq!(read(text).data(), r#""hi""#);
        let text = r#"{"content":[],"data":[1],"is_error":false}"#;
        assert_eq!(read(text).data(), "[1]");
    }

    #[test]
    fn text_with_annotations_is_text() {
        let block = r#"{"type":"text","text":"a\"b","annotations":{"audience":["user"]}}"#;
        let result = read(&format!(r#"{{"content":[{block},{{"type":"image","text":1}}]}}"#));
        assert_eq!(result.text(), "a\"b");
        assert!(matches!(&result.content[0], Content::Raw(raw) if raw.get() == block));
    }
}
