//! What agents do within a session: list its tools and call them.
//!
//! Invariant: an agent's call holds the step lock only if its toolset cannot overlap; it is counted and
//! scored like any step, and shows no reward at any door.

use std::sync::Arc;

use oxenv_wire::{Action, Spelling, ToolCall, ToolSpelling};

use super::calls::Asked;
use super::settle::{Doing, Ran, Settled};
use super::steps::{AgentCall, Listing, StepReply};
use super::{Expect, Principal, Session};
use crate::failure::Failure;
use crate::observe::TraceContext;

impl Session {
    /// Calls a tool for an agent: a step of this session that is counted and scored, and that may overlap with
    /// others where the toolset allows it.
    pub(super) async fn agent_call<'a>(
        self: &Arc<Self>,
        call: AgentCall<'a>,
        trace: Option<TraceContext>,
    ) -> Settled<'a> {
        let action = Action::CallTool(ToolCall {
            spelling: Spelling::Stock,
            name: call.name.clone(),
            arguments: call.arguments,
        });
        let mut doing = Doing::step(self, Principal::Agent, &action, trace);
        let ran = self.run_agent_call(&mut doing, &call).await;
        self.settle(doing, ran).await
    }

    async fn run_agent_call<'a>(
        self: &Arc<Self>,
        doing: &mut Doing<'_>,
        call: &AgentCall<'a>,
    ) -> Result<Ran<'a>, Failure> {
        let concurrent = self.toolbox.concurrent(&call.name);
        let _overlapping = if concurrent { Some(self.overlap.read().await) } else { None };
        let guard = if concurrent { None } else { Some(self.acquire(None).await?) };
        let epoch = self.progress.lock().callable(call.epoch)?;
        doing.began(epoch);
        let asked = Asked {
            principal: Principal::Agent,
            name: &call.name,
            arguments: call.arguments,
            caller: call.caller,
            request: call.request,
            trace: doing.trace(),
        };
        let (reply, guard, calls) = self.run_call(guard, epoch, asked, None).await?;
        let (spelling, name) = (Spelling::Stock, call.name.clone());
        Ok(Ran { outcome: reply.map(|reply| StepReply::Call { spelling, name, reply }), guard, calls })
    }

    /// The tools that somebody may call, without waiting for a step; counted as a step, as in the reference. Waits
    /// for toolsets whose first list is still to come.
    pub(super) async fn list(&self, principal: Principal, trace: Option<TraceContext>) -> Settled<'static> {
        let mut doing = Doing::step(self, principal, &Action::ListTools(Spelling::Stock), trace);
        let ran = self.run_list(&mut doing, Spelling::Stock, Expect::default()).await;
        self.settle(doing, ran).await
    }

    pub(super) async fn run_list<'a>(
        &self,
        doing: &mut Doing<'_>,
        spelling: Spelling,
        expect: Expect,
    ) -> Result<Ran<'a>, Failure> {
        self.toolbox.settled().await;
        let tools = self.toolbox.listing(doing.principal(), ToolSpelling::Step);
        let epoch = {
            let progress = self.progress.lock();
            progress.alive()?;
            progress.expects(expect)?;
            progress.epoch
        };
        doing.began(epoch);
        // Whether the episode is done is filled in with the counts.
        let listing = Listing { tools, problems: self.toolbox.problems(), done: false };
        Ok(Ran { outcome: Ok(StepReply::Tools(spelling, listing)), guard: None, calls: Vec::new() })
    }
}
