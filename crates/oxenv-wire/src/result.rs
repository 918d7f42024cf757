//! The result of a tool, and its two spellings: the OpenEnv dialect (`structured_content`,
//! `is_error`, `data`) and MCP's own (`structuredContent`, `isError`, `_meta`).
//!
//! Invariant: content that we did not make ourselves passes through byte for byte.

mod parse;

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use crate::json::{RawJson, raw};

/// One block of content.
#[derive(Debug, Clone)]
pub enum Content {
    /// The structured value as text: a string as it is, anything else as JSON.
    OfValue,
    /// Text.
    Text(String),
    /// A block of any other kind (image, audio, resource), or text with annotations, as its server
    /// sent it.
    Raw(RawJson),
}

/// The machine-readable part of a result.
#[derive(Debug, Clone, Default)]
pub enum Structured {
    /// There is none.
    #[default]
    None,
    /// An object.
    Object(RawJson),
    /// A value that is not an object; on the wire it is wrapped as `{"result": value}`.
    Wrapped(RawJson),
}

/// The result of a tool call.
#[derive(Debug, Clone, Default)]
pub struct ToolResult {
    /// The content for a person or a model; nearly always one block.
    pub content: SmallVec<[Content; 1]>,
    /// The content for a program.
    pub structured: Structured,
    /// Metadata of the tool's server, if it sent some.
    pub meta: Option<RawJson>,
    /// Whether the tool reports that it failed.
    pub is_error: bool,
    /// The whole MCP result of a tool that wants input before it goes on (`input_required`, MCP
    /// 2026-07-28); the other parts are then empty.
    pub input_required: Option<RawJson>,
}

impl ToolResult {
    /// A result from a value: a string is its own text, any other value is given as JSON too.
    ///
    /// ```
    /// use oxenv_wire::ToolResult;
    ///
    /// let result = ToolResult::from_value(&3).unwrap();
    /// assert_eq!((result.data(), result.text()), ("3", "3".to_owned()));
    /// ```
    ///
    /// # Errors
    /// When the value cannot be JSON.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        let json = raw(value)?;
        let structured =
            if json.get().starts_with('{') { Structured::Object(json) } else { Structured::Wrapped(json) };
        Ok(ToolResult { content: smallvec![Content::OfValue], structured, ..ToolResult::default() })
    }

    /// The value for a program: the structured part unwrapped, as JSON; `null` when there is none.
    #[must_use]
    pub fn data(&self) -> &str {
        match &self.structured {
            Structured::None => "null",
            Structured::Object(json) | Structured::Wrapped(json) => json.get(),
        }
    }

    /// What a program or another tool can use, as JSON: the data, or else the text as a string.
    #[must_use]
    pub fn value(&self) -> Cow<'_, str> {
        match &self.structured {
            Structured::None => {
                let mut text = String::new();
                push_string(&mut text, &self.text());
                text.into()
            }
            Structured::Object(_) | Structured::Wrapped(_) => self.data().into(),
        }
    }

    /// The structured part as MCP has it, an object; `null` when there is none.
    #[must_use]
    pub fn structured_object(&self) -> Cow<'_, str> {
        match &self.structured {
            Structured::None => "null".into(),
            Structured::Object(json) => json.get().into(),
            Structured::Wrapped(json) => {
                let mut object = String::new();
                wrap(&mut object, json);
                object.into()
            }
        }
    }

    /// The text blocks, one per line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for block in &self.content {
            let block: Cow<'_, str> = match block {
                Content::Raw(block) => match parse::text_of(block) {
                    Some(text) => text.into(),
                    None => continue,
                },
                Content::Text(block) => block.into(),
                Content::OfValue => match serde_json::from_str::<String>(self.data()) {
                    Ok(string) => string.into(),
                    Err(_) => self.data().into(),
                },
            };
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&block);
        }
        text
    }

    /// Whether [`ToolResult::value`] has everything that the blocks of content have.
    pub(crate) fn is_all_in_value(&self) -> bool {
        match (self.content.as_slice(), &self.structured) {
            ([] | [Content::OfValue], _) | ([Content::Text(_)], Structured::None) => true,
            ([Content::Text(text)], _) => {
                text == self.data()
                    || is_text_of(text, self.data())
                    || is_text_of(text, &self.structured_object())
            }
            _ => false,
        }
    }

    /// Roughly how many bytes it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let block = |block: &Content| match block {
            Content::OfValue => 0,
            Content::Text(text) => text.len(),
            Content::Raw(json) => json.get().len(),
        };
        let raw = |json: &Option<RawJson>| json.as_ref().map_or(0, |json| json.get().len());
        let content: usize = self.content.iter().map(block).sum();
        content + self.data().len() + raw(&self.meta) + raw(&self.input_required)
    }

    /// Appends the result in the OpenEnv dialect.
    pub fn write_dialect(&self, out: &mut String) {
        out.push_str("{\"content\":");
        self.write_blocks(out);
        out.push_str(",\"structured_content\":");
        match &self.structured {
            Structured::None => out.push_str("null"),
            Structured::Object(json) => out.push_str(json.get()),
            Structured::Wrapped(json) => wrap(out, json),
        }
        out.push_str(",\"meta\":");
        match (&self.meta, &self.structured) {
            (Some(meta), _) => out.push_str(meta.get()),
            (None, Structured::Wrapped(_)) => out.push_str("{\"fastmcp\":{\"wrap_result\":true}}"),
            _ => out.push_str("null"),
        }
        out.push_str(",\"data\":");
        out.push_str(self.data());
        out.push_str(if self.is_error { ",\"is_error\":true}" } else { ",\"is_error\":false}" });
    }

    /// Appends the result as MCP spells it.
    pub fn write_mcp(&self, out: &mut String) {
        out.push_str("{\"content\":");
        self.write_content(out, "}");
        match &self.structured {
            Structured::None => {}
            Structured::Object(json) => {
                out.push_str(",\"structuredContent\":");
                out.push_str(json.get());
            }
            Structured::Wrapped(json) => {
                out.push_str(",\"structuredContent\":");
                wrap(out, json);
            }
        }
        if let Some(meta) = &self.meta {
            out.push_str(",\"_meta\":");
            out.push_str(meta.get());
        }
        out.push_str(if self.is_error { ",\"isError\":true}" } else { ",\"isError\":false}" });
    }

    /// Appends the blocks of content as the dialect has them.
    pub(crate) fn write_blocks(&self, out: &mut String) {
        self.write_content(out, ",\"annotations\":null,\"meta\":null}");
    }

    fn write_content(&self, out: &mut String, text_end: &str) {
        out.push('[');
        for (index, block) in self.content.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            match block {
                Content::Text(_) | Content::OfValue => {
                    out.push_str("{\"type\":\"text\",\"text\":");
                    match block {
                        Content::Text(text) => push_string(out, text),
                        // A string's JSON is already the literal that is needed.
                        _ if self.data().starts_with('"') => out.push_str(self.data()),
                        _ => push_string(out, self.data()),
                    }
                    out.push_str(text_end);
                }
                Content::Raw(json) => out.push_str(json.get()),
            }
        }
        out.push(']');
    }
}

/// Whether a text is a value as a tool's server writes it: a string as it is, or JSON with any spaces.
fn is_text_of(text: &str, data: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    read(data).is_some_and(|data| data.as_str() == Some(text) || read(text).is_some_and(|text| text == data))
}

fn wrap(out: &mut String, json: &RawJson) {
    out.push_str("{\"result\":");
    out.push_str(json.get());
    out.push('}');
}

/// Appends a string as a JSON literal.
pub(crate) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    push_escaped(out, text);
    out.push('"');
}

/// Appends what stands between the quotes of a string's JSON literal.
#[inline]
pub(crate) fn push_escaped(out: &mut String, text: &str) {
    let mut clean = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[clean..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(if byte < 0x10 { '0' } else { '1' });
            out.push(char::from_digit(u32::from(byte & 0xf), 16).unwrap_or('0'));
        } else {
            out.push_str(escape);
        }
        clean = at + 1;
    }
    out.push_str(&text[clean..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_escaped_as_serde_does(text in ".*|[\\x00-\\x7f]*") {
            let mut out = String::new();
            push_string(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_string(&text).unwrap());
        }
    }
}
