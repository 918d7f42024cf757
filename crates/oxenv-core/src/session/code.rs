//! Code actions: a session's interpreter, and the tool calls of its programs.
//!
//! Invariant: a program's tool call is a child of its step, and takes the path of any other call. A session
//! whose interpreter was lost, or whose program was given up, demands a reset.

use std::sync::Arc;

use oxenv_wire::{CodeOutcome, Delivered, Phase, RawJson, Tool, ToolError, ToolErrorType, ToolResult, after};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::calls::{FinishedCall, PublishedState, StepScore};
use super::drive::{Unfinished, locked};
use super::operation::RunningOperation;
use super::{Expected, Session};
use crate::code::{CodeContext, CodeEngine, CodeLimits, CodeTools, Interpreter, Program};
use crate::failure::Failure;
use crate::graph::GraphBudget;
use crate::principal::Principal;
use crate::reply::{CodeReply, StepReply};
use crate::work::Work;

/// How the sessions of a store run programs.
#[derive(Clone)]
pub(crate) struct CodeSetup {
    pub(crate) engine: Arc<dyn CodeEngine>,
    pub(crate) limits: CodeLimits,
}

/// The tools of a running program.
struct ProgramTools<'s, 'o, 'p> {
    session: &'s Session,
    principal: Principal,
    step: Mutex<ProgramStep<'o, 'p>>,
}

/// The step that a program is, while it runs.
struct ProgramStep<'o, 'p> {
    operation: &'o mut RunningOperation<'p>,
    /// When the program is interrupted, and its calls are cut off.
    end: Instant,
    /// The deadline of the step, until which calls are scored.
    deadline: Option<Instant>,
    budget: GraphBudget,
    score: StepScore,
    /// Why a call could not be scored: no other is made then.
    failure: Option<Failure>,
}

impl CodeSetup {
    fn context(&self, seed: u64) -> CodeContext {
        CodeContext { seed, limits: self.limits }
    }

    /// An interpreter that goes on from what another has saved.
    pub(crate) fn restore<'a>(
        &'a self,
        seed: u64,
        saved: &'a [u8],
    ) -> Work<'a, Result<Box<dyn Interpreter>, Failure>> {
        self.engine.restore(self.context(seed), saved)
    }
}

impl Session {
    /// Runs a program as one step.
    pub(super) async fn run_code<'a>(
        &self,
        operation: &mut RunningOperation<'_>,
        code: &str,
        deadline: Option<Instant>,
        expect: Expected,
    ) -> Result<StepReply<'a>, Failure> {
        let Some(setup) = &self.code else {
            return Err(Failure::unsupported(
                "this server runs no programs, because it has no code engine: start it with `oxenv serve … \
                 --code monty`, or call tools one by one",
            ));
        };
        operation.runs_code = true;
        let epoch = self.begin_step(operation, deadline, expect).await?;
        let guard = locked(&mut operation.lock.guard)?;
        let token = self.publish(guard, epoch)?;
        let _shown = PublishedState(self);
        let interpreter = guard.interpreter.take();
        let mut unfinished = Unfinished { session: self, epoch, armed: interpreter.is_some() };
        let end = || {
            let limit = after(Instant::now(), setup.limits.time);
            deadline.map_or(limit, |deadline| deadline.min(limit))
        };
        let work = async {
            // A toolset that has not started in time has no tools.
            let _ = timeout_at(end(), self.toolbox.settled()).await;
            let mut interpreter = match interpreter {
                Some(interpreter) => interpreter,
                None => setup.engine.open(setup.context(self.episode_seed())).await?,
            };
            unfinished.armed = true;
            let reply = self.run_program(operation, interpreter.as_mut(), code, deadline, end()).await?;
            // Else a task of the environment has the lock, and the session demands a reset anyway.
            if let Some(guard) = &mut operation.lock.guard {
                guard.interpreter = Some(interpreter);
            }
            unfinished.armed = false;
            reply
        };
        tokio::select! {
            biased;
            done = work => done.map(StepReply::Code),
            () = token.cancelled() => Err(self.cancelled(Delivered::Maybe).in_phase(Phase::Step)),
        }
    }

    /// Runs a program to its end. The outer failure is that the interpreter is lost, the inner one that a
    /// call could not be scored.
    async fn run_program(
        &self,
        operation: &mut RunningOperation<'_>,
        interpreter: &mut dyn Interpreter,
        code: &str,
        deadline: Option<Instant>,
        end: Instant,
    ) -> Result<Result<CodeReply, Failure>, Failure> {
        let tools = ProgramTools {
            session: self,
            principal: operation.principal(),
            step: Mutex::new(ProgramStep {
                operation,
                end,
                deadline,
                budget: GraphBudget::default(),
                score: StepScore::default(),
                failure: None,
            }),
        };
        let outcome = interpreter.run(Program { code, deadline, tools: &tools }).await?;
        Ok(tools.step.into_inner().finish(outcome))
    }

    fn episode_seed(&self) -> u64 {
        self.progress.lock().seed
    }

    /// Shows readers the state as it is now, while a step goes on.
    fn show_again(&self, operation: &mut RunningOperation<'_>) {
        if let Some(guard) = &mut operation.lock.guard
            && self.spec.capabilities.observes_calls
        {
            // A session that has ended shows nothing, and its program is given up.
            let _ = self.publish(guard, operation.epoch);
        }
    }
}

impl ProgramStep<'_, '_> {
    fn finish(self, outcome: CodeOutcome) -> Result<CodeReply, Failure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.score.check()?;
        let StepScore { reward, metadata, done } = self.score;
        Ok(CodeReply { outcome, reward, metadata, done })
    }

    async fn call(
        &mut self,
        session: &Session,
        name: &str,
        arguments: RawJson,
    ) -> Result<ToolResult, ToolError> {
        if let Some(failure) = &self.failure {
            let message = format!("not called: an earlier call could not be scored: {failure}");
            return Err(ToolError::new(ToolErrorType::ExecutionError, message));
        }
        let operation = &mut *self.operation;
        let index = operation.outcomes.len();
        operation.outcomes.push(None);
        operation.call_begins(index, None, name, Some(&arguments));
        let request = session.call_request(operation, Some(&arguments), Some(self.end));
        let outcome = session.call_tool(session.toolbox.find(name), &request).await;
        operation.call_ends(index);
        let finished = FinishedCall { index, arguments: Some(arguments), outcome };
        match session.score_child(operation, name, finished, self.deadline, &mut self.score).await {
            Ok(outcome) => {
                session.show_again(operation);
                if session.keeps_actions() {
                    operation.outcomes[index] = Some(self.budget.keep(outcome.clone()));
                }
                outcome
            }
            Err(failure) => {
                let message = format!("the call was made, and could not be scored: {failure}");
                self.failure = Some(failure);
                Err(ToolError::new(ToolErrorType::ExecutionError, message))
            }
        }
    }
}

impl CodeTools for ProgramTools<'_, '_, '_> {
    fn list(&self) -> Arc<[Tool]> {
        self.session.toolbox.tools(self.principal)
    }

    fn call<'a>(&'a self, tool: &'a str, arguments: RawJson) -> Work<'a, Result<ToolResult, ToolError>> {
        Work::pending(async move { self.step.lock().await.call(self.session, tool, arguments).await })
    }
}
