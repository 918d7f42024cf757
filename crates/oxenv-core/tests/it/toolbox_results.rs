//! What comes back from a tool: results that must fit, deadlines, panics.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{CallContext, CallRequest, Mount, Principal, Toolbox, Work};
use oxenv_wire::{Content, ErrorCode, FailureKind, Structured, ToolErrorType, ToolResult, raw};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::toolbox_support::{Outcome, Set, ask, broken, done, mounts, value};

fn counted() -> Value {
    json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] })
}

/// A toolbox whose one tool declares that output and gives that result.
fn giving(output: Value, validates: bool, result: ToolResult) -> Toolbox {
    let set = Set::with_schemas("set", json!({}), Some(output))
        .with(|set| set.validates = validates)
        .answering(move |_, _| Work::done(Ok(result.clone())));
    Toolbox::new(vec![Mount::new(Arc::new(set))])
}

fn object(value: &Value) -> ToolResult {
    ToolResult { structured: Structured::Object(raw(value).unwrap()), ..ToolResult::default() }
}

fn text() -> ToolResult {
    let content = [Content::Text("only text".to_owned())].into_iter().collect();
    ToolResult { content, ..ToolResult::default() }
}

async fn outcome(toolbox: &Toolbox) -> Outcome {
    ask(toolbox, "tool", "{}").await
}

#[tokio::test]
async fn a_result_must_fit_what_its_server_declared() {
    outcome(&giving(counted(), false, object(&json!({ "n": 1 })))).await.unwrap();
    for (result, why) in [
        (object(&json!({ "n": "one" })), "at '/n'"),
        (object(&json!({})), "\"n\" is a required property"),
        (text(), "no structured content"),
        (ToolResult::from_value("bare").unwrap(), "required"),
    ] {
        let error = outcome(&giving(counted(), false, result.clone())).await.unwrap_err();
        assert_eq!(
            (error.error_type, error.code),
            (ToolErrorType::ExecutionError, Some(ErrorCode::InvalidResult))
        );
        assert!(error.message.contains("'tool'") && error.message.contains(why), "{}", error.message);
        assert_eq!(error.data().unwrap().kind, FailureKind::Environment);
        // Whoever checks for itself is believed.
        outcome(&giving(counted(), true, result)).await.unwrap();
    }
}

#[tokio::test]
async fn a_bare_value_is_held_against_the_schema_as_it_travels() {
    let wrapped = json!({ "type": "object", "properties": { "result": { "type": "integer" } } });
    outcome(&giving(wrapped.clone(), false, ToolResult::from_value(&3).unwrap())).await.unwrap();
    let error = outcome(&giving(wrapped, false, ToolResult::from_value("3").unwrap())).await.unwrap_err();
    assert!(error.message.contains("at '/result'"), "{}", error.message);
}

#[tokio::test]
async fn an_error_and_a_wish_for_input_need_not_fit() {
    let complaint = ToolResult { is_error: true, ..text() };
    assert!(outcome(&giving(counted(), false, complaint)).await.unwrap().is_error);
    let asking = ToolResult { input_required: Some(raw(&json!({})).unwrap()), ..ToolResult::default() };
    assert!(outcome(&giving(counted(), false, asking)).await.unwrap().input_required.is_some());
    // A schema that is none holds nobody to it.
    outcome(&giving(json!({ "type": 5 }), false, text())).await.unwrap();
}

/// Neither the value, which may be large and may be secret, nor names without end.
#[tokio::test]
async fn why_a_result_does_not_fit_is_told_without_it() {
    let secret = format!("hunter2{}", "x".repeat(1_000_000));
    let name = "n".repeat(1_000_000);
    let closed = json!({ "type": "object", "additionalProperties": false });
    for (schema, result) in [
        (counted(), json!({ "n": secret })),
        (json!({ "type": "array" }), json!({ "n": secret })),
        (closed, json!({ name.clone(): 1 })),
        (json!({ "additionalProperties": { "type": "integer" } }), json!({ name: "hunter2" })),
    ] {
        let error = outcome(&giving(schema, false, object(&result))).await.unwrap_err();
        assert!(error.message.len() < 20_000, "{} bytes", error.message.len());
        assert!(!error.message.contains("hunter2"), "{}", error.message);
    }
}

#[tokio::test(start_paused = true)]
async fn each_mount_may_have_its_own_deadline() {
    let silent = || Arc::new(Set::new("silent", &["wait"]).answering(|_, _| Work::pending(pending())));
    for (own, toolboxes, expected) in [
        (Some(Duration::from_secs(3)), None, 3),
        (Some(Duration::from_secs(3)), Some(Duration::from_secs(7)), 3),
        (None, Some(Duration::from_secs(7)), 7),
        (None, None, 30),
    ] {
        let toolbox = Toolbox::new(vec![Mount { deadline: own, ..Mount::new(silent()) }]);
        let toolbox = match toolboxes {
            Some(deadline) => toolbox.with_deadline(deadline),
            None => toolbox,
        };
        let started = Instant::now();
        let error = ask(&toolbox, "wait", "{}").await.unwrap_err();
        assert_eq!(started.elapsed(), Duration::from_secs(expected));
        assert_eq!(
            (error.error_type, error.code),
            (ToolErrorType::Timeout, Some(ErrorCode::DeadlineExceeded))
        );
        assert!(
            error.message.contains(&format!("'wait' did not answer within {expected} s")),
            "{}",
            error.message
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_beyond_every_clock_is_none() {
    let slow = Set::new("slow", &["wait"]).answering(|_, _| {
        Work::pending(async {
            tokio::time::sleep(Duration::from_secs(1_000_000)).await;
            done(&json!("at last")).await
        })
    });
    let mount = Mount { deadline: Some(Duration::MAX), ..Mount::new(Arc::new(slow)) };
    assert_eq!(value(&ask(&Toolbox::new(vec![mount]), "wait", "{}").await), json!("at last"));
}

#[tokio::test]
async fn a_panic_is_that_calls_error_and_nothing_more() {
    let set = Set::new("set", &["now", "later", "fine"]).answering(|tool, _| match tool {
        "now" => panic!("secret of the panic"),
        "later" => Work::pending(async {
            tokio::task::yield_now().await;
            panic!("secret of the panic")
        }),
        _ => done(&json!(1)),
    });
    let toolbox = Toolbox::new(mounts(&[&Arc::new(set)]));
    for tool in ["now", "later"] {
        let error = ask(&toolbox, tool, "{}").await.unwrap_err();
        assert_eq!(error.error_type, ToolErrorType::ExecutionError);
        assert!(error.message.contains(tool) && !error.message.contains("secret"), "{}", error.message);
        ask(&toolbox, "fine", "{}").await.unwrap();
    }
}

#[tokio::test]
async fn an_error_of_the_toolset_passes_as_it_is() {
    let set = Set::new("set", &["tool"]).answering(|_, _| broken("it broke"));
    let error = ask(&Toolbox::new(mounts(&[&Arc::new(set)])), "tool", "{}").await.unwrap_err();
    assert_eq!((error.message.as_str(), error.code), ("it broke", None));
}

#[tokio::test]
async fn no_tools_is_a_toolbox_too() {
    let toolbox = Toolbox::empty();
    let error = toolbox
        .find("x")
        .call(&CallRequest::new(CallContext::sessionless(Principal::Agent), None))
        .await
        .unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
    assert_eq!(&*toolbox.listing(Principal::Agent, oxenv_wire::ToolSpelling::Rest), "[]");
    assert!(toolbox.problems().is_empty() && toolbox.tools(Principal::Control).is_empty());
    toolbox.reset(oxenv_core::EpisodeSeeds::before_reset(1)).await.unwrap();
    toolbox.close();
}

/// A server may answer an error as large as it likes; whoever reads it cannot.
#[tokio::test]
async fn an_error_is_never_longer_than_somebody_reads() {
    let set = Set::new("set", &["tool"]).answering(|_, _| broken(&"é".repeat(1_000_001)));
    let error = ask(&Toolbox::new(mounts(&[&Arc::new(set)])), "tool", "{}").await.unwrap_err();
    assert_eq!(error.message, "é".repeat(8 << 10));
}
