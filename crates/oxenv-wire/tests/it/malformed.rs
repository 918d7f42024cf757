//! Every malformed variation of a request, and the documented answer to it.
//!
//! Invariant: each case must be refused; one that is suddenly taken fails here by name. In the texts
//! `@70` stands for an integer of 70 digits, `@256` for 256 characters, `@deep` for 200 levels of
//! nesting, `@abyss` for 100,000 and `@unclosed` for as many that never end.

use oxenv_wire::{
    Action, ClientFrame, ForkRequest, FrameError, Json, JsonError, RangeRequest, ResetRequest,
    RestoreRequest, RpcError, RpcParams, RpcRequest, SessionCreate, SplitRequest, StepRequest, TaskRequest,
    ValidationIssue, default_call,
};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::golden::{Golden, check};
use crate::pretty::{array, json, object, quoted};
use crate::refusals::{
    ACTIONS, DEFAULT_CALLS, FORKS, FRAMES, JSON, RANGES, RESETS, RESTORES, RPC, RPC_PARAMS, SESSIONS, SPLITS,
    STEPS, TASKS,
};

/// A longer text is shown by its beginning.
const MAX_SHOWN_CHARS: usize = 400;

type Issues = Result<(), Vec<ValidationIssue>>;

pub(crate) fn goldens() -> Vec<Golden> {
    vec![
        golden("json", JSON, |text| is_json(text).is_none().then(|| fault(&JsonError::diagnose(text)))),
        golden("frames", FRAMES, |text| ClientFrame::parse(text).err().map(|fault| frame(&fault))),
        golden("actions", ACTIONS, |text| issues(Action::parse(value(text)).map(drop))),
        golden("default-calls", DEFAULT_CALLS, |text| issues(default_call(value(text)).map(drop))),
        golden("body-reset", RESETS, |text| {
            body(text, |value| ResetRequest::parse(value, &["body"]).map(drop))
        }),
        golden("body-step", STEPS, |text| body(text, |value| StepRequest::parse(value, &["body"]).map(drop))),
        golden("body-session", SESSIONS, |text| {
            body(text, |value| SessionCreate::parse(value, &["body"]).map(drop))
        }),
        golden("body-fork", FORKS, |text| body(text, |value| ForkRequest::parse(value, &["body"]).map(drop))),
        golden("body-restore", RESTORES, |text| {
            body(text, |value| RestoreRequest::parse(value, &["body"]).map(drop))
        }),
        golden("body-tasks", SPLITS, |text| {
            body(text, |value| SplitRequest::parse(value, &["body"]).map(drop))
        }),
        golden("body-task", TASKS, |text| body(text, |value| TaskRequest::parse(value, &["body"]).map(drop))),
        golden("body-task-range", RANGES, |text| {
            body(text, |value| RangeRequest::parse(value, &["body"]).map(drop))
        }),
        golden("rpc", RPC, |text| RpcRequest::parse(text).err().map(|fault| rpc(&fault))),
        golden("rpc-params", RPC_PARAMS, params),
    ]
}

pub(crate) fn golden(name: &str, cases: &[(&str, &str)], answer: fn(&str) -> Option<String>) -> Golden {
    let entries = cases.iter().map(|(what, text)| {
        let text = expand(text);
        let answer = answer(&text).unwrap_or_else(|| panic!("{name}: '{what}' is taken: {}", shown(&text)));
        object(&[("what", quoted(what)), ("sent", shown_as_json(&text)), ("answer", answer)])
    });
    Golden::new(format!("malformed-{name}"), array(entries))
}

/// A case with its short names written out.
pub(crate) fn expand(text: &str) -> String {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    text.replace("@70", &"1234567890".repeat(7))
        .replace("@256", &"é".repeat(256))
        .replace("@deep", &nested(200))
        .replace("@abyss", &nested(100_000))
        .replace("@unclosed", &"[".repeat(100_000))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) if text.len() > MAX_SHOWN_CHARS => format!("{}… ({} bytes)", &text[..end], text.len()),
        _ => text.to_owned(),
    }
}

fn shown_as_json(text: &str) -> String {
    let shown = shown(text);
    is_json(&shown).map_or_else(|| quoted(&shown), |()| shown.clone())
}

fn is_json(text: &str) -> Option<()> {
    serde_json::from_str::<IgnoredAny>(text).ok().map(drop)
}

fn value(text: &str) -> &RawValue {
    serde_json::from_str(text).expect("the case is JSON")
}

fn fault(fault: &JsonError) -> String {
    object(&[
        ("message", quoted(&fault.to_string())),
        ("position", json(&fault.position)),
        ("line", json(&fault.line)),
        ("column", json(&fault.column)),
    ])
}

pub(crate) fn frame(found: &FrameError) -> String {
    match found {
        FrameError::Json(found) => {
            object(&[("code", quoted("INVALID_JSON")), ("message", quoted(&found.to_string()))])
        }
        FrameError::NotObject(kind) => {
            object(&[("code", quoted("SESSION_ERROR")), ("python type", quoted(kind))])
        }
        FrameError::UnknownType(name) => object(&[("code", quoted("UNKNOWN_TYPE")), ("type", quoted(name))]),
        FrameError::Invalid(found) => {
            object(&[("code", quoted("VALIDATION_ERROR")), ("errors", json(found))])
        }
    }
}

fn issues(parsed: Issues) -> Option<String> {
    parsed.err().map(|issues| json(&issues))
}

/// A body as the HTTP door reads it: JSON first, then its shape, with no addresses in the issues.
pub(crate) fn body(text: &str, parse: impl FnOnce(&RawValue) -> Issues) -> Option<String> {
    let found = match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => parse(value).err()?,
        Err(_) => vec![ValidationIssue::syntax(&JsonError::diagnose(text))],
    };
    Some(json(&found.into_iter().map(ValidationIssue::without_url).collect::<Vec<_>>()))
}

fn rpc(fault: &RpcError) -> String {
    object(&[
        ("code", (fault.code as i32).to_string()),
        ("message", quoted(&fault.message)),
        ("data", fault.data.to_string()),
    ])
}

fn params(text: &str) -> Option<String> {
    let params = (text != "absent").then(|| value(text));
    let refused = match RpcParams::parse(params.map(Json::from)) {
        Ok(params) => params.session_id().map(drop).and_then(|()| params.tool_call().map(drop)).err(),
        Err(fault) => Some(fault),
    };
    refused.map(|fault| rpc(&fault))
}

#[test]
fn every_malformed_request_gets_its_documented_answer() {
    check(goldens());
}

/// The position of a syntax error points into the text, or at its end.
#[test]
fn positions_are_those_of_characters() {
    for (what, text) in JSON {
        let text = expand(text);
        let found = JsonError::diagnose(&text);
        let before: String = text.chars().take(found.position).collect();
        assert!(found.position <= text.chars().count(), "{what}");
        assert_eq!(found.line, 1 + before.matches('\n').count(), "{what}");
        assert_eq!(found.column, 1 + before.chars().rev().take_while(|c| *c != '\n').count(), "{what}");
    }
}

/// A hostile message of many mistakes must not become an answer many times its size.
#[test]
fn the_number_of_issues_is_bounded() {
    let frame = format!("{{\"type\":\"state\",{}}}", keys(60_000));
    let Err(FrameError::Invalid(found)) = ClientFrame::parse(&frame) else {
        panic!("60,000 extra keys are refused")
    };
    assert_eq!(found.len(), 64);

    let calls = format!("{{\"type\":\"call_tools\",\"calls\":[{}0]}}", "{},".repeat(255));
    let found = Action::parse(value(&calls)).expect_err("calls without an id are refused");
    assert!((64..=66).contains(&found.len()), "{}", found.len());

    let Err(fault) = RpcRequest::parse(&frame) else { panic!("60,000 extra keys are refused") };
    assert!(fault.message.len() < 20_000, "{}", fault.message.len());
}

fn keys(count: usize) -> String {
    (0..count).map(|key| format!("\"{key}\":0")).collect::<Vec<_>>().join(",")
}

/// Splitting an object costs many times its bytes, so there is a bound; an object that is passed on has none.
#[test]
fn an_object_of_too_many_keys_is_refused_where_it_is_split() {
    let many = keys(70_000);
    let says = |message: &str| assert!(message.contains("at most 65536"), "{message}");
    match ClientFrame::parse(&format!("{{\"type\":\"state\",{many}}}")) {
        Err(FrameError::Json(fault)) => says(&fault.message),
        other => panic!("{other:?}"),
    }
    says(&RpcRequest::parse(&format!("{{{many}}}")).expect_err("it has too many keys").message);
    let action = format!("{{{many}}}");
    says(&Action::parse(value(&action)).expect_err("it has too many keys")[0].msg);
    let step = format!("{{\"type\":\"step\",\"data\":{action}}}");
    assert!(matches!(ClientFrame::parse(&step), Err(FrameError::Invalid(_))));
    for object in [format!("{{{}}}", keys(60_000)), format!("{{\"deeper\":{action}}}")] {
        let Ok(Action::Typed(typed)) = Action::parse(value(&object)) else {
            panic!("it is the environment's own")
        };
        assert_eq!(typed.get(), object);
        let step = format!("{{\"type\":\"step\",\"data\":{object}}}");
        let Ok(ClientFrame::Step(typed)) = ClientFrame::parse(&step) else { panic!("it is a step") };
        assert_eq!(typed.json().get(), object);
        let reset = format!("{{\"type\":\"reset\",\"data\":{object}}}");
        assert!(matches!(ClientFrame::parse(&reset), Ok(ClientFrame::Reset(_))));
    }
}

/// A name may be as long as a message may be; what is told about it is short.
#[test]
fn long_names_are_told_by_their_beginning() {
    let long = "k".repeat(1 << 20);
    let action = format!("{{\"type\":\"call_tool\",\"tool_name\":\"x\",\"{long}\":1}}");
    let found = Action::parse(value(&action)).expect_err("a key too many");
    assert!(json(&found).len() < 2000, "{}", json(&found).len());
    let twice = format!("{{\"{long}\":1,\"{long}\":1}}");
    let found = Action::parse(value(&twice)).expect_err("a key twice");
    assert!(json(&found).len() < 2000, "{}", json(&found).len());
    for kind in [format!("\"{long}\""), format!("[\"{long}\"]")] {
        let Err(FrameError::UnknownType(name)) = ClientFrame::parse(&format!("{{\"type\":{kind}}}")) else {
            panic!("an unknown type")
        };
        assert!(name.len() < 300, "{}", name.len());
    }
    let error = oxenv_wire::ToolError::not_found(&long);
    assert!(error.message.len() < 300);
}

/// A graph is read up to what it may have, however much is sent.
#[test]
fn a_graph_is_bounded_as_it_is_read() {
    let call = |more: &str| format!("{{\"id\":\"a\",\"tool_name\":\"t\"{more}}}");
    for (calls, kind) in [
        (vec![call(""); 257], "list_length"),
        (vec![call(&format!(",\"needs\":[{}\"a\"]", "\"a\",".repeat(256)))], "list_type"),
        (vec![call("").replace("\"a\"", &format!("\"{}\"", "é".repeat(256)))], "string_too_long"),
    ] {
        let graph = format!("{{\"type\":\"call_tools\",\"calls\":[{}]}}", calls.join(","));
        let found = Action::parse(value(&graph)).expect_err("it is too large");
        assert_eq!((found.len(), &*found[0].kind), (1, kind));
    }
    let most = call(&format!(",\"needs\":[{}\"a\"]", "\"a\",".repeat(255)));
    let graph = format!("{{\"type\":\"call_tools\",\"calls\":[{}]}}", vec![most; 256].join(","));
    assert!(matches!(Action::parse(value(&graph)), Ok(Action::CallTools(graph)) if graph.calls.len() == 256));
}
