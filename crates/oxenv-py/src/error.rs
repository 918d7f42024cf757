//! Failures as Python's exceptions; their classes are hand-written in `oxenv._errors`.
//!
//! Invariant: the class is named after the code; everything else that the client knows is given along.

use oxenv_client::ClientError;
use oxenv_wire::Phase;
use pyo3::prelude::*;
use serde::Serialize;

/// The exception for a failure.
pub(crate) fn to_exception(py: Python<'_>, error: &ClientError) -> PyErr {
    let made = || {
        let make = py.import("oxenv._errors")?.getattr("_from_native")?;
        make.call1((
            error.code().name(),
            error.message(),
            wire_name(&error.kind()),
            wire_name(&error.delivered()),
            error.is_retryable(),
            error.retry_after().map(|after| after.as_secs_f64()),
            error.phase().map(|phase: Phase| wire_name(&phase)),
            error.data().to_string(),
        ))
    };
    made().map_or_else(|broken| broken, PyErr::from_value)
}

/// The spelling that the wire has.
fn wire_name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
