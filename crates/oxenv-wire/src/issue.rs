//! Validation issues in the shape that FastAPI and pydantic give them, which stock clients parse:
//! `{"type","loc","msg","input","ctx"?,"url"?}`.
//!
//! Invariant: `type`, `loc` and `ctx` are pydantic's; only wording may differ.

use std::borrow::Cow;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::json::{Json, ParseError, RawJson, python_repr, raw};
use crate::preview::preview;
use crate::readable::check_readable;

/// An echoed input longer than this many bytes is cut to a note of its length.
const MAX_INPUT: usize = 1024;

/// More issues than this are of no use, and a message of a million mistakes must not become a reply
/// of a hundred times its size.
pub(crate) const MAX_ISSUES: usize = 64;

/// One step of the path to the offending value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Loc {
    /// A key.
    Key(String),
    /// An index of an array, or a character position for a syntax error.
    Index(usize),
}

/// A key longer than messages repeat is cut.
impl From<&str> for Loc {
    fn from(key: &str) -> Self {
        Loc::Key(preview(key).into_owned())
    }
}

/// One thing that is wrong with a message.
#[derive(Debug, Clone)]
pub struct ValidationIssue {
    /// pydantic's error type: `missing`, `extra_forbidden`, `int_parsing`, …
    pub kind: Cow<'static, str>,
    /// Where, from the outermost key in.
    pub loc: Vec<Loc>,
    /// What, for people.
    pub msg: String,
    /// The offending value as sent; a note of its length where it is large or not every JSON reader
    /// takes it (a lone surrogate, a number beyond all floats, deep nesting).
    pub input: RawJson,
    /// Limits and expectations, by pydantic's names.
    pub ctx: Option<Value>,
    /// Whether the `url` key is present: in issues about models, not about HTTP bodies.
    pub url: bool,
}

impl ValidationIssue {
    /// An issue with that type about that value.
    #[must_use]
    pub fn new<'a>(
        kind: impl Into<Cow<'static, str>>,
        loc: &[&str],
        msg: impl Into<String>,
        input: impl Into<Json<'a>>,
    ) -> Self {
        let (kind, loc) = (kind.into(), loc.iter().map(|key| Loc::from(*key)).collect());
        ValidationIssue { kind, loc, msg: msg.into(), input: clip(input.into()), ctx: None, url: true }
    }

    /// A required key is absent from `object`.
    #[must_use]
    pub fn missing<'a>(loc: &[&str], object: impl Into<Json<'a>>) -> Self {
        Self::new("missing", loc, "Field required", object)
    }

    /// An unknown key.
    #[must_use]
    pub fn extra<'a>(loc: &[&str], value: impl Into<Json<'a>>) -> Self {
        Self::new("extra_forbidden", loc, "Extra inputs are not permitted", value)
    }

    /// A value that is not an object where one is needed.
    #[must_use]
    pub fn not_object<'a>(loc: &[&str], value: impl Into<Json<'a>>) -> Self {
        Self::new("dict_type", loc, "Input should be a valid dictionary", value)
    }

    /// A value that is not a string where one is needed.
    #[must_use]
    pub fn not_string<'a>(loc: &[&str], value: impl Into<Json<'a>>) -> Self {
        let value = value.into();
        if value.get().starts_with('"') {
            let msg = "Input should be Unicode text, a lone surrogate is not a character";
            return Self::new("string_unicode", loc, msg, value);
        }
        Self::new("string_type", loc, "Input should be a valid string", value)
    }

    /// A value other than the one that is allowed.
    #[must_use]
    pub fn literal<'a>(loc: &[&str], expected: &str, value: impl Into<Json<'a>>) -> Self {
        let quoted = format!("'{expected}'");
        Self::new("literal_error", loc, format!("Input should be {quoted}"), value)
            .with_ctx(serde_json::json!({ "expected": quoted }))
    }

    /// A text that is not JSON, in the shape FastAPI gives it.
    #[must_use]
    pub fn syntax(fault: &crate::JsonError) -> Self {
        let mut issue = Self::new("json_invalid", &["body"], "JSON decode error", &empty());
        issue.loc.push(Loc::Index(fault.position));
        issue.url = false;
        issue.with_ctx(serde_json::json!({ "error": fault.message }))
    }

    /// The message of [`ParseError`] about the object at `loc`.
    #[must_use]
    pub fn from_parse<'a>(loc: &[&str], fault: &ParseError, value: impl Into<Json<'a>>) -> Self {
        match fault {
            ParseError::Syntax(fault) => Self::new("json_invalid", loc, fault.message.clone(), value),
            ParseError::NotObject(_) => Self::not_object(loc, value),
            ParseError::DuplicateKey(key) => {
                // The one type here that pydantic has no page for.
                let msg = format!("the key '{}' appears twice in one object", preview(key));
                Self::new("duplicate_key", loc, msg, value).without_url()
            }
        }
    }

    /// Adds limits and expectations.
    #[must_use]
    pub fn with_ctx(mut self, ctx: Value) -> Self {
        self.ctx = Some(ctx);
        self
    }

    /// Leaves the `url` key out, as FastAPI does for HTTP bodies.
    #[must_use]
    pub fn without_url(mut self) -> Self {
        self.url = false;
        self
    }

    /// The path as pydantic prints it: `a.b.0`.
    #[must_use]
    pub fn path(&self) -> String {
        let parts: Vec<String> = self
            .loc
            .iter()
            .map(|loc| match loc {
                Loc::Key(key) => key.clone(),
                Loc::Index(index) => index.to_string(),
            })
            .collect();
        parts.join(".")
    }
}

impl Serialize for ValidationIssue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.kind)?;
        map.serialize_entry("loc", &self.loc)?;
        map.serialize_entry("msg", &self.msg)?;
        map.serialize_entry("input", &self.input)?;
        if let Some(ctx) = &self.ctx {
            map.serialize_entry("ctx", ctx)?;
        }
        if self.url {
            map.serialize_entry("url", &format!("https://errors.pydantic.dev/2/v/{}", self.kind))?;
        }
        map.end()
    }
}

/// The issues as one text for people: `N validation errors for TITLE`, then a paragraph each.
#[must_use]
pub fn render_issues(title: &str, issues: &[ValidationIssue]) -> String {
    use std::fmt::Write as _;
    let plural = if issues.len() == 1 { "" } else { "s" };
    let mut text = format!("{} validation error{plural} for {title}", issues.len());
    for issue in issues {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n{}\n  {} [type={}, input_value={}]",
            issue.path(),
            issue.msg,
            issue.kind,
            python_repr(&issue.input)
        );
    }
    text
}

fn clip(value: Json<'_>) -> RawJson {
    let text = value.get();
    if text.len() <= MAX_INPUT && check_readable(value).is_ok() {
        return value.raw().to_owned();
    }
    raw(&format!("<{} bytes of JSON>", text.len())).unwrap_or_else(|_| empty())
}

fn empty() -> RawJson {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}
