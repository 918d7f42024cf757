//! What `from_fleet` adds to the time that Fleet takes to create an instance, against the simulator.
//!
//! Invariant: the simulator delays each creation by the same time, which is subtracted; the rest is the time
//! until the tools are connected. Prints one JSON object with milliseconds.

use std::time::{Duration, Instant};

use oxenv_client::fleet::{FleetEnvClient, FleetOptions};
use oxenv_fleet_simulator::{Simulator, SimulatorOptions};
use serde_json::json;

const DELAY: Duration = Duration::from_millis(250);
const RUNS: usize = 15;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let options = SimulatorOptions { provisioning_delay: DELAY, ..SimulatorOptions::default() };
    let simulator = Simulator::start(options).await.expect("a simulator");
    let mut beyond = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let options =
            FleetOptions { base_url: Some(simulator.control_url().to_owned()), ..FleetOptions::default() };
        let began = Instant::now();
        let (orchestrator, tools) =
            FleetEnvClient::from_fleet(simulator.api_key(), "fira", options).await.expect("an instance");
        beyond.push((began.elapsed().as_secs_f64() - DELAY.as_secs_f64()) * 1e3);
        tools.list_tools().await.expect("its tools");
        orchestrator.close().await.expect("it is deleted");
    }
    assert_eq!(simulator.instances(), 0, "nothing is left running");
    simulator.shutdown().await;
    beyond.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({
            "bench": "from_fleet",
            "runs": RUNS,
            "delay_ms": DELAY.as_millis() as u64,
            "beyond_ms": round(beyond[RUNS / 2]),
            "longest_ms": round(beyond[RUNS - 1]),
        })
    );
}

fn round(milliseconds: f64) -> f64 {
    (milliseconds * 100.0).round() / 100.0
}
