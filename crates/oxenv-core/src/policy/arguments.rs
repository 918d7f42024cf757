//! Argument rules: JSON Schemas that narrow what a tool may be called with.
//!
//! Invariant: a rule never lets an argument's value into a message, and what it cannot find out within its
//! bounds it does not let through.

use oxenv_schema::{CheckBudget, Schema, TooDeep, describe_masked, truncated, with_location};
use serde_json::Value;

use crate::policy::pattern::Pattern;

/// Maximum number of mistakes reported for one call.
const MAX_ERRORS: usize = 4;

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
    schema: Schema,
}

impl ArgumentRule {
    pub(super) fn new(pattern: Pattern, rule: String, schema: &Value) -> Result<Self, String> {
        Ok(ArgumentRule { pattern, rule, schema: Schema::rule(schema)? })
    }

    /// Whether the rule lets arguments through. Arguments that are too deep to check are refused.
    pub(super) fn verdict(&self, arguments: &Value) -> Result<(), ArgumentRefusal<'_>> {
        let too_deep = |why: TooDeep| Err(ArgumentRefusal { rule: &self.rule, message: why.to_string() });
        self.check(arguments, &CheckBudget::of(arguments)).unwrap_or_else(too_deep)
    }

    /// Whether the rule lets arguments through, found out within a budget.
    ///
    /// # Errors
    /// [`TooDeep`] when that could not be found out; the inner error when the rule refuses.
    pub(super) fn check(
        &self,
        arguments: &Value,
        budget: &CheckBudget,
    ) -> Result<Result<(), ArgumentRefusal<'_>>, TooDeep> {
        if self.schema.is_valid(arguments, budget)? {
            return Ok(Ok(()));
        }
        let errors = self.schema.errors(arguments, budget, MAX_ERRORS, |error| {
            with_location(&error.instance_path().to_string(), &describe_masked(error))
        });
        let message = match errors {
            Ok(errors) => truncated(errors.join("; ")),
            Err(TooDeep) if budget.is_inline() => return Err(TooDeep),
            Err(TooDeep) => "they do not fit; where, is too deep to check".to_owned(),
        };
        Ok(Err(ArgumentRefusal { rule: &self.rule, message }))
    }
}
