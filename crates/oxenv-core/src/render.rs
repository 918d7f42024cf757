//! Turns what a step shows into the observation of the spelling it was asked in.
//!
//! Invariant: the one place that knows how a spelling's reply looks; the same for every door.

use std::borrow::Cow;

use oxenv_wire::{
    ErrorCode, ErrorData, ObservationParts, Reward, Spelling, ToolError, ToolErrorType, ToolResult,
    write_call_fields, write_call_metadata, write_graph_fields, write_observation_body,
    write_observation_data, write_observation_frame, write_unified_fields,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::environment::Observed;
use crate::session::{CallReply, GraphReply, StepReply};

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
    let metadata = observed.metadata.as_deref().map_or("{}", RawValue::get);
    let size = observed.fields.get().len();
    put(envelope, size, metadata, observed.reward, observed.done, |out| out.push_str(observed.fields.get()))
}

/// A step's reply in its envelope.
#[must_use]
pub fn step(reply: &StepReply<'_>, envelope: Envelope) -> String {
    match reply {
        StepReply::Observed(seen) => observed(seen, envelope),
        StepReply::Tools(spelling, listing) => {
            let list = format!("{{\"tools\":{}}}", listing.tools);
            match spelling {
                Spelling::Journal => put(envelope, 2, &list, None, listing.done, empty),
                Spelling::Stock | Spelling::Unified => {
                    put(envelope, list.len(), "{}", None, listing.done, |out| out.push_str(&list))
                }
            }
        }
        StepReply::Graph(reply) => graph(reply, envelope),
        StepReply::Call { spelling, name, reply } => call(*spelling, name, reply, envelope),
    }
}

fn call(spelling: Spelling, name: &str, reply: &CallReply, envelope: Envelope) -> String {
    let refused = reply.outcome.as_ref().map(input_required);
    let outcome = match &refused {
        Ok(Some(error)) => Err(error),
        _ => reply.outcome.as_ref(),
    };
    let size = name.len() + outcome.map_or(128, size);
    let ours = outcome.err().and_then(ToolError::data);
    let (reward, done) = (reply.reward, reply.done);
    match spelling {
        Spelling::Stock => {
            put(envelope, size, &metadata(ours), reward, done, |out| write_call_fields(out, name, outcome))
        }
        Spelling::Unified => {
            put(envelope, size, &metadata(ours), reward, done, |out| write_unified_fields(out, outcome))
        }
        Spelling::Journal => {
            let mut metadata = String::with_capacity(size);
            write_call_metadata(&mut metadata, outcome);
            if let Some(ours) = ours {
                metadata.pop();
                push_ours(&mut metadata, &[(None, ours)]);
            }
            put(envelope, 2, &metadata, reward, done, empty)
        }
    }
}

fn graph(reply: &GraphReply, envelope: Envelope) -> String {
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
    put(envelope, size, &metadata, reply.reward, reply.done, |out| write_graph_fields(out, outcomes))
}

/// What a step is told about a tool that wants input first: only an MCP client can be asked.
fn input_required(result: &ToolResult) -> Option<ToolError> {
    result.input_required.as_ref()?;
    let message = "the tool asks for input before it goes on, which a step cannot give: \
                   call it over MCP, with a client of revision 2026-07-28";
    Some(ToolError::new(ToolErrorType::ExecutionError, message).with_code(ErrorCode::InputRequired))
}

/// The metadata of a call: what is ours about its error, or nothing.
fn metadata(ours: Option<ErrorData>) -> Cow<'static, str> {
    let Some(ours) = ours else { return "{}".into() };
    let mut metadata = String::from("{");
    push_ours(&mut metadata, &[(None, ours)]);
    metadata.into()
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
    envelope: Envelope,
    size: usize,
    metadata: &str,
    reward: Option<Reward>,
    done: bool,
    fields: impl FnOnce(&mut String),
) -> String {
    let parts = ObservationParts { metadata, reward, done };
    let mut out = String::with_capacity(size + 2 * metadata.len() + 128);
    match envelope {
        Envelope::Frame => write_observation_frame(&mut out, &parts, fields),
        Envelope::Data => write_observation_data(&mut out, &parts, fields),
        Envelope::Body => write_observation_body(&mut out, &parts, fields),
    }
    out
}

fn empty(out: &mut String) {
    out.push_str("{}");
}

/// Roughly how long a result is on the wire.
fn size(result: &ToolResult) -> usize {
    256 + 3 * result.data().len()
}
