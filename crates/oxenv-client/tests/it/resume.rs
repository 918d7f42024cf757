//! Lost sockets: each step runs once, whatever was cut where, and what cannot come back says so.

use std::time::Duration;

use oxenv_client::{ClientOptions, Code, Connection, EnvClient, OpenOptions, ResetOptions};
use oxenv_core::{EndReason, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{soon, until};
use oxenv_wire::{Delivered, ErrorCode};
use serde_json::json;

use crate::multi_support::{count, resumable, serve, serve_with};
use crate::proxy::{Cut, Proxy};

async fn connect(proxy: &Proxy) -> Connection {
    Connection::connect(&proxy.url(), &ClientOptions::default()).await.unwrap()
}

async fn reset(client: &EnvClient) {
    client.reset(&ResetOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_step_runs_once_wherever_its_connection_was_cut() {
    for cut in Cut::ALL {
        let served = serve().await;
        let proxy = Proxy::start(served.address, "step", &[(3, cut)]).await;
        let connection = connect(&proxy).await;
        let client = connection.open(&resumable()).await.unwrap();
        reset(&client).await;
        for number in 1..=8 {
            let result = client.step(&json!({ "do": "count" })).await.unwrap();
            assert_eq!(result.observation_value()["count"], number, "{cut:?}");
            let ran_before = matches!(cut, Cut::AfterRequest | Cut::InReply);
            assert_eq!(result.repeated, number == 4 && ran_before, "{cut:?}");
        }
        assert_eq!(client.state().await.unwrap()["step_count"], 8, "{cut:?}");
        assert_eq!(proxy.made(), 1);
        drop((client, connection));
        served.end().await;
    }
}

/// Four sessions on one socket that is cut again and again, everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_step_is_lost_or_run_twice_over_many_cuts() {
    let served = serve().await;
    let plan: Vec<(usize, Cut)> = (0..48).map(|n| ((n * 7) % 11, Cut::ALL[n % 4])).collect();
    let proxy = Proxy::start(served.address, "step", &plan).await;
    let connection = connect(&proxy).await;
    let mut playing = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = connection.open(&resumable()).await.unwrap();
        playing.spawn(async move {
            reset(&client).await;
            for number in 1..=80 {
                assert_eq!(count(&client).await, number);
            }
            assert_eq!(client.state().await.unwrap()["step_count"], 80);
            client.close().await.unwrap();
        });
    }
    while let Some(played) = playing.join_next().await {
        played.unwrap();
    }
    assert_eq!(proxy.made(), plan.len());
    drop(connection);
    served.end().await;
}

#[tokio::test]
async fn one_step_may_be_cut_many_times_in_a_row() {
    let served = serve().await;
    let mut plan = vec![(2, Cut::BeforeRequest)];
    plan.extend([Cut::InRequest, Cut::AfterRequest, Cut::InReply, Cut::AfterRequest].map(|cut| (0, cut)));
    let proxy = Proxy::start(served.address, "step", &plan).await;
    let connection = connect(&proxy).await;
    let client = connection.open(&resumable()).await.unwrap();
    reset(&client).await;
    for number in 1..=4 {
        assert_eq!(count(&client).await, number);
    }
    assert_eq!((proxy.made(), client.state().await.unwrap()["step_count"].as_u64()), (5, Some(4)));
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn a_step_that_runs_meanwhile_is_waited_for() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(0, Cut::AfterRequest)]).await;
    let connection = connect(&proxy).await;
    let client = connection.open(&resumable()).await.unwrap();
    let action = json!({ "do": "wait", "at": "gate" });
    let mut step = Box::pin(client.step(&action));
    tokio::select! {
        result = &mut step => panic!("{result:?}"),
        () = served.stage.entered() => {}
    }
    let back = until("the client is there again", || served.app.connections() == 1 && proxy.made() == 1);
    tokio::select! {
        result = &mut step => panic!("{result:?}"),
        () = back => {}
    }
    served.stage.open("gate");
    assert_eq!(soon(step).await.unwrap().observation_value()["count"], 101);
    assert_eq!((served.stage.notes().len(), served.stage.cancelled()), (1, 0));
    drop((client, connection));
    served.end().await;
}

/// As behind a router that has forgotten the connection. Time passes as soon as nothing else happens.
#[tokio::test]
async fn a_connection_that_has_gone_silent_is_left() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(1, Cut::Silence)]).await;
    let connection = connect(&proxy).await;
    let client = connection.open(&resumable()).await.unwrap();
    assert_eq!(count(&client).await, 1);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let result = client.step(&json!({ "do": "count" })).await.unwrap();
    assert_eq!((&result.observation_value()["count"], result.repeated), (&json!(2), true));
    assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
    tokio::time::resume();
    drop((client, connection));
    until("the session is ended", || served.active() == 0).await;
    drop(proxy);
    served.end().await;
}

#[tokio::test]
async fn without_a_resume_all_fails_at_once() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(1, Cut::AfterRequest)]).await;
    let connection = connect(&proxy).await;
    let client = connection.open(&OpenOptions::default()).await.unwrap();
    assert_eq!(count(&client).await, 1);
    let error = soon(client.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::Maybe), "{error}");
    let error = soon(client.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::No), "{error}");
    let error = soon(connection.open(&OpenOptions::default())).await.err().unwrap();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::No), "{error}");
    // Its session has ended with the socket, before the client is gone.
    served.end().await;
}

#[tokio::test]
async fn only_sessions_with_a_resume_outlive_the_socket() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(0, Cut::InReply)]).await;
    let connection = connect(&proxy).await;
    let kept = connection.open(&resumable()).await.unwrap();
    let lost = connection.open(&OpenOptions::default()).await.unwrap();
    assert_eq!(count(&kept).await, 1);
    let error = soon(lost.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::No), "{error}");
    assert_eq!(count(&kept).await, 2);
    // New ones can be opened on the new socket.
    let new = connection.open(&OpenOptions::default()).await.unwrap();
    assert_eq!((count(&new).await, served.active()), (1, 2));
    drop((kept, lost, new, connection));
    served.end().await;
}

#[tokio::test]
async fn an_open_and_a_fork_are_done_once() {
    for (kind, cut) in [("open", Cut::InReply), ("open", Cut::InRequest), ("fork", Cut::AfterRequest)] {
        let stage = crate::stage::Stage::default();
        let factory = oxenv_envs::grid_world::factory();
        let served = crate::multi_support::serve_factory(
            &stage,
            factory,
            StoreLimits::default(),
            ServerConfig::default(),
        )
        .await;
        let proxy = Proxy::start(served.address, kind, &[(0, cut)]).await;
        let connection = connect(&proxy).await;
        let client = connection.open(&resumable()).await.unwrap();
        reset(&client).await;
        let forks = client.fork(3).await.unwrap();
        assert_eq!((forks.len(), served.active(), proxy.made()), (3, 4, 1), "{kind} {cut:?}");
        for fork in &forks {
            fork.step(&json!({ "action": "DOWN" })).await.unwrap();
        }
        drop((client, forks, connection));
        served.end().await;
    }
}

#[tokio::test]
async fn when_the_time_is_over_the_connection_is_lost() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(0, Cut::AfterRequest)]).await;
    let connection = connect(&proxy).await;
    let open = OpenOptions { resume: Some(Duration::from_millis(300)), ..OpenOptions::default() };
    let client = connection.open(&open).await.unwrap();
    proxy.refuse(true);
    let error = soon(client.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::Maybe), "{error}");
    let error = soon(client.step(&json!({}))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::No), "{error}");
    served.end().await;
}

#[tokio::test]
async fn a_session_that_ended_meanwhile_is_not_found() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(1, Cut::BeforeRequest)]).await;
    let connection = connect(&proxy).await;
    let client = connection.open(&resumable()).await.unwrap();
    assert_eq!(count(&client).await, 1);
    proxy.refuse(true);
    let id = client.session_id().unwrap();
    let action = json!({});
    let mut step = Box::pin(client.step(&action));
    tokio::select! {
        result = &mut step => panic!("{result:?}"),
        () = until("it is cut", || proxy.made() == 1) => {}
    }
    served.app.store.get(&id).unwrap().end(EndReason::Closed);
    proxy.refuse(false);
    let error = soon(step).await.unwrap_err();
    let ended = [ErrorCode::SessionNotFound, ErrorCode::SessionEnded].map(Code::Server);
    assert!(ended.contains(&error.code()), "{:?} {error}", error.code());
    assert_eq!(error.delivered(), Delivered::Maybe);
    assert_eq!(soon(client.step(&action)).await.unwrap_err().code(), error.code());
    soon(client.close()).await.unwrap();
    drop((client, connection));
    served.end().await;
}

#[tokio::test]
async fn a_session_dropped_while_the_socket_is_away_is_ended() {
    let served = serve().await;
    let proxy = Proxy::start(served.address, "step", &[(0, Cut::BeforeRequest)]).await;
    let connection = connect(&proxy).await;
    let (kept, dropped) =
        (connection.open(&resumable()).await.unwrap(), connection.open(&resumable()).await.unwrap());
    proxy.refuse(true);
    let action = json!({});
    let mut step = Box::pin(kept.step(&action));
    tokio::select! {
        result = &mut step => panic!("{result:?}"),
        () = until("it is cut", || proxy.made() == 1) => {}
    }
    drop(dropped);
    proxy.refuse(false);
    assert_eq!(soon(step).await.unwrap().observation_value()["count"], 1);
    until("the other one is ended", || served.active() == 1).await;
    drop((kept, connection));
    served.end().await;
}

/// To send it again would end the same way, again and again.
#[tokio::test]
async fn a_request_too_long_for_the_server_fails_and_the_session_goes_on() {
    let config = ServerConfig { max_message: 4096, ..ServerConfig::default() };
    let served = serve_with(StoreLimits::default(), config).await;
    let connection = served.connect().await;
    let client = connection.open(&resumable()).await.unwrap();
    assert_eq!(count(&client).await, 1);
    let error = soon(client.step(&json!({ "do": "count", "text": "x".repeat(10_000) }))).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::ConnectionLost, Delivered::Maybe), "{error}");
    assert!(error.to_string().contains("1009"), "{error}");
    assert_eq!(count(&client).await, 2);
    drop((client, connection));
    served.end().await;
}
