//! Checks values with a [`Schema`], each within a [`CheckBudget`].
//!
//! Invariant: every check takes its steps from a budget, see `metered.rs`, and has no outcome when that runs
//! out: [`TooDeep`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jsonschema::{ValidationError, Validator};
use serde_json::Value;

use crate::compile::{MAX_ERROR_BYTES, Schema};
use crate::messages::describe_masked;
use crate::metered::{MAX_STACK, Metered, MeteredJson, StepBudget, within};
use crate::size::{longest_path, memory_size};

/// Bytes of JSON that are parsed and checked on the caller's thread; larger values are checked elsewhere.
pub const MAX_INLINE_BYTES: usize = 32 << 10;
/// Steps of a check on the caller's thread: a fraction of a millisecond.
const INLINE_STEPS: u64 = 20_000;
/// Steps of a check elsewhere, and for each byte of the value besides.
const BASE_STEPS: u64 = 1_000_000;
const STEPS_PER_BYTE: u64 = 8;
/// Bytes of errors that are built to explain one value, on the caller's thread.
const INLINE_ERROR_BYTES: u64 = 512 << 10;

/// A check that had no outcome, because the value is nested too deep, or too large, for what the schema asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooDeep;

/// How much one check may take.
#[derive(Debug, Clone)]
pub struct CheckBudget {
    steps: u64,
    error_bytes: u64,
    inline: bool,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Schema {
    /// Whether a value fits.
    ///
    /// # Errors
    /// When that could not be found out.
    pub fn is_valid(&self, value: &Value, budget: &CheckBudget) -> Result<bool, TooDeep> {
        self.run(budget, 0, || self.validator.is_valid(Metered(value)))
    }

    /// What is wrong with a value, up to `limit` errors, each as `describe` puts it. Where all together are
    /// too much, the first alone.
    ///
    /// # Errors
    /// When not even that could be found out.
    pub fn errors<T>(
        &self,
        value: &Value,
        budget: &CheckBudget,
        limit: usize,
        mut describe: impl FnMut(&ValidationError<'_>) -> T,
    ) -> Result<Vec<T>, TooDeep> {
        let longest_path = longest_path(value);
        let mut all = |validator: &Validator<MeteredJson>, budget: &CheckBudget| {
            self.run(budget, longest_path, || {
                let errors = validator.iter_errors(Metered(value));
                errors.take(limit).map(|error| describe(&error)).collect()
            })
        };
        let found = match &self.for_errors {
            None => all(&self.validator, budget),
            Some(quick) => all(&self.validator, &CheckBudget::inline()).or_else(|_| all(quick, budget)),
        };
        found.or_else(|_| {
            let validator = self.for_errors.as_ref().unwrap_or(&self.validator);
            let first = || validator.validate(Metered(value)).err();
            self.run(budget, longest_path, || first().iter().map(&mut describe).collect())
        })
    }

    /// The first error, without the value itself, and its place.
    ///
    /// # Errors
    /// When that could not be found out.
    pub fn first_error(&self, value: &Value, budget: &CheckBudget) -> Result<Option<String>, TooDeep> {
        if self.is_valid(value, budget)? {
            return Ok(None);
        }
        let first = self.errors(value, budget, 1, |error| {
            format!("{} at '{}'", describe_masked(error), error.instance_path())
        });
        Ok(Some(first?.pop().unwrap_or_else(|| "it does not fit".to_owned())))
    }

    fn run<T>(&self, budget: &CheckBudget, longest_path: u64, run: impl FnOnce() -> T) -> Result<T, TooDeep> {
        let budget = StepBudget {
            steps: budget.steps,
            error_bytes: budget.error_bytes,
            bytes_per_error: self.bytes_per_error + longest_path,
            stack: MAX_STACK,
            cancelled: budget.cancelled.clone(),
        };
        within(&budget, self.names, run).map_err(|_| TooDeep)
    }
}

impl CheckBudget {
    /// The budget of a check on the caller's thread.
    #[must_use]
    #[inline]
    pub fn inline() -> Self {
        CheckBudget { steps: INLINE_STEPS, error_bytes: INLINE_ERROR_BYTES, inline: true, cancelled: None }
    }

    /// The budget of a check of that many bytes of JSON, on a thread that may block.
    #[must_use]
    pub fn full(bytes: usize) -> Self {
        let steps = BASE_STEPS.saturating_add(STEPS_PER_BYTE.saturating_mul(bytes as u64));
        CheckBudget { steps, error_bytes: MAX_ERROR_BYTES, inline: false, cancelled: None }
    }

    /// The budget of a check of a value of unknown length as JSON, on a thread that may block.
    #[must_use]
    pub fn of(value: &Value) -> Self {
        CheckBudget::full(usize::try_from(memory_size(value)).unwrap_or(usize::MAX))
    }

    /// Whether it is the small one: a larger budget may bring an outcome.
    #[must_use]
    #[inline]
    pub fn is_inline(&self) -> bool {
        self.inline
    }

    /// Ends the check soon after the flag is set.
    #[must_use]
    pub fn cancelled_by(mut self, cancelled: Arc<AtomicBool>) -> Self {
        self.cancelled = Some(cancelled);
        self
    }
}

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too deep to check: nest it less, or send less at once")
    }
}

impl std::error::Error for TooDeep {}

/// Whether a value is small enough to be checked on the caller's thread.
#[must_use]
#[inline]
pub fn is_small(value: &Value) -> bool {
    // A value takes a few times as many bytes in memory as it has as JSON.
    memory_size(value) <= 4 * MAX_INLINE_BYTES as u64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_finds_errors_quickly_accepts_the_same() {
        let document = |node: Value| {
            let defs = json!({ "node": node, "leaf": { "type": "integer" } });
            json!({ "$ref": "#/$defs/node", "$defs": defs })
        };
        let leaf = json!({ "$ref": "#/$defs/leaf" });
        let values =
            [json!(1), json!("x"), json!(null), json!({ "a": 1 }), json!({ "a": "x" }), json!([1, "x"])];
        let below = json!({ "type": "object", "properties": { "a": { "$ref": "#/$defs/node" } } });
        for node in [
            json!({ "anyOf": [leaf, { "type": "null" }, below] }),
            json!({ "oneOf": [leaf, { "minimum": 0 }, below] }),
            json!({ "oneOf": [leaf], "anyOf": [true, false], "allOf": [{ "not": { "type": "string" } }] }),
            json!({
                "type": ["object", "array"],
                "anyOf": [below, { "items": { "oneOf": [leaf, { "const": "x" }] } }],
            }),
            json!({ "not": { "anyOf": [leaf, { "oneOf": [{ "type": "array" }] }] } }),
        ] {
            for draft in
                ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"]
            {
                let mut document = document(node.clone());
                document["$schema"] = json!(draft);
                let schema = Schema::compile(&document).unwrap();
                let for_errors = schema.for_errors.as_ref().unwrap();
                for value in &values {
                    let budget = CheckBudget::inline();
                    let quick = schema.run(&budget, 0, || for_errors.is_valid(Metered(value)));
                    assert_eq!(quick, schema.is_valid(value, &budget), "{document} {value}");
                }
            }
        }
    }
}
