//! The failure contract: whose fault, delivered or not, and never a reward.

use oxenv_core::{Execution, Failure};
use oxenv_wire::{Action, Delivered, ErrorCode, FailureKind, Phase, Reward, ToolError, ToolErrorType, raw};
use serde_json::{Value, json};

use crate::stage::{Scripted, Stage};
use crate::support::{call, close, code, observe, open, reset, reset_as, settled, step, store};

#[tokio::test]
async fn a_reward_that_is_no_number_is_an_error_never_a_reward() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution).tools(true).scoring());
        let session = open(&store).await;
        for value in ["NaN", "inf", "-inf"] {
            let script = json!({ "do": "reward", "value": value });
            for phase in [Phase::Step, Phase::Verify] {
                let failure = match phase {
                    Phase::Step => step(&session, script.clone()).await.unwrap_err(),
                    _ => call(&session, "say", json!({ "after": script })).await.unwrap_err(),
                };
                assert_eq!(
                    (failure.code, failure.kind),
                    (ErrorCode::NonFiniteReward, FailureKind::Environment)
                );
                assert_eq!((failure.phase, failure.delivered), (phase, Delivered::Yes));
            }
        }
        // The session lives on, and its failed steps are not counted.
        assert_eq!(session.info().step_count, 0);
        observe(&session, json!({})).await;
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn what_is_no_object_is_an_error_never_an_observation() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let store = store(Scripted::new(&stage, execution));
        let session = open(&store).await;
        for fields in ["[1]", "5", "null", "\"{}\""] {
            let failure = step(&session, json!({ "do": "raw", "fields": fields })).await.unwrap_err();
            assert_eq!((failure.code, failure.kind), (ErrorCode::ExecutionError, FailureKind::Environment));
            assert!(failure.message.contains("observation is not a JSON object"), "{failure}");
            observe(&session, json!({ "do": "state", "how": fields })).await;
            let failure = session.state().await.unwrap_err();
            assert!(failure.message.contains("state is not a JSON object"), "{failure}");
        }
        // Nothing, however it is written, is an object.
        for fields in ["{}", "{ }", "{\n\t}"] {
            observe(&session, json!({ "do": "raw", "fields": fields })).await;
            observe(&session, json!({ "do": "state", "how": fields })).await;
            let state: Value = serde_json::from_str(&session.state().await.unwrap()).unwrap();
            assert_eq!(state.as_object().unwrap().len(), 2, "{state}");
        }
        close(session);
        settled(&store, &stage).await;
    }
}

#[tokio::test]
async fn finite_rewards_keep_their_type() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    for (value, reward) in [
        (json!(true), Reward::Bool(true)),
        (json!(3), Reward::Int(3)),
        (json!(0.5), Reward::Float(0.5)),
        (json!(1.0), Reward::Float(1.0)),
        (json!(f64::MAX), Reward::Float(f64::MAX)),
    ] {
        let observed = observe(&session, json!({ "do": "reward", "value": value })).await;
        assert_eq!(observed.reward, Some(reward));
    }
    assert_eq!(observe(&session, json!({ "do": "note" })).await.reward, None);
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn a_failure_of_the_environment_says_in_which_phase() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Task).tools(true).scoring());
    let session = open(&store).await;
    let script = json!({ "do": "refuse" });
    let failure = step(&session, script.clone()).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (FailureKind::Action, Phase::Step));
    let failure = call(&session, "say", json!({ "after": script })).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (FailureKind::Action, Phase::Verify));
    let failure = reset_as(&session, None, None, Some(raw(&script).unwrap())).await.unwrap_err();
    assert_eq!((failure.kind, failure.phase), (FailureKind::Action, Phase::Reset));
    reset(&session).await.unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[tokio::test]
async fn what_an_environment_does_not_take_is_a_typed_refusal() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline));
    let session = open(&store).await;
    let action = json!({ "action_type": "code", "code": "print(1)" });
    assert_eq!(code(step(&session, action).await), ErrorCode::Unsupported);
    assert_eq!(session.info().step_count, 0);
    close(session);
    settled(&store, &stage).await;
}

/// An action no reader can take apart reaches the environment as the text it was.
#[tokio::test]
async fn an_action_that_is_deep_or_huge_is_passed_on_untouched() {
    let stage = Stage::default();
    let store = store(Scripted::new(&stage, Execution::Inline).tools(true));
    let session = open(&store).await;
    let huge = "9".repeat(400);
    let text = format!("{{\"do\":\"note\",\"text\":\"here\",\"n\":{huge}}}");
    let action = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).unwrap();
    assert!(matches!(Action::parse(&action).unwrap(), Action::Typed(raw) if raw.get() == text));
    let deep = format!("{{\"do\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let action = serde_json::from_str::<Box<serde_json::value::RawValue>>(&deep).unwrap();
    assert!(matches!(Action::parse(&action).unwrap(), Action::Typed(raw) if raw.get() == deep));
    let _: Value = serde_json::from_str(&session.state().await.unwrap()).unwrap();
    close(session);
    settled(&store, &stage).await;
}

#[test]
fn a_code_says_the_same_of_a_failure_and_of_a_tools_error() {
    for code in ErrorCode::ALL {
        let failure = Failure::new(code, "").in_phase(Phase::Tool);
        let error = ToolError::new(ToolErrorType::ExecutionError, "").with_code(code);
        assert_eq!(error.data(), Some(failure.data()), "{code:?}");
        assert_eq!(error.delivered(), failure.delivered, "{code:?}");
    }
    for code in [ErrorCode::Denied, ErrorCode::RateLimited, ErrorCode::InputRequired] {
        let failure = Failure::new(code, "");
        assert_eq!((failure.kind, failure.delivered), (FailureKind::Action, Delivered::No), "{code:?}");
    }
}

#[test]
fn a_call_without_a_code_was_delivered_as_its_category_says() {
    for (category, delivered) in [
        (ToolErrorType::ExecutionError, Delivered::Yes),
        (ToolErrorType::InvalidArgs, Delivered::No),
        (ToolErrorType::ToolNotFound, Delivered::No),
        (ToolErrorType::TransportError, Delivered::Maybe),
        (ToolErrorType::Timeout, Delivered::Maybe),
    ] {
        assert_eq!(ToolError::new(category, "").delivered(), delivered, "{category:?}");
    }
}
