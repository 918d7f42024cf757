//! `/sessions…` and the default session over HTTP: made, named, reset, stepped, closed.

use oxenv_test_support::{get, http, post, rpc};
use serde_json::{Value, json};

use crate::served::serve;

#[tokio::test]
async fn a_session_from_its_beginning_to_its_end() {
    let served = serve().await;
    let created =
        post(served.address, "/sessions", &json!({ "seed": 7, "episode_id": "first" })).await.json();
    let id = created["session_id"].as_str().unwrap().to_owned();
    assert_eq!(created["mcp_url"], format!("http://{}/sessions/{id}/mcp", served.address));
    let path = |rest: &str| format!("/sessions/{id}{rest}");
    let info = get(served.address, &path("")).await.json();
    assert_eq!((&info["seed"], &info["epoch"], &info["episode_id"]), (&json!(7), &json!(0), &json!("first")));

    let reset =
        post(served.address, &path("/reset"), &json!({ "seed": 3, "episode_id": "second", "extra": [1] }))
            .await;
    assert_eq!(reset.json()["observation"]["seed"], 3);
    let step = post(
        served.address,
        &path("/step"),
        &json!({ "action": { "do": "reward", "value": 2 }, "request_id": "r" }),
    )
    .await;
    // Over HTTP a reward is a float, as in the reference.
    assert_eq!(step.json()["reward"].to_string(), "2.0");
    let state = get(served.address, &path("/state")).await.json();
    assert_eq!(state, json!({ "episode_id": "second", "step_count": 1, "count": 1, "seed": 3 }));

    // The agent's calls are steps of the same session.
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "say" } });
    post(served.address, &path("/mcp?epoch=1"), &call).await.json()["result"].as_object().unwrap();
    assert_eq!(get(served.address, &path("/state")).await.json()["step_count"], 2);
    let wrong = post(served.address, &path("/mcp?epoch=2"), &call).await.json();
    assert_eq!(
        (&wrong["error"]["code"], &wrong["error"]["data"]["oxenv"]["code"]),
        (&json!(-32603), &json!("WRONG_EPOCH"))
    );

    assert_eq!(http(served.address, "DELETE", &path(""), &[], b"").await.status, 200);
    assert_eq!(http(served.address, "DELETE", &path(""), &[], b"").await.status, 410);
    assert_eq!(post(served.address, &path("/step"), &json!({ "action": {} })).await.status, 410);
    served.end().await;
}

#[tokio::test]
async fn requests_that_name_no_session_share_one() {
    let served = serve().await;
    post(served.address, "/reset", &json!({ "episode_id": "e" })).await;
    post(served.address, "/step", &json!({ "action": {} })).await;
    rpc(served.address, "tools/call", json!({ "name": "say" })).await;
    let state = get(served.address, "/state").await.json();
    assert_eq!((&state["episode_id"], &state["step_count"]), (&json!("e"), &json!(2)));
    assert_eq!((served.active(), served.app.store.list().len()), (0, 1));
    served.end().await;
}

#[tokio::test]
async fn a_default_session_that_has_failed_waits_for_a_reset() {
    let served = serve().await;
    let broken = post(served.address, "/step", &json!({ "action": { "do": "panic" } })).await;
    assert_eq!((broken.status, &broken.json()["oxenv"]["code"]), (500, &json!("ENVIRONMENT_PANICKED")));
    for _ in 0..2 {
        let reply = post(served.address, "/step", &json!({ "action": {} })).await;
        assert_eq!(reply.status, 410);
        assert!(reply.json()["detail"].as_str().unwrap().contains("made to panic"), "{}", reply.text());
        assert_eq!(get(served.address, "/state").await.status, 410);
        let reply = rpc(served.address, "tools/call", json!({ "name": "say" })).await;
        assert_eq!(reply["error"]["data"]["oxenv"]["code"], "SESSION_ENDED");
    }
    assert_eq!(get(served.address, "/health").await.status, 200);
    assert_eq!(post(served.address, "/reset", &json!({})).await.status, 200);
    assert_eq!(post(served.address, "/step", &json!({ "action": {} })).await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn a_step_with_a_deadline() {
    let served = serve().await;
    let step = json!({ "action": { "do": "wait" }, "timeout_s": 0.02 });
    let reply = post(served.address, "/step", &step).await;
    assert_eq!((reply.status, &reply.json()["oxenv"]["code"]), (504, &json!("DEADLINE_EXCEEDED")));
    let reply = post(served.address, "/step", &json!({ "action": {} })).await;
    assert_eq!((reply.status, &reply.json()["oxenv"]["code"]), (409, &json!("RESET_REQUIRED")));
    assert_eq!(post(served.address, "/reset", &json!({})).await.status, 200);
    assert_eq!(post(served.address, "/step", &json!({ "action": {} })).await.status, 200);
    served.end().await;
}

#[tokio::test]
async fn a_reward_that_is_no_number_is_an_error() {
    let served = serve().await;
    for value in ["NaN", "inf", "-inf"] {
        let action = json!({ "do": "reward", "value": value });
        let reply = post(served.address, "/step", &json!({ "action": action })).await;
        assert_eq!((reply.status, reply.json().get("reward")), (500, None));
        let mut socket = served.ws("/ws").await;
        let reply = socket.step(&action).await;
        assert_eq!(reply["data"]["oxenv"]["code"], "NON_FINITE_REWARD");
        socket.close().await;
    }
    for (value, shown) in [(json!(true), "true"), (json!(3), "3"), (json!(0.5), "0.5"), (json!(1.0), "1.0")] {
        let mut socket = served.ws("/ws").await;
        let reply: Value = socket.step(&json!({ "do": "reward", "value": value })).await;
        assert_eq!(reply["data"]["reward"].to_string(), shown);
        socket.close().await;
    }
    served.end().await;
}
