//! The one entry to a session: how what a door asks for is begun.
//!
//! Invariant: a request with a key or a number goes through `session/idempotency.rs`, any other runs at once.

use std::sync::Arc;

use super::Session;
use super::request::SessionRequest;
use super::settle::Settled;
use crate::idempotency::IdempotentReply;
use crate::reply::StepReply;

impl Session {
    /// Runs the request, and counts it. Dropping the future cancels it, unless it has a key or a
    /// number: then it runs to its end, so that a repeat gets its reply.
    ///
    /// The outcome is a failure with a code when there is nothing to show: no reward, no observation. A
    /// tool's own error is no failure but an observation. After a reset that failed the session demands
    /// another.
    pub async fn submit<'a>(self: &Arc<Self>, request: SessionRequest<'a>) -> IdempotentReply<StepReply<'a>> {
        match request.once.identity() {
            // Boxed, because most requests have no key.
            Some(identity) => Box::pin(self.submit_once(identity, request)).await,
            None => {
                let Settled { outcome, seq } = self.run(request).await;
                IdempotentReply::own(outcome, seq)
            }
        }
    }

    /// Runs the request if that takes no waiting: a typed step of an environment that does not suspend, while
    /// nothing else of its session runs and nothing is recorded. `None` otherwise; then nothing has happened.
    pub fn try_submit<'a>(
        self: &Arc<Self>,
        request: &SessionRequest<'a>,
    ) -> Option<IdempotentReply<StepReply<'a>>> {
        let plain = request.once.identity().is_none();
        let settled = plain.then(|| self.step_inline(request)).flatten();
        settled.map(|Settled { outcome, seq }| IdempotentReply::own(outcome, seq))
    }
}
