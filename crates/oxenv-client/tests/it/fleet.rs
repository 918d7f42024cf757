//! The Fleet adapter against a simulated Fleet.
//!
//! Invariant: every test ends by counting the instances that are left.

mod bridge;
mod create;
mod ending;
// What people are shown is what runs.
#[allow(dead_code)]
#[path = "../../examples/fleet.rs"]
mod example;
mod instance;

use std::time::Duration;

use oxenv_client::fleet::{FleetEnvClient, FleetOptions, deletions_done};
use oxenv_client::{ClientError, Code, Multiplexer, ResetOptions};
use oxenv_fleet_simulator::{Fault, Simulator, SimulatorOptions};

/// A simulated Fleet with faults.
pub(crate) async fn simulated(faults: &[&str]) -> Simulator {
    with(SimulatorOptions::default(), faults).await
}

pub(crate) async fn with(options: SimulatorOptions, faults: &[&str]) -> Simulator {
    let simulator = Simulator::start(options).await.unwrap();
    for fault in faults {
        simulator.inject(fault.parse::<Fault>().unwrap());
    }
    simulator
}

/// Options for it, with short deadlines.
pub(crate) fn options(simulator: &Simulator) -> FleetOptions {
    FleetOptions {
        base_url: Some(simulator.control_url().to_owned()),
        timeout: Duration::from_secs(20),
        ..FleetOptions::default()
    }
}

pub(crate) async fn made(simulator: &Simulator) -> (FleetEnvClient, Multiplexer) {
    FleetEnvClient::from_fleet(simulator.api_key(), "fira", options(simulator)).await.unwrap()
}

/// The failure to make an instance. It holds no secret, and nothing is left of it.
pub(crate) async fn refused(simulator: &Simulator, options: FleetOptions) -> ClientError {
    let outcome = FleetEnvClient::from_fleet(simulator.api_key(), "fira", options).await;
    let error = outcome.map(drop).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("sk_simulated") && !shown.contains("runner_simulated"), "{shown}");
    assert!(!shown.contains("<head") && error.message().len() < 1000, "{shown}");
    error
}

/// Waits for the deletions in the background, and counts.
pub(crate) async fn nothing_left(simulator: &Simulator) {
    assert_eq!(deletions_done().await, [""; 0]);
    assert_eq!(simulator.instances(), 0, "{:?}", simulator.views());
}

/// How many requests came with that method and path.
pub(crate) fn came(simulator: &Simulator, method: &str, path: &str) -> usize {
    let requests = simulator.requests();
    requests.iter().filter(|request| request.method == method && request.path.ends_with(path)).count()
}

#[tokio::test]
async fn the_design_s_usage_runs() {
    let simulator = simulated(&[]).await;
    let (orch, tools) = made(&simulator).await;
    assert_eq!(orch.root(), simulator.views()[0].root);
    let seen = orch.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await.unwrap();
    let observation = seen.observation_value();
    assert_eq!(observation["message"], "Environment reset with seed 7");
    assert_eq!(observation["resources"][1]["name"], "current");
    assert!(observation["tools"].as_array().unwrap().contains(&"computer".into()));
    assert!(seen.reward.is_none() && !seen.done);

    let listing = tools.list().await.unwrap();
    assert_eq!(listing.conflicts.len(), 1, "both servers have `search`");
    assert_eq!(listing.conflicts[0].owner, orch.instance().mcp_urls()[0]);
    let shot = tools.call_tool("computer", serde_json::json!({ "action": "screenshot" })).await.unwrap();
    assert!(!shot.is_error && shot.text().contains("base64_image"));
    orch.close().await.unwrap();
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn requests_are_as_fleet_s_sdk_sends_them() {
    let gated = SimulatorOptions { runner_gate: true, ..SimulatorOptions::default() };
    let simulator = with(gated, &["create:503*1"]).await;
    let (orch, _tools) = made(&simulator).await;
    orch.reset(&ResetOptions::default()).await.unwrap();
    orch.close().await.unwrap();
    let requests = simulator.requests();
    let creates: Vec<_> = requests.iter().filter(|request| request.path == "/v1/env/instances").collect();
    assert_eq!(creates.len(), 2);
    assert_eq!(creates[0].header("x-request-id"), creates[1].header("x-request-id"), "one id for one create");
    let body = creates[0].json().unwrap();
    assert_eq!(body, serde_json::json!({ "env_key": "fira", "created_from": "sdk", "max_wait_seconds": 0 }));
    for request in &requests {
        if request.path.starts_with("/v1/") {
            assert_eq!(request.header("authorization"), Some("Bearer sk_simulated"));
            assert_eq!(request.header("x-fleet-sdk-language"), Some("rust"));
            assert!(
                request.header("x-request-timestamp").unwrap().parse::<u64>().unwrap() > 1_700_000_000_000
            );
            assert_eq!(request.header("x-request-id").unwrap().len(), 36);
        } else if request.path.starts_with("/api/v1/env") {
            assert_eq!(request.header("authorization"), None, "the manager gets no key");
            assert_eq!(request.header("x-runner-token"), Some("runner_simulated"));
        } else {
            assert_eq!(request.header("authorization"), Some("Bearer sk_simulated"));
            assert_eq!(request.header("x-runner-token"), Some("runner_simulated"));
        }
    }
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn the_example_plays_and_the_guide_names_every_code() {
    let simulator = simulated(&[]).await;
    let base = Some(simulator.control_url().to_owned());
    example::play(simulator.api_key(), "fira", base.clone()).await.unwrap();
    // An environment without a computer: the example fails half-way, and leaves nothing either.
    let error = example::play(simulator.api_key(), "echo", base).await.unwrap_err();
    assert!(error.to_string().contains("computer"), "{error}");
    nothing_left(&simulator).await;
    assert_eq!(simulator.views().len(), 2);

    let guide = include_str!("../../../../docs/fleet.md");
    for name in Code::all().map(Code::name).filter(|name| name.starts_with("FLEET_")) {
        assert!(guide.contains(&format!("`{name}`")), "docs/fleet.md does not name {name}");
    }
}
