//! Turns what a step shows into the observation of the spelling it was asked in.
//!
//! Invariant: the one place that knows how a spelling's reply looks; the same for every door.

use std::borrow::Cow;

use oxenv_wire::{
    ErrorCode, ErrorData, ObservationParts, Reward, Spelling, ToolError, ToolErrorType, ToolResult,
    ToolsetProblem, write_call_fields, write_call_metadata, write_graph_fields, write_observation_body,
    write_observation_data, write_observation_frame, write_unified_fields,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::environment::Observed;
use crate::session::{CallReply, GraphReply, Listing, StepReply};

/// Which envelope an observation is put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// A frame on `/ws`.
    Frame,
    /// The data of such a frame alone.
    Data,
    /// The body of an HTTP reply.
    Body,
}

/// An observation in its envelope.
#[must_use]
pub fn observed(observed: &Observed, envelope: Envelope) -> String {
    let mut out = String::new();
    observed_into(&mut out, observed, envelope);
    out
}

/// A step's reply in its envelope.
#[must_use]
pub fn step(reply: &StepReply<'_>, envelope: Envelope) -> String {
    let mut out = String::new();
    step_into(&mut out, reply, envelope);
    out
}

/// Appends an observation in its envelope.
pub fn observed_into(out: &mut String, observed: &Observed, envelope: Envelope) {
    let metadata = observed.metadata.as_deref().map_or("{}", RawValue::get);
    let size = observed.fields.get().len();
    put(out, envelope, size, metadata, observed.reward, observed.done, |out| {
        out.push_str(observed.fields.get());
    });
}

/// Appends a step's reply in its envelope.
pub fn step_into(out: &mut String, reply: &StepReply<'_>, envelope: Envelope) {
    match reply {
        StepReply::Observed(seen) => observed_into(out, seen, envelope),
        StepReply::Tools(spelling, listing) => tools(out, *spelling, listing, envelope),
        StepReply::Graph(reply) => graph(out, reply, envelope),
        StepReply::Call { spelling, name, reply } => call(out, *spelling, name, reply, envelope),
    }
}

fn tools(out: &mut String, spelling: Spelling, listing: &Listing, envelope: Envelope) {
    let list = format!("{{\"tools\":{}}}", listing.tools);
    let problems = problem_metadata(&listing.problems);
    match spelling {
        Spelling::Journal => {
            let metadata = match &problems {
                Some(problems) => format!("{},{}", &list[..list.len() - 1], &problems[1..]),
                None => list,
            };
            put(out, envelope, 2, &metadata, None, listing.done, empty);
        }
        Spelling::Stock | Spelling::Unified => {
            let metadata = problems.as_deref().unwrap_or("{}");
            put(out, envelope, list.len(), metadata, None, listing.done, |out| out.push_str(&list));
        }
    }
}

/// An observation that tells what does not work of the session's tools.
pub(crate) fn with_problems(observed: Observed, problems: &[ToolsetProblem]) -> Observed {
    let Some(problems) = problem_metadata(problems) else { return observed };
    let own = observed.metadata.as_deref().map_or("{}", RawValue::get);
    let metadata = RawValue::from_string(merged(own, &problems)).ok().or(observed.metadata);
    Observed { metadata, ..observed }
}

/// What does not work as metadata; nothing when all works.
fn problem_metadata(problems: &[ToolsetProblem]) -> Option<String> {
    (!problems.is_empty()).then(|| json!({ "oxenv": { "problems": problems } }).to_string())
}

fn call(out: &mut String, spelling: Spelling, name: &str, reply: &CallReply, envelope: Envelope) {
    let refused = reply.outcome.as_ref().map(input_required);
    let outcome = match &refused {
        Ok(Some(error)) => Err(error),
        _ => reply.outcome.as_ref(),
    };
    let size = name.len() + outcome.map_or(128, size);
    let ours = outcome.err().and_then(ToolError::data);
    let added = reply.metadata.as_deref().map(RawValue::get);
    let (reward, done) = (reply.reward, reply.done);
    match spelling {
        Spelling::Stock => {
            put(out, envelope, size, &metadata(added, ours), reward, done, |out| {
                write_call_fields(out, name, outcome);
            });
        }
        Spelling::Unified => {
            put(out, envelope, size, &metadata(added, ours), reward, done, |out| {
                write_unified_fields(out, outcome);
            });
        }
        Spelling::Journal => {
            let mut metadata = String::with_capacity(size);
            write_call_metadata(&mut metadata, outcome);
            if let Some(ours) = ours {
                metadata.pop();
                push_ours(&mut metadata, &[(None, ours)]);
            }
            if let Some(added) = added {
                metadata = merged(&metadata, added);
            }
            put(out, envelope, 2, &metadata, reward, done, empty);
        }
    }
}

fn graph(out: &mut String, reply: &GraphReply, envelope: Envelope) {
    let refused: Vec<Option<ToolError>> =
        reply.results.iter().map(|(_, outcome)| outcome.as_ref().ok().and_then(input_required)).collect();
    let outcomes = reply.results.iter().zip(&refused).map(|((id, outcome), refused)| {
        let outcome = refused.as_ref().map_or(outcome.as_ref(), Err);
        (id.as_str(), outcome)
    });
    let outcomes: Vec<(&str, Result<&ToolResult, &ToolError>)> = outcomes.collect();
    let size = outcomes.iter().map(|(_, outcome)| outcome.map_or(128, size)).sum();
    let ours = outcomes.iter().filter_map(|(id, outcome)| Some((Some(*id), outcome.err()?.data()?)));
    let ours: Vec<(Option<&str>, ErrorData)> = ours.collect();
    let mut metadata = String::from("{");
    if !ours.is_empty() {
        push_ours(&mut metadata, &ours);
    } else {
        metadata.push('}');
    }
    if let Some(added) = &reply.metadata {
        metadata = merged(&metadata, added.get());
    }
    put(out, envelope, size, &metadata, reply.reward, reply.done, |out| write_graph_fields(out, outcomes));
}

/// What a step is told about a tool that wants input first: only an MCP client can be asked.
fn input_required(result: &ToolResult) -> Option<ToolError> {
    result.input_required.as_ref()?;
    let message = "the tool asks for input before it goes on, which a step cannot give: \
                   call it over MCP, with a client of revision 2026-07-28";
    Some(ToolError::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::InputRequired))
}

/// The metadata of a call: what the environment added, and what is ours about its error.
fn metadata(added: Option<&str>, ours: Option<ErrorData>) -> Cow<'_, str> {
    let Some(ours) = ours else { return added.unwrap_or("{}").into() };
    let mut metadata = String::from("{");
    push_ours(&mut metadata, &[(None, ours)]);
    added.map_or(metadata.clone(), |added| merged(&metadata, added)).into()
}

/// One object of two; where both have an object under a key, those become one as well.
fn merged(one: &str, other: &str) -> String {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let mut whole = read(one);
    merge(&mut whole, read(other));
    whole.to_string()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Ends an open object with `oxenv`: what is ours about one error, or about each by its id.
fn push_ours(out: &mut String, errors: &[(Option<&str>, ErrorData)]) {
    if !out.ends_with('{') {
        out.push(',');
    }
    let text = match errors {
        [(None, only)] => json!({ "oxenv": only }),
        _ => {
            let by_id: Map<String, Value> =
                errors.iter().filter_map(|(id, error)| Some(((*id)?.to_owned(), json!(error)))).collect();
            json!({ "oxenv": { "calls": by_id } })
        }
    }
    .to_string();
    out.push_str(&text[1..]);
}

/// `size` is what the fields will take, so that the one buffer of a reply grows once.
fn put(
    out: &mut String,
    envelope: Envelope,
    size: usize,
    metadata: &str,
    reward: Option<Reward>,
    done: bool,
    fields: impl FnOnce(&mut String),
) {
    let parts = ObservationParts { metadata, reward, done };
    out.reserve(size + 2 * metadata.len() + 128);
    match envelope {
        Envelope::Frame => write_observation_frame(out, &parts, fields),
        Envelope::Data => write_observation_data(out, &parts, fields),
        Envelope::Body => write_observation_body(out, &parts, fields),
    }
}

fn empty(out: &mut String) {
    out.push_str("{}");
}

/// Roughly how long a result is on the wire.
fn size(result: &ToolResult) -> usize {
    256 + 3 * result.data().len()
}
