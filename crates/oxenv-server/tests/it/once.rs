//! Requests that are run once: keys, numbers and expected steps, on a socket and over HTTP.

use oxenv_test_support::{Reply, http, post};
use serde_json::{Value, json};

use crate::multi_support::{Multi, refused, serve_bundled, step};
use crate::served::{Served, serve};

fn keyed(session: &str, key: &str, action: Value) -> Value {
    let mut frame = step(session, action);
    frame["key"] = json!(key);
    frame
}

/// A POST with an `Idempotency-Key`.
async fn post_keyed(served: &Served, path: &str, key: &str, body: &Value) -> Reply {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    http(served.address, "POST", path, &headers, body.to_string().as_bytes()).await
}

#[tokio::test]
async fn a_repeat_gets_the_first_reply() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let first = socket.ask(keyed(&id, "a", json!({}))).await;
    assert_eq!((&first["data"]["observation"]["count"], &first["seq"]), (&json!(1), &json!(1)));
    socket.step(&id, json!({})).await;
    for _ in 0..3 {
        let again = socket.ask(keyed(&id, "a", json!({}))).await;
        assert_eq!(
            (&again["data"], &again["seq"], &again["repeated"]),
            (&first["data"], &json!(1), &json!(true))
        );
    }
    assert_eq!(socket.step(&id, json!({})).await["data"]["observation"]["count"], 3);
    // A failure is a reply like any other: what ran is not run again.
    let failing = keyed(&id, "b", json!({ "do": "fail", "code": "EXECUTION_ERROR" }));
    let failed = socket.ask(failing.clone()).await;
    assert_eq!(refused(&failed), "EXECUTION_ERROR");
    let again = socket.ask(failing).await;
    assert_eq!(
        (&again["data"], &again["repeated"], &again["seq"]),
        (&failed["data"], &json!(true), &failed["seq"])
    );
    // Another session has keys of its own.
    let other = socket.open().await;
    assert_eq!(socket.ask(keyed(&other, "a", json!({}))).await.get("repeated"), None);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    socket.ask(keyed(&id, "a", json!({}))).await;
    let other = socket.ask(keyed(&id, "a", json!({ "do": "note", "text": "never" }))).await;
    assert_eq!(refused(&other), "KEY_CONFLICT");
    let reset = socket.ask(json!({ "type": "reset", "session": id, "key": "a" })).await;
    assert_eq!(refused(&reset), "KEY_CONFLICT");
    assert!(served.stage.notes().is_empty());
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_repeat_that_comes_while_the_first_runs_waits_for_it() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let waits = keyed(&id, "a", json!({ "do": "wait" }));
    let first = socket.send(waits.clone()).await;
    served.stage.entered().await;
    let second = socket.send(waits).await;
    let between = socket.ask(json!({ "type": "state", "session": id })).await;
    assert_eq!(between["data"]["step_count"], 0);
    served.stage.open("");
    let (first, second) = (socket.reply(first).await, socket.reply(second).await);
    assert_eq!((first.get("repeated"), &second["repeated"]), (None, &json!(true)));
    assert_eq!((&first["data"], &first["seq"]), (&second["data"], &second["seq"]));
    assert_eq!(served.stage.notes().len(), 1);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_reply_that_was_let_go_is_not_run_again() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let big = json!({ "do": "big", "bytes": 400_000 });
    for key in ["a", "b", "c", "d"] {
        assert_eq!(socket.ask(keyed(&id, key, big.clone())).await["type"], "observation");
    }
    let forgotten = socket.ask(keyed(&id, "a", big.clone())).await;
    assert_eq!(refused(&forgotten), "REPLY_FORGOTTEN");
    assert_eq!(forgotten["data"]["delivered"], "yes");
    assert_eq!(socket.ask(keyed(&id, "d", big)).await["repeated"], true);
    assert_eq!(socket.step(&id, json!({})).await["seq"], 5);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn numbers_and_expected_steps_are_compared_first() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let with = |key: &str, value: u64| {
        let mut frame = step(&id, json!({}));
        frame[key] = json!(value);
        frame
    };
    assert_eq!(refused(&socket.ask(with("expected_step", 3)).await), "STEP_CONFLICT");
    assert_eq!(socket.ask(with("expected_step", 1)).await["seq"], 1);
    assert_eq!(refused(&socket.ask(with("expected_step", 1)).await), "STEP_CONFLICT");
    let second = socket.ask(with("seq", 2)).await;
    assert_eq!((&second["seq"], second.get("repeated")), (&json!(2), None));
    let again = socket.ask(with("seq", 2)).await;
    assert_eq!((&again["data"], &again["repeated"]), (&second["data"], &json!(true)));
    assert_eq!(refused(&socket.ask(with("seq", 9)).await), "STEP_CONFLICT");
    // The first step had no number of its own, so nobody kept its reply.
    assert_eq!(refused(&socket.ask(with("seq", 1)).await), "REPLY_FORGOTTEN");
    assert_eq!(socket.step(&id, json!({})).await["data"]["observation"]["count"], 3);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn over_http_the_key_is_in_a_header_or_in_the_body() {
    let served = serve_bundled(oxenv_envs::grid_world::factory()).await;
    let id = post(served.address, "/sessions", &json!({})).await.json()["session_id"].clone();
    let id = id.as_str().unwrap();
    let (reset, step) = (format!("/sessions/{id}/reset"), format!("/sessions/{id}/step"));
    let first = post_keyed(&served, &reset, "r", &json!({ "seed": 1 })).await;
    assert_eq!((first.status, first.header("oxenv-seq")), (200, Some("1")));
    let again = post_keyed(&served, &reset, "r", &json!({ "seed": 1 })).await;
    assert_eq!((again.header("oxenv-repeated"), &again.body), (Some("true"), &first.body));
    let down = json!({ "action": { "action": "DOWN" } });
    let plain = post(served.address, &step, &down).await;
    assert_eq!((plain.header("oxenv-seq"), plain.header("oxenv-repeated")), (Some("2"), None));
    let first = post_keyed(&served, &step, "s", &down).await;
    let mut in_body = down.clone();
    in_body["key"] = json!("s");
    let again = post(served.address, &step, &in_body).await;
    assert_eq!((again.header("oxenv-seq"), again.header("oxenv-repeated")), (Some("3"), Some("true")));
    assert_eq!(again.body, first.body);
    assert_eq!(post_keyed(&served, &step, "s", &in_body).await.header("oxenv-repeated"), Some("true"));
    assert_eq!(post_keyed(&served, &step, "t", &in_body).await.status, 422);
    assert_eq!(post_keyed(&served, &step, &"x".repeat(256), &down).await.status, 422);
    let up = json!({ "action": { "action": "UP" } });
    let conflict = post_keyed(&served, &step, "s", &up).await;
    assert_eq!((conflict.status, &conflict.json()["oxenv"]["code"]), (409, &json!("KEY_CONFLICT")));
    let wrong = json!({ "action": { "action": "UP" }, "expected_step": 9 });
    let conflict = post(served.address, &step, &wrong).await;
    assert_eq!((conflict.status, &conflict.json()["oxenv"]["code"]), (409, &json!("STEP_CONFLICT")));
    let right = json!({ "action": { "action": "UP" }, "expected_step": 3, "seq": 4 });
    assert_eq!(post(served.address, &step, &right).await.header("oxenv-seq"), Some("4"));
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    // The default session keeps replies as well.
    let down = json!({ "action": { "action": "DOWN" }, "key": "d" });
    let first = post(served.address, "/step", &down).await;
    let again = post(served.address, "/step", &down).await;
    assert_eq!((&first.body, again.header("oxenv-repeated")), (&again.body, Some("true")));
    served.end().await;
}

#[tokio::test]
async fn a_session_is_made_once_for_a_key() {
    let served = serve().await;
    let made = post_keyed(&served, "/sessions", "m", &json!({ "seed": 3 })).await;
    assert_eq!((made.status, made.header("oxenv-repeated")), (201, None));
    let again = post_keyed(&served, "/sessions", "m", &json!({ "seed": 3 })).await;
    assert_eq!((again.header("oxenv-repeated"), &again.body), (Some("true"), &made.body));
    assert_eq!(post_keyed(&served, "/sessions", "m", &json!({ "seed": 4 })).await.status, 409);
    assert_eq!(served.active(), 1);
    let id = made.json()["session_id"].as_str().unwrap().to_owned();
    http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;

    let mut socket = Multi::connect(&served).await;
    let open = json!({ "type": "open", "key": "o", "data": { "resume_s": 60 } });
    let made = socket.ask(open.clone()).await;
    let again = socket.ask(open).await;
    assert_eq!((&again["session"], &again["repeated"]), (&made["session"], &json!(true)));
    assert_eq!(served.active(), 1);
    socket.ask(json!({ "type": "close", "session": made["session"] })).await;
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_number_of_zero_is_no_number() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let mut zero = step(&id, json!({}));
    zero["seq"] = json!(0);
    let reset = json!({ "type": "reset", "session": id, "seq": 0 });
    for wrong in [zero, reset] {
        let reply = socket.ask(wrong).await;
        assert_eq!(refused(&reply), "VALIDATION_ERROR");
        assert_eq!(reply["data"]["errors"][0]["type"], "greater_than_equal", "{reply}");
    }
    let body = json!({ "action": {}, "seq": 0 });
    assert_eq!(post(served.address, &format!("/sessions/{id}/step"), &body).await.status, 422);
    let mut one = step(&id, json!({}));
    one["seq"] = json!(1);
    assert_eq!(socket.ask(one).await["seq"], 1);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_repeat_may_be_spelled_otherwise() {
    let served = serve().await;
    let mut socket = Multi::connect(&served).await;
    let id = socket.open().await;
    let frame = |number: u32, data: &str| {
        format!(r#"{{"id":"s{number}","type":"step","session":"{id}","key":"a","data":{data}}}"#)
    };
    let mut asked = 0;
    let mut ask = async |data: &str| {
        asked += 1;
        socket.ws.send_text(&frame(asked, data)).await;
        socket.recv().await
    };
    let first = ask(r#"{"do":"note","text":"é","x":[1,{"b":2,"a":1.0}]}"#).await;
    assert_eq!(first["type"], "observation", "{first}");
    for same in [
        r#"{ "text" : "é", "x" : [ 1 , { "a" : 1.0 , "b" : 2 } ] , "do" : "note" }"#,
        r#"{"\u0064o":"n\u006fte","text":"\u00e9","x":[1,{"b":2,"a":1.0}]}"#,
    ] {
        let again = ask(same).await;
        assert_eq!((&again["data"], &again["repeated"]), (&first["data"], &json!(true)), "{same}");
    }
    for other in [
        r#"{"do":"note","text":"é","x":[1,{"b":2,"a":1}]}"#,
        r#"{"do":"note","text":"é","x":[1,{"b":2,"a":10e-1}]}"#,
        r#"{"do":"note","text":"é","x":[{"b":2,"a":1.0},1]}"#,
        r#"{"do":"note","text":"é","x":[1,{"a":2,"b":1.0}]}"#,
        r#"{"do":"note","text":"e","x":[1,{"b":2,"a":1.0}]}"#,
        r#"{"do":"note","text":"é","x":[1,{"b":"2","a":1.0}]}"#,
        r#"{"do":"note","text":"é","x":[1,[{"b":2,"a":1.0}]]}"#,
    ] {
        assert_eq!(refused(&ask(other).await), "KEY_CONFLICT", "{other}");
    }
    assert_eq!(served.stage.notes(), ["é"]);
    socket.ws.close().await;
    served.end().await;
}

#[tokio::test]
async fn a_reset_repeated_with_its_keys_in_another_order_is_the_same() {
    let served = serve().await;
    let post_text = async |body: &str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "r")];
        http(served.address, "POST", "/reset", &headers, body.as_bytes()).await
    };
    assert_eq!(post_text(r#"{"seed":7,"level":{"a":1,"b":2}}"#).await.status, 200);
    let again = post_text(r#" { "level" : {"b":2, "a":1}, "seed" : 7 } "#).await;
    assert_eq!((again.status, again.header("oxenv-repeated")), (200, Some("true")));
    assert_eq!(post_text(r#"{"seed":7,"level":{"a":2,"b":1}}"#).await.status, 409);
    served.end().await;
}
