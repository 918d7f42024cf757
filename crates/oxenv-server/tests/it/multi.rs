//! The subprotocol `oxenv.1`: ids, many sessions on one socket, several requests in flight.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{RawWs, Ws, get, http, post, soon, until};
use oxenv_wire::{MultiError, SessionProgress};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::multi_support::{Multi, offer, refused, serve_bundled, step};
use crate::served::{Served, serve, serve_production};
use crate::stage::{Scripted, Stage};

#[tokio::test]
async fn the_subprotocol_is_chosen_where_it_is_offered() {
    let served = serve().await;
    let (socket, chosen) = offer(&served, "/ws", "other, oxenv.1").await;
    assert_eq!(chosen.as_deref(), Some("oxenv.1"));
    socket.close().await;
    for (path, offered) in [("/ws", "oxenv.2"), ("/mcp", "oxenv.1")] {
        let (socket, chosen) = offer_refusable(&served, path, offered).await;
        assert_eq!(chosen, None, "{path}");
        drop(socket);
    }
    served.end().await;
    // An agent's socket has no control, so it has no use for many sessions.
    let served = serve_production().await;
    let (_, chosen) = offer_refusable(&served, "/ws", "oxenv.1").await;
    assert_eq!(chosen, None);
    served.end().await;
}

/// A client may take it badly that none of its subprotocols was chosen, so this one looks at bytes.
async fn offer_refusable(served: &Served, path: &str, offered: &str) -> (RawWs, Option<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(served.address).await.unwrap();
    let head = oxenv_test_support::upgrade_request(served.address, path);
    let head = head.replace("\r\n\r\n", &format!("\r\nsec-websocket-protocol: {offered}\r\n\r\n"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    while !reply.ends_with(b"\r\n\r\n") {
        reply.push(soon(stream.read_u8()).await.unwrap());
    }
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
    let chosen = reply.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
    (RawWs(stream), chosen.map(str::to_owned))
}

#[tokio::test]
async fn one_socket_names_no_session_in_its_address() {
    let served = serve().await;
    let key = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "oxenv.1"),
    ];
    let created = post(served.address, "/sessions", &json!({})).await.json();
    let id = created["session_id"].as_str().unwrap();
    let request: Vec<(&str, &str)> = key.to_vec();
    let reply = http(served.address, "GET", &format!("/ws?session_id={id}"), &request, b"").await;
    assert_eq!(reply.status, 400);
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    served.end().await;
}

#[tokio::test]
async fn every_request_of_a_session() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let mut socket = Multi::connect(&served).await;
    let opened = socket.ask(json!({ "type": "open", "data": { "seed": 1, "episode_id": "ep" } })).await;
    let id = opened["session"].as_str().unwrap().to_owned();
    assert_eq!((&opened["type"], &opened["seq"]), (&json!("opened"), &json!(0)));
    assert_eq!(opened["data"]["session_id"], id.as_str());
    assert!(opened["data"]["mcp_url"].as_str().unwrap().ends_with(&format!("/sessions/{id}/mcp")));
    assert_eq!(served.active(), 1);

    let reset = socket.ask(json!({ "type": "reset", "session": id })).await;
    assert_eq!(
        (&reset["type"], &reset["seq"], &reset["session"]),
        (&json!("observation"), &json!(1), &json!(id))
    );
    let stepped = socket.step(&id, json!({ "action": "DOWN" })).await;
    assert_eq!((&stepped["seq"], &stepped["data"]["observation"]["x"]), (&json!(2), &json!(1)));
    assert_eq!((&stepped["data"]["reward"], stepped.get("repeated")), (&json!(-0.1), None));
    let state = socket.ask(json!({ "type": "state", "session": id })).await;
    assert_eq!((&state["type"], &state["data"]["step_count"]), (&json!("state"), &json!(1)));
    let tools = socket.ask(json!({ "type": "tools", "session": id })).await;
    assert_eq!((&tools["type"], &tools["data"]), (&json!("tools"), &json!({ "tools": [] })));
    for (kind, said) in [("keepalive", "kept_alive"), ("attach", "attached")] {
        let reply = socket.ask(json!({ "type": kind, "session": id })).await;
        assert_eq!(reply["type"], said);
        let progress: SessionProgress = serde_json::from_value(reply["data"].clone()).unwrap();
        assert_eq!((progress.seq, progress.epoch, progress.step_count, progress.done), (2, 1, 1, false));
    }
    let wrong = socket.step(&id, json!({ "action": "NOWHERE" })).await;
    assert_eq!(refused(&wrong), "VALIDATION_ERROR");
    let error: MultiError = serde_json::from_value(wrong["data"].clone()).unwrap();
    assert!(!error.errors.is_empty() && !error.retryable);
    assert_eq!(socket.ask(json!({ "type": "close", "session": id })).await["type"], "closed");
    assert_eq!(served.active(), 0);
    let gone = socket.step(&id, json!({ "action": "UP" })).await;
    assert_eq!(refused(&gone), "SESSION_ENDED");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn replies_come_as_they_are_ready() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let (slow, quick) = (socket.open().await, socket.open().await);
    let waiting = socket.send(step(&slow, json!({ "do": "wait", "at": "a" }))).await;
    served.stage.entered().await;
    assert_eq!(socket.step(&quick, json!({})).await["data"]["observation"]["count"], 1);
    // Nor does a state wait for a step of its own session.
    assert_eq!(socket.ask(json!({ "type": "state", "session": slow })).await["data"]["step_count"], 0);
    served.stage.open("a");
    assert_eq!(socket.reply(waiting).await["data"]["reward"], 2);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn requests_of_a_session_run_in_the_order_of_their_arrival() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution);
        let served = Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
        let mut socket = Multi::connect(&served).await;
        let ids = [socket.open().await, socket.open().await, socket.open().await];
        let mut sent = Vec::new();
        for number in 0..300 {
            // Every third has a key, which is no reason to run later.
            let mut frame = step(&ids[number % 3], json!({}));
            if number % 9 < 3 {
                frame["key"] = json!(format!("k{number}"));
            }
            sent.push(socket.send(frame).await);
        }
        for (number, id) in sent.into_iter().enumerate() {
            let reply = socket.reply(id).await;
            let count = number / 3 + 1;
            assert_eq!(reply["data"]["observation"]["count"], count, "{execution:?}: {reply}");
            assert_eq!((&reply["seq"], &reply["session"]), (&json!(count), &json!(ids[number % 3])));
        }
        socket.ws.close().await;
        served.end().await;
    }
}

#[tokio::test]
async fn sessions_end_with_their_socket_unless_they_may_be_resumed() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    for _ in 0..5 {
        socket.open().await;
    }
    let kept = socket.open_with(json!({ "resume_s": 600 })).await;
    assert_eq!(served.active(), 6);
    drop(socket);
    until("one is left", || served.active() == 1).await;
    assert_eq!(get(served.address, &format!("/sessions/{kept}")).await.json()["attached"], 0);
    http(served.address, "DELETE", &format!("/sessions/{kept}"), &[], b"").await;
    served.end().await;
}

#[tokio::test]
async fn a_session_must_be_the_sockets_own() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let created = post(served.address, "/sessions", &json!({})).await.json();
    let id = created["session_id"].as_str().unwrap().to_owned();
    let reply = socket.step(&id, json!({})).await;
    assert_eq!(refused(&reply), "SESSION_ERROR");
    assert!(reply["data"]["message"].as_str().unwrap().contains("attach to it first"), "{reply}");
    for session in ["nope", ""] {
        assert_eq!(refused(&socket.step(session, json!({})).await), "SESSION_NOT_FOUND");
        let attach = socket.ask(json!({ "type": "attach", "session": session })).await;
        assert_eq!(refused(&attach), "SESSION_NOT_FOUND");
    }
    assert_eq!(socket.ask(json!({ "type": "attach", "session": id })).await["type"], "attached");
    assert_eq!(socket.step(&id, json!({})).await["seq"], 1);
    // What was made for others lives on when this socket goes.
    socket.ws.close().await;
    until("it is detached", || served.app.store.get(&id).unwrap().info().attached == 0).await;
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    served.end().await;
}

#[tokio::test]
async fn the_last_attach_wins_and_the_loser_is_told() {
    let served = serve().await;
    let mut first = Multi::connect(&served).await;
    let (taken, own) = (first.open().await, first.open().await);
    first.step(&taken, json!({})).await;
    let mut second = Multi::connect(&served).await;
    let attached = second.ask(json!({ "type": "attach", "session": taken })).await;
    assert_eq!((&attached["seq"], &attached["data"]["step_count"]), (&json!(1), &json!(1)));
    let told = first.recv().await;
    assert_eq!(told, json!({ "session": taken, "type": "taken" }));
    assert_eq!(refused(&first.step(&taken, json!({})).await), "SESSION_ERROR");
    assert_eq!(first.step(&own, json!({})).await["seq"], 1);
    assert_eq!(second.step(&taken, json!({})).await["seq"], 2);
    // And back again.
    assert_eq!(first.ask(json!({ "type": "attach", "session": taken })).await["type"], "attached");
    assert_eq!(second.recv().await, json!({ "session": taken, "type": "taken" }));
    assert_eq!(first.step(&taken, json!({})).await["seq"], 3);
    first.ws.close().await;
    second.ws.close().await;
    until("only the one that belongs to nobody is left", || served.active() == 1).await;
    http(served.address, "DELETE", &format!("/sessions/{taken}"), &[], b"").await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_vanishes_cancels_what_has_no_key() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    for _ in 0..3 {
        let id = socket.open().await;
        socket.send(step(&id, json!({ "do": "wait", "at": "never" }))).await;
        served.stage.entered().await;
    }
    drop(socket);
    until("the steps are cancelled", || served.stage.cancelled() == 3).await;
    served.end().await;
}

#[tokio::test]
async fn a_panic_ends_one_session_alone() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let (bad, good) = (socket.open().await, socket.open().await);
    assert_eq!(refused(&socket.step(&bad, json!({ "do": "panic" })).await), "ENVIRONMENT_PANICKED");
    assert_eq!(refused(&socket.step(&bad, json!({})).await), "SESSION_ENDED");
    assert_eq!(socket.step(&good, json!({})).await["seq"], 1);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_ping_is_answered_while_steps_hang_and_a_close_ends_them() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let hanging = socket.send(step(&id, json!({ "do": "wait" }))).await;
    served.stage.entered().await;
    socket.ws.send_message(Message::Ping("one".into())).await;
    match soon(socket.ws.0.next()).await {
        Some(Ok(Message::Pong(pong))) => assert_eq!(&pong[..], b"one"),
        other => panic!("no pong: {other:?}"),
    }
    let closed = socket.send(json!({ "type": "close", "session": id })).await;
    assert_eq!(socket.reply(closed).await["type"], "closed");
    assert_eq!(refused(&socket.reply(hanging).await), "SESSION_ENDED");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn what_is_in_flight_is_answered_when_the_server_stops() {
    let mut served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let hanging = socket.send(step(&id, json!({ "do": "wait" }))).await;
    served.stage.entered().await;
    served.stop();
    served.stage.open("");
    assert_eq!(socket.reply(hanging).await["data"]["reward"], 2);
    assert_eq!(socket.ws.closed().await, 1001);
    served.gone().await;
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 1, ..StoreLimits::default() };
    let served =
        Served::start(&stage, Scripted::new(&stage, Execution::Task), limits, ServerConfig::default());
    let served = served.await;
    let mut socket = Multi::connect(&served).await;
    let first = socket.open().await;
    let full = socket.ask(json!({ "type": "open", "data": { "queue_s": 0.05 } })).await;
    assert_eq!(refused(&full), "CAPACITY_REACHED");
    let error: MultiError = serde_json::from_value(full["data"].clone()).unwrap();
    assert!(error.retryable && error.retry_after_s.is_some(), "{error:?}");
    let waiting = socket.send(json!({ "type": "open" })).await;
    socket.ask(json!({ "type": "close", "session": first })).await;
    assert_eq!(socket.reply(waiting).await["type"], "opened");
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn what_is_no_frame_is_an_error_and_what_is_no_object_the_end() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    for (text, code, id) in [
        ("{", "INVALID_JSON", Value::Null),
        ("{}", "VALIDATION_ERROR", Value::Null),
        (r#"{"id":[],"type":"open"}"#, "VALIDATION_ERROR", Value::Null),
        (r#"{"id":"a","type":"nope"}"#, "UNKNOWN_TYPE", json!("a")),
        (r#"{"id":7,"type":"open","extra":1}"#, "VALIDATION_ERROR", json!(7)),
        (r#"{"id":8,"type":"step","session":"s","data":[]}"#, "VALIDATION_ERROR", json!(8)),
    ] {
        socket.ws.send_text(text).await;
        let reply = socket.recv().await;
        assert_eq!((refused(&reply), &reply["id"]), (code, &id), "{text}");
    }
    socket.ws.send_text("[]").await;
    assert_eq!(refused(&socket.recv().await), "SESSION_ERROR");
    assert_eq!(socket.ws.closed().await, 1000);
    let mut socket = Multi::connect(&served).await;
    socket.ws.send_message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(refused(&socket.recv().await), "SESSION_ERROR");
    assert_eq!(socket.ws.closed().await, 1000);
    served.end().await;
}

/// Ten thousand mutations of good frames: each is answered, with its id if it could be read.
#[tokio::test]
async fn ten_thousand_broken_frames_break_nothing() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let good = [
        json!({ "id": 1, "type": "step", "session": id, "data": {}, "key": "k", "timeout_s": 1.5 })
            .to_string(),
        json!({ "id": "x", "type": "batch", "data": { "items": [
            { "type": "step", "session": id, "data": { "do": "count" } }, { "type": "state", "session": id },
        ], "first": 1 } })
        .to_string(),
        json!({ "id": 2, "type": "reset", "session": id, "data": { "seed": 7, "episode_id": "e" } })
            .to_string(),
        json!({ "id": 3, "type": "fork", "session": id, "data": { "n": 2 } }).to_string(),
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    const BYTES: &[u8] = b"{}[]\",:\\0-9e.tfnu \x01";
    for number in 0..10_000 {
        let mut text = good[number % good.len()].clone().into_bytes();
        for _ in 0..=next(3) {
            let at = next(text.len().max(1));
            match next(4) {
                0 if text.len() > 1 => drop(text.remove(at)),
                1 => text.insert(at, BYTES[next(BYTES.len())]),
                2 => text[at] = BYTES[next(BYTES.len())],
                _ => text.truncate(at.max(1)),
            }
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        if serde_json::from_str::<Value>(&text).is_ok_and(|value| !value.is_object()) {
            continue;
        }
        socket.ws.send_text(&text).await;
        let reply = socket.recv().await;
        assert!(reply["type"].is_string(), "{text}: {reply}");
    }
    // A batch that waits for its first item only may still owe the other.
    socket.ws.send(&json!({ "id": "last", "type": "state", "session": id })).await;
    let mut reply = socket.recv().await;
    while reply["id"] != "last" {
        reply = socket.recv().await;
    }
    assert_eq!(reply["type"], "state", "{reply}");
    socket.ws.close().await;
    served.end().await;
}

/// It is not read any further than its bound, and given up once it takes nothing for too long.
#[tokio::test]
async fn a_client_that_never_reads_is_given_up() {
    let stage = Stage::default();
    let config = ServerConfig { stall: Duration::from_millis(300), ..ServerConfig::default() };
    let served =
        Served::start(&stage, Scripted::new(&stage, Execution::Task), StoreLimits::default(), config).await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let Ws(stream) = socket.ws;
    let (mut write, read) = stream.split();
    let frame = json!({ "id": 1, "type": "step", "session": id, "data": { "do": "big", "bytes": 100_000 } });
    let frame = frame.to_string();
    let sending = async {
        // Far more replies than any buffer on the way holds.
        for _ in 0..100_000 {
            if write.send(Message::text(frame.clone())).await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(soon(sending).await, "the server took everything");
    drop((write, read));
    until("the session is gone", || served.active() == 0).await;
    served.end().await;
}

/// More than may be in flight: the socket is read again as soon as there is room.
#[tokio::test]
async fn more_requests_than_may_be_in_flight_are_all_answered() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let first = socket.send(step(&id, json!({ "do": "wait" }))).await;
    served.stage.entered().await;
    let mut last = first;
    for _ in 0..2000 {
        last = socket.send(step(&id, json!({}))).await;
    }
    served.stage.open("");
    for id in first..=last {
        assert_eq!(socket.reply(id).await["seq"], id - 1);
    }
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn names_and_ids_are_bounded_before_anything_repeats_them() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    // 255 characters are a name, however many bytes they take.
    let longest = "é".repeat(255);
    assert_eq!(refused(&socket.step(&longest, json!({})).await), "SESSION_NOT_FOUND");
    let long = "x".repeat(8 << 20);
    let mut named = step(&id, json!({}));
    named[&long] = json!(1);
    for wrong in [
        step(&long, json!({})),
        json!({ "type": "state", "session": "é".repeat(256) }),
        json!({ "type": "close", "session": long }),
        json!({ "type": "step", "session": id, "key": long, "data": {} }),
        json!({ "type": "reset", "session": id, "data": { "episode_id": long } }),
        named,
    ] {
        let reply = socket.ask(wrong.clone()).await;
        assert_eq!(refused(&reply), "VALIDATION_ERROR", "{}", &wrong.to_string()[..64]);
        assert!(reply.to_string().len() < 4096, "{} bytes", reply.to_string().len());
        let reply = socket.ask(json!({ "type": "batch", "data": { "items": [wrong] } })).await;
        assert_eq!(refused(&reply["data"]["results"][0]), "VALIDATION_ERROR");
        assert!(reply.to_string().len() < 4096, "{} bytes", reply.to_string().len());
    }
    assert_eq!(socket.step(&id, json!({})).await["data"]["observation"]["count"], 1);
    socket.ws.close().await;
    served.end().await;
}
