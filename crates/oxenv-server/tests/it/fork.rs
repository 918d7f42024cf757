//! Forks, snapshots and restores over the wire: copies that go on by themselves.

use oxenv_test_support::{http, post};
use serde_json::{Value, json};

use crate::multi_support::{Multi, refused, serve_bundled};
use crate::served::{Served, serve};

async fn delete(served: &Served, id: &str) {
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await.status, 200);
}

fn ids(forked: &Value) -> Vec<String> {
    let sessions = forked["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["session_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn eight_forks_at_step_three_go_on_by_themselves() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    socket.ask(json!({ "type": "reset", "session": id })).await;
    for action in ["DOWN", "RIGHT", "DOWN"] {
        socket.step(&id, json!({ "action": action })).await;
    }
    let forked = socket.ask(json!({ "type": "fork", "session": id, "data": { "n": 8 } })).await;
    assert_eq!(
        (&forked["type"], &forked["session"], &forked["seq"]),
        (&json!("forked"), &json!(id), &json!(4))
    );
    let forks = ids(&forked["data"]);
    assert_eq!((forks.len(), served.active()), (8, 9));
    for (number, fork) in forks.iter().enumerate() {
        let state = socket.ask(json!({ "type": "state", "session": fork })).await;
        assert_eq!(state["data"]["step_count"], 3);
        for _ in 0..number {
            socket.step(fork, json!({ "action": "RIGHT" })).await;
        }
        let seen = socket.step(fork, json!({ "action": "UP" })).await;
        assert_eq!(seen["data"]["observation"]["x"], 1, "{seen}");
        assert_eq!(seen["data"]["observation"]["y"], (1 + number).min(4));
    }
    // The one they were made of knows nothing of it.
    let seen = socket.step(&id, json!({ "action": "UP" })).await;
    assert_eq!(
        (&seen["data"]["observation"]["x"], &seen["data"]["observation"]["y"]),
        (&json!(1), &json!(1))
    );
    // They are this socket's, and end with it.
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn forks_are_made_once_for_a_key() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    socket.ask(json!({ "type": "reset", "session": id })).await;
    let fork = json!({ "type": "fork", "session": id, "key": "f", "data": { "n": 3 } });
    let (first, second) = (socket.ask(fork.clone()).await, socket.ask(fork).await);
    assert_eq!((&first["data"], first.get("repeated")), (&second["data"], None));
    assert_eq!((&second["repeated"], served.active()), (&json!(true), 4));
    let other = json!({ "type": "fork", "session": id, "key": "f", "data": { "n": 4 } });
    assert_eq!(refused(&socket.ask(other).await), "KEY_CONFLICT");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_snapshot_is_restored_as_a_new_session() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    socket.ask(json!({ "type": "reset", "session": id })).await;
    socket.step(&id, json!({ "action": "DOWN" })).await;
    let saved = socket.ask(json!({ "type": "snapshot", "session": id })).await;
    assert_eq!((&saved["type"], &saved["seq"]), (&json!("snapshot"), &json!(2)));
    socket.step(&id, json!({ "action": "DOWN" })).await;
    let restored = socket.ask(json!({ "type": "restore", "data": saved["data"] })).await;
    assert_eq!(restored["type"], "opened", "{restored}");
    let copy = restored["session"].as_str().unwrap().to_owned();
    assert_ne!(copy, id);
    assert_eq!(socket.step(&copy, json!({ "action": "DOWN" })).await["data"]["observation"]["x"], 2);
    let damaged = format!("{}x", saved["data"]["snapshot"].as_str().unwrap());
    let refusal = socket.ask(json!({ "type": "restore", "data": { "snapshot": damaged } })).await;
    assert_eq!(refused(&refusal), "SNAPSHOT_INVALID");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn the_same_over_http() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let made = post(served.address, "/sessions", &json!({})).await.json();
    let id = made["session_id"].as_str().unwrap();
    let path = |rest: &str| format!("/sessions/{id}/{rest}");
    post(served.address, &path("reset"), &json!({})).await;
    post(served.address, &path("step"), &json!({ "action": { "action": "DOWN" } })).await;
    let forked = post(served.address, &path("fork"), &json!({ "n": 2 })).await;
    assert_eq!(forked.status, 201);
    let mut sessions = ids(&forked.json());
    assert_eq!(sessions.len(), 2);
    let keyed = [("idempotency-key", "f"), ("content-type", "application/json")];
    let one = http(served.address, "POST", &path("fork"), &keyed, b"").await;
    let again = http(served.address, "POST", &path("fork"), &keyed, b"").await;
    assert_eq!((&one.body, again.header("oxenv-repeated")), (&again.body, Some("true")));
    sessions.extend(ids(&one.json()));
    let saved = post(served.address, &path("snapshot"), &Value::Null).await;
    assert_eq!(saved.status, 200);
    let restored = post(served.address, "/restore", &saved.json()).await;
    assert_eq!(restored.status, 201);
    sessions.push(restored.json()["session_id"].as_str().unwrap().to_owned());
    for session in &sessions {
        let stepped = post(
            served.address,
            &format!("/sessions/{session}/step"),
            &json!({ "action": { "action": "DOWN" } }),
        )
        .await;
        assert_eq!(stepped.json()["observation"]["x"], 2);
        delete(&served, session).await;
    }
    let refusal = post(served.address, "/restore", &json!({ "snapshot": "nonsense" })).await;
    assert_eq!((refusal.status, &refusal.json()["oxenv"]["code"]), (422, &json!("SNAPSHOT_INVALID")));
    assert_eq!(post(served.address, &path("fork"), &json!({ "n": 0 })).await.status, 422);
    assert_eq!(post(served.address, "/sessions/nope/fork", &json!({})).await.status, 404);
    delete(&served, id).await;
    served.end().await;
}

#[tokio::test]
async fn an_environment_that_cannot_be_forked_says_so() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let refusal = socket.ask(json!({ "type": "fork", "session": id })).await;
    assert_eq!(refused(&refusal), "UNSUPPORTED");
    assert_eq!((socket.step(&id, json!({})).await["seq"].clone(), served.active()), (json!(1), 1));
    socket.ws.close().await;
    served.end().await;
}
