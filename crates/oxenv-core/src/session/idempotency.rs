//! Resets and steps that run once, however often they are requested.
//!
//! Invariant: a request with a key or a number runs to its end even when its caller goes away, so
//! that a repeat gets its reply.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use oxenv_wire::{ErrorCode, RawJson, ToolError, ToolResult, empty_object};
use serde_json::value::RawValue;

use super::request::{ResetOptions, SessionOperation, SessionRequest};
use super::settle::Settled;
use super::{Expected, Session};
use crate::failure::Failure;
use crate::idempotency::{
    Attempt, Idempotency, IdempotentReply, Identity, MemorySize, ReplyReceiver, ReplySender, fingerprint,
    forgotten, lost,
};
use crate::observe::TraceContext;
use crate::reply::StepReply;

type OwnedRun = Pin<Box<dyn Future<Output = Settled<'static>> + Send>>;

/// A request that owns its data, so that it may outlive its caller.
enum OwnedOperation {
    Reset(ResetOptions),
    Step(RawJson),
}

impl Session {
    /// Does what has a key or a number at most once. A repeat that comes while the first runs waits for it;
    /// dropping the future then stops the waiting, not the operation. Refused with
    /// [`oxenv_wire::ErrorCode::CapacityReached`] if 1,024 such requests of the session run, or 64 MiB of
    /// them.
    pub(super) async fn submit_once(
        self: &Arc<Self>,
        identity: Identity,
        request: SessionRequest<'_>,
    ) -> IdempotentReply<StepReply<'static>> {
        let expect = Expected::of(&request.once);
        let (operation, fingerprint, bytes) = match request.operation {
            SessionOperation::Reset(asked) => {
                let arguments = asked.arguments.as_deref().map(RawValue::get);
                let said =
                    asked.arguments.as_ref().map(|arguments| oxenv_wire::fingerprint(arguments.into()));
                // A body without arguments means the same as no body.
                let said = said.filter(|said| *said != oxenv_wire::fingerprint((&empty_object()).into()));
                let fingerprint = fingerprint(("reset", asked.seed, &asked.episode_id, said));
                let bytes = arguments.map_or(0, str::len);
                (OwnedOperation::Reset(asked), fingerprint, bytes)
            }
            SessionOperation::Step(action) => {
                let action = action.to_raw();
                let said = oxenv_wire::fingerprint((&action).into());
                let fingerprint = fingerprint(("step", said, expect.step));
                let bytes = action.get().len();
                (OwnedOperation::Step(action), fingerprint, bytes)
            }
            SessionOperation::Call(_) | SessionOperation::List(_) => {
                return IdempotentReply::refused(Failure::unsupported(
                    "what agents do has no key and no number",
                ));
            }
        };
        let (session, timeout, trace) = (Arc::clone(self), request.timeout, request.trace);
        let run = Box::pin(async move { session.run_owned(operation, timeout, expect, trace).await });
        let ticket = match self.claim(&identity, expect, fingerprint, bytes) {
            Ok(Attempt::First(ticket)) => ticket,
            Ok(Attempt::Repeat(waiting)) => {
                let answer =
                    async { waiting.answer().await.unwrap_or_else(|| IdempotentReply::refused(lost())) };
                return match request.timeout {
                    // It gives up waiting, and the first goes on.
                    Some(limit) => tokio::time::timeout(limit, answer)
                        .await
                        .unwrap_or_else(|_| IdempotentReply::refused(still_running(&identity, limit))),
                    None => answer.await,
                };
            }
            Err(refusal) => return IdempotentReply::refused(refusal),
        };
        run_once(ticket, run).await
    }

    async fn run_owned(
        self: &Arc<Self>,
        operation: OwnedOperation,
        timeout: Option<Duration>,
        expect: Expected,
        trace: Option<TraceContext>,
    ) -> Settled<'static> {
        let _busy = self.lease.busy();
        match operation {
            OwnedOperation::Reset(asked) => self.reset_expecting(asked, expect, trace).await,
            OwnedOperation::Step(action) => match self.spec.parse_action(&action) {
                Ok(action) => {
                    let Settled { outcome, seq } = self.step_expecting(action, timeout, expect, trace).await;
                    Settled { outcome: outcome.map(StepReply::into_owned), seq }
                }
                Err(issues) => Settled::refused(Failure::invalid(issues)),
            },
        }
    }

    /// Asks whether a request is new. Its number identifies it even if it ran long ago.
    fn claim(
        &self,
        identity: &Identity,
        expect: Expected,
        fingerprint: u64,
        bytes: usize,
    ) -> Result<Attempt<StepReply<'static>>, Failure> {
        let claim = self.replies.claim(identity, fingerprint, bytes)?;
        let ran = match (identity, expect.seq) {
            (Identity::Seq(seq), _) => *seq <= self.seq(),
            (_, Some(seq)) => seq <= self.replies.unknown_up_to(),
            _ => false,
        };
        match claim {
            Attempt::First(ticket) if ran => {
                let refusal = forgotten(identity);
                ticket.settle(Err(refusal.clone().undelivered()), 0);
                Err(refusal)
            }
            claim => Ok(claim),
        }
    }
}

/// The failure of a repeat whose own deadline passed.
fn still_running(identity: &Identity, limit: Duration) -> Failure {
    let message = format!(
        "the first request with {identity} was still at work after {} s; ask again for its reply",
        limit.as_secs_f64()
    );
    Failure::new(ErrorCode::DeadlineExceeded, message)
}

async fn run_once(
    ticket: ReplySender<StepReply<'static>>,
    mut run: OwnedRun,
) -> IdempotentReply<StepReply<'static>> {
    // Work that is done at once, as most is, needs no task.
    if let Poll::Ready(Settled { outcome, seq }) =
        poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await
    {
        return ticket.settle(outcome, seq);
    }
    let waiting = ReplyReceiver::of(&ticket);
    tokio::spawn(async move {
        let Settled { outcome, seq } = run.await;
        ticket.settle(outcome, seq);
    });
    waiting.answer().await.map_or_else(|| IdempotentReply::refused(lost()), IdempotentReply::first)
}

impl Expected {
    pub(super) fn of(once: &Idempotency) -> Self {
        Expected { seq: once.seq, step: once.expected_step }
    }
}

impl StepReply<'_> {
    /// The reply without borrows of its request.
    #[must_use]
    pub fn into_owned(self) -> StepReply<'static> {
        match self {
            StepReply::Tools(spelling, listing) => StepReply::Tools(spelling, listing),
            StepReply::Call { spelling, name, reply } => {
                StepReply::Call { spelling, name: name.into_owned().into(), reply }
            }
            StepReply::Graph(reply) => StepReply::Graph(reply),
            StepReply::Code(reply) => StepReply::Code(reply),
            StepReply::Observed(observed) => StepReply::Observed(observed),
        }
    }
}

impl MemorySize for StepReply<'_> {
    fn weight(&self) -> usize {
        let outcome = |outcome: &Result<ToolResult, ToolError>| match outcome {
            Ok(result) => 256 + result.weight(),
            Err(error) => 256 + error.message.len(),
        };
        let added = |metadata: &Option<RawJson>| metadata.as_ref().map_or(0, |metadata| metadata.get().len());
        512 + match self {
            StepReply::Tools(_, listing) => listing.tools.len(),
            StepReply::Call { reply, .. } => outcome(&reply.outcome) + added(&reply.metadata),
            StepReply::Graph(reply) => {
                let results = reply.results.iter().map(|(id, result)| id.len() + outcome(result));
                results.sum::<usize>() + added(&reply.metadata)
            }
            StepReply::Code(reply) => reply.outcome.size() + added(&reply.metadata),
            StepReply::Observed(observed) => observed.fields.get().len() + added(&observed.metadata),
        }
    }
}

#[cfg(test)]
mod tests {
    use oxenv_wire::{Content, Spelling};

    use super::*;
    use crate::reply::CallReply;

    #[test]
    fn an_image_counts_by_its_bytes() {
        let image =
            oxenv_wire::raw(&serde_json::json!({ "type": "image", "data": "A".repeat(1 << 20) })).unwrap();
        let result =
            ToolResult { content: [Content::Raw(image)].into_iter().collect(), ..ToolResult::default() };
        let reply = CallReply { outcome: Ok(result), reward: None, metadata: None, done: false };
        let reply = StepReply::Call { spelling: Spelling::Stock, name: "draw".into(), reply };
        assert!(reply.weight() > 1 << 20, "{}", reply.weight());
    }
}
