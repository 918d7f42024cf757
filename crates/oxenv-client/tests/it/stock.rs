//! The stock dialect, against a server of ours and against ones that a test plays.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use oxenv_client::{ClientOptions, Code, EnvClient, OpenOptions, Protocol, ResetOptions, StepOptions};
use oxenv_core::StoreLimits;
use oxenv_server::ServerConfig;
use oxenv_test_support::until;
use oxenv_wire::{Delivered, ErrorCode, Phase, Reward};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::multi_support::{serve, serve_with};
use crate::support::{FakeStockServer, open, reset, step, stock};

fn n(result: &oxenv_client::StepResult) -> Option<u64> {
    result.observation_value()["n"].as_u64()
}

#[tokio::test]
async fn an_episode_from_its_reset_to_its_close() {
    let served = serve().await;
    let client = open(&served.url(), &stock()).await.unwrap();
    assert_eq!((client.protocol(), client.session_id()), (Protocol::Stock, None));
    let reset = client.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await.unwrap();
    assert_eq!(
        (reset.observation_value()["seed"].as_u64(), reset.reward),
        (Some(7), Some(Reward::Float(0.0)))
    );
    let step = client.step(&json!({ "do": "finish" })).await.unwrap();
    assert_eq!((step.reward, step.done), (Some(Reward::Float(1.0)), true));
    assert_eq!(client.state().await.unwrap()["count"], 1);
    client.close().await.unwrap();
    client.close().await.unwrap();
    let after = client.step(&json!({})).await.unwrap_err();
    assert_eq!((after.code(), after.delivered()), (Code::Closed, Delivered::No));
    served.end().await;
}

#[tokio::test]
async fn a_dropped_client_ends_its_session_and_what_runs_in_it() {
    let served = serve().await;
    let client = open(&served.url(), &stock()).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    tokio::select! {
        _ = step(&client, json!({ "do": "wait", "at": "never" })) => panic!("it was not to end"),
        () = served.stage.entered() => {}
    }
    drop(client);
    until("the step is cancelled", || served.stage.cancelled() == 1).await;
    served.end().await;
}

#[tokio::test]
async fn what_a_session_is_opened_with_goes_to_its_first_reset_alone() {
    let served = serve().await;
    let opened = OpenOptions { seed: Some(3), ..OpenOptions::default() };
    let client = EnvClient::connect_with(&served.url(), &stock(), &opened).await.unwrap();
    let seed = |result: oxenv_client::StepResult| result.observation_value()["seed"].as_u64();
    assert_eq!(seed(client.reset(&ResetOptions::default()).await.unwrap()), Some(3));
    assert_ne!(seed(client.reset(&ResetOptions::default()).await.unwrap()), Some(3));
    drop(client);
    let resumable = OpenOptions { resume: Some(Duration::from_secs(1)), ..OpenOptions::default() };
    let refused = EnvClient::connect_with(&served.url(), &stock(), &resumable).await.err().unwrap();
    assert_eq!(refused.code(), Code::VersionMismatch);
    served.end().await;
}

#[tokio::test]
async fn a_failure_has_what_the_server_says_of_it() {
    let served = serve().await;
    let client = open(&served.url(), &stock()).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    let failed = client.step(&json!({ "do": "fail", "code": "EXECUTION_ERROR" })).await.unwrap_err();
    assert_eq!((failed.delivered(), failed.phase()), (Delivered::Yes, Some(Phase::Step)));
    let refused = client.step(&json!({ "do": "refuse" })).await.unwrap_err();
    assert_eq!(refused.code(), Code::Server(ErrorCode::ExecutionError));
    assert_eq!(refused.kind(), oxenv_wire::FailureKind::Action);
    let invalid = ResetOptions { episode_id: Some("x".repeat(300)), ..ResetOptions::default() };
    let invalid = client.reset(&invalid).await.unwrap_err();
    assert_eq!(invalid.code(), Code::Server(ErrorCode::ValidationError));
    assert!(invalid.message().contains("episode_id"), "{invalid}");
    let keyed = StepOptions { key: Some("k".into()), ..StepOptions::default() };
    let keyed = client.step_with(&json!({}), &keyed).await.unwrap_err();
    assert_eq!((keyed.code(), keyed.delivered()), (Code::Server(ErrorCode::Unsupported), Delivered::No));
    let text = client.step("no object").await.unwrap_err();
    assert_eq!(text.code(), Code::InvalidOptions);
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn a_full_server_is_told_with_the_first_reset() {
    let limits = StoreLimits { max_sessions: 1, queue: Duration::ZERO, ..StoreLimits::default() };
    let served = serve_with(limits, ServerConfig::default()).await;
    let first = open(&served.url(), &stock()).await.unwrap();
    first.reset(&ResetOptions::default()).await.unwrap();
    let second = open(&served.url(), &stock()).await.unwrap();
    for _ in 0..2 {
        let full = second.reset(&ResetOptions::default()).await.unwrap_err();
        assert_eq!(full.code(), Code::Server(ErrorCode::CapacityReached));
        assert_eq!((full.delivered(), full.is_retryable()), (Delivered::No, true));
    }
    drop((first, second));
    served.end().await;
}

#[tokio::test]
async fn one_connection_is_made_also_if_the_server_selects_no_subprotocol() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&ClientOptions::default()).await;
    assert_eq!(client.protocol(), Protocol::Stock);
    let (reset, ()) = tokio::join!(reset(&client), async {
        assert_eq!(peer.text().await, r#"{"type":"reset","data":{}}"#);
        peer.observe(0).await;
    });
    reset.unwrap();
    assert!(server.is_quiet());
    let demanded = ClientOptions { protocol: Protocol::Oxenv1, ..ClientOptions::default() };
    assert_eq!(open(&server.url, &demanded).await.err().unwrap().code(), Code::VersionMismatch);
}

#[tokio::test]
async fn a_late_reply_is_never_the_next_requests() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    let hasty = StepOptions { timeout: Some(Duration::from_millis(20)), ..StepOptions::default() };
    let late = client.step_with(&json!({}), &hasty).await.unwrap_err();
    assert_eq!((late.code(), late.delivered()), (Code::TimedOut, Delivered::Maybe));
    // Another is dropped while it waits.
    let dropped = tokio::time::timeout(Duration::from_millis(20), client.step(&json!({}))).await;
    assert!(dropped.is_err());
    let (third, ()) = tokio::join!(step(&client, json!({})), async {
        for number in 1..=3 {
            peer.text().await;
            peer.observe(number).await;
        }
    });
    assert_eq!(n(&third.unwrap()), Some(3));
    // A reply that is late after its successor was sent.
    let (fourth, ()) = tokio::join!(step(&client, json!({})), async {
        peer.text().await;
        peer.observe(4).await;
    });
    assert_eq!(n(&fourth.unwrap()), Some(4));
}

#[tokio::test]
async fn what_is_dropped_in_any_phase_leaves_the_others_their_replies() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    {
        let mut dropped: Vec<futures_util::future::BoxFuture<'_, ()>> = vec![
            Box::pin(async { drop(reset(&client).await) }),
            Box::pin(async { drop(step(&client, json!({})).await) }),
            Box::pin(async { drop(client.state().await) }),
            Box::pin(async { drop(client.list_tools().await) }),
            Box::pin(async { drop(client.call_tool("t", json!({})).await) }),
        ];
        for call in &mut dropped {
            assert!(futures_util::poll!(call).is_pending());
        }
    }
    let (last, ()) = tokio::join!(step(&client, json!({ "last": true })), async {
        for number in 1.. {
            let request = peer.text().await;
            peer.observe(number).await;
            if request.contains("last") {
                return;
            }
        }
    });
    assert_eq!(n(&last.unwrap()), Some(6));
    {
        let mut closing = Box::pin(client.close());
        assert!(futures_util::poll!(&mut closing).is_pending());
    }
    assert_eq!(peer.text().await, r#"{"type":"close"}"#);
    drop(peer);
    client.close().await.unwrap();
}

#[tokio::test]
async fn many_callers_of_one_session_get_their_own_replies() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    let calls = (0..64).map(|number| {
        let client = &client;
        async move {
            let action = json!({ "number": number });
            if number % 5 == 0 {
                let hasty = StepOptions { timeout: Some(Duration::from_millis(5)), ..StepOptions::default() };
                let _ = client.step_with(&action, &hasty).await;
                return;
            }
            assert_eq!(n(&client.step(&action).await.unwrap()), Some(number));
        }
    });
    let answers = async {
        for _ in 0..64 {
            let request: Value = serde_json::from_str(&peer.text().await).unwrap();
            let number = request["data"]["number"].as_u64().unwrap();
            peer.observe(usize::try_from(number).unwrap()).await;
        }
    };
    tokio::join!(join_all(calls), answers);
}

#[tokio::test]
async fn pings_are_answered_while_nobody_calls_and_while_a_call_is_not_polled() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    let ping = async |peer: &mut crate::support::Peer, word: &'static str| {
        peer.socket.send(Message::Ping(word.into())).await.unwrap();
        loop {
            if let Message::Pong(said) = peer.socket.next().await.unwrap().unwrap() {
                return assert_eq!(said.as_ref(), word.as_bytes());
            }
        }
    };
    ping(&mut peer, "idle").await;
    let mut waiting = Box::pin(step(&client, json!({})));
    assert!(futures_util::poll!(&mut waiting).is_pending());
    ping(&mut peer, "called").await;
    peer.observe(1).await;
    assert_eq!(n(&waiting.await.unwrap()), Some(1));
}

#[tokio::test]
async fn a_lost_server_is_said_to_be_lost_and_what_is_known_of_the_request() {
    let mut server = FakeStockServer::start().await;
    let (client, mut peer) = server.pair(&stock()).await;
    let (step, ()) = tokio::join!(step(&client, json!({})), async {
        peer.text().await;
        drop(peer);
    });
    let lost = step.unwrap_err();
    assert_eq!((lost.code(), lost.delivered()), (Code::ConnectionLost, Delivered::Maybe));
    let after = client.step(&json!({})).await.unwrap_err();
    assert_eq!((after.code(), after.delivered()), (Code::ConnectionLost, Delivered::No));
}

#[tokio::test]
async fn replies_that_are_none() {
    for reply in [
        "nonsense",
        r#"{"type":"state","data":{}}"#,
        r#"{"type":"observation","data":{"observation":1,"done":"x"}}"#,
    ] {
        let mut server = FakeStockServer::start().await;
        let (client, mut peer) = server.pair(&stock()).await;
        let (step, ()) = tokio::join!(step(&client, json!({})), async {
            peer.text().await;
            peer.say(reply).await;
        });
        let error = step.unwrap_err();
        assert_eq!((error.code(), error.delivered()), (Code::InvalidReply, Delivered::Yes), "{reply}");
    }
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_refused_and_named() {
    let served = serve().await;
    let options = ClientOptions { max_message: 64 << 10, ..stock() };
    let client = open(&served.url(), &options).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    client.step(&json!({ "do": "big", "bytes": 60 << 10 })).await.unwrap();
    let error = client.step(&json!({ "do": "big", "bytes": 70 << 10 })).await.unwrap_err();
    assert_eq!((error.code(), error.delivered()), (Code::InvalidReply, Delivered::Yes));
    assert!(error.message().contains("max_message"), "{error}");
    drop(client);
    served.end().await;
}
