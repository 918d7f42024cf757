//! Messages about schemas and about what does not fit them.
//!
//! Invariant: a message shows a schema as its author wrote it, without what `instrument.rs` added.

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{ReferencingError, ValidationError};
use serde_json::Value;

use crate::instrument::{hidden_keyword, strip};

/// Bytes of a message about a schema.
const MAX_MESSAGE: usize = 1000;

/// What is wrong, without the value.
#[must_use]
pub fn describe_masked(error: &ValidationError<'_>) -> String {
    match error.kind() {
        Kind::Not { schema } => negated(schema, "the value"),
        // The names of properties are included.
        Kind::PropertyNames { error } => describe_error(error),
        _ => error.masked_with("the value").to_string(),
    }
}

/// What is wrong, with the value.
#[must_use]
pub fn describe_error(error: &ValidationError<'_>) -> String {
    match error.kind() {
        Kind::Not { schema } => negated(schema, &error.instance().to_string()),
        Kind::PropertyNames { error } => describe_error(error),
        Kind::Custom { keyword, message } if keyword == "pattern" => {
            message.replacen("the value", &error.instance().to_string(), 1)
        }
        _ => error.to_string(),
    }
}

/// Why a schema does not compile, and what to do where that is not plain.
pub(crate) fn unusable(error: &ValidationError<'_>) -> String {
    let (path, part) = (error.instance_path().to_string(), error.instance());
    let why = match error.kind() {
        Kind::Format { format } if format == "regex" => unusable_pattern(part),
        Kind::Custom { message, .. } if path.is_empty() => {
            return with_location(error.schema_path().as_str(), message);
        }
        Kind::Referencing(ReferencingError::Unretrievable { uri, .. }) => {
            format!("it refers to '{uri}', but nothing is fetched; put that under \"$defs\"")
        }
        Kind::Referencing(ReferencingError::UnknownSpecification { specification }) => {
            unknown_draft(specification)
        }
        _ if path.ends_with("/format") && part.is_string() => format!("{part} is no format that is checked"),
        _ => describe_error(error),
    };
    with_location(&path, &why)
}

pub(crate) fn unknown_draft(uri: &str) -> String {
    format!("its \"$schema\" '{uri}' is not known; without one it is 2020-12")
}

pub(crate) fn unusable_pattern(pattern: &Value) -> String {
    format!("{pattern} is no regular expression that is taken; for a lookahead use \"not\"")
}

/// A message with the place that it is about.
#[must_use]
pub fn with_location(path: &str, what: &str) -> String {
    if path.is_empty() { what.to_owned() } else { format!("at {path}: {what}") }
}

/// The beginning of a message.
#[must_use]
pub fn truncated(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

fn negated(schema: &Value, value: &str) -> String {
    match hidden_keyword(schema) {
        Some("oneOf") => {
            format!("{value} is not valid under exactly one of the schemas listed in the 'oneOf' keyword")
        }
        Some(keyword) => {
            format!("{value} is not valid under any of the schemas listed in the '{keyword}' keyword")
        }
        None => format!("{} is not allowed for {value}", strip(schema)),
    }
}
