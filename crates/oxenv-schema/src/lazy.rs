//! [`LazySchema`]: a schema that is compiled when it is first wanted.
//!
//! Invariant: it is compiled once, and the outcome is kept.

use std::sync::OnceLock;

use serde_json::Value;

use crate::compile::{INLINE_LIMITS, Purpose, Schema, SchemaError, build};

/// A schema that is compiled when it is first wanted.
#[derive(Default)]
pub struct LazySchema {
    compiled: OnceLock<Result<Schema, SchemaError>>,
    reported: OnceLock<()>,
}

impl LazySchema {
    /// The compiled form of `source`, which is the same at every call.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn get(&self, source: &Value) -> Result<&Schema, &SchemaError> {
        self.compiled.get_or_init(|| Schema::compile(source)).as_ref()
    }

    /// As [`LazySchema::get`], but `None` if the schema is not compiled yet and compiling it takes more
    /// than some milliseconds.
    pub fn get_quickly(&self, source: &Value) -> Option<Result<&Schema, &SchemaError>> {
        if self.compiled.get().is_none() {
            match build(source, Purpose::Tool, &INLINE_LIMITS) {
                Err(SchemaError::TooLarge(_)) => return None,
                // Another thread may have compiled it meanwhile, with the same outcome.
                outcome => drop(self.compiled.set(outcome)),
            }
        }
        self.known()
    }

    /// The outcome, where it was compiled before.
    #[must_use]
    pub fn known(&self) -> Option<Result<&Schema, &SchemaError>> {
        self.compiled.get().map(Result::as_ref)
    }

    /// Runs `report` the first time that it is called, for a schema that cannot be used.
    pub fn report_once(&self, report: impl FnOnce()) {
        self.reported.get_or_init(report);
    }
}
