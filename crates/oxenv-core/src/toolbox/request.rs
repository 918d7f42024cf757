//! [`CallRequest`]: a requested call, and when it is cut off.
//!
//! Invariant: the earlier of the two deadlines counts, the caller's and the toolset's.

use std::future::Future;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::observe::{Observer, TraceContext};
use crate::toolset::CallContext;

/// A requested call.
#[derive(Clone, Copy)]
pub struct CallRequest<'a> {
    /// The caller.
    pub context: CallContext<'a>,
    /// The arguments, an object. Absent: an empty one.
    pub arguments: Option<&'a RawValue>,
    /// When the call is cut off, if its toolset's own deadline does not come before.
    pub deadline: Option<Instant>,
    /// The receiver of measures of calls.
    pub observer: Option<&'a dyn Observer>,
    /// The trace that the call is part of.
    pub trace: Option<TraceContext>,
}

impl<'a> CallRequest<'a> {
    /// A call that is not measured, with the deadline of its toolset.
    #[must_use]
    pub fn new(context: CallContext<'a>, arguments: Option<&'a RawValue>) -> Self {
        CallRequest { context, arguments, deadline: None, observer: None, trace: None }
    }
}

/// When a call that begins at `began` is cut off; never if no clock can hold that.
pub(super) fn end_of(began: Instant, limit: Duration, deadline: Option<Instant>) -> Option<Instant> {
    began.checked_add(limit).into_iter().chain(deadline).min()
}

/// The result of work that is over before `end`.
pub(super) async fn until<T>(end: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match end {
        Some(end) => tokio::time::timeout_at(end, work).await.ok(),
        None => Some(work.await),
    }
}
