//! Turns what a step shows into the observation of the spelling it was asked in.
//!
//! Invariant: the one place that knows how a spelling's reply looks; the same for every door.

use oxenv_core::{CallReply, Observed, StepReply};
use oxenv_wire::{
    ObservationParts, Reward, Spelling, ToolResult, write_call_fields, write_call_metadata, write_observation_body,
    write_observation_frame, write_unified_fields,
};
use serde_json::value::RawValue;

/// Which envelope an observation is put in.
#[derive(Clone, Copy)]
pub(crate) enum Envelope {
    /// A frame on `/ws`.
    Frame,
    /// The body of an HTTP reply.
    Body,
}

/// An observation in its envelope.
pub(crate) fn observed(observed: &Observed, envelope: Envelope) -> String {
    let metadata = observed.metadata.as_deref().map_or("{}", RawValue::get);
    put(envelope, observed.fields.get(), metadata, observed.reward, observed.done)
}

/// A step's reply in its envelope.
pub(crate) fn step(reply: &StepReply, envelope: Envelope) -> String {
    match reply {
        StepReply::Observed(seen) => observed(seen, envelope),
        StepReply::Tools(spelling, listing) => {
            let mut list = String::from("{\"tools\":[");
            for (index, tool) in listing.tools.iter().enumerate() {
                if index > 0 {
                    list.push(',');
                }
                list.push_str(tool.for_step().get());
            }
            list.push_str("]}");
            match spelling {
                Spelling::Journal => put(envelope, "{}", &list, None, listing.done),
                Spelling::Stock | Spelling::Unified => put(envelope, &list, "{}", None, listing.done),
            }
        }
        StepReply::Call { spelling, name, reply } => call(*spelling, name, reply, envelope),
    }
}

fn call(spelling: Spelling, name: &str, reply: &CallReply, envelope: Envelope) -> String {
    let outcome = reply.outcome.as_ref();
    let mut text = String::with_capacity(128 + outcome.map_or(0, size));
    match spelling {
        Spelling::Stock => {
            write_call_fields(&mut text, name, outcome);
            put(envelope, &text, "{}", reply.reward, reply.done)
        }
        Spelling::Unified => {
            write_unified_fields(&mut text, outcome);
            put(envelope, &text, "{}", reply.reward, reply.done)
        }
        Spelling::Journal => {
            write_call_metadata(&mut text, outcome);
            put(envelope, "{}", &text, reply.reward, reply.done)
        }
    }
}

fn put(envelope: Envelope, fields: &str, metadata: &str, reward: Option<Reward>, done: bool) -> String {
    let parts = ObservationParts { fields, metadata, reward, done };
    let mut out = String::with_capacity(fields.len() + 2 * metadata.len() + 96);
    match envelope {
        Envelope::Frame => write_observation_frame(&mut out, &parts),
        Envelope::Body => write_observation_body(&mut out, &parts),
    }
    out
}

/// Roughly how long a result is on the wire, so that its buffer grows once.
fn size(result: &ToolResult) -> usize {
    256 + 3 * result.data().len()
}
