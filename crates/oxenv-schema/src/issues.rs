//! Reports why a value does not fit a JSON Schema, in pydantic's form.
//!
//! Invariant: runs on the error path only, and what it writes is bounded: issues, paths, and the values and
//! options that are repeated.

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::paths::LocationSegment;
use jsonschema::{JsonType, ValidationError};
use oxenv_wire::{Loc, RawJson, ValidationIssue, raw, read};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::check::{CheckBudget, TooDeep};
use crate::compile::Schema;
use crate::lazy::LazySchema;
use crate::messages::{describe_error, describe_masked, truncated};
use crate::size::memory_size;

/// Maximum number of issues of one value.
const MAX_ISSUES: usize = 64;
/// Maximum bytes of a key in the place of an issue.
const MAX_KEY: usize = 200;
/// Maximum number of options of an `enum` that an issue lists.
const MAX_OPTIONS: usize = 100;
/// Maximum bytes in memory of a value that an issue repeats.
const MAX_REPEATED: u64 = 64 << 10;
/// Maximum bytes in memory of a value that stands in a message.
const MAX_IN_MESSAGE: u64 = 1 << 10;
/// Maximum bytes of a value that is explained on the calling thread.
const MAX_EXPLAINED: usize = 1 << 20;

/// What is wrong with a value that does not fit; `fallback` where the schema finds nothing. Never empty.
///
/// # Errors
/// When that could not be found out.
pub fn issues(
    schema: &Schema,
    value: &Value,
    budget: &CheckBudget,
    fallback: &str,
) -> Result<Vec<ValidationIssue>, TooDeep> {
    let found = schema.errors(value, budget, MAX_ISSUES, issues_of)?;
    let issues: Vec<ValidationIssue> = found.into_iter().flatten().take(MAX_ISSUES).collect();
    Ok(if issues.is_empty() { general_issue(value, fallback) } else { issues })
}

/// An issue with a value as a whole.
#[must_use]
pub fn general_issue(value: &Value, message: &str) -> Vec<ValidationIssue> {
    vec![ValidationIssue::new("value_error", &[], message, &clip_value(value))]
}

/// What is wrong with JSON that a type did not accept; `fallback` is the type's message. Never empty.
#[must_use]
pub fn explain(
    schema: &LazySchema,
    source: &Value,
    value: &RawValue,
    fallback: &str,
) -> Vec<ValidationIssue> {
    if value.get().len() <= MAX_EXPLAINED {
        match (schema.get(source), read::<Value>(value)) {
            (Ok(schema), Ok(parsed)) => {
                let issues = issues(schema, &parsed, &CheckBudget::inline(), fallback);
                return issues.unwrap_or_else(|_| general_issue(&parsed, fallback));
            }
            (_, Err(error)) => return explain_unreadable(&error, value),
            (Err(_), _) => {}
        }
    }
    vec![ValidationIssue::new("value_error", &[], fallback, value)]
}

/// Why JSON cannot be read as a value.
#[must_use]
pub fn explain_unreadable(error: &serde_json::Error, value: &RawValue) -> Vec<ValidationIssue> {
    vec![ValidationIssue::new("json_invalid", &[], unreadable(error), value)]
}

/// Serde's error about JSON that was well-formed while raw: a lone surrogate, or too deep.
fn unreadable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("recursion limit") {
        return "nested deeper than 128 levels".to_owned();
    }
    if ["surrogate", "unicode", "hex escape"].iter().any(|word| text.contains(word)) {
        return "a string holds a lone surrogate, which is no Unicode character".to_owned();
    }
    text
}

/// The issues of one mistake: a keyword such as `additionalProperties` finds several.
fn issues_of(error: &ValidationError<'_>) -> Vec<ValidationIssue> {
    let mut loc: Vec<Loc> = error
        .instance_path()
        .into_iter()
        .map(|segment| match segment {
            LocationSegment::Property(name) => Loc::Key(key(&name)),
            LocationSegment::Index(index) => Loc::Index(index),
        })
        .collect();
    let input = clip_value(error.instance());
    match error.kind() {
        Kind::Required { property } => {
            loc.push(Loc::Key(key(property.as_str().unwrap_or_default())));
            vec![at(loc, ValidationIssue::missing(&[], &input))]
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let extra = |name: &String| {
                let value = clip_value(&error.instance()[name.as_str()]);
                let loc = loc.iter().cloned().chain([Loc::Key(key(name))]).collect();
                at(loc, ValidationIssue::extra(&[], &value))
            };
            unexpected.iter().take(MAX_ISSUES).map(extra).collect()
        }
        kind => vec![at(loc, other(kind, error, &input))],
    }
}

fn other(kind: &Kind, error: &ValidationError<'_>, input: &RawJson) -> ValidationIssue {
    let issue = |kind, msg: String| ValidationIssue::new(kind, &[], msg, input);
    match kind {
        Kind::Type { kind: TypeKind::Single(expected) } if *expected != JsonType::Null => {
            wrong_type(*expected, input)
        }
        Kind::Type { .. } if memory_size(error.instance()) <= MAX_IN_MESSAGE => {
            issue("type_error", describe_error(error))
        }
        Kind::Type { .. } => issue("type_error", describe_masked(error)),
        Kind::Constant { expected_value } => {
            let expected = truncated(expected_value.to_string());
            issue("literal_error", format!("Input should be {expected}"))
                .with_ctx(json!({ "expected": expected }))
        }
        Kind::Enum { options } => {
            let expected = options.as_array().map_or_else(String::new, |options| join_options(options));
            issue("literal_error", format!("Input should be {expected}"))
                .with_ctx(json!({ "expected": expected }))
        }
        Kind::Minimum { limit } => {
            issue("greater_than_equal", format!("Input should be greater than or equal to {limit}"))
                .with_ctx(json!({ "ge": limit }))
        }
        Kind::Maximum { limit } => {
            issue("less_than_equal", format!("Input should be less than or equal to {limit}"))
                .with_ctx(json!({ "le": limit }))
        }
        Kind::MinLength { limit } => {
            issue("string_too_short", format!("String should have at least {limit} characters"))
                .with_ctx(json!({ "min_length": limit }))
        }
        Kind::MaxLength { limit } => {
            issue("string_too_long", format!("String should have at most {limit} characters"))
                .with_ctx(json!({ "max_length": limit }))
        }
        // Masked, because the value may be as large as the message that held it.
        _ => issue("value_error", truncated(describe_masked(error))),
    }
}

fn wrong_type(expected: JsonType, input: &RawJson) -> ValidationIssue {
    let (kind, message) = match expected {
        JsonType::String => ("string_type", "Input should be a valid string"),
        JsonType::Integer if input.get().starts_with('"') => {
            ("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
        }
        JsonType::Integer if input.get().contains('.') => {
            ("int_from_float", "Input should be a valid integer, got a number with a fractional part")
        }
        JsonType::Integer => ("int_type", "Input should be a valid integer"),
        JsonType::Number => ("float_type", "Input should be a valid number"),
        JsonType::Boolean => ("bool_type", "Input should be a valid boolean"),
        JsonType::Object => ("dict_type", "Input should be a valid dictionary"),
        JsonType::Array => ("list_type", "Input should be a valid list"),
        JsonType::Null => ("type_error", "Input should be null"),
    };
    ValidationIssue::new(kind, &[], message, input)
}

fn join_options(options: &[Value]) -> String {
    let quoted = |option: &Value| option.to_string().replace('"', "'");
    let texts: Vec<String> = options.iter().take(MAX_OPTIONS).map(quoted).collect();
    truncated(match texts.split_last() {
        _ if options.len() > MAX_OPTIONS => {
            format!("{} or one of {} more", texts.join(", "), options.len() - MAX_OPTIONS)
        }
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    })
}

/// A value as an issue repeats it.
fn clip_value(value: &Value) -> RawJson {
    match memory_size(value) <= MAX_REPEATED {
        true => raw(value).unwrap_or_default(),
        false => raw("<large JSON>").unwrap_or_default(),
    }
}

fn key(name: &str) -> String {
    match name.len() <= MAX_KEY {
        true => name.to_owned(),
        false => format!("{}…", &name[..name.floor_char_boundary(MAX_KEY)]),
    }
}

fn at(loc: Vec<Loc>, mut issue: ValidationIssue) -> ValidationIssue {
    issue.loc = loc;
    issue
}
