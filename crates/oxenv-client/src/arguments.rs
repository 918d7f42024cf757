//! [`Checker`]: whether arguments fit a tool's schema, said before anything is sent.
//!
//! Invariant: every mistake is told with its place, as our servers tell it; a schema that is none keeps nobody from
//! calling, since the tool itself still judges.

use std::sync::OnceLock;

use jsonschema::Validator;
use oxenv_core::explain;
use oxenv_wire::{Loc, ValidationIssue, raw};
use serde_json::{Value, json};

use crate::error::{ClientError, Code, Result};

/// The check of one tool's arguments. The schema is compiled when it is first wanted.
pub(crate) struct Checker {
    schema: Value,
    compiled: OnceLock<Option<Validator>>,
}

impl Checker {
    pub(crate) fn new(schema: &Value) -> Self {
        Checker { schema: schema.clone(), compiled: OnceLock::new() }
    }

    /// # Errors
    /// [`Code::InvalidArguments`], with the issues as its data.
    pub(crate) fn check(&self, tool: &str, arguments: &Value) -> Result<()> {
        let refuse = |told: &str, issues: Value| {
            let message = format!("the arguments do not fit the tool {tool:?}: {told}");
            Err(ClientError::new(Code::InvalidArguments, message).with_data(issues))
        };
        if !arguments.is_object() {
            return refuse("they are no object", Value::Null);
        }
        let compile = || {
            let built = jsonschema::options().offline().build(&self.schema);
            built.inspect_err(|error| tracing::warn!(tool, %error, "the schema is no JSON Schema; arguments are not checked")).ok()
        };
        let Some(validator) = self.compiled.get_or_init(compile) else { return Ok(()) };
        if validator.is_valid(arguments) {
            return Ok(());
        }
        let text = raw(arguments).unwrap_or_default();
        let issues = explain(&self.schema, &text, "they do not fit its schema");
        let told: Vec<String> = issues.iter().map(told).collect();
        refuse(&told.join("; "), json!(issues))
    }
}

fn told(issue: &ValidationIssue) -> String {
    let place: Vec<String> = issue
        .loc
        .iter()
        .map(|part| match part {
            Loc::Key(key) => key.clone(),
            Loc::Index(index) => index.to_string(),
        })
        .collect();
    if place.is_empty() { issue.msg.clone() } else { format!("{}: {}", place.join("."), issue.msg) }
}

#[cfg(test)]
mod tests {
    use oxenv_wire::Delivered;

    use super::*;

    #[test]
    fn every_mistake_is_told_with_its_place() {
        let schema = json!({"type": "object", "required": ["a", "b"], "additionalProperties": false, "properties": {
            "a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}}});
        let checker = Checker::new(&schema);
        let error = checker.check("t", &json!({"a": "x", "b": ["y", 1], "c": 0})).unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidArguments, Delivered::No));
        for place in ["a: ", "b.1: ", "c: "] {
            assert!(error.message().contains(place), "{error}");
        }
        assert_eq!(error.data().as_array().map(Vec::len), Some(3));
        checker.check("t", &json!({"a": 1, "b": []})).unwrap();
        assert!(checker.check("t", &json!([])).is_err());
    }

    #[test]
    fn a_schema_that_is_none_lets_everything_through() {
        Checker::new(&json!({"type": 5})).check("odd", &json!({"x": 1})).unwrap();
    }
}
