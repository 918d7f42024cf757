//! Sessions by HTTP requests: of our servers, and of stock ones, which have one for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use oxenv_client::{
    ClientOptions, Code, Connection, EnvClient, OpenOptions, Protocol, ResetOptions, StepOptions,
};
use oxenv_core::StoreLimits;
use oxenv_server::{Mode, ServerConfig};
use oxenv_test_support::until;
use oxenv_wire::{Delivered, ErrorCode};
use serde_json::{Value, json};

use crate::multi_support::{serve, serve_factory, serve_with};
use crate::stage::Stage;
use crate::support::{http, open, refused, reset, step};

#[tokio::test]
async fn an_episode_from_its_reset_to_its_close() {
    let served = serve().await;
    let open_options = OpenOptions { episode_id: Some("one".into()), ..OpenOptions::default() };
    let client = EnvClient::connect_with(&served.url(), &http(), &open_options).await.unwrap();
    assert_eq!(client.protocol(), Protocol::Http);
    let (id, url) = (client.session_id().unwrap(), client.mcp_url().unwrap());
    assert!(url.starts_with("http://") && url.ends_with(&format!("/sessions/{id}/mcp")), "{url}");
    let reset = client.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await.unwrap();
    assert_eq!((reset.observation_value()["seed"].as_u64(), reset.seq), (Some(7), Some(1)));
    let step = client.step(&json!({ "do": "finish" })).await.unwrap();
    assert_eq!((step.done, step.seq, step.repeated), (true, Some(2), false));
    assert_eq!(client.state().await.unwrap()["count"], 1);
    client.close().await.unwrap();
    client.close().await.unwrap();
    assert_eq!(client.step(&json!({})).await.unwrap_err().code(), Code::Closed);
    let dropped = open(&served.url(), &http()).await.unwrap();
    drop((client, dropped));
    served.end().await;
}

#[tokio::test]
async fn a_key_runs_once_and_a_number_is_kept() {
    let served = serve().await;
    let client = open(&served.url(), &http()).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    let keyed = StepOptions { key: Some("k".into()), ..StepOptions::default() };
    let first = client.step_with(&json!({}), &keyed).await.unwrap();
    let again = client.step_with(&json!({}), &keyed).await.unwrap();
    assert_eq!(
        (first.repeated, again.repeated, again.observation.get()),
        (false, true, first.observation.get())
    );
    let second = StepOptions { expected_step: Some(2), ..StepOptions::default() };
    client.step_with(&json!({}), &second).await.unwrap();
    let conflict = client.step_with(&json!({}), &second).await.unwrap_err();
    assert_eq!(conflict.code(), Code::Server(ErrorCode::StepConflict));
    assert_eq!(conflict.delivered(), Delivered::No);
    client.close().await.unwrap();
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn the_server_is_told_the_steps_deadline() {
    let served = serve().await;
    let client = open(&served.url(), &http()).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    let short = StepOptions { timeout: Some(Duration::from_millis(50)), ..StepOptions::default() };
    let late = client.step_with(&json!({ "do": "wait", "at": "never" }), &short).await.unwrap_err();
    assert!(matches!(late.code(), Code::TimedOut | Code::Server(ErrorCode::DeadlineExceeded)), "{late:?}");
    until("the step was cut off", || served.stage.cancelled() == 1).await;
    client.close().await.unwrap();
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn a_step_that_nobody_waits_for_is_cancelled() {
    let served = serve().await;
    let client = open(&served.url(), &http()).await.unwrap();
    reset(&client).await.unwrap();
    tokio::select! {
        _ = step(&client, json!({ "do": "wait", "at": "never" })) => panic!("it was not to end"),
        () = served.stage.entered() => {}
    }
    until("the step was cut off", || served.stage.cancelled() == 1).await;
    let cut = step(&client, json!({})).await.unwrap_err();
    assert_eq!(cut.code(), Code::Server(ErrorCode::ResetRequired));
    reset(&client).await.unwrap();
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn forks_go_on_from_the_present_state() {
    let grid = oxenv_envs::grid_world::factory();
    let served =
        serve_factory(&Stage::default(), grid, StoreLimits::default(), ServerConfig::default()).await;
    let url = served.url();
    let client = open(&url, &http()).await.unwrap();
    reset(&client).await.unwrap();
    step(&client, json!({ "action": "DOWN" })).await.unwrap();
    let forks = client.fork(2).await.unwrap();
    for client in forks.iter().chain([&client]) {
        step(client, json!({ "action": "DOWN" })).await.unwrap();
        assert_eq!(client.state().await.unwrap()["step_count"], 2);
    }
    // What is said of other answers does not hold for snapshots, which no frame may have room for.
    let saved = client.snapshot().await.unwrap();
    let short = ClientOptions { max_message: saved.len(), ..http() };
    let (url, saved, short) = (&url, &saved, &short);
    let restore = async |open| EnvClient::restore(url, saved, short, &open).await;
    let restored = restore(OpenOptions::default()).await.unwrap();
    assert_eq!(restored.state().await.unwrap()["step_count"], 2);
    assert_eq!(restored.snapshot().await.unwrap().len(), saved.len());
    let seeded = OpenOptions { seed: Some(1), ..OpenOptions::default() };
    assert_eq!(restore(seeded).await.err().unwrap().code(), Code::InvalidOptions);
    let framed = ClientOptions { protocol: Protocol::Oxenv1, ..short.clone() };
    let framed = Connection::connect(url, &framed).await.unwrap();
    let huge = "A".repeat(100 << 20);
    let error = framed.restore(&huge, &OpenOptions::default()).await.err().unwrap();
    assert_eq!((error.code(), error.delivered()), (Code::InvalidOptions, Delivered::No));
    assert!(error.message().contains("POST /restore"), "{error}");
    drop((forks, client, restored, framed));
    served.end().await;
}

/// A server with the routes of the reference, which refuses its first steps.
#[derive(Clone, Default)]
struct Reference {
    asked: Arc<AtomicUsize>,
    refusals: usize,
    delivered: &'static str,
}

async fn stepped(State(reference): State<Reference>, body: String) -> Response {
    if reference.asked.fetch_add(1, Ordering::SeqCst) < reference.refusals {
        let told = json!({"code": "CAPACITY_REACHED", "kind": "infrastructure", "phase": "step",
                          "delivered": reference.delivered, "retryable": true});
        let mut refusal = answer(&json!({"detail": "busy", "oxenv": told}));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        refusal.headers_mut().insert(header::RETRY_AFTER, 0.into());
        return refusal;
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    answer(&json!({"observation": {"echo": body["action"]}, "reward": 1.0, "done": false, "metadata": null}))
}

fn answer(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn reference(refusals: usize, delivered: &'static str) -> (String, Reference) {
    let reference = Reference { refusals, delivered, ..Reference::default() };
    let routes = Router::new()
        .route("/health", get(|| async { answer(&json!({ "status": "healthy" })) }))
        .route("/reset", post(|| async { answer(&json!({"observation": {}, "reward": 0.0, "done": false})) }))
        .route("/step", post(stepped))
        .route("/state", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error") }))
        .with_state(reference.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, reference)
}

#[tokio::test]
async fn a_stock_server_has_one_session_for_all() {
    let (url, _) = reference(0, "no").await;
    let client = open(&url, &http()).await.unwrap();
    assert_eq!((client.protocol(), client.session_id()), (Protocol::Http, None));
    client.reset(&ResetOptions::default()).await.unwrap();
    let step = client.step(&json!({ "message": "hi" })).await.unwrap();
    assert_eq!(step.observation_value()["echo"]["message"], "hi");
    let raised = client.state().await.unwrap_err();
    assert_eq!(
        (raised.code(), raised.delivered()),
        (Code::Server(ErrorCode::ExecutionError), Delivered::Maybe)
    );
    let keyed = StepOptions { key: Some("k".into()), ..StepOptions::default() };
    let refused = client.step_with(&json!({}), &keyed).await.unwrap_err();
    assert_eq!(refused.code(), Code::Server(ErrorCode::Unsupported));
    client.close().await.unwrap();
}

#[tokio::test]
async fn only_what_was_surely_not_delivered_is_sent_again() {
    let (url, server) = reference(2, "no").await;
    let client = open(&url, &http()).await.unwrap();
    client.step(&json!({})).await.unwrap();
    assert_eq!(server.asked.load(Ordering::SeqCst), 3);
    let (url, server) = reference(2, "maybe").await;
    let client = open(&url, &http()).await.unwrap();
    let error = client.step(&json!({})).await.unwrap_err();
    assert_eq!(
        (error.code(), error.delivered()),
        (Code::Server(ErrorCode::CapacityReached), Delivered::Maybe)
    );
    assert_eq!(server.asked.load(Ordering::SeqCst), 1);
    let (url, server) = reference(100, "no").await;
    let client = open(&url, &http()).await.unwrap();
    assert!(client.step(&json!({})).await.unwrap_err().is_retryable());
    assert_eq!(server.asked.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn an_answer_that_is_too_large_and_a_server_in_production() {
    let served = serve().await;
    let client = open(&served.url(), &ClientOptions { max_message: 10_000, ..http() }).await.unwrap();
    client.reset(&ResetOptions::default()).await.unwrap();
    let large = client.step(&json!({ "do": "big", "bytes": 20_000 })).await.unwrap_err();
    assert_eq!((large.code(), large.delivered()), (Code::InvalidReply, Delivered::Yes));
    drop(client);
    served.end().await;
    let config = ServerConfig { mode: Mode::Production, ..ServerConfig::default() };
    let served = serve_with(StoreLimits::default(), config).await;
    let client = open(&served.url(), &http()).await.unwrap();
    let refused = client.reset(&ResetOptions::default()).await.unwrap_err();
    assert_eq!((refused.code(), refused.delivered()), (Code::NotAServer, Delivered::No));
    drop(client);
    served.end().await;
}

#[tokio::test]
async fn a_prefix_of_the_path_is_kept() {
    let (url, _) = reference(0, "no").await;
    let error = refused(&format!("{url}/below"), &http()).await;
    assert_eq!(error.code(), Code::NotAServer);
    assert!(error.message().contains("/below"), "{error}");
}
