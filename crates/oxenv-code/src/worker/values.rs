//! Values on their way between the interpreter and JSON.
//!
//! Invariant: a value that JSON cannot say is an error, never a guess; nothing here recurses deeper than
//! [`MAX_DEPTH`].

use std::fmt::Write as _;

use monty_types::MontyObject;
use num_bigint::BigInt;
use oxenv_wire::RawJson;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::output::cut;

/// Levels of lists and dicts, as serde_json reads them.
const MAX_DEPTH: usize = 120;

/// Why a value is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotJson {
    /// JSON has no such type.
    Type(String),
    /// A key of a dict is no string.
    Key(String),
    /// NaN or infinite.
    Float,
    TooDeep,
    TooLong,
}

impl std::fmt::Display for NotJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotJson::Type(name) => write!(f, "Object of type {name} is not JSON serializable"),
            NotJson::Key(name) => write!(f, "keys must be str, not {name}"),
            NotJson::Float => f.write_str("Out of range float values are not JSON compliant"),
            NotJson::TooDeep => write!(f, "the value is nested deeper than {MAX_DEPTH} levels"),
            NotJson::TooLong => f.write_str("the value is too long"),
        }
    }
}

/// Writes values as JSON, up to a limit.
pub(crate) struct JsonWriter {
    text: String,
    limit: usize,
}

impl JsonWriter {
    pub(crate) fn new(limit: usize) -> Self {
        JsonWriter { text: String::new(), limit }
    }

    /// A value alone.
    pub(crate) fn write(value: &MontyObject, limit: usize) -> Result<RawJson, NotJson> {
        let mut writer = JsonWriter::new(limit);
        writer.value(value, 0)?;
        Ok(RawValue::from_string(writer.text).unwrap_or_default())
    }

    /// An object, of keys that differ.
    pub(crate) fn object(mut self, pairs: &[(&str, &MontyObject)]) -> Result<RawJson, NotJson> {
        self.text.push('{');
        for (at, (key, value)) in pairs.iter().enumerate() {
            self.comma(at);
            self.string(key)?;
            self.text.push(':');
            self.value(value, 1)?;
        }
        self.text.push('}');
        Ok(RawValue::from_string(self.text).unwrap_or_default())
    }

    fn comma(&mut self, at: usize) {
        if at > 0 {
            self.text.push(',');
        }
    }

    fn string(&mut self, text: &str) -> Result<(), NotJson> {
        // A string always serializes, and is longer as JSON than it is.
        if self.text.len() + text.len() > self.limit {
            return Err(NotJson::TooLong);
        }
        self.text.push_str(&serde_json::to_string(text).unwrap_or_default());
        Ok(())
    }

    fn items(&mut self, items: &[MontyObject], depth: usize) -> Result<(), NotJson> {
        self.text.push('[');
        for (at, item) in items.iter().enumerate() {
            self.comma(at);
            self.value(item, depth + 1)?;
        }
        self.text.push(']');
        Ok(())
    }

    fn value(&mut self, value: &MontyObject, depth: usize) -> Result<(), NotJson> {
        if self.text.len() > self.limit {
            return Err(NotJson::TooLong);
        }
        if depth > MAX_DEPTH {
            return Err(NotJson::TooDeep);
        }
        match value {
            MontyObject::None => self.text.push_str("null"),
            MontyObject::Bool(value) => self.text.push_str(if *value { "true" } else { "false" }),
            MontyObject::Int(value) => drop(write!(self.text, "{value}")),
            MontyObject::BigInt(value) => drop(write!(self.text, "{value}")),
            MontyObject::Float(value) if value.is_finite() => {
                self.text.push_str(&serde_json::to_string(value).unwrap_or_default());
            }
            MontyObject::Float(_) => return Err(NotJson::Float),
            MontyObject::String(text) => self.string(text)?,
            MontyObject::List(items) | MontyObject::Tuple(items) => self.items(items, depth)?,
            MontyObject::NamedTuple { values, .. } => self.items(values, depth)?,
            MontyObject::Dict(pairs) => {
                self.text.push('{');
                for (at, (key, value)) in pairs.into_iter().enumerate() {
                    self.comma(at);
                    match key {
                        MontyObject::String(key) => self.string(key)?,
                        other => return Err(NotJson::Key(other.type_name().to_owned())),
                    }
                    self.text.push(':');
                    self.value(value, depth + 1)?;
                }
                self.text.push('}');
            }
            other => return Err(NotJson::Type(other.type_name().to_owned())),
        }
        if self.text.len() > self.limit { Err(NotJson::TooLong) } else { Ok(()) }
    }
}

/// The value of a program's last expression.
pub(crate) struct Shown {
    /// As JSON, or else its `repr` as a string.
    pub(crate) json: RawJson,
    /// Whether it is the beginning of a `repr` that is too long.
    pub(crate) truncated: bool,
}

/// A value as an outcome shows it; absent for `None`.
pub(crate) fn shown(value: &MontyObject, limit: usize) -> Option<Shown> {
    if matches!(value, MontyObject::None) {
        return None;
    }
    let string = |text: &str| serde_json::value::to_raw_value(text).unwrap_or_default();
    match (JsonWriter::write(value, limit), value) {
        (Ok(json), _) => Some(Shown { json, truncated: false }),
        (Err(_), MontyObject::String(text)) => {
            Some(Shown { json: string(cut(text, limit)), truncated: true })
        }
        (Err(_), _) => {
            let mut repr = Bounded { text: String::new(), limit };
            let truncated = write!(repr, "{value}").is_err();
            Some(Shown { json: string(&repr.text), truncated })
        }
    }
}

/// A text that refuses what goes beyond its limit.
struct Bounded {
    text: String,
    limit: usize,
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let kept = cut(text, self.limit - self.text.len());
        self.text.push_str(kept);
        if kept.len() < text.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

/// A value of JSON, for the interpreter.
pub(crate) fn from_json(json: &RawValue) -> Result<MontyObject, String> {
    let read = serde_json::from_str::<FromJson>(json.get());
    read.map(|value| value.0).map_err(|error| error.to_string())
}

struct FromJson(MontyObject);

impl<'de> Deserialize<'de> for FromJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(FromJson)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = MontyObject;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<MontyObject, E> {
        Ok(MontyObject::None)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<MontyObject, E> {
        Ok(MontyObject::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<MontyObject, E> {
        Ok(MontyObject::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<MontyObject, E> {
        Ok(i64::try_from(value).map_or_else(|_| MontyObject::BigInt(BigInt::from(value)), MontyObject::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<MontyObject, E> {
        Ok(MontyObject::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<MontyObject, E> {
        Ok(MontyObject::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<MontyObject, E> {
        Ok(MontyObject::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<MontyObject, A::Error> {
        let mut list = Vec::new();
        while let Some(FromJson(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(MontyObject::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<MontyObject, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, FromJson(value))) = entries.next_entry::<String, FromJson>()? {
            pairs.push((MontyObject::String(key), value));
        }
        Ok(MontyObject::dict(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(json: &str) -> String {
        let read = from_json(serde_json::from_str(json).unwrap()).unwrap();
        JsonWriter::write(&read, 1 << 20).unwrap().get().to_owned()
    }

    #[test]
    fn json_keeps_its_values() {
        for json in [
            r#"{"a":[1,-2,2.5,1e+300,true,false,null,"é\"\n"],"b":{"c":{}}}"#,
            "18446744073709551615",
            "-9223372036854775808",
            r#""""#,
        ] {
            assert_eq!(there_and_back(json), json);
        }
    }

    #[test]
    fn what_json_cannot_say_is_an_error() {
        let nested = (0..200).fold(MontyObject::None, |inner, _| MontyObject::List(vec![inner]));
        let key = MontyObject::dict(vec![(MontyObject::Int(1), MontyObject::None)]);
        for (value, error) in [
            (MontyObject::Float(f64::NAN), NotJson::Float),
            (MontyObject::Set(Vec::new()), NotJson::Type("set".to_owned())),
            (key, NotJson::Key("int".to_owned())),
            (nested, NotJson::TooDeep),
            (MontyObject::String("x".repeat(401)), NotJson::TooLong),
        ] {
            assert_eq!(JsonWriter::write(&value, 400).unwrap_err(), error);
        }
    }

    #[test]
    fn what_is_not_json_is_shown_by_its_repr() {
        assert!(shown(&MontyObject::None, 10).is_none());
        let set = MontyObject::Set(vec![MontyObject::Int(1)]);
        let show = |value: &MontyObject, limit| {
            let shown = shown(value, limit).unwrap();
            (shown.json.get().to_owned(), shown.truncated)
        };
        assert_eq!(show(&set, 10), (r#""{1}""#.to_owned(), false));
        assert_eq!(show(&set, 2), (r#""{1""#.to_owned(), true));
        assert_eq!(show(&MontyObject::String("abc".to_owned()), 2), (r#""ab""#.to_owned(), true));
        let list = MontyObject::List(vec![MontyObject::Int(1); 9]);
        assert_eq!(show(&list, 5), (r#""[1, 1""#.to_owned(), true));
    }
}
