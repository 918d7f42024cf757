//! Observations: each type of reward, each spelling of an action with each outcome, in both
//! envelopes; states and `mcp` frames.
//!
//! Invariant: the same parts go into the frame and into the body, so that the two files beside each
//! other show how the envelopes differ: the type of the reward, and where metadata stands.

use oxenv_wire::{
    CallOutcome, CodeCall, CodeException, CodeOutcome, CodePart, ErrorCode, ObservationParts, Reward,
    RpcCode, RpcError, RpcId, Spelling, ToolError, ToolErrorType, ToolResult, call_metadata, graph_metadata,
    raw, write_call_fields, write_code_fields, write_graph_fields, write_mcp_frame, write_observation_body,
    write_observation_frame, write_rpc_error, write_rpc_result, write_state_frame,
};
use serde_json::json;

use crate::golden::{Golden, check};
use crate::results::{image_result, tools};

/// What a golden observation is made of.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// The observation's own fields.
    pub(crate) fields: &'a str,
    /// Its metadata.
    pub(crate) metadata: &'a str,
    /// Its reward.
    pub(crate) reward: Option<Reward>,
    /// Whether it ends the episode.
    pub(crate) done: bool,
}

const EMPTY: Parts<'_> = Parts { fields: "{}", metadata: "{}", reward: None, done: false };

impl Parts<'_> {
    pub(crate) fn frame(self) -> String {
        let mut out = String::new();
        write_observation_frame(&mut out, &self.wire(), |out| out.push_str(self.fields));
        out
    }

    pub(crate) fn body(self) -> String {
        let mut out = String::new();
        write_observation_body(&mut out, &self.wire(), |out| out.push_str(self.fields));
        out
    }

    fn wire(&self) -> ObservationParts<'_> {
        ObservationParts { metadata: self.metadata, reward: self.reward, done: self.done }
    }

    fn goldens(self, name: &str) -> [Golden; 2] {
        [
            Golden::reply(format!("observation-frame-{name}"), self.frame()),
            Golden::reply(format!("observation-body-{name}"), self.body()),
        ]
    }
}

pub(crate) fn goldens() -> Vec<Golden> {
    let mut goldens = Vec::new();
    goldens.extend(rewards());
    goldens.extend(environments());
    goldens.extend(spelled());
    let mut state = String::new();
    write_state_frame(&mut state, r#"{"episode_id":"ep-7","step_count":3,"board":[[0,1],[-1,0]]}"#);
    goldens.push(Golden::reply("state-frame", state));
    let mut result = String::new();
    write_mcp_frame(&mut result, |out| {
        write_rpc_result(out, RpcId::NULL, |out| out.push_str(r#"{"session_id":"s-1"}"#));
    });
    goldens.push(Golden::reply("mcp-frame-result", result));
    let mut error = String::new();
    write_mcp_frame(&mut error, |out| {
        write_rpc_error(out, RpcId::NULL, &RpcError::new(RpcCode::MethodNotFound, "Method not found: reset"));
    });
    goldens.push(Golden::reply("mcp-frame-error", error));
    goldens
}

fn rewards() -> Vec<Golden> {
    let rewards = [
        ("null", None),
        ("true", Some(Reward::Bool(true))),
        ("false", Some(Reward::Bool(false))),
        ("integer", Some(Reward::Int(-3))),
        ("float", Some(Reward::Float(0.0))),
        ("fraction", Some(Reward::Float(-0.1))),
        ("large-float", Some(Reward::Float(1e300))),
    ];
    let parts = |reward| Parts { reward, done: true, ..EMPTY };
    rewards.into_iter().flat_map(|(name, reward)| parts(reward).goldens(&format!("reward-{name}"))).collect()
}

/// Observations of environments, as they reach a client that sent their own actions.
fn environments() -> Vec<Golden> {
    let reset = Parts {
        metadata: r#"{"status":"ready","message":"Echo environment ready!"}"#,
        reward: Some(Reward::Float(0.0)),
        ..EMPTY
    };
    let typed = Parts {
        fields: r#"{"board":[[0,0,0],[0,1,-1]],"legal_actions":[0,1,2]}"#,
        metadata: r#"{"next_player":-1}"#,
        reward: Some(Reward::Int(1)),
        done: true,
    };
    let code = Parts { fields: r#"{"stdout":"4\n","stderr":"","exit_code":0}"#, ..EMPTY };
    let echoed = Parts { fields: r#"{"echoed_message":"hi","message_length":2}"#, ..EMPTY };
    let (mut ended, mut raised) = (String::new(), String::new());
    write_code_fields(&mut ended, &ended_program());
    write_code_fields(&mut raised, &raised_program());
    let program = Parts { fields: &ended, ..EMPTY };
    let exception = Parts { fields: &raised, ..EMPTY };
    [
        ("reset", reset),
        ("typed", typed),
        ("code", code),
        ("message", echoed),
        ("program", program),
        ("program-exception", exception),
    ]
    .into_iter()
    .flat_map(|(name, parts)| parts.goldens(name))
    .collect()
}

fn ended_program() -> CodeOutcome {
    let call = CodeCall { tool_name: "add".to_owned(), error: None };
    CodeOutcome {
        stdout: "3\n".to_owned(),
        result: raw(&json!({ "sum": 3 })).ok(),
        calls: vec![call],
        ..CodeOutcome::default()
    }
}

fn raised_program() -> CodeOutcome {
    let traceback = "Traceback (most recent call last):\n  File \"<python-input-0>\", line 1, in <module>\n\
                     RuntimeError: timeout: late\n";
    let late = ToolError::new(ToolErrorType::Timeout, "late").with_code(ErrorCode::DeadlineExceeded);
    CodeOutcome {
        stderr: traceback.to_owned(),
        exit_code: 1,
        error: Some(CodeException {
            error_type: "RuntimeError".to_owned(),
            message: "timeout: late".to_owned(),
            traceback: traceback.to_owned(),
        }),
        calls: vec![CodeCall { tool_name: "search".to_owned(), error: Some(late) }],
        truncated: vec![CodePart::Stdout],
        ..CodeOutcome::default()
    }
}

/// Each spelling with each outcome: the tools, a result, a failed call.
fn spelled() -> Vec<Golden> {
    let text = ToolResult::from_value("hi").expect("a string is JSON");
    let object = ToolResult::from_value(&json!({ "message": "hé", "length": 2 })).expect("an object is JSON");
    let said =
        ToolResult { is_error: true, ..ToolResult::from_value("no such file").expect("a string is JSON") };
    let failed =
        ToolError::new(ToolErrorType::InvalidArgs, "1 validation error for call[echo_message]\nmessage");
    let image = image_result();
    let mut goldens = Vec::new();
    for (name, spelling) in
        [("stock", Spelling::Stock), ("journal", Spelling::Journal), ("unified", Spelling::Unified)]
    {
        goldens.extend(listed(spelling, |parts| parts.goldens(&format!("{name}-tools"))));
        for (outcome_name, outcome) in [
            ("text", Ok(&text)),
            ("object", Ok(&object)),
            ("image", Ok(&image)),
            ("failed", Ok(&said)),
            ("error", Err(&failed)),
        ] {
            goldens
                .extend(called(spelling, outcome, |parts| parts.goldens(&format!("{name}-{outcome_name}"))));
        }
    }
    let mut graph = String::new();
    let late = ToolError::new(ToolErrorType::Timeout, "late").with_code(ErrorCode::DeadlineExceeded);
    let outcomes = [
        ("a", Ok(&text)),
        ("b \"2\"", Err(&failed)),
        ("c", Ok(&object)),
        ("d", Ok(&said)),
        ("e", Err(&late)),
    ];
    let outcomes = outcomes.map(|(id, outcome)| (id, CallOutcome::new(outcome)));
    write_graph_fields(&mut graph, &outcomes);
    goldens.extend(Parts { fields: &graph, metadata: &graph_metadata(&outcomes), ..EMPTY }.goldens("graph"));
    goldens
}

fn listed<T>(spelling: Spelling, then: impl FnOnce(Parts<'_>) -> T) -> T {
    let tools: Vec<String> = tools().iter().map(|tool| tool.for_step().get().to_owned()).collect();
    let list = format!("{{\"tools\":[{}]}}", tools.join(","));
    match spelling {
        Spelling::Journal => then(Parts { metadata: &list, ..EMPTY }),
        Spelling::Stock | Spelling::Unified => then(Parts { fields: &list, ..EMPTY }),
    }
}

/// Puts the outcome of a call where its spelling wants it.
pub(crate) fn called<T>(
    spelling: Spelling,
    outcome: Result<&ToolResult, &ToolError>,
    then: impl FnOnce(Parts<'_>) -> T,
) -> T {
    let outcome = CallOutcome::new(outcome);
    let mut fields = String::new();
    write_call_fields(&mut fields, spelling, "echo_message", &outcome);
    then(Parts { fields: &fields, metadata: &call_metadata(spelling, &outcome), ..EMPTY })
}

#[test]
fn every_observation_state_and_mcp_frame_is_its_golden() {
    check(goldens());
}

/// An environment in another process may write its JSON with spaces, and an empty object as `{ }`.
#[test]
fn white_space_in_the_parts_never_breaks_the_envelope() {
    for fields in ["{}", "{ }", "{\n}", "{ \"a\": 1 }", "{\"a\" :{}}"] {
        for metadata in ["{}", "{ }", "{\t}", "{ \"m\": [ ] }"] {
            let parts = Parts { fields, metadata, ..EMPTY };
            let frame: serde_json::Value = serde_json::from_str(&parts.frame()).expect("the frame is JSON");
            let body: serde_json::Value = serde_json::from_str(&parts.body()).expect("the body is JSON");
            assert_eq!(frame["data"]["observation"], body["observation"]);
            let metadata: serde_json::Value = serde_json::from_str(metadata).expect("the metadata is JSON");
            assert_eq!(body["observation"]["metadata"], metadata);
            let empty = metadata == json!({});
            assert_eq!(frame["data"].get("metadata").is_none(), empty, "on the socket absent when empty");
            assert_eq!(body["metadata"].is_null(), empty, "over HTTP null when empty");
        }
    }
}
