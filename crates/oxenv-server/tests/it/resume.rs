//! Sessions that outlive their sockets: what a client does whose connection was lost.

use std::time::Duration;

use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{get, http, post, until};
use serde_json::{Value, json};

use crate::multi_support::{Multi, refused, serve_bundled, step};
use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

async fn delete(served: &Served, id: &str) {
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await.status, 200);
}

#[tokio::test]
async fn a_step_with_a_key_goes_on_without_its_socket() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open_with(json!({ "resume_s": 600 })).await;
    socket.step(&id, json!({})).await;
    let mut keyed = step(&id, json!({ "do": "wait" }));
    keyed["key"] = json!("k");
    socket.send(keyed.clone()).await;
    served.stage.entered().await;
    drop(socket);
    until("the socket is gone", || served.app.connections() == 0).await;

    let mut socket = Multi::connect(&served).await;
    let attached = socket.ask(json!({ "type": "attach", "session": id })).await;
    // The step that runs is not acknowledged yet.
    assert_eq!((&attached["seq"], &attached["data"]["step_count"]), (&json!(1), &json!(1)));
    let again = socket.send(keyed.clone()).await;
    served.stage.open("");
    let reply = socket.reply(again).await;
    assert_eq!((&reply["data"]["reward"], &reply["repeated"]), (&json!(2), &json!(true)));
    assert_eq!(served.stage.notes().len(), 1, "it ran once");
    assert_eq!(served.stage.cancelled(), 0);
    // And once more, after another loss.
    drop(socket);
    let mut socket = Multi::connect(&served).await;
    socket.ask(json!({ "type": "attach", "session": id })).await;
    assert_eq!(socket.ask(keyed).await["data"], reply["data"]);
    assert_eq!(socket.step(&id, json!({})).await["seq"], 3);
    socket.ask(json!({ "type": "close", "session": id })).await;
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_step_without_a_key_is_cancelled_and_says_so() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open_with(json!({ "resume_s": 600 })).await;
    socket.send(step(&id, json!({ "do": "wait" }))).await;
    served.stage.entered().await;
    drop(socket);
    until("the step is cancelled", || served.stage.cancelled() == 1).await;
    let mut socket = Multi::connect(&served).await;
    socket.ask(json!({ "type": "attach", "session": id })).await;
    assert_eq!(refused(&socket.step(&id, json!({})).await), "RESET_REQUIRED");
    assert_eq!(socket.ask(json!({ "type": "reset", "session": id })).await["type"], "observation");
    socket.ask(json!({ "type": "close", "session": id })).await;
    socket.ws.close().await;
    served.end().await;
}

/// The reply to `open` was lost with the socket: the same key finds the session again.
#[tokio::test]
async fn an_open_with_a_key_finds_its_session_again() {
    let served = serve().await;
    let open = json!({ "type": "open", "key": "worker-7", "data": { "seed": 1, "resume_s": 600 } });
    let mut lost = Multi::connect(&served).await;
    lost.send(open.clone()).await;
    until("it is made", || served.active() == 1).await;
    drop(lost);
    let mut socket = Multi::connect(&served).await;
    let opened = socket.ask(open).await;
    assert_eq!((&opened["type"], &opened["repeated"]), (&json!("opened"), &json!(true)));
    let id = opened["session"].as_str().unwrap().to_owned();
    assert_eq!(socket.step(&id, json!({})).await["seq"], 1);
    assert_eq!(served.active(), 1);
    socket.ask(json!({ "type": "close", "session": id })).await;
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_kept_for_its_time_and_by_keepalive() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Inline);
    let served = Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
    let mut socket = Multi::connect(&served).await;
    let short = socket.open_with(json!({ "resume_s": 5 })).await;
    let long = socket.open_with(json!({ "resume_s": 60 })).await;
    // With its socket it stays however long nothing is said.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(served.active(), 2);
    drop(socket);
    until("the socket is gone", || served.app.connections() == 0).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(served.active(), 1);
    assert_eq!(get(served.address, &format!("/sessions/{short}")).await.status, 410);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(45)).await;
        let kept = post(served.address, &format!("/sessions/{long}/keepalive"), &Value::Null).await;
        assert_eq!((kept.status, &kept.json()["seq"]), (200, &json!(0)));
    }
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(served.active(), 0);
    served.end().await;
}

/// The same episode with two losses and every request repeated, and without: the same bytes.
#[tokio::test]
async fn losses_and_repeats_change_no_byte() {
    let served = serve_bundled(oxenv_envs::number_guess::factory()).await;
    let seeds = json!({ "seed": 5, "resume_s": 600 });
    let guesses = [50, 25, 75, 10, 90, 60];
    let mut calm = Multi::connect(&served).await;
    let undisturbed = calm.open_with(seeds.clone()).await;
    let mut expected =
        vec![calm.ask(json!({ "type": "reset", "session": undisturbed })).await["data"].clone()];
    for guess in guesses {
        expected.push(calm.step(&undisturbed, json!({ "guess": guess })).await["data"].clone());
    }
    let mut socket = Multi::connect(&served).await;
    let id = socket.open_with(seeds).await;
    let mut seen = Vec::new();
    let mut requests = vec![json!({ "type": "reset", "session": id, "key": "r" })];
    for (number, guess) in guesses.into_iter().enumerate() {
        let mut frame = step(&id, json!({ "guess": guess }));
        frame["key"] = json!(format!("k{number}"));
        requests.push(frame);
    }
    for (number, request) in requests.into_iter().enumerate() {
        if number == 2 || number == 4 {
            socket.send(request.clone()).await;
            drop(socket);
            socket = Multi::connect(&served).await;
            socket.ask(json!({ "type": "attach", "session": id })).await;
        }
        let (first, second) = (socket.ask(request.clone()).await, socket.ask(request).await);
        assert_eq!(first["data"], second["data"]);
        assert_eq!(second["repeated"], true);
        seen.push(first["data"].clone());
    }
    assert_eq!(seen, expected);
    for session in [&id, &undisturbed] {
        delete(&served, session).await;
    }
    socket.ws.close().await;
    calm.ws.close().await;
    served.end().await;
}
