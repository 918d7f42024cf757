//! Resets and steps that are run once, however often they are asked for.
//!
//! Invariant: a request with a key or a number runs to its end even when its caller goes away, so
//! that whoever asks again gets its reply.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use oxenv_wire::{Action, RawJson, ToolError, ToolResult};
use serde_json::value::RawValue;

use super::steps::{ResetOptions, StepOptions, StepReply};
use super::{Expect, Session};
use crate::failure::Failure;
use crate::once::{Answer, Claim, Identity, Once, Waiting, Weigh, fingerprint, forgotten};

type Outcome = (Result<StepReply<'static>, Failure>, u64);
type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Session {
    /// Takes a step as [`Session::step`] does, at most once for its key or number. A repeat that comes
    /// while the first runs waits for it; dropping the future then stops the waiting, not the step.
    ///
    /// # Errors
    /// [`oxenv_wire::ErrorCode::KeyConflict`], [`oxenv_wire::ErrorCode::ReplyForgotten`],
    /// [`oxenv_wire::ErrorCode::CapacityReached`] if 1,024 such requests of the session run, or 64 MiB of
    /// them, and what the loss of the first request leaves unknown. How the step itself failed is in the
    /// answer.
    pub async fn step_once(
        self: &Arc<Self>,
        action: &RawValue,
        once: &Once,
        options: StepOptions,
    ) -> Result<Answer<StepReply<'static>>, Failure> {
        let fingerprint = fingerprint(("step", action.get(), once.expected_step));
        let bytes = action.get().len();
        let (session, action, expect) = (Arc::clone(self), action.to_owned(), Expect::of(once));
        let run = Box::pin(async move { session.step_owned(&action, options, expect).await });
        self.once(once, fingerprint, bytes, run).await
    }

    /// Begins an episode as [`Session::reset`] does, at most once for its key or number.
    ///
    /// # Errors
    /// As [`Session::step_once`].
    pub async fn reset_once(
        self: &Arc<Self>,
        asked: ResetOptions,
        once: &Once,
    ) -> Result<Answer<StepReply<'static>>, Failure> {
        let arguments = asked.arguments.as_deref().map(RawValue::get);
        let fingerprint = fingerprint(("reset", asked.seed, &asked.episode_id, arguments));
        let bytes = arguments.map_or(0, str::len);
        let (session, expect) = (Arc::clone(self), Expect::of(once));
        let run = Box::pin(async move { session.reset_expecting(asked, expect).await });
        self.once(once, fingerprint, bytes, run).await
    }

    async fn step_owned(self: &Arc<Self>, action: &RawJson, options: StepOptions, expect: Expect) -> Outcome {
        match Action::parse(action) {
            Ok(action) => {
                let (outcome, seq) = self.step_expecting(action, options, expect).await;
                (outcome.map(StepReply::into_owned), seq)
            }
            Err(issues) => (Err(Failure::invalid(issues)), 0),
        }
    }

    async fn once(
        self: &Arc<Self>,
        once: &Once,
        fingerprint: u64,
        bytes: usize,
        mut run: Running,
    ) -> Result<Answer<StepReply<'static>>, Failure> {
        let identity = match (&once.key, once.seq) {
            (Some(key), _) => Identity::Key(key.clone()),
            (None, Some(seq)) => Identity::Seq(seq),
            (None, None) => {
                let (outcome, seq) = run.await;
                return Ok(Answer { outcome: Arc::new(outcome), seq, repeated: false });
            }
        };
        let ticket = match self.replies.claim(identity.clone(), fingerprint, bytes)? {
            Claim::Repeat(waiting) => return waiting.answer().await,
            Claim::First(ticket) => ticket,
        };
        if let Identity::Seq(seq) = identity
            && seq <= self.seq()
        {
            let refusal = forgotten(&identity);
            self.replies.settle(&ticket, Err(refusal.clone().undelivered()), 0);
            return Err(refusal);
        }
        // What is done at once, as most is, needs no task.
        if let Poll::Ready((outcome, seq)) = poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await
        {
            let (outcome, seq) = self.replies.settle(&ticket, outcome, seq);
            return Ok(Answer { outcome, seq, repeated: false });
        }
        let waiting = Waiting::of(&ticket);
        let session = Arc::clone(self);
        tokio::spawn(async move {
            let (outcome, seq) = run.await;
            session.replies.settle(&ticket, outcome, seq);
        });
        waiting.answer().await.map(|answer| Answer { repeated: false, ..answer })
    }
}

impl Expect {
    fn of(once: &Once) -> Self {
        Expect { seq: once.seq, step: once.expected_step }
    }
}

impl StepReply<'_> {
    /// The same reply, owing nothing to its request.
    #[must_use]
    pub fn into_owned(self) -> StepReply<'static> {
        match self {
            StepReply::Tools(spelling, listing) => StepReply::Tools(spelling, listing),
            StepReply::Call { spelling, name, reply } => {
                StepReply::Call { spelling, name: name.into_owned().into(), reply }
            }
            StepReply::Graph(reply) => StepReply::Graph(reply),
            StepReply::Observed(observed) => StepReply::Observed(observed),
        }
    }
}

impl Weigh for StepReply<'_> {
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
            StepReply::Observed(observed) => observed.fields.get().len() + added(&observed.metadata),
        }
    }
}

#[cfg(test)]
mod tests {
    use oxenv_wire::{Content, Spelling};

    use super::super::steps::CallReply;
    use super::*;

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
