//! Explains why a value does not fit a JSON Schema, as pydantic would say it.
//!
//! Invariant: runs on the error path only. The hot path is serde's; this looks again, slowly, for
//! every issue instead of the first.

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::paths::LocationSegment;
use oxenv_wire::{Loc, RawJson, ValidationIssue, raw, read};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Issues that are told of one value, at the most.
const MAX_ISSUES: usize = 64;

/// Every issue of `value` against `schema`; `fallback` is told when the schema finds none.
#[must_use]
pub fn explain(schema: &Value, value: &RawValue, fallback: &str) -> Vec<ValidationIssue> {
    let mut issues = Vec::new();
    match (jsonschema::options().offline().build(schema), read::<Value>(value)) {
        (Ok(validator), Ok(parsed)) => {
            for error in validator.iter_errors(&parsed).take(MAX_ISSUES) {
                add(&mut issues, &error);
            }
            issues.truncate(MAX_ISSUES);
        }
        (_, Err(error)) => {
            issues.push(ValidationIssue::new("json_invalid", &[], unreadable(&error), value));
        }
        (Err(_), _) => {}
    }
    if issues.is_empty() {
        issues.push(ValidationIssue::new("value_error", &[], fallback, value));
    }
    issues
}

/// What serde says about JSON that was well-formed while raw: a lone surrogate, or too deep.
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

fn add(issues: &mut Vec<ValidationIssue>, error: &jsonschema::ValidationError<'_>) {
    let mut loc: Vec<Loc> = error
        .instance_path()
        .into_iter()
        .map(|segment| match segment {
            LocationSegment::Property(name) => Loc::Key(name.into_owned()),
            LocationSegment::Index(index) => Loc::Index(index),
        })
        .collect();
    let input = raw(error.instance().as_ref()).unwrap_or_default();
    match error.kind() {
        Kind::Required { property } => {
            loc.push(Loc::Key(property.as_str().unwrap_or_default().to_owned()));
            issues.push(at(loc, ValidationIssue::missing(&[], &input)));
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            for key in unexpected.iter().take(MAX_ISSUES) {
                let value = raw(&error.instance()[key.as_str()]).unwrap_or_default();
                let mut loc = loc.clone();
                loc.push(Loc::Key(key.clone()));
                issues.push(at(loc, ValidationIssue::extra(&[], &value)));
            }
        }
        kind => issues.push(at(loc, other(kind, error, &input))),
    }
}

fn other(kind: &Kind, error: &jsonschema::ValidationError<'_>, input: &RawJson) -> ValidationIssue {
    let issue = |kind, msg: String| ValidationIssue::new(kind, &[], msg, input);
    match kind {
        Kind::Type { .. } => wrong_type(error, input),
        Kind::Constant { expected_value } => {
            issue("literal_error", format!("Input should be {expected_value}"))
                .with_ctx(json!({ "expected": expected_value.to_string() }))
        }
        Kind::Enum { options } => {
            let expected = options.as_array().map_or_else(String::new, |options| listed(options));
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
        _ => issue("value_error", error.masked_with("the value").to_string()),
    }
}

fn wrong_type(error: &jsonschema::ValidationError<'_>, input: &RawJson) -> ValidationIssue {
    let expected = error.to_string();
    let issue = |kind, msg| ValidationIssue::new(kind, &[], msg, input);
    let is_text = input.get().starts_with('"');
    if expected.ends_with("\"string\"") {
        issue("string_type", "Input should be a valid string")
    } else if expected.ends_with("\"integer\"") && is_text {
        issue("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
    } else if expected.ends_with("\"integer\"") && input.get().contains('.') {
        issue("int_from_float", "Input should be a valid integer, got a number with a fractional part")
    } else if expected.ends_with("\"integer\"") {
        issue("int_type", "Input should be a valid integer")
    } else if expected.ends_with("\"number\"") {
        issue("float_type", "Input should be a valid number")
    } else if expected.ends_with("\"boolean\"") {
        issue("bool_type", "Input should be a valid boolean")
    } else if expected.ends_with("\"object\"") {
        issue("dict_type", "Input should be a valid dictionary")
    } else if expected.ends_with("\"array\"") {
        issue("list_type", "Input should be a valid list")
    } else {
        issue("type_error", &expected)
    }
}

fn listed(options: &[Value]) -> String {
    let texts: Vec<String> = options.iter().map(|option| option.to_string().replace('"', "'")).collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

fn at(loc: Vec<Loc>, mut issue: ValidationIssue) -> ValidationIssue {
    issue.loc = loc;
    issue
}
