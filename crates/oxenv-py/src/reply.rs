//! What requests give, and their form in Python: tuples of plain values.
//!
//! Invariant: what is not read stays JSON text; `oxenv._values` reads it with Python's own parser, so that
//! big integers and odd strings are what Python makes of them.

use oxenv_client::{EnvClient, Multiplexer, StepResult, ToolListing};
use oxenv_wire::{RawJson, Reward, Tool, ToolResult};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use serde_json::Value;

use crate::fleet::{NativeFleet, NativeMultiplexer};
use crate::session::NativeSession;

/// The result of a request.
pub(crate) enum NativeReply {
    Nothing,
    Text(String),
    Json(Value),
    Step(Box<StepResult>),
    Steps(Vec<oxenv_client::Result<StepResult>>),
    Tool(Box<ToolResult>),
    Tools(Vec<Tool>),
    Listing(Box<ToolListing>),
    Sessions(Vec<EnvClient>),
    Fleet(Box<(oxenv_client::fleet::FleetEnvClient, Multiplexer)>),
}

/// A reply, or why it is missing.
pub(crate) type ReplyResult = Result<NativeReply, oxenv_client::ClientError>;

impl NativeReply {
    /// The reply as Python has it.
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            NativeReply::Nothing => py.None(),
            NativeReply::Text(text) => text.into_pyobject(py)?.into_any().unbind(),
            NativeReply::Json(value) => value.to_string().into_pyobject(py)?.into_any().unbind(),
            NativeReply::Step(result) => step(py, &result)?.into_any().unbind(),
            NativeReply::Steps(results) => steps(py, &results)?.into_any().unbind(),
            NativeReply::Tool(result) => tool_result(py, &result)?.into_any().unbind(),
            NativeReply::Tools(list) => tools(py, &list)?.into_any().unbind(),
            NativeReply::Listing(listing) => {
                let parts = (tools(py, &listing.tools)?, json(&listing.conflicts), json(&listing.endpoints));
                parts.into_pyobject(py)?.into_any().unbind()
            }
            NativeReply::Sessions(clients) => {
                let sessions =
                    clients.into_iter().map(|client| Py::new(py, NativeSession::from_client(client)));
                PyList::new(py, sessions.collect::<PyResult<Vec<_>>>()?)?.into_any().unbind()
            }
            NativeReply::Fleet(parts) => {
                let (orchestrator, multiplexer) = *parts;
                let parts = (NativeFleet::new(orchestrator), NativeMultiplexer::of(multiplexer));
                parts.into_pyobject(py)?.into_any().unbind()
            }
        })
    }
}

/// observation, reward, done, metadata, number, whether it is a repeat.
fn step<'py>(py: Python<'py>, result: &StepResult) -> PyResult<Bound<'py, PyTuple>> {
    let reward = match result.reward {
        None => py.None().into_bound(py),
        Some(Reward::Bool(value)) => value.into_pyobject(py)?.to_owned().into_any(),
        Some(Reward::Int(value)) => value.into_pyobject(py)?.into_any(),
        Some(Reward::Float(value)) => value.into_pyobject(py)?.into_any(),
    };
    let metadata = result.metadata.as_ref().map(|metadata| metadata.get());
    (result.observation.get(), reward, result.done, metadata, result.seq, result.repeated).into_pyobject(py)
}

/// Each is a step's tuple, or its exception.
fn steps<'py>(py: Python<'py>, results: &[oxenv_client::Result<StepResult>]) -> PyResult<Bound<'py, PyList>> {
    let spelled = results.iter().map(|result| match result {
        Ok(result) => step(py, result).map(Bound::into_any),
        Err(error) => Ok(crate::error::to_exception(py, error).into_value(py).into_bound(py).into_any()),
    });
    PyList::new(py, spelled.collect::<PyResult<Vec<_>>>()?)
}

/// The result in MCP's form, its value for programs, its text, whether the tool failed, what it wants as
/// input.
fn tool_result<'py>(py: Python<'py>, result: &ToolResult) -> PyResult<Bound<'py, PyTuple>> {
    let mut whole = String::new();
    result.write_mcp(&mut whole);
    let wanted = result.input_required.as_ref().map(|wanted| wanted.get());
    (whole, result.data(), result.text(), result.is_error, wanted).into_pyobject(py)
}

/// Each is name, title, description, schema of the arguments, schema of the result, hints.
fn tools<'py>(py: Python<'py>, list: &[Tool]) -> PyResult<Bound<'py, PyList>> {
    let spelled = list.iter().map(|tool| {
        let parts = (
            tool.name.as_ref(),
            tool.title.as_deref(),
            tool.description.as_str(),
            tool.input_schema.to_string(),
            tool.output_schema.as_ref().map(Value::to_string),
            tool.annotations.as_ref().map(Value::to_string),
        );
        parts.into_pyobject(py)
    });
    PyList::new(py, spelled.collect::<PyResult<Vec<_>>>()?)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// JSON text from Python as raw JSON.
pub(crate) fn raw_json(text: String) -> Result<RawJson, oxenv_client::ClientError> {
    serde_json::value::RawValue::from_string(text).map_err(|error| {
        oxenv_client::ClientError::new(
            oxenv_client::Code::InvalidOptions,
            format!("the action cannot be said in JSON: {error}"),
        )
    })
}

/// JSON text from Python as a value; `what` names it in the failure.
pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(
    what: &str,
    text: &str,
) -> Result<T, oxenv_client::ClientError> {
    serde_json::from_str(text).map_err(|error| {
        oxenv_client::ClientError::new(oxenv_client::Code::InvalidOptions, format!("{what}: {error}"))
    })
}
