//! A hosted environment, as the session sees it.

use std::sync::Arc;

use oxenv_core::{CallRecord, Environment, Failure, Observed, OutputLog, Reset, Work};
use oxenv_wire::RawJson;
use serde_json::value::RawValue;

use crate::protocol::SessionRequest;
use crate::session::HostedSession;

/// An environment in a process of its own.
pub(crate) struct HostedEnvironment(pub(crate) Arc<HostedSession>);

impl Environment for HostedEnvironment {
    fn reset<'a>(&'a mut self, reset: &'a Reset) -> Work<'a, Result<Observed, Failure>> {
        let arguments = reset.arguments.as_deref().unwrap_or_else(|| empty_object());
        Work::pending(self.0.reset(SessionRequest::Reset {
            seed: reset.seed,
            episode_id: &reset.episode_id,
            arguments,
        }))
    }

    fn step<'a>(&'a mut self, action: &'a RawValue) -> Work<'a, Result<Observed, Failure>> {
        Work::pending(self.0.step(SessionRequest::Step { action }))
    }

    fn state(&self) -> Result<RawJson, Failure> {
        self.0.state()
    }

    fn output_log(&self) -> Option<OutputLog> {
        Some(self.0.output())
    }

    fn after_call<'a>(&'a mut self, call: &'a CallRecord) -> Work<'a, Result<Observed, Failure>> {
        let arguments = call.arguments.as_ref().map(|arguments| arguments.get());
        let score = self.0.take_score(&call.tool, arguments);
        Work::done(Ok(Observed {
            fields: empty_object().to_owned(),
            metadata: None,
            reward: score.as_ref().and_then(|score| score.reward),
            done: score.is_some_and(|score| score.done),
        }))
    }
}

impl Drop for HostedEnvironment {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// `{}`.
pub(crate) fn empty_object() -> &'static RawValue {
    serde_json::from_str("{}").unwrap_or(RawValue::NULL)
}
