//! Reading JSON objects without copying: [`Object`] holds borrowed keys and raw values.
//!
//! Invariant: text is parsed once per level and only as deep as someone asks; a value that is
//! passed through keeps its exact bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::fault::JsonFault;

/// A JSON value kept as the text it was sent as.
pub type RawJson = Box<RawValue>;

/// A JSON object with its keys in order of appearance and its values unread.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    text: &'a str,
    fields: SmallVec<[(Cow<'a, str>, &'a RawValue); 6]>,
}

/// Why a text is not a JSON object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseFault {
    /// The text is not JSON.
    Syntax(JsonFault),
    /// The text is JSON, but no object; holds Python's name of its type (`list`, `str`, …).
    NotObject(&'static str),
    /// One object holds this key twice.
    DuplicateKey(String),
}

impl<'a> Object<'a> {
    /// Parses one object from a whole text.
    ///
    /// # Errors
    /// [`ParseFault`] says what is wrong and, for a syntax error, where.
    pub fn parse(text: &'a str) -> Result<Self, ParseFault> {
        let begins = text.trim_start_matches([' ', '\t', '\n', '\r']);
        if !begins.starts_with('{') {
            return Err(match serde_json::from_str::<&RawValue>(text) {
                Ok(value) => ParseFault::NotObject(python_type(value)),
                Err(_) => ParseFault::Syntax(JsonFault::diagnose(text)),
            });
        }
        let Fields(fields) =
            serde_json::from_str(text).map_err(|_| ParseFault::Syntax(JsonFault::diagnose(text)))?;
        let object = Object { text, fields };
        match object.duplicate() {
            Some(key) => Err(ParseFault::DuplicateKey(key)),
            None => Ok(object),
        }
    }

    /// Reads a raw value as an object.
    ///
    /// # Errors
    /// [`ParseFault`] when it is none, when a key is twice in it or is no Unicode text.
    pub fn from_raw(raw: &'a RawValue) -> Result<Self, ParseFault> {
        Self::parse(raw.get())
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The keys and values in order of appearance.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), *value))
    }

    /// The whole object as it was sent.
    #[must_use]
    pub fn raw(&self) -> &'a RawValue {
        // The text has been parsed once, so it is valid.
        serde_json::from_str(self.text).unwrap_or(RawValue::NULL)
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

/// Turns anything serializable into raw JSON.
///
/// # Errors
/// When the value cannot be JSON: a map with keys that are no strings, say.
pub fn raw<T: serde::Serialize + ?Sized>(value: &T) -> Result<RawJson, serde_json::Error> {
    serde_json::value::to_raw_value(value)
}

/// Reads a raw value as a type.
///
/// # Errors
/// When the value does not have that type's shape.
pub fn read<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(value.get())
}

/// Python's `repr` of a JSON scalar as the reference prints it in messages; other values as JSON.
#[must_use]
pub fn python_repr(value: &RawValue) -> String {
    match value.get() {
        "null" => "None".to_owned(),
        "true" => "True".to_owned(),
        "false" => "False".to_owned(),
        text if text.starts_with('"') => read::<String>(value).unwrap_or_else(|_| text.to_owned()),
        text => text.to_owned(),
    }
}

/// Python's name of the type that `json.loads` makes of a value.
fn python_type(value: &RawValue) -> &'static str {
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

struct Fields<'a>(SmallVec<[(Cow<'a, str>, &'a RawValue); 6]>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = SmallVec::new();
        while let Some(Key(key)) = map.next_key()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Fields(fields))
    }
}

/// A key that is borrowed unless it has escapes; `Cow` alone would always be owned.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor).map(Key)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

/// Reads a JSON string, borrowing it unless it has escapes.
pub(crate) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let inner = value.get().strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    read::<String>(value).ok().map(Cow::Owned)
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
            assert_eq!(Object::parse(text).unwrap_err(), ParseFault::NotObject(name));
        }
    }

    #[test]
    fn refuses_a_key_twice_in_small_and_large_objects() {
        assert_eq!(Object::parse(r#"{"a":1,"a":2}"#).unwrap_err(), ParseFault::DuplicateKey("a".into()));
        let mut text = String::from("{\"x\":0");
        for i in 0..100 {
            text.push_str(&format!(",\"k{i}\":{i}"));
        }
        assert!(Object::parse(&format!("{text}}}")).is_ok());
        assert_eq!(
            Object::parse(&format!("{text},\"x\":1}}")).unwrap_err(),
            ParseFault::DuplicateKey("x".into())
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
