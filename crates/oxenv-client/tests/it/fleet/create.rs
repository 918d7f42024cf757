//! Making an instance, through every fault that was seen.

use std::time::Duration;

use oxenv_client::Code;
use oxenv_client::fleet::{FleetEnvClient, FleetOptions};
use oxenv_fleet_simulator::SimulatorOptions;
use oxenv_test_support::until;
use oxenv_wire::Delivered;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{came, made, nothing_left, options, refused, simulated, with};

#[tokio::test]
async fn what_passes_is_repeated() {
    for faults in [
        &["create:429*1"][..],
        &["create:429~1*1"],
        &["create:503*2"],
        &["create:502*1"],
        &["create:500*1"],
        &["create:404*1"],
        &["create:drop*1"],
        &["create:slow=300ms"],
        &["create:pending"],
        &["create:pending", "get:404*1"],
        &["create:pending", "get:502*1"],
        &["token:404"],
        &["health:503*3"],
        &["health:502*1", "health:drop*1"],
        &["mcps:502*2"],
    ] {
        let simulator = simulated(faults).await;
        let (orch, tools) = made(&simulator).await;
        assert_eq!(simulator.views().len(), 1, "{faults:?}");
        assert_eq!(tools.list().await.unwrap().tools.len(), 6, "{faults:?}");
        orch.close().await.unwrap();
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn an_instance_whose_answer_was_lost_is_found_again() {
    for faults in
        [&["create:drop-after*1"][..], &["create:cut*1"], &["create:drop-after*1", "create:pending*1"]]
    {
        let simulator = simulated(faults).await;
        let (orch, _tools) = made(&simulator).await;
        assert_eq!(simulator.views().len(), 1, "{faults:?}");
        assert_eq!(orch.instance_id(), simulator.views()[0].id);
        drop(orch);
        nothing_left(&simulator).await;
    }
    let simulator = simulated(&["create:drop-after*1", "create:pending-then-error*1"]).await;
    let error = refused(&simulator, options(&simulator)).await;
    assert_eq!(error.code(), Code::FleetInstanceFailed, "{error}");
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn each_refusal_has_its_code_and_leaves_nothing() {
    for (fault, code) in [
        ("create:401", Code::FleetUnauthorized),
        ("create:limit", Code::FleetInstanceLimit),
        ("create:403-limit", Code::FleetInstanceLimit),
        ("create:403-team", Code::FleetTeamNotFound),
        ("create:403-environment", Code::FleetEnvironmentForbidden),
        ("create:403-permission", Code::FleetForbidden),
        ("create:400-region", Code::FleetRegionUnknown),
        ("create:400-environment", Code::FleetEnvironmentUnknown),
        ("create:400-version", Code::FleetVersionUnknown),
        ("create:400", Code::FleetBadRequest),
        ("create:400-retryable", Code::FleetBadRequest),
        ("create:400-retryable-text", Code::FleetBadRequest),
        ("create:400={\"detail\":{\"key\":\"sk_simulated\"}}", Code::FleetBadRequest),
        ("create:422", Code::FleetBadRequest),
        ("create:409={\"detail\":\"busy\"}*1", Code::FleetConflict),
        ("create:429~60", Code::FleetRateLimited),
        ("create:418", Code::FleetError),
        ("create:pending-then-error", Code::FleetInstanceFailed),
        ("create:pending-then-stopped", Code::FleetInstanceFailed),
        ("create:garbage*1", Code::InvalidReply),
    ] {
        let simulator = simulated(&[fault]).await;
        let error = refused(&simulator, options(&simulator)).await;
        assert_eq!(error.code(), code, "{fault}: {error}");
        assert_eq!(
            error.is_retryable() && code == Code::FleetBadRequest,
            fault.contains("retryable"),
            "{fault}"
        );
        if code == Code::FleetRateLimited {
            assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));
        }
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn variables_are_not_told_back() {
    let echoed = r#"create:422={"detail":[{"loc":["body"],"msg":"too odd","input":{"TOKEN":"hunter22"}}]}"#;
    let simulator = simulated(&[echoed]).await;
    let variables = [("TOKEN".to_owned(), "hunter22".into())].into_iter().collect();
    let secret = FleetOptions { env_variables: variables, ..options(&simulator) };
    assert!(!format!("{secret:?}").contains("hunter22"));
    let error = refused(&simulator, secret).await;
    assert_eq!(error.data()["detail"][0]["input"]["TOKEN"], "***");
    assert!(!format!("{error:?}").contains("hunter22"));
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn what_does_not_pass_is_told_after_four_attempts() {
    for (fault, code) in [
        ("create:429", Code::FleetRateLimited),
        ("create:503", Code::FleetError),
        ("create:502", Code::FleetError),
    ] {
        let simulator = simulated(&[fault]).await;
        let error = refused(&simulator, options(&simulator)).await;
        assert_eq!(error.code(), code, "{error}");
        let known = code == Code::FleetRateLimited;
        // Of what a proxy answers nobody knows what it was: it is asked again, to delete what it may have
        // made.
        assert_eq!(came(&simulator, "POST", "/v1/env/instances"), if known { 4 } else { 8 }, "{fault}");
        assert_eq!(error.delivered(), if known { Delivered::No } else { Delivered::Maybe });
        assert_eq!(error.message().contains("is not known"), !known, "{error}");
        simulator.clear_faults();
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn a_deadline_holds_in_every_phase() {
    for fault in [
        "create:hang*1",
        "create:hang-after*1",
        "create:pending-for-ever",
        "health:503",
        "health:hang",
        "instance:refuse",
        "mcps:hang",
    ] {
        let simulator = simulated(&[fault]).await;
        let short = FleetOptions { timeout: Duration::from_millis(700), ..options(&simulator) };
        let error = refused(&simulator, short).await;
        assert_eq!(error.code(), Code::TimedOut, "{fault}: {error}");
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn a_dropped_future_leaves_nothing_in_any_phase() {
    let held = SimulatorOptions { provisioning_delay: Duration::from_mins(5), ..SimulatorOptions::default() };
    for (options_of, fault, path) in [
        (held, "environments:401", "/v1/env/instances"),
        (SimulatorOptions::default(), "create:hang-after*1", "/v1/env/instances"),
        (SimulatorOptions::default(), "create:hang*1", "/v1/env/instances"),
        (SimulatorOptions::default(), "get:hang*1", "/v1/env/instances/"),
        (SimulatorOptions::default(), "health:hang", "/health"),
        (SimulatorOptions::default(), "mcps.initialize:hang", "/mcp"),
        (SimulatorOptions::default(), "mcps.list:hang", "/mcp"),
    ] {
        let pending = if path.ends_with('/') { &["create:pending", fault][..] } else { &[fault] };
        let simulator = with(options_of, pending).await;
        let making = FleetEnvClient::from_fleet(simulator.api_key(), "fira", options(&simulator));
        let arrived = until("the request arrives", || {
            simulator.requests().iter().any(|request| request.path.contains(path))
        });
        tokio::select! {
            made = making => panic!("{fault}: {:?}", made.map(drop)),
            () = arrived => {}
        }
        nothing_left(&simulator).await;
    }
}

#[tokio::test]
async fn wrong_options_are_told_before_anything_is_sent() {
    let simulator = simulated(&[]).await;
    let base = options(&simulator);
    let with_base = |url: &str| FleetOptions { base_url: Some(url.to_owned()), ..base.clone() };
    for (key, env, options) in [
        ("", "fira", base.clone()),
        ("a\nb", "fira", base.clone()),
        ("key", "", base.clone()),
        ("key", ":1", base.clone()),
        ("key", "fira", with_base("orchestrator")),
        ("key", "fira", with_base("ftp://fleet")),
        ("key", "fira", with_base("http://me:hunter22@fleet")),
        ("key", "fira", FleetOptions { runner_token: Some("a\r\nb".to_owned()), ..base.clone() }),
    ] {
        let error = FleetEnvClient::from_fleet(key, env, options).await.map(drop).unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidOptions, Delivered::No), "{error}");
        assert!(!format!("{error:?}").contains("hunter22"));
    }
    assert!(simulator.requests().is_empty());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&simulator, with_base(&format!("http://{closed}"))).await;
    assert_eq!((error.code(), error.delivered()), (Code::ConnectFailed, Delivered::No), "{error}");
    let error = FleetEnvClient::from_fleet("sk_wrong", "fira", base).await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::FleetUnauthorized);
    assert!(!error.message().contains("sk_wrong"));
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn what_is_no_fleet_is_told_and_nothing_is_waited_for() {
    let simulator = simulated(&[]).await;
    let safe = simulator.control_url().replace("http://", "https://");
    let error = refused(&simulator, FleetOptions { base_url: Some(safe), ..options(&simulator) }).await;
    assert_eq!((error.code(), error.delivered()), (Code::TlsFailed, Delivered::No), "{error}");
    for (answer, code) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>Hi</html>", Code::NotAServer),
        ("HTTP/1.1 301 Moved\r\nlocation: http://elsewhere/\r\ncontent-length: 0\r\n\r\n", Code::FleetError),
        ("SSH-2.0-OpenSSH_9.7\r\n", Code::NotAServer),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = Some(format!("http://{}", listener.local_addr().unwrap()));
        let answering = async {
            loop {
                let mut socket = listener.accept().await.unwrap().0;
                // That one speaks first.
                if !answer.starts_with("SSH") {
                    let _ = socket.read(&mut [0; 4096]).await;
                }
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        };
        let other = FleetOptions { base_url, timeout: Duration::from_secs(1), ..options(&simulator) };
        tokio::select! {
            () = answering => {}
            error = refused(&simulator, other) => {
                assert_eq!(error.code(), code, "{answer}: {error}");
                assert!(!error.message().contains("elsewhere"), "no redirect is followed");
            }
        }
    }
    assert!(simulator.views().is_empty());
}
