//! JSON that was checked but not read: [`Json`] is one value, [`Object`] an object's keys and values.
//!
//! Invariant: text is scanned once per level and only as deep as it is read; a value that is passed
//! through keeps its exact bytes.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::fault::JsonError;
use crate::preview::preview;
use crate::scan::{ELEMENT_DEPTH, FIELD_DEPTH, Scan, Span, SyntaxFault, string_text};

/// A JSON value kept as the text it was sent as.
pub type RawJson = Box<RawValue>;

/// A borrowed JSON value, known to be valid, as the text it was sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The value `null`.
    pub const NULL: Json<'static> = Json("null");

    /// Checks that a text is one JSON value.
    ///
    /// ```
    /// use oxenv_wire::Json;
    ///
    /// assert_eq!(Json::parse(" [1, 2] ").unwrap().get(), "[1, 2]");
    /// assert_eq!(Json::parse("[1, 2").unwrap_err().position, 5);
    /// ```
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &'a str) -> Result<Self, JsonError> {
        Scan::new(text).document().map_err(|found| JsonError::locate(text, found))?;
        Ok(Json(text.trim_matches(WHITESPACE)))
    }

    /// A value from a text that is known to be one JSON value without spaces around it, such as one that this
    /// crate wrote. The result for any other text is meaningless.
    #[must_use]
    pub fn from_checked(text: &'a str) -> Self {
        Json(text)
    }

    /// The text.
    #[must_use]
    pub fn get(self) -> &'a str {
        self.0
    }

    /// The value as serde_json's type, which is what environments and tools are handed.
    #[must_use]
    pub fn raw(self) -> &'a RawValue {
        // The text was checked, so it is valid.
        serde_json::from_str(self.0).unwrap_or(RawValue::NULL)
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// Whether the value is an object.
    #[must_use]
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether the value is an object without keys.
    fn is_empty_object(self) -> bool {
        self.0.strip_prefix('{').is_some_and(|rest| rest.trim_start_matches(WHITESPACE).starts_with('}'))
    }

    /// The text of a string, borrowed unless it has escapes; `None` for any other value, and for a
    /// string with a lone surrogate.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        string_text(self.0)
    }
}

impl<'a> From<&'a RawValue> for Json<'a> {
    fn from(value: &'a RawValue) -> Self {
        Json(value.get())
    }
}

impl<'a> From<&'a RawJson> for Json<'a> {
    fn from(value: &'a RawJson) -> Self {
        Json(value.get())
    }
}

/// Longer values are described by their length alone, in bytes.
const MAX_PREVIEWED: usize = 1024;

const WHITESPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// A JSON object with its keys in order of appearance and its values unread.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    text: &'a str,
    fields: Fields<'a>,
    inner: SmallVec<[Inner<'a>; 4]>,
}

type Fields<'a> = SmallVec<[(Cow<'a, str>, Json<'a>); 4]>;

/// A field of a value that is an object itself.
#[derive(Debug, Clone)]
struct Inner<'a> {
    /// The index of that value.
    parent: usize,
    /// The key; none if it is no Unicode text, which is reported when that object is read.
    key: Option<Cow<'a, str>>,
    value: Json<'a>,
}

/// Why a text is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// The text is not JSON.
    Syntax(JsonError),
    /// The text is JSON, but no object; holds Python's name of its type (`list`, `str`, …).
    NotObject(&'static str),
    /// One object holds this key twice.
    DuplicateKey(String),
}

impl<'a> Object<'a> {
    /// Splits one object from a whole text.
    ///
    /// ```
    /// use oxenv_wire::{Object, ParseError};
    ///
    /// let object = Object::parse(r#"{"seed": 7, "options": {"size": 1.0}}"#).unwrap();
    /// assert_eq!(object.get("options").unwrap().get(), r#"{"size": 1.0}"#);
    /// assert!(matches!(Object::parse("[]"), Err(ParseError::NotObject("list"))));
    /// ```
    ///
    /// # Errors
    /// [`ParseError`], with what is wrong and, for a syntax error, where.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        let Some(spans) = Scan::new(text).object().map_err(|found| syntax(text, found))? else {
            return Err(not_object(text));
        };
        Self::assemble(text.trim_matches(WHITESPACE), &spans, FIELD_DEPTH)
    }

    /// Splits one object as [`Object::parse`] does and, in the same pass, the objects of a list called
    /// `items`: the object's own, or with `inner` one in a field of it.
    ///
    /// # Errors
    /// Like [`Object::parse`]. An error of an element is reported when the element is read.
    pub(crate) fn parse_with_items(text: &'a str, inner: bool) -> Result<(Self, Items<'a>), ParseError> {
        let mut scan = Scan::new(text).splitting_items(FIELD_DEPTH + u8::from(inner));
        let Some(spans) = scan.object().map_err(|found| syntax(text, found))? else {
            return Err(not_object(text));
        };
        let (mut own, mut items) = (SmallVec::<[Span<'a>; 8]>::new(), Vec::new());
        for span in spans {
            if span.depth < ELEMENT_DEPTH { own.push(span) } else { items.push(span) }
        }
        Ok((Self::assemble(text.trim_matches(WHITESPACE), &own, FIELD_DEPTH)?, Items(items)))
    }

    /// Puts an object together from its fields at that depth and the fields of those.
    fn assemble(text: &'a str, spans: &[Span<'a>], depth: u8) -> Result<Self, ParseError> {
        let mut object = Object { text, fields: SmallVec::new(), inner: SmallVec::new() };
        for span in spans {
            let value = Json(span.value);
            match (span.depth == depth, Json(span.key).text()) {
                (true, Some(key)) => object.fields.push((key, value)),
                (true, None) => return Err(ParseError::Syntax(JsonError::diagnose(text))),
                (false, key) => object.inner.push(Inner { parent: object.fields.len() - 1, key, value }),
            }
        }
        object.checked()
    }

    /// Reads a value as an object.
    ///
    /// # Errors
    /// [`ParseError`] when it is not an object, when a key is twice in it or is no Unicode text.
    pub fn from_raw(value: impl Into<Json<'a>>) -> Result<Self, ParseError> {
        Self::parse(value.into().0)
    }

    /// The value of a key as an object, without looking at its text again; `None` when there is no
    /// such key.
    ///
    /// # Errors
    /// As [`Object::parse`] of the value.
    pub fn child(&self, key: &str) -> Option<Result<Object<'a>, ParseError>> {
        let index = self.fields.iter().position(|(name, _)| name == key)?;
        let value = self.fields[index].1;
        let inner = self.inner.iter().filter(|inner| inner.parent == index);
        let fields: Option<Fields<'a>> = inner.map(|inner| Some((inner.key.clone()?, inner.value))).collect();
        // The fields of one with many keys were not noted.
        let noted = |fields: &Fields<'a>| !fields.is_empty() || value.is_empty_object();
        Some(match fields.filter(noted) {
            Some(fields) if value.is_object() => {
                Object { text: value.0, fields, inner: SmallVec::new() }.checked()
            }
            _ => Self::parse(value.0),
        })
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Json<'a>> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The keys and values in order of appearance.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Json<'a>)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The whole object as it was sent.
    #[must_use]
    pub fn json(&self) -> Json<'a> {
        Json(self.text)
    }

    fn checked(self) -> Result<Self, ParseError> {
        match self.duplicate() {
            Some(key) => Err(ParseError::DuplicateKey(key)),
            None => Ok(self),
        }
    }

    fn duplicate(&self) -> Option<String> {
        // Almost every message has a handful of keys, so comparing pairs beats hashing; beyond
        // that a sorted copy keeps a hostile object of a million keys from costing its square.
        let fields = &self.fields;
        if fields.len() <= 16 {
            return (1..fields.len())
                .find(|&i| fields[..i].iter().any(|(name, _)| *name == fields[i].0))
                .map(|i| fields[i].0.to_string());
        }
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].to_owned())
    }
}

/// The elements of a list in a message, split but not read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Items<'a>(Vec<Span<'a>>);

impl<'a> Items<'a> {
    /// The elements in order, each as it was sent and as an object.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Json<'a>, Result<Object<'a>, ParseError>)> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (element, after) = rest.split_first()?;
            let end = after.iter().position(|span| span.depth == ELEMENT_DEPTH).unwrap_or(after.len());
            let (fields, others) = after.split_at(end);
            rest = others;
            let text = element.value;
            let object = match text.starts_with('{') {
                true => Object::assemble(text, fields, ELEMENT_DEPTH + 1),
                false => Err(not_object(text)),
            };
            Some((Json(text), object))
        })
    }

    /// How many there are; a long list is only split up to a bound.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().filter(|span| span.depth == ELEMENT_DEPTH).count()
    }
}

fn syntax(text: &str, found: SyntaxFault) -> ParseError {
    ParseError::Syntax(JsonError::locate(text, found))
}

/// What is wrong with a text that is not an object.
fn not_object(text: &str) -> ParseError {
    match Json::parse(text) {
        Ok(value) => ParseError::NotObject(python_type(value)),
        Err(fault) => ParseError::Syntax(fault),
    }
}

/// Turns anything serializable into raw JSON.
///
/// # Errors
/// When the value cannot be JSON: a map with keys that are no strings, say.
pub fn raw<T: serde::Serialize + ?Sized>(value: &T) -> Result<RawJson, serde_json::Error> {
    serde_json::value::to_raw_value(value)
}

/// Reads a value as a type.
///
/// # Errors
/// When the value does not have that type's shape.
pub fn read<'a, T: Deserialize<'a>>(value: impl Into<Json<'a>>) -> Result<T, serde_json::Error> {
    serde_json::from_str(value.into().0)
}

/// The JSON object `{}`.
#[must_use]
pub fn empty_object() -> RawJson {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// Python's `repr` of a JSON scalar as the reference prints it in messages; other values as JSON.
#[must_use]
pub fn python_repr<'a>(value: impl Into<Json<'a>>) -> String {
    let value = value.into();
    match value.get() {
        "null" => "None".to_owned(),
        "true" => "True".to_owned(),
        "false" => "False".to_owned(),
        text => value.text().map_or_else(|| text.to_owned(), Cow::into_owned),
    }
}

/// [`python_repr`] of a value of any size, cut to what a message repeats.
pub(crate) fn python_preview(value: Json<'_>) -> String {
    match value.get().len() {
        0..=MAX_PREVIEWED => preview(&python_repr(value)).into_owned(),
        length => format!("<{length} bytes of JSON>"),
    }
}

/// Python's name of the type that `json.loads` makes of a value.
fn python_type(value: Json<'_>) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "dict",
        Some(b'[') => "list",
        Some(b'"') => "str",
        Some(b't' | b'f') => "bool",
        Some(b'n') => "NoneType",
        _ if value.get().contains(['.', 'e', 'E']) => "float",
        _ => "int",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrows_keys_and_values() {
        let text = r#"{"a": 1, "b\u0041": [true]}"#;
        let object = Object::parse(text).unwrap();
        assert_eq!(object.get("a").unwrap().get(), "1");
        assert_eq!(object.get("bA").unwrap().get(), "[true]");
        assert!(object.get("c").is_none());
    }

    #[test]
    fn refuses_what_is_no_object() {
        for (text, name) in [
            ("[]", "list"),
            ("\"x\"", "str"),
            ("5", "int"),
            ("1.5", "float"),
            ("null", "NoneType"),
            ("true", "bool"),
        ] {
            assert_eq!(Object::parse(text).unwrap_err(), ParseError::NotObject(name));
        }
    }

    #[test]
    fn refuses_a_key_twice_in_small_and_large_objects() {
        assert_eq!(Object::parse(r#"{"a":1,"a":2}"#).unwrap_err(), ParseError::DuplicateKey("a".into()));
        let mut text = String::from("{\"x\":0");
        for i in 0..100 {
            text.push_str(&format!(",\"k{i}\":{i}"));
        }
        assert!(Object::parse(&format!("{text}}}")).is_ok());
        assert_eq!(
            Object::parse(&format!("{text},\"x\":1}}")).unwrap_err(),
            ParseError::DuplicateKey("x".into())
        );
    }

    #[test]
    fn a_value_a_hundred_thousand_levels_deep_stays_raw() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let object = Object::parse(&deep).unwrap();
        assert_eq!(object.get("a").unwrap().get().len(), 200_000);
        assert!(read::<serde_json::Value>(object.get("a").unwrap()).is_err());
    }
}
