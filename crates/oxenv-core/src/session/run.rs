//! Runs a request: finds the environment or toolset that does what it asks for.
//!
//! Invariant: the lease of the session does not run meanwhile.

use std::sync::Arc;

use super::request::{SessionOperation, SessionRequest};
use super::settle::Settled;
use super::{Expected, Session};

impl Session {
    pub(super) async fn run<'a>(self: &Arc<Self>, request: SessionRequest<'a>) -> Settled<'a> {
        let _busy = self.lease.busy();
        let SessionRequest { operation, once, timeout, trace } = request;
        let expect = Expected::of(&once);
        match operation {
            SessionOperation::Step(action) => self.step_expecting(action, timeout, expect, trace).await,
            // Boxed, so that the future of a step is not as large as that of other requests.
            SessionOperation::Reset(asked) => Box::pin(self.reset_expecting(asked, expect, trace)).await,
            SessionOperation::Call(call) => self.agent_call(call, trace).await,
            SessionOperation::List(principal) => self.list(principal, trace).await,
        }
    }
}
