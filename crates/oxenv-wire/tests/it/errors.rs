//! Errors: a frame for each code, the HTTP bodies of refusals, and every type of validation issue.
//!
//! Invariant: stock codes have stock shapes; what is ours stands under `oxenv` and nowhere else.

use oxenv_wire::{
    Delivered, ErrorCode, ErrorData, FailureKind, JsonError, Loc, Phase, ValidationIssue, render_issues,
    write_error_frame,
};
use serde_json::{Value, json};

use crate::enumerations::{CODES, word};
use crate::golden::{Golden, check};
use crate::pretty::{array, json, object, quoted};
use crate::results::raw;

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens: Vec<Golden> = CODES.into_iter().map(frame).collect();
    let failure =
        object(&[("detail", quoted("the step ran past its deadline")), ("oxenv", json(&data(CODES[9])))]);
    goldens.extend([
        Golden::reply("error-body-failure", failure),
        Golden::reply("error-body-invalid-json", object(&[("detail", array([json(&syntax())]))])),
        Golden::reply("error-body-invalid-action", object(&[("detail", json(&issues()))])),
        Golden::reply("error-body-invalid-body", object(&[("detail", json(&without_url()))])),
        Golden::reply("error-text-of-issues", quoted(&render_issues("JsonRpcRequest", &issues()))),
        Golden::reply("error-text-of-an-issue", quoted(&render_issues("JsonRpcRequest", &issues()[..1]))),
    ]);
    goldens
}

/// The frame of a code, with what belongs to it.
fn frame(code: ErrorCode) -> Golden {
    let capacity = [("active_sessions", json!(2)), ("max_sessions", json!(2))];
    let factory = [("factory_name", json!("EchoEnvironment"))];
    let issues = issues();
    let ours = data(code);
    let (message, issues, extra, ours): (&str, &[ValidationIssue], &[(&str, Value)], _) = match code {
        ErrorCode::InvalidJson => ("Invalid JSON: Expecting value: line 1 column 1 (char 0)", &[], &[], None),
        ErrorCode::UnknownType => ("Unknown message type: bogus", &[], &[], None),
        ErrorCode::ValidationError => ("Invalid message", &issues, &[], None),
        ErrorCode::CapacityReached => {
            ("Server at capacity: 2/2 sessions active. Cannot accept new connections.", &[], &capacity, None)
        }
        ErrorCode::Draining => ("the server is shutting down", &[], &capacity, Some(&ours)),
        ErrorCode::FactoryError => ("the factory \"failed\"\n\u{7f}é", &[], &factory, Some(&ours)),
        _ => ("what happened", &[], &[], Some(&ours)),
    };
    let mut out = String::new();
    write_error_frame(&mut out, code, message, issues, extra, ours);
    Golden::reply(format!("error-frame-{}", word(&code).to_lowercase().replace('_', "-")), out)
}

fn data(code: ErrorCode) -> ErrorData {
    let (kind, phase, delivered) = match code {
        ErrorCode::DeadlineExceeded => (FailureKind::Timeout, Phase::Step, Delivered::Maybe),
        ErrorCode::EpisodeDone | ErrorCode::WrongEpoch => (FailureKind::Action, Phase::Tool, Delivered::No),
        ErrorCode::NonFiniteReward => (FailureKind::Environment, Phase::Verify, Delivered::Yes),
        ErrorCode::EnvironmentPanicked => (FailureKind::Environment, Phase::Reset, Delivered::Yes),
        _ => (FailureKind::Infrastructure, Phase::Boot, Delivered::No),
    };
    ErrorData { code, kind, phase, delivered, retryable: code == ErrorCode::Draining }
}

fn syntax() -> ValidationIssue {
    ValidationIssue::syntax(&JsonError::diagnose("{\"a\":\n bad"))
}

fn issues() -> Vec<ValidationIssue> {
    let object = raw(r#"{"type":"call_tool"}"#);
    let mut nested = ValidationIssue::missing(&["id"], &raw("{}"));
    nested.loc.splice(0..0, [Loc::from("calls"), Loc::Index(2)]);
    vec![
        ValidationIssue::missing(&["tool_name"], &object),
        ValidationIssue::literal(&["type"], "call_tool", &raw("\"bogus\"")),
        ValidationIssue::not_object(&["data"], &raw("[]")),
        ValidationIssue::not_string(&["tool_name"], &raw("5")),
        ValidationIssue::extra(&["bogus"], &raw("1")),
        nested,
    ]
}

fn without_url() -> Vec<ValidationIssue> {
    issues().into_iter().map(ValidationIssue::without_url).collect()
}

#[test]
fn every_error_is_its_golden() {
    check(goldens());
}

/// Whatever a client sent is echoed in a form that any JSON reader takes, a Rust one included.
#[test]
fn an_echoed_input_is_always_readable() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let long = format!("\"{}\"", "x".repeat(2000));
    for input in ["\"\\ud800\"", r#"{"\udfff":1}"#, "1e999", deep.as_str(), long.as_str()] {
        let issue = ValidationIssue::extra(&["a"], &raw(input));
        let value = serde_json::to_value(&issue).expect("an issue is a JSON value");
        assert!(value["input"].is_string(), "{value}");
        assert!(json(&issue).len() < 2048);
    }
    let kept = ValidationIssue::extra(&["a"], &raw(r#"{"n":123456789012345678901234567890}"#));
    assert!(json(&kept).contains("123456789012345678901234567890"), "what is readable is echoed to the byte");
}
