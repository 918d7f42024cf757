//! [`ToolEnvironment`]: played through steps and through an agent's calls, with a rubric and without.

use std::sync::Arc;

use oxenv_core::rubric::Constant;
use oxenv_core::{
    ActionSpace, Capabilities, ForkMode, RubricFactory, SessionOptions, SessionRequest, StepReply,
    ToolEnvironment, Toolbox,
};
use oxenv_wire::{Action, ErrorCode, FailureKind, Reward, ToolErrorType, raw};
use serde_json::json;

use crate::support::{Shown, call, code, reset, reset_as, state, step, tool_step};
use crate::toolbox_support::{Host, Set, broken, done, mounts, value};

fn tools() -> Toolbox {
    let set = Set::new("set", &["say", "fail", "complain"]).answering(|tool, arguments| match tool {
        "fail" => broken("it broke"),
        _ => done(&arguments),
    });
    Toolbox::new(mounts(&[&Arc::new(set)]))
}

#[test]
fn its_spec_says_what_it_is() {
    let spec = ToolEnvironment::spec("files", "Files of a project");
    assert_eq!((spec.name.as_str(), spec.title.as_str()), ("files", "ToolEnvironment"));
    assert_eq!(spec.action_space, ActionSpace::Tools);
    let (deterministic, fork, snapshot) = (false, ForkMode::Stateless, true);
    assert_eq!(spec.capabilities, Capabilities { deterministic, fork, snapshot, ..Capabilities::default() });
}

#[tokio::test]
async fn without_a_rubric_there_is_no_reward() {
    let store = Host::new(tools()).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    let observed = reset(&session).await.unwrap();
    assert_eq!((observed.reward, observed.done, observed.fields.get()), (None, false, "{}"));
    assert_eq!(observed.metadata.unwrap().get(), r#"{"status":"ready"}"#);
    for arguments in [json!({ "score": 1 }), json!({ "done": true })] {
        let reply = call(&session, "say", arguments.clone()).await.unwrap();
        assert_eq!((value(&reply.outcome), reply.reward, reply.done), (arguments.clone(), None, false));
        let Shown::Call(reply) = step(&session, tool_step("say", &arguments)).await.unwrap() else {
            panic!("no call")
        };
        assert_eq!((reply.reward, reply.done), (None, false));
    }
    let reply = call(&session, "fail", json!({})).await.unwrap();
    assert_eq!((reply.outcome.unwrap_err().message.as_str(), reply.reward), ("it broke", None));
    assert_eq!(state(&session).await["step_count"], 5);
}

#[tokio::test]
async fn a_rubric_scores_steps_and_calls_alike() {
    let (host, notes) = Host::new(tools()).scored();
    let store = host.store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, Some(7), None, None).await.unwrap();
    let reply = call(&session, "say", json!({ "score": 2 })).await.unwrap();
    assert_eq!((reply.reward, reply.done), (Some(Reward::Int(2)), false));
    let Shown::Call(reply) = step(&session, tool_step("say", &json!({ "score": 0.5 }))).await.unwrap() else {
        panic!("no call")
    };
    assert_eq!((reply.reward, reply.done), (Some(Reward::Float(0.5)), false));
    // Neither what failed nor what nobody has is scored.
    for tool in ["fail", "no_such_tool"] {
        let reply = call(&session, tool, json!({ "score": 9 })).await.unwrap();
        assert_eq!((reply.outcome.is_err(), reply.reward), (true, None));
    }
    let reply = call(&session, "say", json!([])).await.unwrap();
    assert_eq!(reply.outcome.unwrap_err().error_type, ToolErrorType::InvalidArgs);
    let reply = call(&session, "say", json!({ "score": 1, "done": true })).await.unwrap();
    assert_eq!((reply.reward, reply.done), (Some(Reward::Int(1)), true));
    // The agent's episode is over, the next one begins with a reset.
    assert_eq!(code(call(&session, "say", json!({})).await), ErrorCode::EpisodeDone);
    reset_as(&session, Some(8), None, None).await.unwrap();
    let reply = call(&session, "say", json!({})).await.unwrap();
    assert_eq!((reply.reward, reply.done), (None, false));
    assert_eq!(*notes.lock().unwrap(), ["reset 7", "say", "say", "say", "reset 8", "say"]);
}

#[tokio::test]
async fn a_score_that_is_no_finite_number_is_a_failure() {
    let absurd: RubricFactory = Arc::new(|| Box::new(Constant::new(Reward::Float(f64::NAN))));
    let store = Host::new(tools()).scored_by(absurd).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    assert_eq!(code(call(&session, "say", json!({})).await), ErrorCode::NonFiniteReward);
}

#[tokio::test]
async fn an_action_that_is_no_call_is_told_what_to_send() {
    let store = Host::new(tools()).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset(&session).await.unwrap();
    for action in [json!({}), json!({ "message": "hello" }), json!({ "tool": "say" })] {
        let failure = step(&session, action).await.unwrap_err();
        assert_eq!((failure.code, failure.kind), (ErrorCode::ExecutionError, FailureKind::Action));
        assert!(failure.message.contains("call_tool") && failure.message.contains("list_tools"));
    }
    // A call without a type is one all the same, as OpenEnv's own environments take it.
    let action = raw(&json!({ "tool_name": "say", "arguments": { "x": 1 } })).unwrap();
    let reply =
        session.submit(SessionRequest::step(Action::parse(&action).unwrap())).await.into_outcome().unwrap();
    assert!(matches!(reply, StepReply::Call { reply, .. } if reply.outcome.is_ok()));
}

#[tokio::test]
async fn its_state_is_the_sessions_alone() {
    let store = Host::new(tools()).store();
    let session = store.create(SessionOptions::default()).await.unwrap();
    reset_as(&session, None, Some("the episode".to_owned()), None).await.unwrap();
    assert_eq!(state(&session).await, json!({ "episode_id": "the episode", "step_count": 0 }));
}
