//! Turns what a step shows into the observation of the spelling it was asked in.
//!
//! Invariant: the one place that knows how a spelling's reply looks; the same for every door.

use oxenv_core::{CallReply, Observed, StepReply};
use oxenv_wire::{
    ObservationParts, Reward, Spelling, ToolResult, write_call_fields, write_call_metadata,
    write_observation_body, write_observation_frame, write_unified_fields,
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
    let size = observed.fields.get().len();
    put(envelope, size, metadata, observed.reward, observed.done, |out| out.push_str(observed.fields.get()))
}

/// A step's reply in its envelope.
pub(crate) fn step(reply: &StepReply<'_>, envelope: Envelope) -> String {
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
                Spelling::Journal => put(envelope, 2, &list, None, listing.done, empty),
                Spelling::Stock | Spelling::Unified => {
                    put(envelope, list.len(), "{}", None, listing.done, |out| out.push_str(&list))
                }
            }
        }
        StepReply::Call { spelling, name, reply } => call(*spelling, name, reply, envelope),
    }
}

fn call(spelling: Spelling, name: &str, reply: &CallReply, envelope: Envelope) -> String {
    let outcome = reply.outcome.as_ref();
    let size = name.len() + outcome.map_or(128, size);
    match spelling {
        Spelling::Stock => {
            put(envelope, size, "{}", reply.reward, reply.done, |out| write_call_fields(out, name, outcome))
        }
        Spelling::Unified => {
            put(envelope, size, "{}", reply.reward, reply.done, |out| write_unified_fields(out, outcome))
        }
        Spelling::Journal => {
            let mut metadata = String::with_capacity(size);
            write_call_metadata(&mut metadata, outcome);
            put(envelope, 2, &metadata, reply.reward, reply.done, empty)
        }
    }
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
