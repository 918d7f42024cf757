//! Argument rules: JSON Schemas that narrow what a tool may be called with.
//!
//! Invariant: a schema never fetches anything, matches its regular expressions in linear time, and
//! never lets an argument's value into a message.

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{PatternOptions, ReferencingError, ValidationError, Validator};
use serde_json::Value;

use crate::policy::pattern::Pattern;

/// So many faults of one call are told.
const TOLD: usize = 4;
/// A message about arguments has so many bytes at most: the names of properties are in it.
const LONGEST_MESSAGE: usize = 1000;

/// Why arguments were refused. Its text holds no value of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgumentRefusal<'a> {
    /// The rule that refused.
    pub rule: &'a str,
    /// Where and why.
    pub message: String,
}

/// A schema for the arguments of the tools that a pattern stands for.
#[derive(Debug)]
pub(super) struct ArgumentRule {
    pub(super) pattern: Pattern,
    pub(super) rule: String,
    validator: Validator,
}

impl ArgumentRule {
    pub(super) fn new(pattern: Pattern, rule: String, schema: &Value) -> Result<Self, String> {
        Ok(ArgumentRule { pattern, rule, validator: validator(schema)? })
    }

    pub(super) fn check(&self, arguments: &Value) -> Result<(), ArgumentRefusal<'_>> {
        if self.validator.is_valid(arguments) {
            return Ok(());
        }
        let faults: Vec<String> = self
            .validator
            .iter_errors(arguments)
            .take(TOLD)
            .map(|fault| located(&fault.instance_path().to_string(), &fault.masked_with("the value")))
            .collect();
        Err(ArgumentRefusal { rule: &self.rule, message: shortened(faults.join("; ")) })
    }
}

/// Compiles a schema that a person wrote, or says why it is not usable.
pub(crate) fn validator(schema: &Value) -> Result<Validator, String> {
    jsonschema::options()
        .offline()
        // A format or a pattern in a rule is meant, so neither is a mere remark.
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| shortened(format!("not a usable JSON Schema: {}", unusable(&error))))
}

/// Why a schema does not compile, and what to do where that is not plain.
fn unusable(error: &ValidationError<'_>) -> String {
    let (path, part) = (error.instance_path().to_string(), error.instance());
    let why = match error.kind() {
        Kind::Format { format } if format == "regex" => {
            format!("{part} is no regular expression that is taken; for a lookahead use \"not\"")
        }
        Kind::Referencing(ReferencingError::Unretrievable { uri, .. }) => {
            format!("it refers to '{uri}', but nothing is fetched; put that under \"$defs\"")
        }
        Kind::Referencing(ReferencingError::UnknownSpecification { specification }) => {
            format!("its \"$schema\" '{specification}' is not known; without one it is 2020-12")
        }
        _ if path.ends_with("/format") && part.is_string() => format!("{part} is no format that is checked"),
        _ => error.to_string(),
    };
    located(&path, &why)
}

fn located(path: &str, what: &dyn std::fmt::Display) -> String {
    if path.is_empty() { what.to_string() } else { format!("at {path}: {what}") }
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push('…');
    }
    message
}
