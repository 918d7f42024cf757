//! The requests of each kind of load, built before it starts.
//!
//! Entry point: [`build`]. [`frame_text`] builds the frames of many sessions on one socket once the ids of
//! the sessions are known.

use anyhow::bail;
use serde_json::{Value, json};

use crate::frame;
use crate::load_kind::LoadKind;
use crate::target::Target;

/// The request of a load, as sent.
pub(crate) fn build(kind: LoadKind, target: &Target, action: &Value) -> anyhow::Result<Vec<u8>> {
    Ok(match kind {
        LoadKind::Ws | LoadKind::Churn => {
            frame::text(json!({ "type": "step", "data": action }).to_string().as_bytes())
        }
        // Only its length is used: the real frames have session ids, which are as long as this one.
        LoadKind::Multiplex | LoadKind::Batch(_) => {
            let id = "00000000-0000-4000-8000-000000000000".to_owned();
            let steps = if let LoadKind::Batch(steps) = kind { steps } else { 1 };
            frame::text(frame_text(kind, 0, &vec![&id; steps], action).as_bytes())
        }
        // The client builds its own frames.
        LoadKind::Client(_) | LoadKind::ClientMany(_) => action.to_string().into_bytes(),
        LoadKind::Http => target.post("/step", &json!({ "action": action }).to_string()),
        LoadKind::Call(protocol) => protocol.request(target, "tools/call", call_params(action)?),
        LoadKind::List(protocol) => protocol.request(target, "tools/list", json!({})),
        LoadKind::Tools => target.bodyless("GET", "/tools"),
    })
}

/// The params of `tools/call`; a `call_tool` action is converted.
fn call_params(action: &Value) -> anyhow::Result<Value> {
    if action.get("name").is_some() {
        return Ok(action.clone());
    }
    let Some(name) = action.get("tool_name") else {
        bail!("--message for mcp must name a tool: {{\"name\":…,\"arguments\":…}} or a call_tool action");
    };
    Ok(json!({ "name": name, "arguments": action.get("arguments").unwrap_or(&json!({})) }))
}

/// The text of a frame: one step, or a batch with one step for each of `ids`.
pub(crate) fn frame_text(kind: LoadKind, index: usize, ids: &[&String], action: &Value) -> String {
    let step = |id: &&String| json!({ "type": "step", "session": id, "data": action });
    let frame = match kind {
        LoadKind::Batch(_) => {
            let items: Vec<Value> = ids.iter().map(step).collect();
            json!({ "id": index, "type": "batch", "data": { "items": items } })
        }
        _ => {
            let mut frame = json!({ "id": index });
            if let (Value::Object(frame), Some(Value::Object(step))) = (&mut frame, ids.first().map(step)) {
                frame.extend(step);
            }
            frame
        }
    };
    frame.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ECHO_ACTION;

    #[test]
    fn an_action_becomes_the_params_of_a_call() {
        let action: Value = serde_json::from_str(ECHO_ACTION).unwrap();
        let expected = json!({ "name": "echo_message", "arguments": { "message": "hello" } });
        assert_eq!(call_params(&action).unwrap(), expected);
        assert_eq!(call_params(&expected).unwrap(), expected);
        assert!(call_params(&json!({ "message": "hi" })).is_err());
    }

    #[test]
    fn a_frame_is_a_step_or_a_batch_of_steps() {
        let (one, two) = ("a".to_owned(), "b".to_owned());
        let action = json!({ "x": 1 });
        let step = frame_text(LoadKind::Multiplex, 3, &[&one], &action);
        assert_eq!(step, r#"{"id":3,"type":"step","session":"a","data":{"x":1}}"#);
        let batch: Value =
            serde_json::from_str(&frame_text(LoadKind::Batch(2), 0, &[&one, &two], &action)).unwrap();
        assert_eq!(batch["data"]["items"][1], json!({ "type": "step", "session": "b", "data": { "x": 1 } }));
    }
}
