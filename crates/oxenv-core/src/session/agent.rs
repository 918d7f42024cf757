//! What agents do within a session: list its tools and call them.
//!
//! Invariant: an agent's call holds the step lock only if its toolset cannot overlap; it is counted and
//! scored like any step, and shows no reward at any door.

use std::sync::Arc;

use oxenv_wire::{Action, RawJson, Spelling, ToolCall, ToolSpelling};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::operation::RunningOperation;
use super::request::AgentCall;
use super::settle::Settled;
use super::{Expected, Session};
use crate::failure::Failure;
use crate::observe::TraceContext;
use crate::principal::Principal;
use crate::reply::{StepReply, ToolListing};
use crate::toolset::{CallContext, RequestError};

impl Session {
    /// Calls a tool for an agent: a step of this session that is counted and scored, and that may overlap
    /// with others where the toolset allows it.
    pub(super) async fn agent_call<'a>(
        self: &Arc<Self>,
        call: AgentCall<'a>,
        trace: Option<TraceContext>,
    ) -> Settled<'a> {
        let action = || {
            let (name, arguments) = (call.name.clone(), call.arguments);
            Action::CallTool(ToolCall { spelling: Spelling::Stock, name, arguments }).to_raw()
        };
        let mut operation = RunningOperation::step(self, Principal::Agent, action, trace);
        let outcome = self.run_agent_call(&mut operation, call).await;
        operation.settle(outcome).await
    }

    /// Waits until the lists of its toolsets are known; its lease does not run meanwhile.
    pub async fn settled(&self) {
        let _busy = self.lease.busy();
        self.toolbox.settled().await;
    }

    /// An agent's request about a resource or a prompt, as [`Toolbox::request`](crate::Toolbox::request)
    /// answers it; the session's lease does not run meanwhile.
    ///
    /// # Errors
    /// What is wrong with the request, or why it was not answered.
    pub async fn request(&self, method: &str, parameters: &RawValue) -> Result<RawJson, RequestError> {
        let _busy = self.lease.busy();
        let context = CallContext {
            session_id: Some(&self.id),
            epoch: self.epoch(),
            request: Some(parameters),
            ..CallContext::sessionless(Principal::Agent)
        };
        self.toolbox.request(context, method, parameters).await
    }

    async fn run_agent_call<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        call: AgentCall<'a>,
    ) -> Result<StepReply<'a>, Failure> {
        let tool = self.toolbox.find(&call.name);
        if tool.concurrent() {
            operation.share().await;
        } else {
            operation.lock(Expected::default(), None).await?;
        }
        operation.begin(|progress| progress.callable(call.epoch))?;
        let mut request = self.call_request(operation, call.arguments, None);
        (request.context.caller, request.context.request) = (call.caller, call.request);
        let reply = self.run_call(operation, tool, &request).await?;
        Ok(StepReply::Call { spelling: Spelling::Stock, name: call.name, reply })
    }

    /// The tools that a caller may call, without waiting for a step; counted as a step, as in the reference.
    /// Waits for toolsets whose first list is still to come.
    pub(super) async fn list(
        self: &Arc<Self>,
        principal: Principal,
        trace: Option<TraceContext>,
    ) -> Settled<'static> {
        let action = || Action::ListTools(Spelling::Stock).to_raw();
        let mut operation = RunningOperation::step(self, principal, action, trace);
        let outcome = self.run_list(&mut operation, Spelling::Stock, None, Expected::default()).await;
        operation.settle(outcome).await
    }

    pub(super) async fn run_list<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        spelling: Spelling,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<StepReply<'a>, Failure> {
        self.toolbox.settled().await;
        match expect.any() {
            true => operation.lock(expect, deadline).await?,
            false => operation.share_number().await,
        }
        operation.begin(|progress| {
            progress.alive()?;
            progress.expects(expect)?;
            Ok(progress.epoch)
        })?;
        let tools = self.toolbox.listing(operation.principal(), ToolSpelling::Step);
        // Whether the episode is done is filled in with the counts.
        let listing = ToolListing { tools, problems: self.toolbox.problems(), done: false };
        Ok(StepReply::Tools(spelling, listing))
    }
}
