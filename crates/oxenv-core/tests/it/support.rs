//! Short forms of what every test does with a session.
//!
//! Invariant: actions are written as JSON and read by the wire crate, as doors do it.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{
    AgentCall, CallReply, EndReason, Failure, GraphReply, Observed, Principal, ResetOptions, Session,
    SessionOptions, SessionRequest, SessionStore, StepReply, StoreLimits, ToolListing,
};
use oxenv_wire::{Action, ErrorCode, RawJson, raw};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::stage::{Scripted, Stage, eventually};

/// A store with a fixed seed.
pub(crate) fn store(factory: Scripted) -> Arc<SessionStore> {
    store_with(factory, StoreLimits::default())
}

pub(crate) fn store_with(factory: Scripted, limits: StoreLimits) -> Arc<SessionStore> {
    Arc::new(SessionStore::new(
        Arc::new(factory),
        StoreLimits { seed: Some(limits.seed.unwrap_or(1)), ..limits },
    ))
}

/// A new session, not reset.
pub(crate) async fn open(store: &SessionStore) -> Arc<Session> {
    store.create(SessionOptions::default()).await.unwrap()
}

/// What a step showed, without what it borrows from its request.
#[derive(Debug)]
pub(crate) enum Shown {
    Tools,
    Call(CallReply),
    Graph(GraphReply),
    Observed(Observed),
}

pub(crate) async fn step(session: &Arc<Session>, action: Value) -> Result<Shown, Failure> {
    step_within(session, action, None).await
}

pub(crate) async fn step_within(
    session: &Arc<Session>,
    action: Value,
    timeout: Option<Duration>,
) -> Result<Shown, Failure> {
    let action = raw(&action).unwrap();
    let request = SessionRequest { timeout, ..SessionRequest::step(Action::parse(&action).unwrap()) };
    Ok(match session.submit(request).await.into_outcome()? {
        StepReply::Tools(..) => Shown::Tools,
        StepReply::Call { reply, .. } => Shown::Call(reply),
        StepReply::Graph(reply) => Shown::Graph(reply),
        StepReply::Code(_) => panic!("no engine runs programs here"),
        StepReply::Observed(observed) => Shown::Observed(observed),
    })
}

/// A step that must succeed with an observation.
pub(crate) async fn observe(session: &Arc<Session>, action: Value) -> Observed {
    match step(session, action).await.unwrap() {
        Shown::Observed(observed) => observed,
        other => panic!("no observation: {other:?}"),
    }
}

pub(crate) async fn reset(session: &Arc<Session>) -> Result<Observed, Failure> {
    reset_as(session, None, None, None).await
}

/// A reset with a seed, an episode's id and arguments.
pub(crate) async fn reset_as(
    session: &Arc<Session>,
    seed: Option<u64>,
    episode_id: Option<String>,
    arguments: Option<RawJson>,
) -> Result<Observed, Failure> {
    let options = ResetOptions { seed, episode_id, arguments };
    match session.submit(SessionRequest::reset(options)).await.into_outcome()? {
        StepReply::Observed(observed) => Ok(observed),
        other => panic!("no observation: {other:?}"),
    }
}

/// The tools that somebody may call.
pub(crate) async fn list(session: &Arc<Session>, principal: Principal) -> Result<ToolListing, Failure> {
    match session.submit(SessionRequest::list(principal)).await.into_outcome()? {
        StepReply::Tools(_, listing) => Ok(listing),
        other => panic!("no list: {other:?}"),
    }
}

/// A reset with a script for the environment.
pub(crate) async fn reset_with(session: &Arc<Session>, script: Value) -> Result<Observed, Failure> {
    reset_as(session, None, None, Some(raw(&script).unwrap())).await
}

/// An agent's call.
pub(crate) async fn call(session: &Arc<Session>, tool: &str, arguments: Value) -> Result<CallReply, Failure> {
    call_in(session, tool, arguments, None).await
}

pub(crate) async fn call_in(
    session: &Arc<Session>,
    tool: &str,
    arguments: Value,
    epoch: Option<u64>,
) -> Result<CallReply, Failure> {
    let arguments = raw(&arguments).unwrap();
    let call = AgentCall { name: tool.into(), arguments: Some(&arguments), epoch, ..AgentCall::default() };
    agent_call(session, call).await
}

pub(crate) async fn agent_call(session: &Arc<Session>, call: AgentCall<'_>) -> Result<CallReply, Failure> {
    match session.submit(SessionRequest::call(call)).await.into_outcome()? {
        StepReply::Call { reply, .. } => Ok(reply),
        other => panic!("no result: {other:?}"),
    }
}

/// A tool call as control's step.
pub(crate) fn tool_step(tool: &str, arguments: &Value) -> Value {
    json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments })
}

pub(crate) fn spawn_step(session: &Arc<Session>, action: Value) -> JoinHandle<Result<Shown, Failure>> {
    let session = Arc::clone(session);
    tokio::spawn(async move { step(&session, action).await })
}

pub(crate) fn spawn_call(
    session: &Arc<Session>,
    tool: &'static str,
    arguments: Value,
) -> JoinHandle<Result<CallReply, Failure>> {
    let session = Arc::clone(session);
    tokio::spawn(async move { call(&session, tool, arguments).await })
}

pub(crate) async fn state(session: &Arc<Session>) -> Value {
    serde_json::from_str(&session.state().await.unwrap()).unwrap()
}

/// The code of something that must have failed.
pub(crate) fn code<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> ErrorCode {
    outcome.expect_err("it should have failed").code
}

/// Ends a session and lets its environment go.
pub(crate) fn close(session: Arc<Session>) {
    session.end(EndReason::Closed);
    drop(session);
}

/// What every test ends with: nothing is left.
pub(crate) async fn settled(store: &SessionStore, stage: &Stage) {
    eventually("no slot is taken", || store.status().active == 0).await;
    eventually("nothing is stuck", || store.status().stuck == 0).await;
    eventually("no call is at a gate", || stage.waiting() == 0).await;
    eventually("no environment is alive", || stage.live() == 0).await;
    assert!(store.list().iter().all(|session| session.ended().is_none()), "an ended session is still listed");
}
