//! Sessions that are made with a key: what a repeat gets at each door, and what becomes of them when their
//! socket is lost.

use std::time::Duration;

use oxenv_core::{Execution, ForkMode, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{Reply, get, http, post, until};
use serde_json::{Value, json};

use crate::multi_support::{Multi, refused};
use crate::served::Served;
use crate::stage::{Booting, Scripted, Stage};

fn forking(stage: &Stage) -> Scripted {
    Scripted::new(stage, Execution::Task).spec(|spec| {
        spec.capabilities.fork = ForkMode::Native;
        spec.capabilities.snapshot = true;
    })
}

async fn serve(factory: impl Fn(&Stage) -> Scripted, limits: StoreLimits) -> Served {
    let stage = Stage::default();
    Served::start(&stage, factory(&stage), limits, ServerConfig::default()).await
}

async fn post_keyed(served: &Served, path: &str, key: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    http(served.address, "POST", path, &headers, body.to_string().as_bytes()).await
}

async fn delete(served: &Served, id: &str) {
    assert_eq!(http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await.status, 200);
}

/// The reply without the id of its request and the mark of a repeat.
fn unmarked(mut reply: Value) -> Value {
    let fields = reply.as_object_mut().unwrap();
    fields.retain(|key, _| !["id", "repeated"].contains(&key.as_str()));
    reply
}

/// The one result of a batch of one.
fn only(reply: &Value) -> Value {
    let results = reply["results"].as_array().or_else(|| reply["data"]["results"].as_array()).unwrap();
    assert_eq!(results.len(), 1);
    results[0].clone()
}

#[tokio::test]
async fn a_repeated_open_gets_its_first_reply_at_every_door() {
    let served = serve(forking, StoreLimits::default()).await;
    let mut socket = Multi::connect(&served).await;
    let data = json!({ "seed": 3, "resume_s": 600 });
    let open = json!({ "type": "open", "key": "k", "data": data });
    let first = socket.ask(open.clone()).await;
    let id = first["session"].as_str().unwrap().to_owned();
    let snapshot = socket.ask(json!({ "type": "snapshot", "session": id })).await["data"]["snapshot"].clone();
    let restored_data = json!({ "snapshot": snapshot, "resume_s": 600 });
    let restore = json!({ "type": "restore", "key": "r", "data": restored_data });
    let restored = socket.ask(restore.clone()).await;
    let copy = restored["session"].as_str().unwrap().to_owned();
    for session in [&id, &copy] {
        socket.step(session, json!({})).await;
    }
    for ended in [false, true] {
        if ended {
            delete(&served, &id).await;
            delete(&served, &copy).await;
        }
        for (frame, first) in [(&open, &first), (&restore, &restored)] {
            let again = socket.ask(frame.clone()).await;
            assert_eq!(again["repeated"], true, "{again}");
            assert_eq!(unmarked(again), unmarked(first.clone()));
            let batch = json!({ "type": "batch", "data": { "items": [frame] } });
            let in_batch = only(&socket.ask(batch.clone()).await);
            assert_eq!(in_batch["repeated"], true);
            assert_eq!(unmarked(in_batch), unmarked(first.clone()));
            let over_http = only(&post(served.address, "/batch", &batch["data"]).await.json());
            assert_eq!(over_http["repeated"], true);
            assert_eq!(unmarked(over_http), unmarked(first.clone()));
        }
        for (path, key, body, first) in
            [("/sessions", "k", &data, &first), ("/restore", "r", &restored_data, &restored)]
        {
            let again = post_keyed(&served, path, key, body).await;
            assert_eq!((again.status, again.header("oxenv-repeated")), (201, Some("true")));
            assert_eq!(again.json(), first["data"]);
        }
    }
    // What is done with it then says that it has ended.
    assert_eq!(refused(&socket.step(&id, json!({})).await), "SESSION_ENDED");
    assert_eq!(get(served.address, &format!("/sessions/{id}/state")).await.status, 410);
    assert_eq!(served.active(), 0);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_repeated_fork_gets_its_first_reply_when_its_original_has_ended() {
    let served = serve(forking, StoreLimits::default()).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    socket.ask(json!({ "type": "reset", "session": id })).await;
    let fork = json!({ "type": "fork", "session": id, "key": "f", "data": { "n": 2, "resume_s": 600 } });
    let first = socket.ask(fork.clone()).await;
    assert_eq!((&first["type"], &first["seq"]), (&json!("forked"), &json!(1)));
    socket.step(&id, json!({})).await;
    let again = socket.ask(fork.clone()).await;
    assert_eq!((&again["repeated"], unmarked(again.clone())), (&json!(true), unmarked(first.clone())));
    socket.ask(json!({ "type": "close", "session": id })).await;
    // Its forks live, and whoever lost the reply finds them again.
    let mut later = Multi::connect(&served).await;
    for socket in [&mut socket, &mut later] {
        let again = socket.ask(fork.clone()).await;
        assert_eq!(again["repeated"], true, "{again}");
        assert_eq!(unmarked(again), unmarked(first.clone()));
    }
    let path = format!("/sessions/{id}/fork");
    let again = post_keyed(&served, &path, "f", &fork["data"]).await;
    assert_eq!((again.status, again.header("oxenv-repeated")), (201, Some("true")));
    assert_eq!(post_keyed(&served, &path, "f", &json!({ "n": 3, "resume_s": 600 })).await.status, 409);
    // A new one has nothing to copy.
    assert_eq!(post_keyed(&served, &path, "g", &fork["data"]).await.status, 410);
    let mut new = fork.clone();
    new["key"] = json!("g");
    assert_eq!(refused(&later.ask(new).await), "SESSION_ENDED");
    let forks = first["data"]["sessions"].as_array().unwrap();
    assert_eq!(later.step(forks[0]["session_id"].as_str().unwrap(), json!({})).await["seq"], 1);
    for fork in forks {
        delete(&served, fork["session_id"].as_str().unwrap()).await;
    }
    socket.ws.close().await;
    later.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn what_has_a_key_and_may_not_be_resumed_ends_with_its_socket() {
    let served = serve(forking, StoreLimits::default()).await;
    let mut socket = Multi::connect(&served).await;
    let open = json!({ "type": "open", "key": "k" });
    let id = socket.ask(open.clone()).await["session"].as_str().unwrap().to_owned();
    let fork = json!({ "type": "fork", "session": id, "key": "f", "data": { "n": 2 } });
    socket.ask(fork.clone()).await;
    let snapshot = socket.ask(json!({ "type": "snapshot", "session": id })).await["data"].clone();
    socket.ask(json!({ "type": "restore", "key": "r", "data": snapshot })).await;
    assert_eq!(served.active(), 4);
    drop(socket);
    until("they end with their socket", || served.active() == 0).await;
    // It was done, and its reply says what was made.
    let mut socket = Multi::connect(&served).await;
    let again = socket.ask(open).await;
    assert_eq!((&again["session"], &again["repeated"]), (&json!(id), &json!(true)));
    assert_eq!(refused(&socket.step(&id, json!({})).await), "SESSION_ENDED");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_socket_that_is_lost_while_it_opens_takes_the_session_along() {
    let limits = StoreLimits { max_sessions: 2, queue: Duration::from_secs(600), ..StoreLimits::default() };
    let served = serve(|stage| forking(stage).booting(Booting::AtGate), limits).await;
    let open = |key: &str| json!({ "type": "open", "key": key });
    let mut socket = Multi::connect(&served).await;
    socket.send(open("made")).await;
    served.stage.entered().await;
    socket.send(json!({ "type": "batch", "data": { "items": [open("in a batch")] } })).await;
    served.stage.entered().await;
    socket.send(open("waits")).await;
    until("it waits", || served.app.store.status().waiting == 1).await;
    // Somebody else repeats one of them, and waits for what comes of it.
    let mut other = Multi::connect(&served).await;
    let repeat = other.send(open("made")).await;
    other.ask(json!({ "type": "state", "session": "nobody" })).await;
    drop(socket);
    until("they are given up", || served.stage.cancelled() == 2).await;
    served.stage.entered().await;
    until("no slot is left behind", || served.active() == 1).await;
    assert_eq!(served.app.store.status().waiting, 0);
    served.stage.open("boot");
    let opened = other.reply(repeat).await;
    assert_eq!((&opened["type"], opened.get("repeated")), (&json!("opened"), None));
    assert_eq!(other.step(opened["session"].as_str().unwrap(), json!({})).await["seq"], 1);
    // The others may be asked for again, and are made then.
    served.stage.open("boot");
    let opened = other.ask(open("in a batch")).await;
    assert_eq!((&opened["type"], opened.get("repeated")), (&json!("opened"), None));
    other.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn what_may_be_resumed_is_made_though_its_socket_is_lost() {
    let served = serve(|stage| forking(stage).booting(Booting::AtGate), StoreLimits::default()).await;
    let open = json!({ "type": "open", "key": "k", "data": { "resume_s": 600 } });
    let mut socket = Multi::connect(&served).await;
    socket.send(open.clone()).await;
    served.stage.entered().await;
    drop(socket);
    until("the socket is gone", || served.app.connections() == 0).await;
    served.stage.open("boot");
    let mut socket = Multi::connect(&served).await;
    let opened = socket.ask(open).await;
    assert_eq!(
        (&opened["type"], &opened["repeated"], served.stage.cancelled()),
        (&json!("opened"), &json!(true), 0)
    );
    socket.ask(json!({ "type": "close", "session": opened["session"] })).await;
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_fork_of_more_than_there_are_slots_is_refused_at_once() {
    let limits = StoreLimits { max_sessions: 4, queue: Duration::from_secs(600), ..StoreLimits::default() };
    let served = serve(forking, limits).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let says = "10 slots at once were asked for, and this server has 4, one of which the original has: ask \
                for 3 at most";
    let refusal = socket.ask(json!({ "type": "fork", "session": id, "data": { "n": 10 } })).await;
    assert_eq!((refused(&refusal), &refusal["data"]["message"]), ("CAPACITY_REACHED", &json!(says)));
    assert_eq!((&refusal["data"]["retryable"], refusal["data"].get("retry_after_s")), (&json!(false), None));
    let over_http = post(served.address, &format!("/sessions/{id}/fork"), &json!({ "n": 10 })).await;
    assert_eq!((over_http.status, over_http.header("retry-after")), (503, None));
    assert_eq!(over_http.json()["detail"], says);
    assert_eq!((served.active(), served.app.store.status().waiting), (1, 0));
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn forks_that_wait_keep_no_slot_from_others() {
    let limits = StoreLimits { max_sessions: 4, queue: Duration::from_secs(600), ..StoreLimits::default() };
    let served = serve(forking, limits).await;
    let mut socket = Multi::connect(&served).await;
    let (id, other) = (socket.open().await, socket.open().await);
    let fork = socket.send(json!({ "type": "fork", "session": id, "data": { "n": 3 } })).await;
    until("it waits", || served.app.store.status().waiting == 1).await;
    assert_eq!(served.active(), 2);
    let single = socket.open_with(json!({ "queue_s": 0.001 })).await;
    assert_eq!(socket.step(&id, json!({})).await["seq"], 1);
    for session in [other, single] {
        socket.ask(json!({ "type": "close", "session": session })).await;
    }
    let forked = socket.reply(fork).await;
    assert_eq!(forked["data"]["sessions"].as_array().unwrap().len(), 3);
    assert_eq!(served.active(), 4);
    // One that is given up with its socket leaves the queue, and its original is where it was.
    let mut lost = Multi::connect(&served).await;
    lost.ask(json!({ "type": "attach", "session": id })).await;
    lost.send(json!({ "type": "fork", "session": id, "key": "f", "data": { "n": 2 } })).await;
    until("it waits", || served.app.store.status().waiting == 1).await;
    drop(lost);
    until("it is given up", || served.app.store.status().waiting == 0).await;
    delete(&served, &id).await;
    socket.ws.close().await;
    served.end().await;
}

/// The lease is shorter than the fork takes.
#[tokio::test]
async fn a_session_outlives_its_own_fork_however_short_its_lease() {
    let limits =
        StoreLimits { max_sessions: 2, queue: Duration::from_millis(1500), ..StoreLimits::default() };
    let served = serve(forking, limits).await;
    let mut socket = Multi::connect(&served).await;
    socket.open().await;
    let made = post(served.address, "/sessions", &json!({ "resume_s": 0.4 })).await.json();
    let path = format!("/sessions/{}", made["session_id"].as_str().unwrap());
    assert_eq!(post(served.address, &format!("{path}/fork"), &json!({ "n": 1 })).await.status, 503);
    assert_eq!(get(served.address, &path).await.status, 200);
    until("its lease runs out after that", || served.active() == 1).await;
    assert_eq!(get(served.address, &path).await.status, 410);
    socket.ws.close().await;
    served.end().await;
}
