//! Tools that want input before they go on, as MCP 2026-07-28 has it: in rounds, without a session.
//!
//! Invariant: state that comes back is taken only if its seal is ours.

use std::hash::{BuildHasher, RandomState};

use oxenv_core::CallContext;
use oxenv_wire::{ErrorCode, ToolError, ToolErrorType, ToolResult, raw};
use serde_json::{Value, json};

use crate::tools::text;

/// What tells our own state from anybody's.
#[derive(Default)]
pub(crate) struct Seal(RandomState);

impl Seal {
    fn close(&self, state: &str) -> String {
        format!("{state}.{:016x}", self.0.hash_one(state))
    }

    fn open<'a>(&self, sealed: &'a str) -> Result<&'a str, ToolError> {
        let state = sealed.rsplit_once('.').map(|(state, _)| state);
        state.filter(|state| self.close(state) == sealed).ok_or_else(|| {
            ToolError::new(ToolErrorType::InvalidArgs, "the request's state is not as it was given out")
                .with_code(ErrorCode::ValidationError)
        })
    }
}

/// A call of a tool that goes in rounds; nothing for any other tool.
pub(crate) fn call(
    seal: &Seal,
    context: CallContext<'_>,
    tool: &str,
) -> Option<Result<ToolResult, ToolError>> {
    let round = match tool {
        "test_missing_capability" => {
            return Some(Ok(wants(&json!({ "answer": sampling("Are you there?") }), None)));
        }
        other => other.strip_prefix("test_input_required_result_")?,
    };
    let request: Value =
        context.request.and_then(|text| serde_json::from_str(text.get()).ok()).unwrap_or_default();
    let given = &request["inputResponses"];
    let state = request["requestState"].as_str().map(|sealed| seal.open(sealed)).transpose();
    Some(state.map(|state| match round {
        "elicitation" => match given["user_name"]["content"]["name"].as_str() {
            Some(name) => text(&format!("Hello, {name}!")),
            None => wants(&json!({ "user_name": elicitation("What is your name?", "name", "string") }), None),
        },
        "sampling" => match given["capital_question"]["content"]["text"].as_str() {
            Some(answer) => text(answer),
            None => wants(&json!({ "capital_question": sampling("What is the capital of France?") }), None),
        },
        "list_roots" => match given["client_roots"]["roots"].as_array() {
            Some(roots) => text(&format!("the client has these roots: {}", json!(roots))),
            None => wants(&json!({ "client_roots": roots() }), None),
        },
        "multiple_inputs" => multiple(seal, given, state),
        "multi_round" => multi_round(seal, given, state),
        "capabilities" => capable(&request),
        // The same round with the state kept or tampered with.
        _ => match (state, given["confirm"]["content"]["ok"].as_bool()) {
            (Some(_), Some(_)) => text("state-ok"),
            _ => wants(&json!({ "confirm": confirm() }), Some(seal.close("confirm"))),
        },
    }))
}

/// A result that wants input first.
pub(crate) fn wants(requests: &Value, state: Option<String>) -> ToolResult {
    let mut wanted = json!({ "resultType": "input_required", "inputRequests": requests });
    if let Some(state) = state {
        wanted["requestState"] = state.into();
    }
    ToolResult { input_required: raw(&wanted).ok(), ..ToolResult::default() }
}

pub(crate) fn confirm() -> Value {
    elicitation("Please confirm", "ok", "boolean")
}

pub(crate) fn elicitation(message: &str, name: &str, kind: &str) -> Value {
    let schema = json!({ "type": "object", "properties": { name: { "type": kind } }, "required": [name] });
    json!({ "method": "elicitation/create", "params": { "message": message, "requestedSchema": schema } })
}

fn sampling(question: &str) -> Value {
    let messages = json!([{ "role": "user", "content": { "type": "text", "text": question } }]);
    json!({ "method": "sampling/createMessage", "params": { "messages": messages, "maxTokens": 100 } })
}

fn roots() -> Value {
    json!({ "method": "roots/list", "params": {} })
}

fn multiple(seal: &Seal, given: &Value, state: Option<&str>) -> ToolResult {
    let all = ["user_name", "greeting", "client_roots"].iter().all(|key| given.get(key).is_some());
    match state {
        Some(_) if all => text("all three are here"),
        _ => {
            let wanted = json!({
                "user_name": elicitation("What is your name?", "name", "string"),
                "greeting": sampling("Generate a greeting"),
                "client_roots": roots(),
            });
            wants(&wanted, Some(seal.close("three")))
        }
    }
}

fn multi_round(seal: &Seal, given: &Value, state: Option<&str>) -> ToolResult {
    match (state, given) {
        (Some("second"), given) if given.get("step2").is_some() => {
            text(&format!("their colour is {}", given["step2"]["content"]["color"]))
        }
        (Some("first"), given) if given.get("step1").is_some() => {
            let wanted =
                json!({ "step2": elicitation("Step 2: What is your favorite color?", "color", "string") });
            wants(&wanted, Some(seal.close("second")))
        }
        _ => {
            let wanted = json!({ "step1": elicitation("Step 1: What is your name?", "name", "string") });
            wants(&wanted, Some(seal.close("first")))
        }
    }
}

/// Asks only for what the client says that it can give.
fn capable(request: &Value) -> ToolResult {
    let declared = &request["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    let mut wanted = json!({});
    for (capability, question) in
        [("elicitation", confirm()), ("sampling", sampling("Are you there?")), ("roots", roots())]
    {
        if declared.get(capability).is_some() {
            wanted[capability] = question;
        }
    }
    wants(&wanted, None)
}
