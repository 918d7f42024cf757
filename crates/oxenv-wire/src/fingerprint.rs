//! The content of a JSON value as a number: the same for every spelling of it.
//!
//! Invariant: one pass, linear in the size of the text, and memory for [`MAX_DEPTH`] levels and the longest
//! string.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

use crate::json::Json;

/// Values that are nested deeper are compared as they are written.
const MAX_DEPTH: usize = 256;

/// What the walk is inside of.
struct Level {
    is_object: bool,
    /// Of the elements in their order, or of the fields in any.
    sum: u64,
    parts: u64,
    /// Of the key whose value comes next.
    key: Option<u64>,
}

/// A number that two values share if they differ in nothing but spaces, the order of an object's keys and the
/// escapes of strings. Numbers are compared as they are written: `1` is not `1.0`. It is good for this
/// process only.
///
/// ```
/// use oxenv_wire::{Json, fingerprint};
///
/// let of = |text| fingerprint(Json::parse(text).unwrap());
/// assert_eq!(of(r#"{"a": 1, "b": 2}"#), of(r#"{"b":2,"a":1}"#));
/// ```
#[must_use]
pub fn fingerprint(value: Json<'_>) -> u64 {
    let text = value.get();
    let (mut rest, mut levels) = (text, Vec::<Level>::new());
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', ',', ':']);
        let Some(first) = rest.bytes().next() else { return number(("cut", text)) };
        let found = match first {
            b'{' | b'[' if levels.len() < MAX_DEPTH => {
                rest = &rest[1..];
                levels.push(Level { is_object: first == b'{', sum: 0, parts: 0, key: None });
                continue;
            }
            b'}' | b']' => {
                rest = &rest[1..];
                let Some(level) = levels.pop() else { return number(("stray", text)) };
                number((level.is_object, level.parts, level.sum))
            }
            _ => {
                let (part, after) = rest.split_at(length(rest));
                rest = after;
                if first == b'"' { number(("text", string(part))) } else { number(("written", part)) }
            }
        };
        match levels.last_mut() {
            Some(level) => level.add(found),
            None => return found,
        }
    }
}

impl Level {
    fn add(&mut self, part: u64) {
        if !self.is_object {
            self.sum = number((self.sum, part));
        } else if let Some(key) = self.key.take() {
            // A sum is the same in any order.
            self.sum = self.sum.wrapping_add(number((key, part)));
        } else {
            self.key = Some(part);
            return;
        }
        self.parts += 1;
    }
}

/// A string without its escapes; one with a lone surrogate, which no text is, as it is written.
fn string(written: &str) -> std::borrow::Cow<'_, str> {
    Json::from_checked(written).text().unwrap_or(written.into())
}

/// The bytes of the string, literal or number that a text begins with, or of a whole object or list.
fn length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at += string_length(&bytes[at..]),
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            b'}' | b']' if depth > 0 => (depth, at) = (depth - 1, at + 1),
            b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at.min(bytes.len());
        }
    }
    bytes.len()
}

/// The bytes of the string that stands there, with its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn number(what: impl Hash) -> u64 {
    // Its keys are fixed, so that the number is the same wherever it is made in this process.
    BuildHasherDefault::<DefaultHasher>::default().hash_one(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn of(text: &str) -> u64 {
        fingerprint(Json::parse(text).unwrap())
    }

    #[test]
    fn spelling_does_not_count() {
        for (one, other) in [
            ("{}", " { } "),
            ("[1,2]", "[ 1 ,\n2\t]"),
            (r#"{"a":1,"b":[true,null]}"#, r#"{ "b" : [ true , null ] , "a" : 1 }"#),
            (r#"{"a":{"x":1,"y":2},"b":"/"}"#, r#"{"b":"\/","\u0061":{"y":2,"x":1}}"#),
            (r#""é{]\"""#, r#""\u00e9\u007b\u005d\u0022""#),
            (r#""😀""#, r#""\ud83d\ude00""#),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_said_does() {
        let different = [
            "{}",
            "[]",
            "null",
            "true",
            "0",
            "-0",
            "1",
            "1.0",
            "1e0",
            "\"1\"",
            "\"\"",
            "[1,2]",
            "[2,1]",
            "[[1],2]",
            "[[1,2]]",
            "[1]",
            "[1,1]",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"1":"a"}"#,
            r#"{"a":"1"}"#,
            r#"["a",1]"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{},"b":1}"#,
            r#"[{"a":1},{"b":2}]"#,
            r#"[{"b":2},{"a":1}]"#,
            r#"{"a":[]}"#,
            r#"{"a":null}"#,
            r#""a b""#,
            r#""a  b""#,
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[..index] {
                assert_ne!(of(one), of(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn what_is_deep_is_compared_as_written_below_a_bound() {
        let deep =
            |inner: &str, levels: usize| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(of(&deep(r#"{"a":1,"b":2}"#, 200)), of(&deep(r#" { "b":2, "a":1 } "#, 200)));
        assert_eq!(of(&deep("[\"]\"]", 100_000)), of(&deep("[\"]\"]", 100_000)));
        assert_ne!(of(&deep("1", 100_000)), of(&deep("2", 100_000)));
        assert_eq!(of(&format!("[{},7]", deep("1", 300))), of(&format!("[{} , 7 ]", deep("1", 300))));
    }
}
