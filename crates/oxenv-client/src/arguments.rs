//! [`ArgumentChecker`]: checks arguments against a tool's schema before anything is sent.
//!
//! Invariant: every mistake is reported with its place, in the server's form; an invalid schema prevents no
//! call, since the tool itself still judges. The same holds for what is too large or too deep to check here.

use std::sync::Arc;

use oxenv_schema::{CheckBudget, LazySchema, TooDeep, is_small, issues, run_blocking};
use oxenv_wire::{Loc, ValidationIssue};
use serde_json::{Value, json};

use crate::error::{ClientError, Code, Result};

/// The message where the schema gives none.
const DOES_NOT_FIT: &str = "they do not fit its schema";

/// The check of one tool's arguments. The schema is compiled when it is first wanted.
pub(crate) struct ArgumentChecker {
    schema: Value,
    compiled: LazySchema,
}

impl ArgumentChecker {
    pub(crate) fn new(schema: &Value) -> Self {
        ArgumentChecker { schema: schema.clone(), compiled: LazySchema::default() }
    }

    /// Checks arguments: at once where that is quick.
    ///
    /// # Errors
    /// [`Code::InvalidArguments`], with the issues as its data.
    pub(crate) async fn check(self: &Arc<Self>, tool: &str, arguments: &Value) -> Result<()> {
        if !arguments.is_object() {
            return invalid_arguments(tool, "they are no object", Value::Null);
        }
        let quick = is_small(arguments) && self.compiled.get_quickly(&self.schema).is_some();
        let issues = match quick.then(|| self.issues(tool, arguments, &CheckBudget::inline())) {
            Some(Ok(issues)) => issues,
            _ => {
                let (checker, name, arguments) = (Arc::clone(self), tool.to_owned(), arguments.clone());
                let check = move |gone| {
                    checker.issues(&name, &arguments, &CheckBudget::of(&arguments).cancelled_by(gone))
                };
                run_blocking(check).await.unwrap_or(Err(TooDeep)).unwrap_or_else(|why| {
                    tracing::debug!(tool, "the arguments are not checked here: they are {why}");
                    Vec::new()
                })
            }
        };
        if issues.is_empty() {
            return Ok(());
        }
        let problems: Vec<String> = issues.iter().map(describe_issue).collect();
        invalid_arguments(tool, &problems.join("; "), json!(issues))
    }

    /// What is wrong with arguments; `None` where there is no schema to check them against.
    fn issues(
        &self,
        tool: &str,
        arguments: &Value,
        budget: &CheckBudget,
    ) -> std::result::Result<Vec<ValidationIssue>, TooDeep> {
        match self.compiled.get(&self.schema) {
            Ok(schema) if schema.is_valid(arguments, budget)? => Ok(Vec::new()),
            Ok(schema) => issues(schema, arguments, budget, DOES_NOT_FIT),
            Err(error) => {
                self.compiled.report_once(|| {
                    tracing::warn!(tool, %error, "the schema cannot be used; arguments are not checked");
                });
                Ok(Vec::new())
            }
        }
    }
}

fn invalid_arguments(tool: &str, problems: &str, issues: Value) -> Result<()> {
    let message = format!("the arguments do not fit the tool {tool:?}: {problems}");
    Err(ClientError::new(Code::InvalidArguments, message).with_data(issues))
}

fn describe_issue(issue: &ValidationIssue) -> String {
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

    async fn check(checker: &Arc<ArgumentChecker>, arguments: Value) -> Result<()> {
        checker.check("t", &arguments).await
    }

    #[tokio::test]
    async fn every_mistake_is_told_with_its_place() {
        let schema = json!({"type": "object", "required": ["a", "b"], "additionalProperties": false,
            "properties": {"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string"}}}});
        let checker = Arc::new(ArgumentChecker::new(&schema));
        let error = check(&checker, json!({"a": "x", "b": ["y", 1], "c": 0})).await.unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidArguments, Delivered::No));
        for place in ["a: ", "b.1: ", "c: "] {
            assert!(error.message().contains(place), "{error}");
        }
        assert_eq!(error.data().as_array().map(Vec::len), Some(3));
        check(&checker, json!({"a": 1, "b": []})).await.unwrap();
        assert!(check(&checker, json!([])).await.is_err());
    }

    #[tokio::test]
    async fn a_mistake_deep_in_a_recursive_schema_is_told_quickly() {
        let shape = |own: &str| {
            json!({"type": "object", "required": ["child"], "properties": {
                "child": {"$ref": "#/$defs/node"}, own: {"type": "string"}}})
        };
        let shapes = [shape("a"), shape("b"), shape("c"), json!({"type": "integer"})];
        let schema =
            json!({"properties": {"tree": {"$ref": "#/$defs/node"}}, "$defs": {"node": {"anyOf": shapes}}});
        let text = format!("{}\"wrong\"{}", "{\"child\":".repeat(60), "}".repeat(60));
        let wrong = json!({"tree": serde_json::from_str::<Value>(&text).unwrap()});
        let error = check(&Arc::new(ArgumentChecker::new(&schema)), wrong).await.unwrap_err();
        assert!(error.message().contains("tree: "), "{error}");
    }

    #[tokio::test]
    async fn a_schema_that_is_none_lets_everything_through() {
        check(&Arc::new(ArgumentChecker::new(&json!({"type": 5}))), json!({"x": 1})).await.unwrap();
    }
}
