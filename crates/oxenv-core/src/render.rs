//! Turns what a step shows into the observation of the spelling it was asked in.
//!
//! Invariant: the one place that knows how a spelling's reply looks; the same for every door.

use std::borrow::Cow;

use oxenv_wire::{
    CallOutcome, Object, ObservationParts, Reward, Spelling, ToolsetProblem, call_metadata, graph_metadata,
    write_call_fields, write_code_fields, write_graph_fields, write_observation_body, write_observation_data,
    write_observation_frame,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::environment::Observed;
use crate::reply::{CallReply, CodeReply, GraphReply, StepReply, ToolListing};

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
pub(crate) fn observed_into(out: &mut String, observed: &Observed, envelope: Envelope) {
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
        StepReply::Code(reply) => code(out, reply, envelope),
        StepReply::Call { spelling, name, reply } => call(out, *spelling, name, reply, envelope),
    }
}

fn tools(out: &mut String, spelling: Spelling, listing: &ToolListing, envelope: Envelope) {
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

/// An observation that reports which of the session's tools do not work.
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
    let outcome = CallOutcome::new(reply.outcome.as_ref());
    let metadata = with_added(call_metadata(spelling, &outcome), reply.metadata.as_deref());
    let size = match spelling {
        Spelling::Journal => 2,
        Spelling::Stock | Spelling::Unified => name.len() + outcome.size(),
    };
    put(out, envelope, size, &metadata, reply.reward, reply.done, |out| {
        write_call_fields(out, spelling, name, &outcome);
    });
}

fn graph(out: &mut String, reply: &GraphReply, envelope: Envelope) {
    let outcomes: Vec<(&str, CallOutcome<'_>)> =
        reply.results.iter().map(|(id, outcome)| (id.as_str(), CallOutcome::new(outcome.as_ref()))).collect();
    let size = outcomes.iter().map(|(_, outcome)| outcome.size()).sum();
    let metadata = with_added(graph_metadata(&outcomes), reply.metadata.as_deref());
    put(out, envelope, size, &metadata, reply.reward, reply.done, |out| write_graph_fields(out, &outcomes));
}

fn code(out: &mut String, reply: &CodeReply, envelope: Envelope) {
    let metadata = reply.metadata.as_deref().map_or("{}", RawValue::get);
    let CodeReply { outcome, reward, done, .. } = reply;
    put(out, envelope, outcome.size(), metadata, *reward, *done, |out| write_code_fields(out, outcome));
}

/// The metadata of a call with what the environment adds to it.
fn with_added<'a>(metadata: Cow<'a, str>, added: Option<&'a RawValue>) -> Cow<'a, str> {
    match added {
        None => metadata,
        Some(added) if metadata == "{}" => added.get().into(),
        Some(added) => merged(&metadata, added.get()).into(),
    }
}

/// One object of two; where both have an object under a key, those become one as well, and else the
/// other's value stands. What is not joined keeps its bytes. What cannot be split adds nothing.
fn merged(one: &str, other: &str) -> String {
    let (Ok(mine), Ok(theirs)) = (Object::parse(one), Object::parse(other)) else {
        return one.to_owned();
    };
    let mut out = String::with_capacity(one.len() + other.len());
    let mut put = |key: &str, value: &str| {
        out.push_str(if out.is_empty() { "{" } else { "," });
        out.push_str(&Value::from(key).to_string());
        out.push(':');
        out.push_str(value);
    };
    for (key, value) in mine.iter() {
        match theirs.get(key) {
            None => put(key, value.get()),
            Some(other) if value.is_object() && other.is_object() => {
                put(key, &merged(value.get(), other.get()));
            }
            Some(other) => put(key, other.get()),
        }
    }
    theirs.iter().filter(|(key, _)| mine.get(key).is_none()).for_each(|(key, value)| put(key, value.get()));
    if out.is_empty() { "{}".to_owned() } else { out + "}" }
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
