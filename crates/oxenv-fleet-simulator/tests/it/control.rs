//! The control plane when nothing goes wrong, and what clients do wrong.

use std::time::Duration;

use oxenv_fleet_simulator::{ApiKey, InstanceStatus, SimulatorOptions};
use reqwest::Method;
use serde_json::json;

use crate::caller::{Caller, answered};

#[tokio::test]
async fn an_instance_is_made_shown_and_ended() {
    let caller = Caller::start(SimulatorOptions::default()).await;
    let document = caller.create("fira").await.unwrap().json();
    assert_eq!((&document["status"], &document["version"]), (&json!("running"), &json!("v1.3.1")));
    assert!(document["urls"]["root"].as_str().unwrap().ends_with('/'));
    let id = document["instance_id"].as_str().unwrap();
    assert_eq!(id.len(), 12);
    assert_eq!(caller.get("/v1/env/instances").await.unwrap().json(), json!([document]));
    assert_eq!(caller.simulator.instances(), 1);

    let path = format!("/v1/env/instances/{id}");
    let ended = caller.delete(&path).await.unwrap().json();
    assert_eq!(ended["status"], "stopped");
    assert!(ended["terminated_at"].is_string());
    assert_eq!((caller.simulator.instances(), caller.status(id).await.as_str()), (0, "stopped"));
    assert_eq!(caller.delete(&path).await.unwrap().status, 404);
    assert_eq!(caller.get("/v1/env/instances").await.unwrap().json(), json!([]));
    assert_eq!(caller.get("/v1/env/instances?status=stopped").await.unwrap().json(), json!([ended]));
}

#[tokio::test]
async fn ids_come_from_the_seed() {
    let mut ids = Vec::new();
    for seed in [1, 1, 2] {
        let caller = Caller::start(SimulatorOptions { seed, ..SimulatorOptions::default() }).await;
        ids.push([caller.made().await.0, caller.made().await.0]);
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
    assert_ne!(ids[0][0], ids[0][1]);
}

#[tokio::test]
async fn creates_that_cannot_be_done() {
    let caller = Caller::start(SimulatorOptions::default()).await;
    for (body, status, says) in [
        (json!({"env_key": "nope"}), 400, "Environment 'nope' not found"),
        (json!({"env_key": "fira", "env_version": "v9"}), 400, "Version 'v9' not found"),
        (json!({"env_key": "fira", "region": "mars"}), 400, "Region mars not supported"),
        (json!({"created_from": "sdk"}), 422, "missing field `env_key`"),
        (json!({"env_key": "fira", "ttl_seconds": "long"}), 422, "invalid type"),
        (json!([]), 422, "invalid"),
    ] {
        let answer = caller.post("/v1/env/instances", &body).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.json()["detail"].to_string().contains(says), "{answer:?}");
    }
    let url = format!("{}/v1/account", caller.simulator.control_url());
    let client = reqwest::Client::new();
    assert_eq!(answered(client.get(&url)).await.unwrap().status, 401);
    assert_eq!(answered(client.get(&url).bearer_auth("wrong")).await.unwrap().status, 401);
    assert_eq!(caller.get("/v1/nothing").await.unwrap().status, 404);
    assert_eq!(caller.simulator.instances(), 0);
}

#[tokio::test]
async fn each_team_has_its_own_instances_and_its_own_limit() {
    let keys = vec![ApiKey::new("a", "team-a"), ApiKey::new("b", "team-b")];
    let caller =
        Caller::start(SimulatorOptions { keys, instance_limit: 1, ..SimulatorOptions::default() }).await;
    let (id, _) = caller.made().await;
    let full = caller.create("echo").await.unwrap();
    assert_eq!(full.status, 403);
    assert_eq!(full.json()["detail"]["error_type"], "instance_limit_exceeded");
    assert_eq!(full.json()["detail"]["running_instances"], 1);

    let url = format!("{}/v1/env/instances", caller.simulator.control_url());
    let client = reqwest::Client::new();
    let other = |path: &str| client.get(format!("{url}{path}")).bearer_auth("b");
    assert_eq!(answered(other("")).await.unwrap().json(), json!([]));
    assert_eq!(answered(other(&format!("/{id}"))).await.unwrap().status, 404);
    let made = answered(client.post(&url).bearer_auth("b").json(&json!({"env_key": "echo"}))).await.unwrap();
    assert_eq!((made.status, caller.simulator.instances()), (200, 2));
}

#[tokio::test]
async fn a_request_id_makes_one_instance() {
    let caller = Caller::with(&["create:drop-after*1"]).await;
    assert!(caller.create_as("r-1").await.is_err());
    assert_eq!(caller.simulator.instances(), 1);
    let again = caller.create_as("r-1").await.unwrap();
    let detail = &again.json()["detail"];
    assert_eq!((again.status, &detail["error"]), (409, &json!("duplicate_request_id")));
    assert_eq!(caller.status(detail["instance_id"].as_str().unwrap()).await, "running");
    assert_eq!(caller.create_as("r-2").await.unwrap().status, 200);
    assert_eq!(caller.simulator.instances(), 2);
}

#[tokio::test]
async fn a_create_is_held_until_the_instance_runs_or_it_may_wait_no_longer() {
    let provisioning_delay = Duration::from_secs(60);
    let options = SimulatorOptions { provisioning_delay, ..SimulatorOptions::default() };
    let caller = Caller::start(options).await;
    let body = json!({"env_key": "fira", "max_wait_seconds": 0});
    let early = caller.post("/v1/env/instances", &body).await.unwrap().json();
    assert_eq!(early["status"], "pending");
    let id = early["instance_id"].as_str().unwrap();
    let health = format!("{}/health", early["urls"]["manager"]["api"].as_str().unwrap());
    assert_eq!(caller.get(&health).await.unwrap().status, 503);
    caller.simulator.advance(provisioning_delay);
    assert_eq!(caller.status(id).await, "running");
    assert_eq!(caller.get(&health).await.unwrap().status, 200);

    let held = caller.create("fira");
    tokio::pin!(held);
    // The create has arrived once there is a second instance; it is not answered before time passes.
    let early = tokio::select! {
        answer = &mut held => Some(answer),
        () = async { while caller.simulator.instances() < 2 { tokio::task::yield_now().await } } => None,
    };
    assert!(early.is_none(), "{early:?}");
    assert_eq!(caller.simulator.views()[1].status, InstanceStatus::Pending);
    caller.simulator.advance(provisioning_delay);
    assert_eq!(held.await.unwrap().json()["status"], "running");
}

#[tokio::test]
async fn instances_end_when_their_time_is_over() {
    let caller = Caller::start(SimulatorOptions::default()).await;
    let body = json!({"env_key": "fira", "ttl_seconds": 600});
    let document = caller.post("/v1/env/instances", &body).await.unwrap().json();
    let root = document["urls"]["root"].as_str().unwrap();
    caller.simulator.advance(Duration::from_secs(599));
    assert_eq!(caller.get(root).await.unwrap().status, 200);
    caller.simulator.advance(Duration::from_secs(1));
    assert_eq!(
        (caller.simulator.instances(), &caller.simulator.views()[0].status),
        (0, &InstanceStatus::Stopped)
    );
    assert!(reqwest::get(root).await.unwrap_err().is_connect());
    assert!(!caller.simulator.expire(document["instance_id"].as_str().unwrap()));
}

#[tokio::test]
async fn heartbeats_keep_an_instance_that_asked_for_them() {
    let caller = Caller::start(SimulatorOptions::default()).await;
    let body = json!({"env_key": "fira", "heartbeat_interval": 10});
    let document = caller.post("/v1/env/instances", &body).await.unwrap().json();
    let path = format!("/v1/env/instances/{}/heartbeat", document["instance_id"].as_str().unwrap());
    for _ in 0..3 {
        caller.simulator.advance(Duration::from_secs(15));
        let beat = caller.post(&path, &json!({})).await.unwrap().json();
        assert_eq!((&beat["success"], &beat["interval_seconds"]), (&json!(true), &json!(10)));
        assert!(beat["deadline_timestamp"].is_number());
    }
    caller.simulator.advance(Duration::from_secs(21));
    assert_eq!(caller.simulator.instances(), 0);
    assert_eq!(caller.post(&path, &json!({})).await.unwrap().status, 404);

    let (id, _) = caller.made().await;
    let beat = caller.post(&format!("/v1/env/instances/{id}/heartbeat"), &json!({})).await.unwrap().json();
    assert_eq!((&beat["success"], &beat["deadline_timestamp"]), (&json!(true), &json!(null)));
}

#[tokio::test]
async fn the_simulator_has_routes_of_its_own() {
    let caller = Caller::start(SimulatorOptions::default()).await;
    let faults = |text: &'static str| answered(caller.request(Method::POST, "/simulator/faults").body(text));
    assert_eq!(
        faults("regions:503*1\naccount:garbage").await.unwrap().json(),
        json!(["regions:503*1", "account:garbage"])
    );
    assert_eq!(faults("account:401\nnowhere:401").await.unwrap().status, 400);
    assert_eq!(caller.get("/v1/regions").await.unwrap().status, 503);
    assert_eq!(caller.get("/simulator/faults").await.unwrap().json(), json!(["account:garbage"]));
    assert_eq!(caller.delete("/simulator/faults").await.unwrap().json(), json!([]));
    let (id, root) = caller.made().await;
    caller.get(&root).await.unwrap();
    let requests = caller.get("/simulator/requests").await.unwrap().json();
    let seen: Vec<&str> =
        requests.as_array().unwrap().iter().map(|one| one["to"].as_str().unwrap()).collect();
    assert_eq!(seen, ["control", "control", id.as_str()]);
    assert_eq!(requests[1]["body"]["env_key"], "fira");
    assert_eq!(caller.post(&format!("/simulator/expire/{id}"), &json!(null)).await.unwrap().status, 200);
    assert_eq!(caller.simulator.instances(), 0);
    let url = format!("{}/simulator/requests", caller.simulator.control_url());
    assert_eq!(answered(reqwest::Client::new().get(url)).await.unwrap().status, 401);
}
