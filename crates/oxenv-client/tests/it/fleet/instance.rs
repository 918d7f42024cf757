//! An instance that runs, and what goes wrong with it.

use std::time::Duration;

use oxenv_client::fleet::{FleetEnvClient, FleetOptions};
use oxenv_client::{Code, ResetOptions, Strictness};
use oxenv_fleet_simulator::{McpAuth, SimulatorOptions};
use oxenv_test_support::until;
use oxenv_wire::{Delivered, ErrorCode, Phase};
use serde_json::{Value, json};

use super::{came, made, nothing_left, options, refused, simulated, with};

#[tokio::test]
async fn a_reset_s_failures_are_told_apart_and_sent_once() {
    for (fault, code, delivered) in [
        ("reset:hang", Code::TimedOut, Delivered::Maybe),
        ("reset:drop-after", Code::ConnectionLost, Delivered::Maybe),
        ("reset:502", Code::FleetError, Delivered::Maybe),
        ("reset:422", Code::FleetError, Delivered::No),
        ("reset:404", Code::Server(ErrorCode::Unsupported), Delivered::No),
        ("reset:garbage", Code::InvalidReply, Delivered::Yes),
        (
            "reset:200={\"success\":false,\"message\":\"no seed\"}",
            Code::Server(ErrorCode::ExecutionError),
            Delivered::Yes,
        ),
        ("reset:expire", Code::FleetInstanceGone, Delivered::Maybe),
        ("manager:404", Code::FleetRunnerRefused, Delivered::No),
    ] {
        let simulator = simulated(&[]).await;
        let quick = FleetOptions { reset_timeout: Duration::from_millis(300), ..options(&simulator) };
        let (orch, _tools) = FleetEnvClient::from_fleet(simulator.api_key(), "fira", quick).await.unwrap();
        simulator.inject(fault.parse().unwrap());
        let error = orch.reset(&ResetOptions::default()).await.unwrap_err();
        assert_eq!((error.code(), error.delivered()), (code, delivered), "{fault}: {error}");
        assert_eq!(error.phase(), Some(Phase::Reset), "{fault}");
        assert_eq!(came(&simulator, "POST", "/reset"), 1, "{fault}");
        orch.close().await.unwrap();
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn the_runner_gate_is_passed_with_the_token_and_told_without() {
    let gated =
        || SimulatorOptions { runner_gate: true, mcp_auth: McpAuth::Runner, ..SimulatorOptions::default() };
    let simulator = with(gated(), &[]).await;
    let (orch, tools) = made(&simulator).await;
    orch.reset(&ResetOptions::default()).await.unwrap();
    assert!(!tools.list_tools().await.unwrap().is_empty());
    assert_eq!(came(&simulator, "GET", "/v1/runner-auth/token"), 1, "it is asked for once");
    drop(orch);
    nothing_left(&simulator).await;

    let open = SimulatorOptions { mcp_auth: McpAuth::Bearer, ..gated() };
    let simulator = with(open, &[]).await;
    let wrong = FleetOptions { runner_token: Some("runner_wrong".to_owned()), ..options(&simulator) };
    assert!(!format!("{wrong:?}").contains("runner_wrong"));
    let (orch, tools) = FleetEnvClient::from_fleet(simulator.api_key(), "fira", wrong).await.unwrap();
    let error = orch.reset(&ResetOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::FleetRunnerRefused, "{error}");
    assert!(!format!("{error:?}{orch:?}").contains("runner_wrong"));
    assert!(!tools.list_tools().await.unwrap().is_empty(), "its tools need the key alone");
    let error = orch.step(&json!({ "move": 1 })).await.unwrap_err();
    assert_eq!(error.code(), Code::FleetRunnerRefused, "{error}");
    drop(orch);
    nothing_left(&simulator).await;

    // A token that could not be had at first is asked for when the gate wants it.
    let simulator = with(SimulatorOptions { mcp_auth: McpAuth::Bearer, ..gated() }, &["token:404*1"]).await;
    let (orch, _tools) = made(&simulator).await;
    orch.reset(&ResetOptions::default()).await.unwrap();
    drop(orch);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn expiry_in_mid_episode_is_told_by_every_door() {
    let simulator = simulated(&[]).await;
    let (orch, _tools) = made(&simulator).await;
    orch.reset(&ResetOptions::default()).await.unwrap();
    assert!(simulator.expire(orch.instance_id()));
    let call =
        json!({ "type": "call_tool", "tool_name": "computer", "arguments": { "action": "screenshot" } });
    let error = orch.step(&call).await.unwrap_err();
    assert_eq!(error.code(), Code::FleetInstanceGone, "{error}");
    assert!(error.message().contains(orch.instance_id()), "{error}");
    for error in [orch.reset(&ResetOptions::default()).await.unwrap_err(), orch.state().await.unwrap_err()] {
        assert_eq!(error.code(), Code::FleetInstanceGone, "{error}");
    }
    orch.close().await.unwrap();
    assert_eq!(orch.state().await.unwrap_err().code(), Code::Closed);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn one_absent_endpoint_is_normal_and_a_broken_one_the_caller_s_choice() {
    let simulator = simulated(&["mcp:404"]).await;
    let strict = || FleetOptions { strictness: Strictness::Strict, ..options(&simulator) };
    let (orch, tools) = FleetEnvClient::from_fleet(simulator.api_key(), "fira", strict()).await.unwrap();
    let listing = tools.list().await.unwrap();
    assert!(listing.endpoints[1].absent && listing.endpoints[1].error.is_none());
    assert_eq!(listing.tools.len(), 2);
    drop(orch);
    nothing_left(&simulator).await;

    simulator.clear_faults();
    simulator.inject("api/v1/mcp:401".parse().unwrap());
    let error = refused(&simulator, strict()).await;
    assert_eq!(error.code(), Code::EndpointUnavailable, "{error}");
    assert!(error.message().contains("/api/v1/mcp"), "{error}");
    let (orch, tools) = made(&simulator).await;
    let listing = tools.list().await.unwrap();
    assert!(listing.endpoints[0].error.is_some(), "it is reported");
    assert_eq!(listing.tools.len(), 5);
    drop(orch);
    nothing_left(&simulator).await;

    simulator.clear_faults();
    simulator.inject("mcps:404".parse().unwrap());
    let error = refused(&simulator, options(&simulator)).await;
    assert_eq!(error.code(), Code::EndpointUnavailable, "{error}");
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn heartbeats_are_sent_and_tell_the_end() {
    let simulator = simulated(&[]).await;
    let beating = FleetOptions { heartbeat: Some(Duration::from_millis(100)), ..options(&simulator) };
    let (orch, _tools) = FleetEnvClient::from_fleet(simulator.api_key(), "fira", beating).await.unwrap();
    let path = format!("/v1/env/instances/{}/heartbeat", orch.instance_id());
    until("three heartbeats are sent", || came(&simulator, "POST", &path) >= 3).await;
    let requests = simulator.requests();
    let create = requests.iter().find(|request| request.method == "POST").unwrap().json().unwrap();
    assert_eq!(create["heartbeat_interval"], 1, "in whole seconds");
    simulator.expire(orch.instance_id());
    let gone = async {
        while orch.state().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    assert_eq!(orch.state().await.unwrap_err().code(), Code::FleetInstanceGone);
    drop(orch);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn what_can_not_be_read_after_a_reset_is_null() {
    let simulator = simulated(&["resources:old-resources*1", "health:401"]).await;
    let (orch, _tools) = made(&simulator).await;
    let seen = orch.reset(&ResetOptions::default()).await.unwrap().observation_value();
    assert_eq!(seen["resources"][0]["name"], "seed");
    simulator.inject("resources:500".parse().unwrap());
    simulator.inject("mcps:500".parse().unwrap());
    let seen = orch.reset(&ResetOptions::default()).await.unwrap().observation_value();
    assert_eq!((&seen["resources"], &seen["tools"]), (&Value::Null, &Value::Null));
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn every_habit_of_the_endpoints_is_borne() {
    for (fault, text) in [
        ("mcps:sse", "base64_image"),
        ("mcps:json", "base64_image"),
        ("mcps.initialize:no-session", "base64_image"),
        ("mcps.call:lose-session*1", "base64_image"),
        ("mcps.call:null-image", "{\"base64_image\":null}"),
        ("mcps.call:mcp-image", ""),
    ] {
        let simulator = simulated(&[fault]).await;
        let (orch, tools) = made(&simulator).await;
        let shot = tools.call_tool("computer", json!({ "action": "screenshot" })).await.unwrap();
        assert!(!shot.is_error && shot.text().contains(text), "{fault}: {}", shot.text());
        let mut whole = String::new();
        shot.write_mcp(&mut whole);
        assert_eq!(whole.contains("\"type\":\"image\""), text.is_empty(), "{fault}: {whole}");
        orch.close().await.unwrap();
        nothing_left(&simulator).await;
    }
    let simulator = simulated(&["mcps.list:empty-tools"]).await;
    let (orch, tools) = made(&simulator).await;
    assert!(tools.list_tools().await.unwrap().is_empty());
    drop(orch);
    nothing_left(&simulator).await;
}
