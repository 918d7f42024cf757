//! Steps that are tool calls, in every spelling.

use oxenv_client::{Code, ResetOptions};
use oxenv_wire::{Delivered, ErrorCode};
use serde_json::{Value, json};

use super::{made, nothing_left, simulated};

#[tokio::test]
async fn lists_and_calls_are_answered_in_their_spelling() {
    let simulator = simulated(&[]).await;
    let (orch, _tools) = made(&simulator).await;
    orch.reset(&ResetOptions { episode_id: Some("e1".to_owned()), ..ResetOptions::default() }).await.unwrap();
    let step = async |action: Value| orch.step(&action).await.unwrap().observation_value();

    let stock = step(json!({ "type": "list_tools" })).await;
    assert_eq!(stock["tools"][0]["name"], "computer");
    let journal = step(json!({ "type": "ListToolsAction" })).await;
    assert_eq!(journal["metadata"]["tools"], stock["tools"]);

    let arguments = json!({ "query": "login", "limit": 1 });
    let stock = step(json!({ "type": "call_tool", "tool_name": "search", "arguments": arguments })).await;
    assert_eq!((&stock["tool_name"], &stock["error"]), (&json!("search"), &Value::Null));
    let text = stock["result"]["content"][0]["text"].as_str().unwrap();
    assert!(stock["result"]["is_error"] == false && !text.is_empty());
    let journal =
        step(json!({ "action_type": "CallToolAction", "tool_name": "search", "parameters": arguments }))
            .await;
    assert_eq!(journal["metadata"]["result"], text);
    let unified = step(json!({ "action_type": "tool", "tool_name": "search", "tool_args": arguments })).await;
    assert_eq!(unified["stdout"], text);
    let bare = step(json!({ "tool_name": "search", "arguments": arguments })).await;
    assert_eq!(bare["result"], stock["result"]);

    let state = orch.state().await.unwrap();
    assert_eq!(state, json!({ "episode_id": "e1", "step_count": 6, "instance_id": orch.instance_id() }));
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn the_agent_s_mistakes_are_observations_without_a_reward() {
    let simulator = simulated(&["mcps.call:is-error*2"]).await;
    let (orch, _tools) = made(&simulator).await;
    let call = |name: &str, arguments: Value| {
        json!({
            "type": "call_tool", "tool_name": name, "arguments": arguments
        })
    };
    let seen = orch.step(&call("computer", json!({ "action": "screenshot" }))).await.unwrap();
    assert!(seen.reward.is_none());
    let seen = seen.observation_value();
    let whole = &seen["metadata"]["oxenv"]["result"];
    let said = &whole["content"][0]["text"];
    assert_eq!((&whole["is_error"], said.is_string()), (&json!(true), true), "{seen}");
    assert_eq!(
        (&seen["result"], &seen["error"]),
        (&Value::Null, &json!({ "error_type": "execution_error", "message": said }))
    );
    let journal = json!({
        "type": "CallToolAction", "tool_name": "computer", "parameters": { "action": "screenshot" }
    });
    let seen = orch.step(&journal).await.unwrap().observation_value();
    assert!(seen["metadata"]["error"].is_string(), "{seen}");
    let seen = orch.step(&call("no_such_tool", json!({}))).await.unwrap().observation_value();
    assert_eq!(seen["error"]["error_type"], "tool_not_found");
    let seen = orch.step(&call("computer", json!({ "action": 7 }))).await.unwrap().observation_value();
    assert_eq!(seen["error"]["error_type"], "invalid_args");
    drop(orch);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn a_screenshot_reaches_every_spelling() {
    let simulator = simulated(&["mcps.call:mcp-image"]).await;
    let (orch, _tools) = made(&simulator).await;
    let arguments = json!({ "action": "screenshot" });
    let stock = json!({ "type": "call_tool", "tool_name": "computer", "arguments": arguments });
    let stock = orch.step(&stock).await.unwrap().observation_value();
    assert_eq!(stock["result"]["content"][0]["type"], "image");
    let journal = json!({ "type": "CallToolAction", "tool_name": "computer", "parameters": arguments });
    let journal = orch.step(&journal).await.unwrap().observation_value();
    assert_eq!(journal["metadata"], json!({ "result": "", "content": stock["result"]["content"] }));
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn other_actions_are_unsupported_and_say_why() {
    let simulator = simulated(&[]).await;
    let (orch, _tools) = made(&simulator).await;
    for action in [
        json!({ "column": 3 }),
        json!({ "action_type": "code", "code": "1" }),
        json!({ "type": "call_tools", "calls": [] }),
    ] {
        let error = orch.step(&action).await.unwrap_err();
        assert_eq!(error.code(), Code::Server(ErrorCode::Unsupported), "{error}");
        assert_eq!(error.delivered(), Delivered::No);
        assert!(error.message().contains("Fleet serves no /step"), "{error}");
    }
    let error = orch.step(&json!({ "type": "call_tool" })).await.unwrap_err();
    assert_eq!(error.code(), Code::Server(ErrorCode::ValidationError), "{error}");
    let error = orch.step(&json!([1])).await.unwrap_err();
    assert_eq!(error.code(), Code::Server(ErrorCode::ValidationError), "{error}");
    assert_eq!(orch.state().await.unwrap()["step_count"], 0);
    drop(orch);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn a_call_that_nobody_knows_of_is_a_failure_and_no_observation() {
    for (fault, code) in
        [("mcps.call:lose-session-in-call*1", Code::ConnectionLost), ("mcps.call:502", Code::ConnectionLost)]
    {
        let simulator = simulated(&[]).await;
        let (orch, _tools) = made(&simulator).await;
        simulator.inject(fault.parse().unwrap());
        let call =
            json!({ "type": "call_tool", "tool_name": "computer", "arguments": { "action": "screenshot" } });
        let error = orch.step(&call).await.unwrap_err();
        assert_eq!((error.code(), error.delivered()), (code, Delivered::Maybe), "{fault}: {error}");
        drop(orch);
        nothing_left(&simulator).await;
    }
}
