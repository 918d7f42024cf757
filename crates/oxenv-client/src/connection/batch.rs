//! Many steps in one frame.
//!
//! Invariant: each step has its own result; one that cannot be sent fails alone, and the others keep their order.

use std::time::Duration;

use oxenv_wire::{Delivered, ReplyKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::frame::{Frame, deadline};
use super::reply::{Envelope, invalid, step};
use super::session::MultiSession;
use super::state::{IN_FLIGHT, Link, Request, Whose};
use crate::error::{ClientError, Result};
use crate::result::StepResult;

/// A step of a batch whose session was found.
pub(super) struct Item<'a> {
    pub(super) session: &'a MultiSession,
    pub(super) action: &'a RawValue,
    pub(super) key: Option<&'a str>,
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    results: Vec<&'a RawValue>,
}

/// The frame of a batch; within what time it may be sent again is the shortest of its sessions' times.
pub(super) fn request(link: &Link, items: &[Item<'_>], timeout: Duration) -> Request {
    let id = link.id();
    let mut text = String::from("{\"items\":[");
    for (index, item) in items.iter().enumerate() {
        let kept = &item.session.hold().kept;
        let made = kept.resume.map(|_| link.key(id) + "-" + &index.to_string());
        if index > 0 {
            text.push(',');
        }
        let step = Frame::item("step")
            .with("session", &kept.quoted)
            .with_text("key", item.key.or(made.as_deref()))
            .with("data", item.action.get());
        text.push_str(&step.end());
    }
    text.push_str(&format!("],\"timeout_s\":{}}}", deadline(timeout)));
    Request {
        id,
        text: Frame::request(id, "batch").with("data", &text).end(),
        again: items.iter().map(|item| item.session.hold().kept.resume).min().flatten(),
        whose: Whose::Several,
        makes: None,
        weight: u32::try_from(items.len()).unwrap_or(IN_FLIGHT).clamp(1, IN_FLIGHT),
    }
}

/// The results of a batch, in the order of its items.
pub(super) fn results(text: &str, items: &[Item<'_>]) -> Result<Vec<Result<StepResult>>> {
    let data = Envelope::read(text)?.data(ReplyKind::Batch)?;
    let results: Results<'_> =
        serde_json::from_str(data).map_err(|error| invalid(data, &error.to_string()))?;
    if results.results.len() != items.len() {
        return Err(invalid(data, &format!("{} results are wanted", items.len())));
    }
    Ok(results.results.iter().zip(items).map(|(result, item)| one(result.get(), item)).collect())
}

fn one(result: &str, item: &Item<'_>) -> Result<StepResult> {
    match (step(result), item.session.hold().kept.gone.get()) {
        // The session was not there any more when the batch was asked for again: nobody knows what it did.
        (Err(_), Some(gone)) => Err(ClientError::clone(gone).with_delivered(Delivered::Maybe)),
        (read, _) => read,
    }
}
