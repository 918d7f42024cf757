//! Clients that shook hands: what they hear unasked, how their sessions end, and how many there are.

use std::time::Duration;

use oxenv_core::{EndReason, ResetOptions, SessionOptions, SessionRequest, StoreLimits};
use oxenv_server::{Mode, ServerConfig};
use oxenv_test_support::{http, post, soon, until};
use serde_json::{Value, json};

use crate::mcp_wire::{Handshake, alone, request};
use crate::served::serve;
use crate::talker::Talker;

fn production() -> ServerConfig {
    ServerConfig { mode: Mode::Production, ..ServerConfig::default() }
}

/// A list that changes is told on the stream of a session, and on that of a listener.
#[tokio::test]
async fn changes_are_told() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let mut stream = old.listen().await;
    let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": ["memo://one"] });
    let mut listener =
        alone(served.address, "/mcp", "subscriptions/listen", &json!({ "notifications": wanted })).await;
    let acknowledged = listener.next().await.unwrap();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(acknowledged["params"]["notifications"], wanted);
    let subscribed = old.post(&request("resources/subscribe", &json!({ "uri": "memo://one" }))).await;
    assert!(subscribed.last().await["result"].is_object());

    talker.grow();
    assert_eq!(stream.next().await.unwrap()["method"], "notifications/tools/list_changed");
    let told = listener.next().await.unwrap();
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1);
    let listed = old.post(&request("tools/list", &json!({}))).await.json().await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().last().unwrap()["name"], "extra");
    // A change that is in no list is in what the resources hold.
    talker.touch();
    for stream in [&mut stream, &mut listener] {
        let told = stream.next().await.unwrap();
        assert_eq!(
            (&told["method"], &told["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!("memo://one"))
        );
    }
    let unsubscribed = old.post(&request("resources/unsubscribe", &json!({ "uri": "memo://one" }))).await;
    assert!(unsubscribed.last().await["result"].is_object());
    talker.touch();
    assert_eq!(listener.next().await.unwrap()["method"], "notifications/resources/updated");
    old.delete().await;
    assert!(stream.next().await.is_none(), "nothing comes after the end of a session");
    drop(listener);
    served.end().await;
}

/// What an environment offers beside tools, through both eras.
#[tokio::test]
async fn resources_and_prompts() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    for (method, params, path, expected) in [
        ("resources/list", json!({}), "/resources/0/uri", json!("memo://one")),
        ("resources/templates/list", json!({}), "/resourceTemplates/0/uriTemplate", json!("memo://{name}")),
        ("prompts/list", json!({}), "/prompts/0/name", json!("greet")),
        ("resources/read", json!({ "uri": "memo://one" }), "/contents/0/text", json!("in session: true")),
        ("resources/read", json!({ "uri": "memo://two" }), "/contents/0/uri", json!("memo://two")),
        ("prompts/get", json!({ "name": "greet" }), "/messages/0/content/text", json!("hello")),
    ] {
        let shook = old.post(&request(method, &params)).await.last().await;
        assert_eq!(shook["result"].pointer(path), Some(&expected), "{method}: {shook}");
        assert!(shook["result"].get("resultType").is_none(), "{shook}");
        let stood = alone(served.address, "/mcp", method, &params).await.last().await;
        assert_eq!(stood["result"].pointer(path), Some(&expected), "{method}: {stood}");
        assert_eq!(stood["result"]["resultType"], "complete", "{stood}");
    }
    for (method, params, code, modern) in [
        ("resources/read", json!({ "uri": "other://x" }), -32002, -32602),
        ("prompts/get", json!({ "name": "nope" }), -32602, -32602),
        ("tools/list", json!({ "cursor": "x" }), -32602, -32602),
        ("prompts/list", json!({ "cursor": "x" }), -32602, -32602),
    ] {
        let shook = old.post(&request(method, &params)).await.last().await;
        assert_eq!(shook["error"]["code"], code, "{method}: {shook}");
        let stood = alone(served.address, "/mcp", method, &params).await.last().await;
        assert_eq!(stood["error"]["code"], modern, "{method}: {stood}");
    }
    // What 2026-07-28 has no more is no method, even where its parameters are wrong.
    for method in ["resources/subscribe", "resources/unsubscribe", "logging/setLevel", "ping", "initialize"] {
        let answer = alone(served.address, "/mcp", method, &json!({})).await;
        assert_eq!((answer.status, &answer.json().await["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
    old.delete().await;
    served.end().await;
}

/// What a client subscribes to is kept for as long as it stays, so there is a bound.
#[tokio::test]
async fn subscriptions_are_bounded() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let subscribe = |uri: String| request("resources/subscribe", &json!({ "uri": uri }));
    let long = format!("memo://{}", "x".repeat(8 << 10));
    let refused = old.post(&subscribe(long.clone())).await.last().await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    for number in 0..1024 {
        let subscribed = old.post(&subscribe(format!("memo://{number}"))).await.last().await;
        assert!(subscribed["result"].is_object(), "{number}: {subscribed}");
    }
    let refused = old.post(&subscribe("memo://more".to_owned())).await.last().await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    // One that is there may be asked for again, and one that goes makes room.
    assert!(old.post(&subscribe("memo://0".to_owned())).await.last().await["result"].is_object());
    let gone = request("resources/unsubscribe", &json!({ "uri": "memo://0" }));
    assert!(old.post(&gone).await.last().await["result"].is_object());
    assert!(old.post(&subscribe("memo://more".to_owned())).await.last().await["result"].is_object());

    let many: Vec<String> = (0..2000).map(|number| format!("memo://{number}")).chain([long]).collect();
    let wanted = json!({ "notifications": { "resourceSubscriptions": many } });
    let mut listener = alone(served.address, "/mcp", "subscriptions/listen", &wanted).await;
    let acknowledged = listener.next().await.unwrap();
    let accepted = &acknowledged["params"]["notifications"]["resourceSubscriptions"];
    assert_eq!(accepted.as_array().map(Vec::len), Some(1024), "{acknowledged}");
    old.delete().await;
    drop(listener);
    served.end().await;
}

/// A message that has to be built as values takes many times its bytes. Calls as clients make them are not
/// built.
#[tokio::test]
async fn messages_of_many_values_are_refused_where_they_are_built() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let zeros = vec![0; 1 << 18];
    let answer =
        Handshake::ask(served.address, "/mcp", &json!({ "experimental": { "x": { "y": zeros } } })).await;
    assert_eq!((answer.status, &answer.json().await["error"]["code"]), (413, &json!(-32600)));
    let old = Handshake::new(served.address, "/mcp").await;
    let odd = json!({ "name": "say", "_meta": { "progressToken": zeros } });
    let answer = old.post(&request("tools/call", &odd)).await;
    assert_eq!((answer.status, &answer.json().await["error"]["code"]), (413, &json!(-32600)));
    let few = json!({ "name": "say", "_meta": { "progressToken": [0] } });
    assert_eq!(old.post(&request("tools/call", &few)).await.last().await["id"], 1);
    let plain = json!({ "name": "say", "arguments": { "x": zeros } });
    let called = old.post(&request("tools/call", &plain)).await.last().await;
    assert!(called["result"].is_object(), "{called}");
    old.delete().await;
    served.end().await;
}

/// An environment that offers no prompts and no resources declares none, and has no such methods.
#[tokio::test]
async fn what_is_not_offered_is_not_declared() {
    let served = serve().await;
    let discovered = alone(served.address, "/mcp", "server/discover", &json!({})).await.json().await;
    let capabilities = discovered["result"]["capabilities"].as_object().unwrap();
    assert_eq!(capabilities.keys().collect::<Vec<_>>(), ["logging", "tools"]);
    assert_eq!(discovered["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "oxenv");
    for method in ["prompts/list", "resources/list", "resources/templates/list"] {
        let answer = alone(served.address, "/mcp", method, &json!({})).await;
        assert_eq!((answer.status, &answer.json().await["error"]["code"]), (404, &json!(-32601)), "{method}");
    }
    served.end().await;
}

/// A call is cancelled by who asked for it: by a message in a session, by leaving outside of one.
#[tokio::test]
async fn cancelling_a_call() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let stream = old.post(&request("tools/call", &json!({ "name": "wait" }))).await;
    talker.entered().await;
    let params = json!({ "requestId": 1, "reason": "enough" });
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params });
    assert_eq!(old.post(&cancel).await.status, 202);
    until("the call is dropped", || talker.cancelled() == 1).await;
    drop(stream);
    // Leaving does not cancel within a session: the client may come back for the answer.
    let stream = old.post(&request("tools/call", &json!({ "name": "wait" }))).await;
    talker.entered().await;
    drop(stream);
    talker.open();
    let session = served.app.store.default_session(false).await.unwrap();
    until("the call is done", || session.info().step_count == 1).await;
    assert_eq!(talker.cancelled(), 1);
    for params in [json!({ "name": "wait" }), json!({ "name": "wait", "_meta": { "progressToken": 1 } })] {
        let before = talker.cancelled();
        let call =
            tokio::spawn(
                async move { alone(served.address, "/mcp", "tools/call", &params).await.last().await },
            );
        talker.entered().await;
        call.abort();
        until("the call is dropped", || talker.cancelled() == before + 1).await;
    }
    // The end of a session ends its calls.
    let stream = old.post(&request("tools/call", &json!({ "name": "wait" }))).await;
    talker.entered().await;
    session.end(EndReason::Closed);
    let told = stream.all().await.pop().unwrap();
    assert_eq!(told["error"]["data"]["oxenv"]["code"], "SESSION_ENDED", "{told}");
    old.delete().await;
    drop(session);
    served.end().await;
}

/// The stream of a call that broke is taken up where it broke, while the call runs.
#[tokio::test]
async fn a_broken_stream_is_resumed() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let stream = old.post(&request("tools/call", &json!({ "name": "wait" }))).await;
    talker.entered().await;
    drop(stream);
    until("the connection is gone", || served.app.connections() == 0).await;
    let mut resumed = old.resume("0/0").await;
    talker.open();
    assert_eq!(resumed.next().await.unwrap()["result"]["content"][0]["text"], "went through");
    assert!(resumed.next().await.is_none());
    // What is over is not repeated, and nobody waits for it.
    assert!(old.resume("0/0").await.next().await.is_none());
    assert!(old.resume("nonsense").await.next().await.is_none());
    old.delete().await;
    served.end().await;
}

/// Each URL has its own sessions; an id from one is nothing at another.
#[tokio::test]
async fn sessions_do_not_see_each_other() {
    let served = serve().await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let session = served.app.store.create(SessionOptions::default()).await.unwrap();
        let path = format!("/sessions/{}/mcp", session.id());
        let client = Handshake::new(served.address, &path).await;
        sessions.push((session, path, client));
    }
    for _ in 0..3 {
        sessions[0].2.call("say", &json!({ "text": "x" })).await.json().await;
    }
    sessions[1].2.call("say", &json!({ "text": "x" })).await.json().await;
    assert_eq!((sessions[0].0.info().step_count, sessions[1].0.info().step_count), (3, 1));
    let call = request("tools/call", &json!({ "name": "say" }));
    let other = format!("http://{}{}", served.address, sessions[1].1);
    for url in [other, format!("http://{}/mcp", served.address)] {
        assert_eq!(sessions[0].2.post_to(&url, &call).await.status, 404, "{url}");
    }
    // Nor does naming another session in the parameters help.
    let foreign = json!({ "name": "say", "session_id": sessions[1].0.id() });
    let answer = alone(served.address, &sessions[0].1, "tools/call", &foreign).await.json().await;
    assert_eq!(answer["error"]["code"], -32602);
    // A reset is seen by the client as another epoch, and by nobody else.
    let reset = SessionRequest::reset(ResetOptions::default());
    sessions[0].0.submit(reset).await.into_outcome().unwrap();
    let url = format!("http://{}{}?epoch=1", served.address, sessions[0].1);
    assert!(sessions[0].2.post_to(&url, &call).await.json().await["result"].is_object());
    let url = format!("http://{}{}?epoch=1", served.address, sessions[1].1);
    assert_eq!(sessions[1].2.post_to(&url, &call).await.json().await["error"]["code"], -32603);
    for (session, path, client) in sessions {
        session.end(EndReason::Closed);
        drop(session);
        assert_eq!(http(served.address, "POST", &path, &[], b"{}").await.status, 410);
        drop(client);
    }
    until("sessions that ended keep no client", || served.app.mcp_sessions() == 0).await;
    served.end().await;
}

/// In production a handshake brings a session of one's own, which ends with the client's.
#[tokio::test]
async fn a_session_of_ones_own_in_production() {
    let talker = Talker::default();
    let served = talker
        .serve(StoreLimits { max_sessions: 2, queue: Duration::ZERO, ..StoreLimits::default() }, production())
        .await;
    let first = Handshake::new(served.address, "/mcp").await;
    let second = Handshake::new(served.address, "/mcp").await;
    assert_eq!(served.active(), 2);
    first.call("say", &json!({})).await.json().await;
    let read = first.post(&request("resources/read", &json!({ "uri": "memo://one" }))).await.last().await;
    assert_eq!(read["result"]["contents"][0]["text"], "in session: true");
    let counts: Vec<u64> = served.app.store.list().iter().map(|session| session.info().step_count).collect();
    assert_eq!(counts.iter().sum::<u64>(), 1, "{counts:?}");
    // A server that is full says so in JSON-RPC, and makes nothing.
    let refused = Handshake::ask(served.address, "/mcp", &json!({})).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let error = refused.json().await["error"].clone();
    assert_eq!((&error["code"], &error["data"]["max_sessions"]), (&json!(-32000), &json!(2)));
    assert_eq!(first.delete().await, 202);
    until("its session has ended", || served.active() == 1).await;
    assert_eq!(first.call("say", &json!({})).await.status, 404);
    assert_eq!(first.delete().await, 404);
    assert!(second.call("say", &json!({})).await.json().await["result"].is_object());
    second.delete().await;
    assert_eq!(served.app.mcp_sessions(), 0);
    served.end().await;
}

/// Clients that never say goodbye cannot pile up: who was idle for longest goes first, and who is
/// in use stays.
#[tokio::test]
async fn a_flood_of_handshakes_is_bounded() {
    let talker = Talker::default();
    let config = ServerConfig { max_mcp_sessions: 8, ..ServerConfig::default() };
    let served = talker.serve(StoreLimits::default(), config).await;
    let used = Handshake::new(served.address, "/mcp").await;
    let stream = used.listen().await;
    let mut last = None;
    for _ in 0..100 {
        last = Some(Handshake::new(served.address, "/mcp").await);
        assert!(served.app.mcp_sessions() <= 8);
    }
    assert!(used.call("say", &json!({})).await.json().await["result"].is_object());
    assert!(last.unwrap().call("say", &json!({})).await.json().await["result"].is_object());
    // When all are in use, the next one is refused.
    let mut streams = vec![stream];
    for _ in 0..7 {
        streams.push(Handshake::new(served.address, "/mcp").await.listen().await);
    }
    let refused = Handshake::ask(served.address, "/mcp", &json!({})).await;
    assert_eq!(refused.status, 503);
    assert!(refused.json().await["error"]["message"].as_str().unwrap().contains("in use"));
    streams.pop();
    until("the place of who left is free", || served.app.connections() == 7).await;
    Handshake::new(served.address, "/mcp").await;
    drop(streams);
    served.end().await;
}

/// A client that is gone for good costs nothing after a while; one with an open stream stays.
#[tokio::test]
async fn idle_clients_expire() {
    let talker = Talker::default();
    // Long enough that a busy machine gets a handshake done within it.
    let config = ServerConfig { mcp_idle: Duration::from_millis(1500), ..production() };
    let served = talker.serve(StoreLimits::default(), config).await;
    let idle = Handshake::new(served.address, "/mcp").await;
    let listening = Handshake::new(served.address, "/mcp").await;
    let stream = listening.listen().await;
    until("the idle one is gone", || served.app.mcp_sessions() == 1 && served.active() == 1).await;
    let gone = idle.call("say", &json!({})).await;
    assert_eq!(gone.status, 404);
    assert!(gone.json().await["error"]["message"].as_str().unwrap().contains("initialize again"));
    assert!(listening.call("say", &json!({})).await.json().await["result"].is_object());
    drop(stream);
    until("both are gone", || served.app.mcp_sessions() == 0 && served.active() == 0).await;
    served.end().await;
}

/// The default session may be replaced under a client that is connected to it.
#[tokio::test]
async fn a_client_follows_the_default_session() {
    let served = serve().await;
    let old = Handshake::new(served.address, "/mcp").await;
    old.call("say", &json!({})).await.json().await;
    served.app.store.default_session(false).await.unwrap().end(EndReason::Closed);
    let refused = old.call("say", &json!({})).await.json().await;
    assert_eq!(refused["error"]["data"]["oxenv"]["code"], "SESSION_ENDED");
    assert_eq!(post(served.address, "/reset", &json!({})).await.status, 200);
    assert!(old.call("say", &json!({})).await.json().await["result"].is_object());
    old.delete().await;
    served.end().await;
}

/// A stop ends streams that wait for nothing in particular at once, and lets calls finish.
#[tokio::test]
async fn a_stop_waits_for_calls_but_not_for_listeners() {
    let talker = Talker::default();
    let config = ServerConfig { drain: Duration::from_secs(60), ..ServerConfig::default() };
    let mut served = talker.serve(StoreLimits::default(), config).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let mut stream = old.listen().await;
    let mut listener =
        alone(served.address, "/mcp", "subscriptions/listen", &json!({ "notifications": {} })).await;
    assert!(listener.next().await.is_some());
    let call = old.call("wait", &json!({})).await;
    talker.entered().await;
    served.stop();
    assert!(stream.next().await.is_none());
    let last = listener.next().await.unwrap();
    assert_eq!(last["result"]["resultType"], "complete", "{last}");
    assert!(listener.next().await.is_none());
    talker.open();
    assert_eq!(call.all().await.pop().unwrap()["result"]["content"][0]["text"], "went through");
    soon(served.stopped()).await;
    served.gone().await;
}

/// What is wrong with a message within a session is told in JSON-RPC, and the session lives on.
#[tokio::test]
async fn malformed_messages_within_a_session() {
    let served = serve().await;
    let old = Handshake::new(served.address, "/mcp").await;
    let id = ("mcp-session-id", old.id.as_str());
    let json_type = ("content-type", "application/json");
    for (headers, body, status, code) in [
        (&[id][..], "nope", 400, -32700),
        (&[id], "[]", 400, -32700),
        (&[id], "{}", 400, -32600),
        (&[id], r#"{"jsonrpc":"2.0","id":1,"result":{}"#, 400, -32700),
        (&[id], r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, 200, -32602),
        (
            &[id, ("content-type", "text/plain")],
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5}}"#,
            200,
            -32602,
        ),
        (&[id, ("accept", "application/json")], r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, 406, -32000),
        (
            &[id, ("accept", "text/event-stream")],
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
            406,
            -32000,
        ),
        (
            &[id, ("mcp-protocol-version", "1999-01-01")],
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            400,
            -32000,
        ),
        (&[("mcp-session-id", "nope")], r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, 404, -32000),
        (
            &[("mcp-protocol-version", "2025-11-25")],
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            400,
            -32000,
        ),
    ] {
        let mut headers = headers.to_vec();
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            headers.push(json_type);
        }
        let reply = http(served.address, "POST", "/mcp", &headers, body.as_bytes()).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (status, &json!(code)),
            "{body}: {}",
            reply.text()
        );
    }
    let reply = http(served.address, "GET", "/mcp", &[id, ("accept", "application/json")], b"").await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (406, &json!(-32000)));
    let wrong = old.post(&request("prompts/get", &json!({ "name": 5 }))).await.last().await;
    assert_eq!(wrong["error"]["code"], -32602);
    let unknown = old.post(&request("nope", &json!({}))).await.last().await;
    assert_eq!(unknown["error"]["code"], -32601);
    for answer in [
        json!({ "jsonrpc": "2.0", "id": 77, "result": {} }),
        json!({ "jsonrpc": "2.0", "id": null, "result": {} }),
    ] {
        let status = old.post(&answer).await.status;
        assert!(matches!(status, 202 | 400), "{status} {answer}");
    }
    // A body that is too large for the server is refused before it is read as anything.
    let listed: Value = old.post(&request("tools/list", &json!({}))).await.json().await;
    assert!(listed["result"]["tools"].is_array());
    old.delete().await;
    served.end().await;
}
