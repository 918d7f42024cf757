//! Many sessions on one socket of `oxenv.1`.

use std::time::Duration;

use oxenv_client::{ClientOptions, Code, Connection, OpenOptions, Protocol, ResetOptions, StepOptions};
use oxenv_core::{EndReason, Execution, StoreLimits};
use oxenv_server::{Mode, ServerConfig};
use oxenv_test_support::{soon, until};
use oxenv_wire::{Delivered, ErrorCode};
use serde_json::{Value, json};

use crate::multi_support::{count, resumable, serve, serve_factory, serve_with};
use crate::stage::{Booting, Scripted, Stage};

#[tokio::test]
async fn every_request_of_a_session() {
    let factory = oxenv_envs::grid_world::factory();
    let stage = Stage::default();
    let served = serve_factory(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
    let connection = served.connect().await;
    let open = OpenOptions { seed: Some(7), episode_id: Some("ep".into()), ..OpenOptions::default() };
    let client = connection.open(&open).await.unwrap();
    assert_eq!(client.protocol(), Protocol::Oxenv1);
    let id = client.session_id().unwrap();
    assert_eq!(client.mcp_url().unwrap(), format!("{}/sessions/{id}/mcp", served.url()));
    assert_eq!(client.agent_token(), None);
    let reset = client.reset(&ResetOptions { seed: Some(3), ..ResetOptions::default() }).await.unwrap();
    assert_eq!((reset.seq, reset.done, reset.repeated), (Some(1), false, false));
    let down = json!({ "action": "DOWN" });
    let options = StepOptions { key: Some("k".into()), ..StepOptions::default() };
    let first = client.step_with(&down, &options).await.unwrap();
    let again = client.step_with(&down, &options).await.unwrap();
    assert_eq!((first.repeated, again.repeated, again.seq), (false, true, first.seq));
    assert_eq!(first.observation.get(), again.observation.get());
    let ahead = StepOptions { expected_step: Some(5), ..StepOptions::default() };
    let error = client.step_with(&down, &ahead).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::Server(ErrorCode::StepConflict), Delivered::No));
    let error = client.step(&json!({ "action": "NOWHERE" })).await.unwrap_err();
    assert_eq!(error.code(), Code::Server(ErrorCode::ValidationError));
    assert!(error.data().is_array(), "{error}");
    assert_eq!(client.state().await.unwrap()["step_count"], 1);
    assert!(client.list_tools().await.unwrap().is_empty());

    let forks = client.fork(2).await.unwrap();
    let saved = client.snapshot().await.unwrap();
    let restored = connection.restore(&saved, &OpenOptions::default()).await.unwrap();
    for other in forks.iter().chain([&restored]) {
        let seen = other.step(&down).await.unwrap().observation_value();
        assert_eq!((&seen["x"], other.session_id() == client.session_id()), (&json!(2), false));
    }
    assert_eq!(connection.restore(&saved, &open).await.err().unwrap().code(), Code::InvalidOptions);
    assert_eq!(served.active(), 4);
    client.close().await.unwrap();
    client.close().await.unwrap();
    assert_eq!(served.active(), 3);
    let error = client.step(&down).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::Closed, Delivered::No));
    drop(forks);
    until("only the restored one is left", || served.active() == 1).await;
    drop((restored, client, connection));
    served.end().await;
}

#[tokio::test]
async fn replies_come_as_they_are_ready() {
    let served = serve().await;
    let connection = served.connect().await;
    let open = OpenOptions::default();
    let (slow, quick) = (connection.open(&open).await.unwrap(), connection.open(&open).await.unwrap());
    let action = json!({ "do": "wait", "at": "a" });
    let mut waiting = Box::pin(slow.step(&action));
    tokio::select! {
        result = &mut waiting => panic!("{result:?}"),
        () = served.stage.entered() => {}
    }
    assert_eq!(soon(count(&quick)).await, 1);
    assert_eq!(soon(slow.state()).await.unwrap()["step_count"], 0);
    served.stage.open("a");
    assert_eq!(soon(waiting).await.unwrap().observation_value()["count"], 101);
    drop((slow, quick, connection));
    served.end().await;
}

/// More at once than a server takes from one socket.
#[tokio::test]
async fn three_thousand_steps_at_once() {
    let served =
        serve_with(StoreLimits { max_sessions: 8, ..StoreLimits::default() }, ServerConfig::default()).await;
    let connection = served.connect().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connection.open(&OpenOptions::default()).await.unwrap());
    }
    let steps = clients.iter().flat_map(|client| (0..375).map(move |_| count(client)));
    let counts = soon(futures_util::future::join_all(steps)).await;
    for of_one in counts.chunks(375) {
        let mut of_one = of_one.to_vec();
        of_one.sort_unstable();
        assert!(of_one.iter().copied().eq(1..=375), "{of_one:?}");
    }
    drop((clients, connection));
    served.end().await;
}

#[tokio::test]
async fn a_step_that_is_given_up_never_gives_its_reply_to_the_next() {
    let served = serve().await;
    let connection = served.connect().await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    let action = json!({ "do": "wait", "at": "a" });
    tokio::select! {
        result = client.step(&action) => panic!("{result:?}"),
        () = served.stage.entered() => {}
    }
    served.stage.open("a");
    assert_eq!(soon(count(&client)).await, 102);
    assert_eq!(soon(count(&client)).await, 103);
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn deadlines_are_the_servers_where_it_knows_them() {
    let served = serve().await;
    let connection = served.connect().await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    let wait = json!({ "do": "wait", "at": "never" });
    let short = Some(Duration::from_millis(50));
    let error =
        client.step_with(&wait, &StepOptions { timeout: short, ..StepOptions::default() }).await.unwrap_err();
    assert_eq!(error.code(), Code::Server(ErrorCode::DeadlineExceeded), "{error}");
    assert_eq!(served.stage.cancelled(), 1);
    let Value::Object(extra) = wait else { unreachable!() };
    let reset = ResetOptions { timeout: short, extra, ..ResetOptions::default() };
    let error = client.reset(&reset).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::TimedOut, Delivered::Maybe), "{error}");
    // The reset runs on, and the next one cancels it.
    soon(client.reset(&ResetOptions::default())).await.unwrap();
    assert_eq!(soon(count(&client)).await, 1);
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn the_last_attach_wins_and_the_loser_is_told() {
    let served = serve().await;
    let (first, second) = (served.connect().await, served.connect().await);
    let opened = first.open(&resumable()).await.unwrap();
    assert_eq!(count(&opened).await, 1);
    let id = opened.session_id().unwrap();
    let attached = second.attach(&id).await.unwrap();
    assert_eq!(count(&attached).await, 2);
    assert_eq!(attached.mcp_url(), opened.mcp_url());
    let error = opened.step(&json!({})).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::Server(ErrorCode::SessionError), Delivered::No));
    // Who has lost a session does not end it, nor does who was given it.
    drop((opened, first));
    until("the first socket is gone", || served.app.connections() == 1).await;
    assert_eq!(count(&attached).await, 3);
    drop((attached, second));
    until("the second socket is gone", || served.app.connections() == 0).await;
    assert_eq!(served.active(), 1);
    served.app.store.get(&id).unwrap().end(EndReason::Closed);
    let third = served.connect().await;
    let error = third.attach("nobody").await.err().unwrap();
    assert_eq!(error.code(), Code::Server(ErrorCode::SessionNotFound));
    drop(third);
    served.end().await;
}

#[tokio::test]
async fn a_session_whose_open_was_given_up_is_ended() {
    for open in [OpenOptions::default(), resumable()] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, Execution::Task).booting(Booting::AtGate);
        let factory = std::sync::Arc::new(factory);
        let served = serve_factory(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
        let connection = served.connect().await;
        tokio::select! {
            opened = connection.open(&open) => panic!("{:?}", opened.map(drop)),
            () = stage.entered() => {}
        }
        stage.open("boot");
        until("it was made and ended", || stage.waiting() == 0 && served.active() == 0).await;
        stage.open("boot");
        let client = connection.open(&open).await.unwrap();
        assert_eq!((count(&client).await, served.active()), (1, 1));
        drop((client, connection));
        served.end().await;
    }
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let served =
        serve_with(StoreLimits { max_sessions: 1, ..StoreLimits::default() }, ServerConfig::default()).await;
    let connection = served.connect().await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    let queue = Some(Duration::from_millis(20));
    let full = connection.open(&OpenOptions { queue, ..OpenOptions::default() }).await.err().unwrap();
    assert_eq!((full.code(), full.delivered()), (Code::Server(ErrorCode::CapacityReached), Delivered::No));
    assert!(full.is_retryable() && full.retry_after().is_some(), "{full}");
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn a_server_without_the_protocol_is_told_apart() {
    let config = ServerConfig { mode: Mode::Production, ..ServerConfig::default() };
    let served = serve_with(StoreLimits::default(), config).await;
    let refused = Connection::connect(&served.url(), &ClientOptions::default()).await.err().unwrap();
    assert_eq!(refused.code(), Code::VersionMismatch, "{refused}");
    served.end().await;
}

#[tokio::test]
async fn pings_are_answered_while_nobody_calls() {
    let (ping_every, dead_after) = (Duration::from_millis(20), Duration::from_millis(60));
    let config = ServerConfig { ping_every, dead_after, ..ServerConfig::default() };
    let served = serve_with(StoreLimits::default(), config).await;
    let connection = served.connect().await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    // What is measured is that nothing happens for many times as long as a silent peer would live.
    tokio::time::sleep(10 * dead_after).await;
    assert_eq!((count(&client).await, served.app.connections()), (1, 1));
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn a_server_that_stops_answers_what_is_in_flight_first() {
    let served = serve().await;
    let connection = served.connect().await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    let action = json!({ "do": "wait", "at": "a" });
    let step = async { soon(client.step(&action)).await.unwrap().observation_value() };
    let stop = async {
        served.stage.entered().await;
        served.stage.open("a");
        served.stop().await;
    };
    assert_eq!(tokio::join!(step, stop).0["count"], 101);
    let error = soon(client.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::No), "{error}");
}
