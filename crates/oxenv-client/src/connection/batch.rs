//! Many steps in one frame.
//!
//! Invariant: each step has its own result; one that cannot be sent fails alone, and the others keep their
//! order.

use std::time::Duration;

use oxenv_wire::{Delivered, ReplyKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frame::{FrameWriter, timeout_seconds};
use super::reply::{ReplyEnvelope, invalid_reply, parse_step};
use super::session::MultiSession;
use super::state::{ConnectionInner, MAX_IN_FLIGHT, OutgoingRequest, RequestScope};
use crate::error::{ClientError, Result};
use crate::result::StepResult;

/// A step of a batch whose session was found.
pub(crate) struct BatchedStep<'a> {
    pub(crate) session: &'a MultiSession,
    pub(crate) action: &'a RawValue,
    pub(crate) key: Option<&'a str>,
}

#[derive(Deserialize)]
struct BatchResults<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

/// The frame of a batch. It may be sent again within the shortest of its sessions' resume times.
pub(super) fn request(
    inner: &ConnectionInner,
    items: &[BatchedStep<'_>],
    timeout: Duration,
) -> OutgoingRequest {
    let id = inner.next_id();
    let mut text = String::from("{\"items\":[");
    for (index, item) in items.iter().enumerate() {
        let entry = &item.session.handle().entry;
        let made = entry.resume.map(|_| inner.request_key(id) + "-" + &index.to_string());
        if index > 0 {
            text.push(',');
        }
        let step = FrameWriter::item("step")
            .with("session", &entry.quoted_id)
            .with_text("key", item.key.or(made.as_deref()))
            .with("data", item.action.get());
        text.push_str(&step.finish());
    }
    text.push_str(&format!("],\"timeout_s\":{}}}", timeout_seconds(timeout)));
    OutgoingRequest {
        id,
        text: FrameWriter::request(id, "batch").with("data", &text).finish(),
        resend_within: items.iter().map(|item| item.session.handle().entry.resume).min().flatten(),
        scope: RequestScope::Batch,
        creates: None,
        weight: u32::try_from(items.len()).unwrap_or(MAX_IN_FLIGHT).clamp(1, MAX_IN_FLIGHT),
    }
}

/// The results of a batch, in the order of its items.
pub(super) fn parse_results(text: &str, items: &[BatchedStep<'_>]) -> Result<Vec<Result<StepResult>>> {
    let data = ReplyEnvelope::parse(text)?.data(ReplyKind::Batch)?;
    let results: BatchResults<'_> =
        serde_json::from_str(data).map_err(|error| invalid_reply(data, &error.to_string()))?;
    if results.results.len() != items.len() {
        return Err(invalid_reply(data, &format!("{} results are wanted", items.len())));
    }
    Ok(results.results.iter().zip(items).map(|(result, item)| parse_item(result.get(), item)).collect())
}

fn parse_item(result: &str, item: &BatchedStep<'_>) -> Result<StepResult> {
    match (parse_step(result), item.session.handle().entry.gone_error.get()) {
        // The session was gone when the batch was repeated: it is unknown what it did.
        (Err(_), Some(gone)) => Err(ClientError::clone(gone).with_delivered(Delivered::Maybe)),
        (read, _) => read,
    }
}
