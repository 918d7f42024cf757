//! Reads the known keys of an object and collects every issue instead of stopping at the first.
//!
//! Invariant: issues come in pydantic's order: the fields in the order in which they are read,
//! extra keys last.

use std::borrow::Cow;

use crate::issue::{MAX_ISSUES, ValidationIssue};
use crate::json::{Json, Object, read};
use crate::seconds::Seconds;

/// A reader over one object; `loc` is the path to it.
pub(crate) struct Shape<'o, 'a> {
    object: &'o Object<'a>,
    loc: Vec<&'o str>,
    pub(crate) issues: Vec<ValidationIssue>,
}

impl<'o, 'a> Shape<'o, 'a> {
    pub(crate) fn new(object: &'o Object<'a>, loc: &[&'o str]) -> Self {
        Shape { object, loc: loc.to_vec(), issues: Vec::new() }
    }

    pub(crate) fn required(&mut self, key: &'o str) -> Option<Json<'a>> {
        let value = self.object.get(key);
        if value.is_none() {
            let loc = self.at(key);
            self.issues.push(ValidationIssue::missing(&loc, self.object.json()));
        }
        value
    }

    /// A required string; an empty one stands in where an issue was noted.
    pub(crate) fn string(&mut self, key: &'o str) -> Cow<'a, str> {
        let Some(value) = self.required(key) else { return Cow::Borrowed("") };
        value.text().unwrap_or_else(|| {
            let loc = self.at(key);
            self.issues.push(ValidationIssue::not_string(&loc, value));
            Cow::Borrowed("")
        })
    }

    /// A string that may be absent or null.
    pub(crate) fn optional_string(&mut self, key: &'o str) -> Option<Cow<'a, str>> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let read = value.text();
        if read.is_none() {
            let loc = self.at(key);
            self.issues.push(ValidationIssue::not_string(&loc, value));
        }
        read
    }

    /// An object that may be absent; null counts as absent only where `nullable`.
    pub(crate) fn optional_object(&mut self, key: &'o str, nullable: bool) -> Option<Json<'a>> {
        let value = self.object.get(key)?;
        if value.is_object() {
            return Some(value);
        }
        if !(nullable && value.is_null()) {
            let loc = self.at(key);
            self.issues.push(ValidationIssue::not_object(&loc, value));
        }
        None
    }

    /// Notes an issue unless `key` is absent or holds this string.
    pub(crate) fn literal(&mut self, key: &'o str, expected: &str) {
        if let Some(value) = self.object.get(key).filter(|value| value.text().as_deref() != Some(expected)) {
            let loc = self.at(key);
            self.issues.push(ValidationIssue::literal(&loc, expected, value));
        }
    }

    /// A whole number from 0 that may be absent or null.
    pub(crate) fn optional_u64(&mut self, key: &'o str) -> Option<u64> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let read = read::<u64>(value).ok();
        if read.is_none() {
            let loc = self.at(key);
            self.issues.push(not_natural(&loc, value));
        }
        read
    }

    /// A number that is counted from 1, and may be absent or null.
    pub(crate) fn optional_counted(&mut self, key: &'o str) -> Option<u64> {
        let number = self.optional_u64(key)?;
        if number > 0 {
            return Some(number);
        }
        let (loc, value) = (self.at(key), self.object.get(key).unwrap_or(Json::NULL));
        let msg = "Input should be greater than or equal to 1";
        let issue = ValidationIssue::new("greater_than_equal", &loc, msg, value);
        self.issues.push(issue.with_ctx(serde_json::json!({ "ge": 1 })));
        None
    }

    /// A required whole number; 0 stands in where an issue was noted.
    pub(crate) fn i64(&mut self, key: &'o str) -> i64 {
        let Some(value) = self.required(key) else { return 0 };
        read::<i64>(value).unwrap_or_else(|_| {
            let loc = self.at(key);
            self.issues.push(not_whole(&loc, value));
            0
        })
    }

    /// A whole number that may be absent or null.
    pub(crate) fn optional_i64(&mut self, key: &'o str) -> Option<i64> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let read = read::<i64>(value).ok();
        if read.is_none() {
            let loc = self.at(key);
            self.issues.push(not_whole(&loc, value));
        }
        read
    }

    /// A length of time above 0 that may be absent or null.
    pub(crate) fn optional_seconds(&mut self, key: &'o str) -> Option<Seconds> {
        let value = self.object.get(key).filter(|value| !value.is_null())?;
        let number = read::<f64>(value).ok();
        if let Some(seconds) = number.filter(|number| number.is_finite()).and_then(Seconds::new) {
            return Some(seconds);
        }
        let loc = self.at(key);
        self.issues.push(match number {
            Some(_) => ValidationIssue::new("greater_than", &loc, "Input should be greater than 0", value)
                .with_ctx(serde_json::json!({ "gt": 0.0 })),
            None if value.get().starts_with('"') => {
                let msg = "Input should be a valid number, unable to parse string as a number";
                ValidationIssue::new("float_parsing", &loc, msg, value)
            }
            None => ValidationIssue::new("float_type", &loc, "Input should be a valid number", value),
        });
        None
    }

    /// Notes an issue for every key that is not in the list, up to [`MAX_ISSUES`].
    pub(crate) fn only(&mut self, known: &[&str]) {
        let room = MAX_ISSUES.saturating_sub(self.issues.len());
        for (key, value) in self.object.iter().filter(|(key, _)| !known.contains(key)).take(room) {
            let mut loc = self.loc.clone();
            loc.push(key);
            self.issues.push(ValidationIssue::extra(&loc, value));
        }
    }

    pub(crate) fn finish<T>(self, value: T) -> Result<T, Vec<ValidationIssue>> {
        if self.issues.is_empty() { Ok(value) } else { Err(self.issues) }
    }

    pub(crate) fn at(&self, key: &'o str) -> Vec<&'o str> {
        let mut loc = self.loc.clone();
        loc.push(key);
        loc
    }
}

/// Reports why a value is no whole number from 0 to 2^64-1, in pydantic's types.
fn not_natural(loc: &[&str], value: Json<'_>) -> ValidationIssue {
    if read::<f64>(value).is_ok_and(|number| number < 0.0 && number.fract() == 0.0) {
        return ValidationIssue::new(
            "greater_than_equal",
            loc,
            "Input should be greater than or equal to 0",
            value,
        )
        .with_ctx(serde_json::json!({ "ge": 0 }));
    }
    not_whole(loc, value)
}

/// Reports why a value is no whole number of 64 bits.
fn not_whole(loc: &[&str], value: Json<'_>) -> ValidationIssue {
    let text = value.get();
    if text.starts_with('"') {
        let msg = "Input should be a valid integer, unable to parse string as an integer";
        return ValidationIssue::new("int_parsing", loc, msg, value);
    }
    let number = read::<f64>(value).ok();
    match number {
        Some(number) if number.fract() != 0.0 => {
            let msg = "Input should be a valid integer, got a number with a fractional part";
            ValidationIssue::new("int_from_float", loc, msg, value)
        }
        Some(_) => {
            let msg = "Input should be an integer of 64 bits, written without a fraction";
            ValidationIssue::new("int_parsing_size", loc, msg, value)
        }
        None => ValidationIssue::new("int_type", loc, "Input should be a valid integer", value),
    }
}
