//! Every request a client may send, and what is understood of it: frames, all spellings of an
//! action, bodies, JSON-RPC.
//!
//! Invariant: what nobody looks into (arguments, typed actions) is shown as it was sent, so a golden
//! file also shows that Python's odd numbers and strings pass through unchanged.

use oxenv_wire::{
    Action, ClientFrame, ForkRequest, Json, RangeRequest, ResetRequest, RestoreRequest, RpcParams,
    RpcRequest, SessionCreate, Spelling, SplitRequest, StepRequest, TaskRequest, ToolCall, default_call,
    legacy_message,
};
use serde_json::value::RawValue;

use crate::golden::{Golden, check};
use crate::pretty::{array, json, object, quoted};

const FRAMES: &[(&str, &str)] = &[
    ("reset", r#"{"type":"reset"}"#),
    ("reset-empty", r#"{"type":"reset","data":{}}"#),
    ("reset-arguments", r#"{"type":"reset","data":{"seed":7,"episode_id":"ep-7","size":[5,5]}}"#),
    ("step", r#"{"type":"step","data":{"type":"list_tools"}}"#),
    ("step-typed", r#"{"data":{"column":3},"type":"step"}"#),
    ("state", r#"{"type":"state"}"#),
    ("close", r#"{"type":"close"}"#),
    ("mcp", r#"{"type":"mcp","data":{"jsonrpc":"2.0","id":1,"method":"tools/list"}}"#),
    ("escaped", r#"{"\u0074ype":"st\u0061te"}"#),
];

const ACTIONS: &[(&str, &str)] = &[
    ("stock-list", r#"{"type":"list_tools"}"#),
    ("stock-list-metadata", r#"{"type":"list_tools","metadata":{"a":1}}"#),
    ("stock-call", r#"{"type":"call_tool","tool_name":"echo_message","arguments":{"message":"hi"}}"#),
    ("stock-call-bare", r#"{"type":"call_tool","tool_name":"noop"}"#),
    ("stock-call-metadata", r#"{"type":"call_tool","tool_name":"noop","arguments":{},"metadata":{"a":1}}"#),
    (
        "stock-call-escaped",
        r#"{"type":"call_tool","tool_name":"\u00e9cho","arguments":{"message":"\u00e9"}}"#,
    ),
    ("journal-list", r#"{"type":"ListToolsAction"}"#),
    ("journal-list-action-type", r#"{"action_type":"ListToolsAction","metadata":null}"#),
    ("journal-call", r#"{"type":"CallToolAction","tool_name":"echo_message","parameters":{"message":"hi"}}"#),
    ("journal-call-action-type", r#"{"action_type":"CallToolAction","tool_name":"noop","parameters":null}"#),
    ("unified-tool", r#"{"action_type":"tool","tool_name":"echo_message","tool_args":{"message":"hi"}}"#),
    ("unified-tool-all-fields", r#"{"action_type":"tool","tool_name":"noop","tool_args":null,"code":null}"#),
    ("unified-code", r#"{"action_type":"code","code":"print(2 + 2)\n"}"#),
    (
        "unified-code-all-fields",
        r#"{"action_type":"code","code":"x","tool_name":null,"tool_args":null,"metadata":{}}"#,
    ),
    (
        "graph",
        concat!(
            r#"{"type":"call_tools","calls":[{"id":"a","tool_name":"read","arguments":{"path":"x"}},"#,
            r#"{"id":"b","tool_name":"write","arguments":{"text":"${a.text}"},"needs":["a"]},{"id":"c","tool_name":"noop"}]}"#,
        ),
    ),
    ("graph-empty", r#"{"type":"call_tools","calls":[],"metadata":{}}"#),
    ("typed", r#"{"column":3}"#),
    ("typed-other-type", r#"{"type":"move","action_type":5,"to":[1,2]}"#),
    ("typed-without-type", r#"{"tool_name":"echo_message","arguments":{"message":"no type"}}"#),
    ("code", r#"{"code":"x = 1"}"#),
    ("message", r#"{"message":"hi","metadata":{}}"#),
    (
        "python-values",
        concat!(
            r#"{"type":"call_tool","tool_name":"noop","arguments":{"n":"#,
            r#"1234567890123456789012345678901234567890123456789012345678901234567890,"f":1E400,"s":"\ud800","z":-0,"#,
            r#""twice":1,"twice":2,"deep":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}}"#,
        ),
    ),
];

const RESETS: &[(&str, &str)] = &[
    ("none", "{}"),
    ("nulls", r#"{"seed":null,"episode_id":null}"#),
    ("all", r#"{"seed":18446744073709551615,"episode_id":"ep-1","extra":{"a":[1]}}"#),
];
const STEPS: &[(&str, &str)] = &[
    ("action", r#"{"action":{"type":"list_tools"}}"#),
    (
        "all",
        concat!(
            r#"{"action":{"column":0},"timeout_s":0.5,"request_id":"r-1","expected_step":3,"key":"k-1","#,
            r#""seq":4,"extra":true}"#,
        ),
    ),
    ("nulls", r#"{"action":{},"timeout_s":null,"request_id":null,"expected_step":null,"key":null}"#),
    (
        "long-timeout",
        concat!(
            r#"{"action":{},"timeout_s":"#,
            r#"1234567890123456789012345678901234567890123456789012345678901234567890}"#,
        ),
    ),
];
const SESSIONS: &[(&str, &str)] =
    &[("none", "{}"), ("all", r#"{"seed":1,"episode_id":"ep-1","resume_s":30,"queue_s":0.5}"#)];
const SPLITS: &[(&str, &str)] = &[("split", r#"{"split":"train"}"#)];
const TASKS: &[(&str, &str)] =
    &[("index", r#"{"split":"train","index":3}"#), ("index-from-the-end", r#"{"split":"train","index":-1}"#)];
const RANGES: &[(&str, &str)] = &[
    ("all", r#"{"split":"train"}"#),
    ("nulls", r#"{"split":"train","start":null,"stop":null}"#),
    ("both", r#"{"split":"train","start":-9223372036854775808,"stop":9223372036854775807}"#),
];

const MESSAGES: &[(&str, &str)] = &[
    ("tools-list", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#),
    (
        "tools-list-params",
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"session_id":"s-1"}}"#,
    ),
    (
        "tools-call",
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"noop","arguments":{"a":1}}}"#,
    ),
    (
        "tools-call-bare",
        r#"{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"noop","arguments":null}}"#,
    ),
    (
        "tools-call-newer-keys",
        concat!(
            r#"{"jsonrpc":"2.0","id":-1,"method":"tools/call","#,
            r#""params":{"name":"noop","session_id":"s-1","_meta":{"progressToken":1},"task":{}}}"#,
        ),
    ),
    ("session-create", r#"{"jsonrpc":"2.0","id":3,"method":"openenv/session/create","params":null}"#),
    (
        "session-close",
        r#"{"jsonrpc":"2.0","id":4,"method":"openenv/session/close","params":{"session_id":"s-1"}}"#,
    ),
    ("notification", r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#),
    ("null-id", r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
    ("large-id", r#"{"jsonrpc":"2.0","id":-170141183460469231731687303715884105728,"method":"ping"}"#),
    ("escaped-id", r#"{"jsonrpc":"2.0","id":"\u0061\ud83d\ude00","method":"\u0070ing"}"#),
];

const FORKS: &[(&str, &str)] = &[("default", "{}"), ("eight", r#"{"n":8}"#)];

const RESTORES: &[(&str, &str)] = &[("opaque", r#"{"snapshot":"b3hlbnYuMS4="}"#)];

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = Vec::new();
    let mut add = |kind: &str, cases: &[(&str, &str)], understand: fn(&str) -> String| {
        for (name, text) in cases {
            let shown = object(&[("sent", (*text).to_owned()), ("understood", understand(text))]);
            goldens.push(Golden::new(format!("request-{kind}-{name}"), shown));
        }
    };
    add("frame", FRAMES, |text| frame(&ClientFrame::parse(text).expect("a frame")));
    add("action", ACTIONS, |text| action(&value(text)));
    add("body-reset", RESETS, |text| reset(&ResetRequest::parse(&value(text), &["body"]).expect("a reset")));
    add("body-step", STEPS, |text| step(&StepRequest::parse(&value(text), &["body"]).expect("a step")));
    add("body-session", SESSIONS, |text| {
        session(&SessionCreate::parse(&value(text), &["body"]).expect("a body"))
    });
    add("body-fork", FORKS, |text| {
        let request = ForkRequest::parse(&value(text), &["body"]).expect("a body");
        object(&[("n", json(&request.n)), ("resume_s", json(&request.resume_s))])
    });
    add("body-restore", RESTORES, |text| {
        let value = value(text);
        let request = RestoreRequest::parse(&value, &["body"]).expect("a body");
        object(&[("snapshot", json(&request.snapshot)), ("resume_s", json(&request.resume_s))])
    });
    add("body-tasks", SPLITS, |text| {
        object(&[("split", json(&SplitRequest::parse(&value(text), &["body"]).expect("a body").split))])
    });
    add("body-task", TASKS, |text| {
        let value = value(text);
        let task = TaskRequest::parse(&value, &["body"]).expect("a body");
        object(&[("split", json(&task.split)), ("index", json(&task.index))])
    });
    add("body-task-range", RANGES, |text| {
        let value = value(text);
        let range = RangeRequest::parse(&value, &["body"]).expect("a body");
        object(&[("split", json(&range.split)), ("start", json(&range.start)), ("stop", json(&range.stop))])
    });
    add("rpc", MESSAGES, |text| message(&RpcRequest::parse(text).expect("a request")));
    goldens
}

fn frame(frame: &ClientFrame<'_>) -> String {
    match frame {
        ClientFrame::Reset(request) => object(&[("frame", quoted("reset")), ("request", reset(request))]),
        ClientFrame::Step(action) => {
            object(&[("frame", quoted("step")), ("action", action.json().get().to_owned())])
        }
        ClientFrame::State => object(&[("frame", quoted("state"))]),
        ClientFrame::Close => object(&[("frame", quoted("close"))]),
        ClientFrame::Mcp(message) => {
            object(&[("frame", quoted("mcp")), ("message", message.get().to_owned())])
        }
    }
}

fn action(value: &RawValue) -> String {
    match Action::parse(value).expect("an action") {
        Action::ListTools(spelling) => {
            object(&[("action", quoted("list tools")), ("reply", reply(spelling))])
        }
        Action::CallTool(call) => object(&[("action", quoted("call a tool")), ("call", tool_call(&call))]),
        Action::CallTools(graph) => {
            let calls = graph.calls.iter().map(|call| {
                object(&[
                    ("id", json(&call.id)),
                    ("tool name", json(&call.tool_name)),
                    ("arguments", optional(call.arguments)),
                    ("needs", json(&call.needs)),
                ])
            });
            object(&[("action", quoted("call tools")), ("calls", array(calls))])
        }
        Action::Code(code) => object(&[("action", quoted("run code")), ("code", json(&code))]),
        Action::Typed(typed) => {
            let call = default_call(typed).map_or_else(|_| "null".to_owned(), |call| tool_call(&call));
            object(&[
                ("action", quoted("the environment's own")),
                ("typed", typed.get().to_owned()),
                ("as a call in an environment of tools", call),
                ("as echo's deprecated message", json(&legacy_message(typed))),
            ])
        }
    }
}

fn tool_call(call: &ToolCall<'_>) -> String {
    object(&[
        ("name", json(&call.name)),
        ("arguments", optional(call.arguments)),
        ("reply", reply(call.spelling)),
    ])
}

fn reply(spelling: Spelling) -> String {
    quoted(match spelling {
        Spelling::Stock => "stock",
        Spelling::Journal => "journal",
        Spelling::Unified => "unified",
    })
}

pub(crate) fn reset(request: &ResetRequest<'_>) -> String {
    object(&[
        ("seed", json(&request.seed)),
        ("episode_id", json(&request.episode_id)),
        ("arguments", optional(request.arguments)),
    ])
}

fn step(request: &StepRequest<'_>) -> String {
    object(&[
        ("action", request.action.get().to_owned()),
        ("timeout_s", json(&request.timeout_s)),
        ("request_id", json(&request.request_id)),
        ("expected_step", json(&request.expected_step)),
        ("seq", json(&request.seq)),
        ("key", json(&request.key)),
    ])
}

pub(crate) fn session(request: &SessionCreate<'_>) -> String {
    object(&[
        ("seed", json(&request.seed)),
        ("episode_id", json(&request.episode_id)),
        ("resume_s", json(&request.resume_s)),
        ("queue_s", json(&request.queue_s)),
    ])
}

fn message(request: &RpcRequest<'_>) -> String {
    let params = RpcParams::parse(request.params).expect("parameters");
    let call = params.tool_call().map_or_else(
        |fault| object(&[("refused as a call", quoted(&fault.message))]),
        |call| object(&[("name", json(&call.name)), ("arguments", optional(call.arguments))]),
    );
    object(&[
        ("id", request.id.get().to_owned()),
        ("has an id", json(&request.has_id)),
        ("method", json(&request.method)),
        ("params", optional(request.params.map(Json::raw))),
        ("session_id", json(&params.session_id().expect("a session id or none"))),
        ("as tools/call", call),
    ])
}

fn optional(value: Option<&RawValue>) -> String {
    value.map_or("null", RawValue::get).to_owned()
}

/// A value as the parsers take it, from a text that outlives the test.
fn value(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("the request is JSON")
}

#[test]
fn every_request_is_understood_as_its_golden_says() {
    check(goldens());
}

/// Only the exact values of `type` and `action_type` are ours; a near miss is the environment's.
#[test]
fn near_misses_are_typed_actions() {
    for text in [
        r#"{"type":"LIST_TOOLS"}"#,
        r#"{"type":"call_tool "}"#,
        r#"{"type":["call_tool"]}"#,
        r#"{"type":"\ud800"}"#,
        r#"{"action_type":"call_tool"}"#,
        r#"{"type":"tool"}"#,
        r#"{"type":"code","code":"x"}"#,
        "{}",
    ] {
        let sent = value(text);
        let parsed = Action::parse(&sent).expect("a typed action is not looked into");
        assert!(matches!(parsed, Action::Typed(raw) if raw.get() == text), "{text}: {parsed:?}");
    }
}

#[test]
fn a_message_with_other_keys_is_no_legacy_message() {
    for text in [
        r#"{"message":"hi","x":1}"#,
        r#"{"message":5}"#,
        r#"{"metadata":{}}"#,
        "[]",
        r#"{"message":"\ud800"}"#,
    ] {
        assert_eq!(legacy_message(&value(text)), None, "{text}");
    }
}
