//! What is left when a simulator has ended: nothing.

use std::fs;

use oxenv_fleet_simulator::SimulatorOptions;
use oxenv_test_support::until;
use reqwest::Method;
use serde_json::json;

use crate::caller::{Caller, answered};

/// Processes that are children of this one, and of the kind that a verifier is.
fn verifiers() -> usize {
    let children = format!("/proc/{0}/task", std::process::id());
    let threads = fs::read_dir(children).unwrap().map(|thread| thread.unwrap().path().join("children"));
    let pids = threads.filter_map(|file| fs::read_to_string(file).ok());
    pids.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        })
        .count()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn shutdown_leaves_nothing() {
    // What the runtime and the client need for themselves is there after a first round.
    let mut counts = Vec::new();
    for _ in 0..2 {
        let options = SimulatorOptions { run_verifiers: true, ..SimulatorOptions::default() };
        let caller = Caller::start(options).await;
        let (_, root) = caller.made().await;
        let code = json!({"function_code": "def check():\n    while True: pass", "function_name": "check"});
        let url = format!("{root}api/v1/env/execute_verifier_function");
        let verify = tokio::spawn(answered(caller.request(Method::POST, &url).json(&code)));
        until("no verifier runs", || verifiers() > 0).await;
        let control = caller.simulator.control_url().to_owned();
        caller.simulator.shutdown().await;
        assert!(verify.await.unwrap().is_err());
        assert!(reqwest::get(&control).await.unwrap_err().is_connect());
        assert!(reqwest::get(&root).await.unwrap_err().is_connect());
        until("a verifier is left", || verifiers() == 0).await;
        counts.push(descriptors());
    }
    assert_eq!(counts[0], counts[1]);
}

#[tokio::test]
async fn a_dropped_simulator_refuses_at_once() {
    let caller = Caller::with(&[]).await;
    let (control, root) = (caller.simulator.control_url().to_owned(), caller.made().await.1);
    drop(caller);
    for url in [control, root] {
        assert!(reqwest::get(url).await.unwrap_err().is_connect());
    }
}
