//! What building a value would meet, found out without building it: whether every reader takes it, and how
//! many values there are in it.
//!
//! Invariant: memory stays constant, whatever the value; the stack is bounded by the depth of nesting that is
//! allowed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::json::{Json, read};
use crate::scan::strings;

/// Checks that every reader takes a value: no number is beyond all floats, no string has a lone surrogate,
/// nothing is nested deeper than 128 levels. Nothing of the value is kept.
///
/// ```
/// use oxenv_wire::{Json, check_readable};
///
/// assert!(check_readable(Json::parse("[1e9]").unwrap()).is_ok());
/// assert!(check_readable(Json::parse("[1e999]").unwrap()).is_err());
/// ```
///
/// # Errors
/// What the first such thing is.
pub fn check_readable<'a>(value: impl Into<Json<'a>>) -> Result<(), serde_json::Error> {
    read::<Readable>(value).map(drop)
}

/// Any value, read and let go.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Readable)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Readable;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_str<E>(self, _: &str) -> Result<Readable, E> {
        Ok(Readable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Readable, A::Error> {
        while elements.next_element::<Readable>()?.is_some() {}
        Ok(Readable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Readable, A::Error> {
        while entries.next_entry::<Readable, Readable>()?.is_some() {}
        Ok(Readable)
    }
}

/// Whether a JSON text has more values than that. A text of a few bytes for each value takes up to a hundred
/// times its length once it is built, so this is checked before a value from outside is built.
#[must_use]
pub fn exceeds_values(json: &str, most: usize) -> bool {
    // Each value but the last has a byte of its own and one that ends it.
    if json.len() / 2 < most {
        return false;
    }
    let (mut values, mut at) = (1, 0);
    let begins = |text: &str| text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    for string in strings(json) {
        values += begins(&json[at..string.range.start]);
        if values > most {
            return true;
        }
        at = string.range.end;
    }
    values + begins(&json[at..]) > most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_what_stands_in_strings_is_not() {
        for (json, values) in [
            ("1", 1),
            ("[1,2]", 3),
            (r#"{"a":[],"b,[{":"c,[{\",","d":{"e":1}}"#, 5),
            (&format!("[{}0]", "0,".repeat(1000)), 1002),
            (&format!("{}{}", "[".repeat(1000), "]".repeat(1000)), 1000),
        ] {
            let counted = (0..).find(|most| !exceeds_values(&format!("{json}{}", " ".repeat(4000)), *most));
            // An empty container counts once more.
            assert!(
                counted.is_some_and(|counted| (values..=values + 1).contains(&counted)),
                "{json}: {counted:?}"
            );
        }
        assert!(!exceeds_values(&format!("\"{}\"", ",".repeat(1 << 20)), 1));
    }
}
