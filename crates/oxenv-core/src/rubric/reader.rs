//! Reads the keys of a declared rubric, and reports where and why one is invalid.
//!
//! Invariant: unknown keys are reported before missing ones, because a missing key is most often a
//! misspelt one.

use oxenv_wire::Reward;
use serde_json::{Map, Value};

use super::error::RubricError;

/// Maximum length of a word that is compared with known ones, in bytes.
const MAX_SUGGESTED_BYTES: usize = 64;

/// The keys of one object.
pub(super) struct Fields<'a> {
    place: String,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn open(value: &'a Value, place: &str) -> Result<Self, RubricError> {
        match value {
            Value::Object(object) => Ok(Fields { place: place.to_owned(), object }),
            other => Err(wrong_type(place, "an object", other)),
        }
    }

    /// Refuses keys of any other name.
    pub(super) fn only(&self, known: &[&[&str]]) -> Result<(), RubricError> {
        let known = known.concat();
        match self.object.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(RubricError {
                place: self.place.clone(),
                problem: format!("unknown key '{}'{}", key.escape_debug(), nearest(key, &known)),
            }),
        }
    }

    /// A value, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// A value that must be there.
    pub(super) fn value(&self, key: &str) -> Result<&'a Value, RubricError> {
        self.get(key)
            .ok_or_else(|| RubricError { place: self.place.clone(), problem: format!("'{key}' is missing") })
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, RubricError> {
        self.value(key)?;
        self.optional_text(key).map(Option::unwrap_or_default)
    }

    pub(super) fn optional_text(&self, key: &str) -> Result<Option<&'a str>, RubricError> {
        self.read(key, "a string", Value::as_str)
    }

    pub(super) fn number(&self, key: &str) -> Result<f64, RubricError> {
        self.value(key)?;
        self.optional_number(key).map(Option::unwrap_or_default)
    }

    pub(super) fn optional_number(&self, key: &str) -> Result<Option<f64>, RubricError> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<u64>, RubricError> {
        self.read(key, "a whole number, 0 or more", Value::as_u64)
    }

    /// A reward; whole numbers stay whole.
    pub(super) fn optional_reward(&self, key: &str) -> Result<Option<Reward>, RubricError> {
        self.read(key, "a number", |value| match value.as_i64() {
            Some(whole) => Some(Reward::Int(whole)),
            None => value.as_f64().map(Reward::Float),
        })
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [Value], RubricError> {
        match self.value(key)? {
            Value::Array(list) if !list.is_empty() => Ok(list),
            Value::Array(_) => Err(self.wrong(key, "the list is empty".to_owned())),
            other => Err(wrong_type(&self.below(key), "a list", other)),
        }
    }

    /// The place of a key's value.
    pub(super) fn below(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// That a key's value cannot be taken.
    pub(super) fn wrong(&self, key: &str, problem: String) -> RubricError {
        RubricError { place: self.below(key), problem }
    }

    fn read<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RubricError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| wrong_type(&self.below(key), wanted, value))
    }
}

/// What to write instead, as the end of a message.
pub(super) fn nearest(word: &str, known: &[&str]) -> String {
    let word = &word[..word.floor_char_boundary(MAX_SUGGESTED_BYTES)];
    let distance = |known: &&&str| strsim::damerau_levenshtein(word, known);
    match known.iter().min_by_key(distance).filter(|known| distance(known) <= 1 + word.len() / 4) {
        Some(known) => format!("; did you mean '{known}'?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

fn wrong_type(place: &str, wanted: &str, found: &Value) -> RubricError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let found = if found == "a number" && wanted.contains("number") { "another one" } else { found };
    RubricError { place: place.to_owned(), problem: format!("must be {wanted}, not {found}") }
}
