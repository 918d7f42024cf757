//! Batches, on a socket and over HTTP: results in order, failures in their place, the first that are
//! ready.

use std::sync::Arc;

use oxenv_core::{Execution, Failure, RecordEntry, RecordEvent, Recorder, SessionStore, StoreLimits, Work};
use oxenv_server::ServerConfig;
use oxenv_test_support::{http, post};
use serde_json::{Value, json};

use crate::multi_support::{Multi, refused, serve_bundled, step};
use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

fn batch(items: &[Value]) -> Value {
    json!({ "type": "batch", "data": { "items": items } })
}

fn results(reply: &Value) -> &[Value] {
    assert_eq!(reply["type"], "batch", "{reply}");
    reply["data"]["results"].as_array().unwrap()
}

#[tokio::test]
async fn results_stand_in_the_order_of_the_items() {
    for execution in [Execution::Inline, Execution::Task, Execution::Blocking] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution);
        let served = Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await;
        let mut socket = Multi::connect(&served).await;
        let opened = socket.ask(batch(&vec![json!({ "type": "open" }); 16])).await;
        let ids: Vec<String> =
            results(&opened).iter().map(|opened| opened["session"].as_str().unwrap().to_owned()).collect();
        // Each session twice, so that the order within one shows too.
        let steps: Vec<Value> = ids.iter().chain(&ids).map(|id| step(id, json!({}))).collect();
        for round in 0..3 {
            let reply = socket.ask(batch(&steps)).await;
            assert!(reply["data"].get("pending").is_none());
            for (index, result) in results(&reply).iter().enumerate() {
                assert_eq!(result["session"], ids[index % 16]);
                assert_eq!(
                    result["data"]["observation"]["count"],
                    2 * round + index / 16 + 1,
                    "{execution:?}"
                );
                assert!(result.get("id").is_none());
            }
        }
        socket.ws.close().await;
        served.end().await;
    }
}

#[tokio::test]
async fn a_failure_has_its_place_and_leaves_the_others_alone() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let (one, two, three) = (socket.open().await, socket.open().await, socket.open().await);
    let items = [
        step(&one, json!({})),
        step("nope", json!({})),
        json!({ "type": "batch", "data": { "items": [] } }),
        json!(7),
        step(&two, json!({ "do": "fail", "code": "EXECUTION_ERROR", "kind": "infrastructure" })),
        json!({ "type": "state", "session": two, "data": {} }),
        step(&one, json!({ "do": "panic" })),
        step(&one, json!({})),
        json!({ "type": "attach", "session": two }),
        json!({ "type": "close", "session": three }),
    ];
    let reply = socket.ask(batch(&items)).await;
    let results = results(&reply);
    assert_eq!(results[0]["data"]["reward"], 1);
    let codes: Vec<&str> = results[1..8].iter().map(refused).collect();
    assert_eq!(
        codes,
        [
            "SESSION_NOT_FOUND",
            "UNKNOWN_TYPE",
            "VALIDATION_ERROR",
            "EXECUTION_ERROR",
            "VALIDATION_ERROR",
            "ENVIRONMENT_PANICKED",
            "SESSION_ENDED",
        ]
    );
    assert_eq!(results[4]["data"]["kind"], "infrastructure");
    assert_eq!((&results[8]["type"], &results[9]["type"]), (&json!("attached"), &json!("closed")));
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn the_first_that_are_ready_come_first() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(socket.open().await);
    }
    let waits = |at: &str| json!({ "do": "wait", "at": at });
    let items = [
        step(&ids[0], waits("a")),
        step(&ids[1], json!({})),
        step(&ids[2], waits("c")),
        step("no", json!({})),
    ];
    let sent = socket.send(json!({ "type": "batch", "data": { "items": items, "first": 2 } })).await;
    let reply = socket.reply(sent).await;
    // The third was quick as well, or was not: nobody promised.
    let pending: Vec<u64> = serde_json::from_value(reply["data"]["pending"].clone()).unwrap();
    assert!(pending.starts_with(&[0]) && pending.ends_with(&[2]), "{reply}");
    for (index, result) in results(&reply).iter().enumerate() {
        assert_eq!(result.is_null(), pending.contains(&(index as u64)), "{reply}");
    }
    for (gate, index) in [("c", 2), ("a", 0)] {
        served.stage.open(gate);
        let mut more = socket.reply(sent).await;
        while more["data"]["index"] == 1 {
            more = socket.reply(sent).await;
        }
        assert_eq!((&more["type"], &more["data"]["index"]), (&json!("batch_more"), &json!(index)), "{more}");
        assert_eq!(more["data"]["result"]["data"]["reward"], 2);
        assert_eq!(more["data"].get("last"), (index == 0).then_some(&json!(true)));
    }
    // When all were ready, nothing more comes.
    let all = socket
        .ask(json!({ "type": "batch", "data": { "items": [step("no", json!({}))], "first": 1 } }))
        .await;
    assert_eq!(all["data"]["pending"], json!([]));
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_deadline_of_the_batch_is_one_of_its_steps() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let (one, two) = (socket.open().await, socket.open().await);
    let items = [step(&one, json!({ "do": "wait" })), step(&two, json!({}))];
    let reply = socket.ask(json!({ "type": "batch", "data": { "items": items, "timeout_s": 0.05 } })).await;
    assert_eq!(refused(&results(&reply)[0]), "DEADLINE_EXCEEDED");
    assert_eq!(results(&reply)[1]["data"]["reward"], 1);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn over_http_a_batch_means_the_same() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let opened =
        post(served.address, "/batch", &json!({ "items": [{ "type": "open" }, { "type": "open" }] })).await;
    let opened = opened.json();
    let ids: Vec<&str> =
        opened["results"].as_array().unwrap().iter().map(|one| one["session"].as_str().unwrap()).collect();
    let mut items: Vec<Value> = Vec::new();
    for id in &ids {
        items.push(json!({ "type": "reset", "session": id }));
        items.push(step(id, json!({ "action": "RIGHT" })));
    }
    items.push(json!({ "type": "attach", "session": ids[0] }));
    items.push(json!({ "type": "fork", "session": ids[0], "data": { "n": 2 } }));
    items.extend(ids.iter().map(|id| json!({ "type": "close", "session": id })));
    let reply = post(served.address, "/batch", &json!({ "items": items })).await;
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    let results = reply["results"].as_array().unwrap();
    for index in [1, 3] {
        assert_eq!(
            (&results[index]["seq"], &results[index]["data"]["observation"]["y"]),
            (&json!(2), &json!(1))
        );
    }
    assert_eq!(refused(&results[4]), "UNSUPPORTED");
    let forks = results[5]["data"]["sessions"].as_array().unwrap();
    assert_eq!((forks.len(), served.active()), (2, 2));
    for fork in forks {
        let path = format!("/sessions/{}", fork["session_id"].as_str().unwrap());
        assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
    }
    for body in
        [json!({}), json!({ "items": [] }), json!({ "items": [{}], "first": 1 }), json!({ "items": {} })]
    {
        assert_eq!(post(served.address, "/batch", &body).await.status, 422, "{body}");
    }
    served.end().await;
}

/// A few bytes ask for much: the state of a session, thousands of times in one request. What has no room is
/// told, and what comes behind it is not run.
#[tokio::test]
async fn the_results_of_one_reply_are_bounded() {
    const ROOM: usize = 64 << 10;
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution);
        let config = ServerConfig { max_message: ROOM, ..ServerConfig::default() };
        let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
        let mut socket = Multi::connect(&served).await;
        let session = socket.open().await;
        let large = format!("{{\"text\":\"{}\"}}", "x".repeat(10 << 10));
        socket.ask(step(&session, json!({ "do": "state", "how": large }))).await;
        let mut items = vec![json!({ "type": "state", "session": session }); 500];
        items.push(step(&session, json!({})));
        let body = json!({ "items": items });
        let over_http = post(served.address, "/batch", &body).await.json();
        for reply in [socket.ask(batch(&items)).await["data"].clone(), over_http] {
            let results = reply["results"].as_array().unwrap();
            assert_eq!(results.len(), 501);
            assert!(reply.to_string().len() < 4 * ROOM, "{}", reply.to_string().len());
            let answered = results.iter().take_while(|result| result["type"] == "state").count();
            assert_eq!(answered, 6, "6 states of 10 KiB in 64 KiB");
            assert_eq!(refused(&results[6]), "REPLY_FORGOTTEN");
            assert_eq!(results[6]["data"]["delivered"], "yes");
            for result in &results[7..] {
                assert_eq!((refused(result), &result["data"]["delivered"]), ("CANCELLED", &json!("no")));
            }
        }
        let state = socket.ask(json!({ "type": "state", "session": session })).await;
        assert_eq!(state["data"]["step_count"], 1, "the last step was never begun");
        socket.ws.close().await;
        served.end().await;
    }
}

/// Results that come behind the first reply have a frame each, and so a bound each.
#[tokio::test]
async fn results_that_come_later_have_room_of_their_own() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task);
    let config = ServerConfig { max_message: 64 << 10, ..ServerConfig::default() };
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let mut socket = Multi::connect(&served).await;
    let (quick, slow) = (socket.open().await, socket.open().await);
    let mut items = vec![step(&quick, json!({})), step(&slow, json!({ "do": "wait", "at": "gate" }))];
    items.extend((0..3).map(|_| step(&slow, json!({ "do": "big", "bytes": 40 << 10 }))));
    let id = socket.send(json!({ "type": "batch", "data": { "items": items, "first": 1 } })).await;
    assert_eq!(socket.reply(id).await["data"]["pending"], json!([1, 2, 3, 4]));
    stage.open("gate");
    for index in 1..5 {
        let more = socket.reply(id).await;
        assert_eq!((&more["type"], &more["data"]["index"]), (&json!("batch_more"), &json!(index)), "{more}");
        assert_eq!(more["data"]["result"]["type"], "observation", "{more}");
    }
    socket.ws.close().await;
    served.end().await;
}

/// Panics at the first step of an episode, as a mistake of ours would.
struct Broken;

impl Recorder for Broken {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        if let RecordEvent::Step { action, .. } = entry.event {
            assert!(!action.get().contains("panic here"), "a mistake");
        }
        Work::done(Ok(()))
    }
}

#[tokio::test]
async fn a_panic_is_the_error_of_its_item_alone() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution);
        let store =
            SessionStore::new(Arc::new(factory), StoreLimits::default()).with_recorder(Arc::new(Broken));
        let address = "127.0.0.1:0".parse().unwrap();
        let served = Served::over(address, &stage, store, ServerConfig::default()).await;
        let mut socket = Multi::connect(&served).await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(socket.open().await);
        }
        let bad = json!({ "do": "note", "text": "panic here" });
        let items: Vec<Value> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| step(id, if index == 2 { bad.clone() } else { json!({}) }))
            .collect();
        let reply = socket.ask(batch(&items)).await;
        for (index, result) in results(&reply).iter().enumerate() {
            match index {
                2 => assert_eq!(refused(result), "EXECUTION_ERROR", "{execution:?}"),
                _ => assert_eq!(result["data"]["observation"]["count"], 1, "{execution:?}: {result}"),
            }
        }
        // A frame of its own, and after it the socket and the other sessions.
        assert_eq!(refused(&socket.step(&ids[3], bad).await), "EXECUTION_ERROR");
        assert_eq!(socket.step(&ids[0], json!({})).await["data"]["observation"]["count"], 2);
        socket.ws.close().await;
        served.end().await;
    }
}

/// What goes wrong outside of the environment is one request's error at the stock doors, too.
#[tokio::test]
async fn a_panic_of_ours_is_the_error_of_its_request() {
    for execution in [Execution::Inline, Execution::Task] {
        let stage = Stage::default();
        let factory = Scripted::new(&stage, execution).tools(true);
        let store =
            SessionStore::new(Arc::new(factory), StoreLimits::default()).with_recorder(Arc::new(Broken));
        let address = "127.0.0.1:0".parse().unwrap();
        let served = Served::over(address, &stage, store, ServerConfig::default()).await;
        let bad = json!({ "do": "note", "text": "panic here" });
        let mut socket = served.ws("/ws").await;
        let reply = socket.step(&bad).await;
        assert_eq!(
            (&reply["type"], &reply["data"]["oxenv"]["kind"]),
            (&json!("error"), &json!("infrastructure"))
        );
        assert_eq!(socket.step(&json!({})).await["type"], "observation", "{execution:?}");
        let reply = post(served.address, "/step", &json!({ "action": bad })).await;
        assert_eq!((reply.status, &reply.json()["oxenv"]["kind"]), (500, &json!("infrastructure")));
        assert_eq!(
            post(served.address, "/step", &json!({ "action": {} })).await.status,
            200,
            "{execution:?}"
        );
        socket.close().await;
        served.end().await;
    }
}

#[tokio::test]
async fn no_length_of_time_is_too_long() {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task);
    let limits = StoreLimits { max_sessions: 51, ..StoreLimits::default() };
    let served = Served::start(&stage, factory, limits, ServerConfig::default()).await;
    let mut socket = Multi::connect(&served).await;
    for endless in ["1e19", "18446744073709551615", "1e300"] {
        let endless: Value = serde_json::from_str(endless).unwrap();
        let data = json!({ "queue_s": endless, "resume_s": endless });
        let opened = socket.ask(batch(&vec![json!({ "type": "open", "data": data }); 50])).await;
        for opened in results(&opened) {
            let id = opened["session"].as_str().unwrap();
            let mut timed = step(id, json!({}));
            timed["timeout_s"] = endless.clone();
            assert_eq!(socket.ask(timed).await["data"]["observation"]["count"], 1);
            socket.ask(json!({ "type": "close", "session": id })).await;
        }
    }
    socket.ws.close().await;
    served.end().await;
}
