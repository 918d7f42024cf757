//! How steps report the outcome of a call, in each spelling of an action.
//!
//! Invariant: [`CallOutcome`] is the one place that decides whether a call succeeded. Stock clients
//! read any result as a success, so a tool that reports that it failed is an error to them.

use std::borrow::Cow;

use crate::action::Spelling;
use crate::json::raw;
use crate::result::{ToolResult, push_string};
use crate::tool::ToolError;

/// The outcome of a call, as a step reports it: the result of a tool that succeeded, or an error.
#[derive(Debug, Clone)]
pub struct CallOutcome<'a> {
    outcome: Result<&'a ToolResult, Cow<'a, ToolError>>,
    /// The result of a tool that reports that it failed.
    failed: Option<&'a ToolResult>,
}

impl<'a> CallOutcome<'a> {
    /// The outcome of a call.
    #[must_use]
    pub fn new(outcome: Result<&'a ToolResult, &'a ToolError>) -> Self {
        match outcome {
            Err(error) => CallOutcome { outcome: Err(Cow::Borrowed(error)), failed: None },
            Ok(result) if result.input_required.is_some() => {
                CallOutcome { outcome: Err(Cow::Owned(ToolError::input_required())), failed: None }
            }
            Ok(result) if result.is_error => {
                let error = ToolError::of_failed(result);
                CallOutcome { outcome: Err(Cow::Owned(error)), failed: Some(result) }
            }
            Ok(result) => CallOutcome { outcome: Ok(result), failed: None },
        }
    }

    /// The result of a tool that succeeded.
    ///
    /// # Errors
    /// Why there is none.
    pub fn result(&self) -> Result<&'a ToolResult, &ToolError> {
        self.outcome.as_ref().copied().map_err(AsRef::as_ref)
    }

    /// Roughly how many bytes it takes in a reply.
    #[must_use]
    pub fn size(&self) -> usize {
        let result = self.failed.or_else(|| self.outcome.as_ref().ok().copied());
        result.map_or(128, |result| 256 + 3 * result.data().len())
    }

    /// Whether there is something of ours to say, in `metadata.oxenv`.
    fn has_own(&self) -> bool {
        self.failed.is_some() || self.result().is_err_and(|error| error.data().is_some())
    }

    /// Appends what is ours, an object: the precise code, and what a tool gave that failed.
    fn write_own(&self, out: &mut String) {
        out.push('{');
        if let Some(data) = self.result().err().and_then(ToolError::data) {
            let data = raw(&data).unwrap_or_default();
            out.push_str(&data.get()[1..data.get().len() - 1]);
        }
        if let Some(result) = self.failed {
            if !out.ends_with('{') {
                out.push(',');
            }
            out.push_str("\"result\":");
            result.write_dialect(out);
        }
        out.push('}');
    }

    /// Appends `"result":…,"error":…}`, the end of an object.
    fn write_fields(&self, out: &mut String) {
        out.push_str("\"result\":");
        match self.result() {
            Ok(result) => {
                result.write_dialect(out);
                out.push_str(",\"error\":null}");
            }
            Err(error) => {
                out.push_str("null,\"error\":");
                out.push_str(raw(error).unwrap_or_default().get());
                out.push('}');
            }
        }
    }

    fn text(&self) -> String {
        self.failed.or_else(|| self.result().ok()).map(ToolResult::text).unwrap_or_default()
    }
}

/// Appends the fields of a call's observation in a spelling: the stock `tool_name`, `result`,
/// `error`; the tools RFC's `stdout`, `result`, `error`; the journal has none.
pub fn write_call_fields(out: &mut String, spelling: Spelling, tool: &str, outcome: &CallOutcome<'_>) {
    let (key, text) = match spelling {
        Spelling::Stock => ("{\"tool_name\":", Cow::Borrowed(tool)),
        Spelling::Unified => ("{\"stdout\":", Cow::Owned(outcome.text())),
        Spelling::Journal => return out.push_str("{}"),
    };
    out.push_str(key);
    push_string(out, &text);
    out.push(',');
    outcome.write_fields(out);
}

/// The metadata of a call's observation in a spelling, an object. The journal's has the `result` (its
/// data, or its text where it has none), with the blocks as `content` where they say more than that,
/// or the `error` (its message). `oxenv` has what is ours of an error.
#[must_use]
pub fn call_metadata(spelling: Spelling, outcome: &CallOutcome<'_>) -> Cow<'static, str> {
    if spelling != Spelling::Journal && !outcome.has_own() {
        return "{}".into();
    }
    let mut out = String::with_capacity(outcome.size());
    match (spelling, outcome.result()) {
        (Spelling::Journal, Ok(result)) => {
            out.push_str("{\"result\":");
            out.push_str(&result.value());
            if !result.is_all_in_value() {
                out.push_str(",\"content\":");
                result.write_blocks(&mut out);
            }
        }
        (Spelling::Journal, Err(error)) => {
            out.push_str("{\"error\":");
            push_string(&mut out, &error.message);
        }
        _ => out.push('{'),
    }
    if outcome.has_own() {
        out.push_str(if out.len() > 1 { ",\"oxenv\":" } else { "\"oxenv\":" });
        outcome.write_own(&mut out);
    }
    out.push('}');
    out.into()
}

/// Appends the fields of a `call_tools` observation: `results`, an object with each call's `result`
/// and `error` under its id.
pub fn write_graph_fields(out: &mut String, outcomes: &[(&str, CallOutcome<'_>)]) {
    out.push_str("{\"results\":{");
    for (index, (id, outcome)) in outcomes.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_string(out, id);
        out.push_str(":{");
        outcome.write_fields(out);
    }
    out.push_str("}}");
}

/// The metadata of a `call_tools` observation: under `oxenv.calls` and each call's id what is ours of
/// its error.
#[must_use]
pub fn graph_metadata(outcomes: &[(&str, CallOutcome<'_>)]) -> Cow<'static, str> {
    let mut out = String::new();
    for (id, outcome) in outcomes.iter().filter(|(_, outcome)| outcome.has_own()) {
        out.push_str(if out.is_empty() { "{\"oxenv\":{\"calls\":{" } else { "," });
        push_string(&mut out, id);
        out.push(':');
        outcome.write_own(&mut out);
    }
    if out.is_empty() {
        return "{}".into();
    }
    out.push_str("}}}");
    out.into()
}
