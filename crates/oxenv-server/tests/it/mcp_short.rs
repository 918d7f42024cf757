//! What is answered as one JSON text and what as a stream, in each era and each spelling.

use oxenv_core::StoreLimits;
use oxenv_server::{Mode, ServerConfig};
use oxenv_test_support::{post, rpc, until};
use serde_json::{Value, json};

use crate::mcp_wire::{Handshake, alone, request};
use crate::talker::Talker;

/// Bare `curl`, the dialect and both eras, one after the other: one session, each in its spelling.
#[tokio::test]
async fn each_client_is_answered_in_its_spelling() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let call = json!({ "name": "object", "arguments": {} });
    let dialect = rpc(served.address, "tools/call", call.clone()).await;
    assert_eq!(
        (&dialect["result"]["data"], &dialect["result"]["is_error"]),
        (&json!({ "n": 7 }), &json!(false))
    );
    let old = Handshake::new(served.address, "/mcp").await;
    let shook = old.call("object", &json!({})).await.json().await["result"].clone();
    let text = json!([{ "type": "text", "text": "{\"n\":7}" }]);
    assert_eq!(shook, json!({ "content": text, "structuredContent": { "n": 7 }, "isError": false }));
    let alone_said = alone(served.address, "/mcp", "tools/call", &call).await.json().await["result"].clone();
    let complete = json!({
        "resultType": "complete", "content": text, "structuredContent": { "n": 7 }, "isError": false,
    });
    assert_eq!(alone_said, complete);

    let dialect = rpc(served.address, "tools/list", json!({})).await;
    assert!(dialect["result"]["tools"][0].as_object().unwrap().contains_key("execution"));
    let shook = old.post(&request("tools/list", &json!({}))).await.json().await["result"].clone();
    assert_eq!(
        shook["tools"][0],
        json!({ "name": "say", "description": "", "inputSchema": { "type": "object" } })
    );
    assert!(shook.get("ttlMs").is_none());
    let listed = alone(served.address, "/mcp", "tools/list", &json!({})).await.json().await["result"].clone();
    assert_eq!((&listed["ttlMs"], &listed["cacheScope"]), (&json!(0), &json!("private")));
    assert_eq!(listed["tools"], shook["tools"]);
    // All of them are steps of the default session; listing is none.
    let session = served.app.store.default_session(false).await.unwrap();
    assert_eq!(session.info().step_count, 3);
    assert_eq!(old.delete().await, 202);
    assert!(session.ended().is_none(), "the environment's session outlives the client's");
    drop(session);
    served.end().await;
}

/// What is wrong with a call is told to the model as a result, and to a stock client as an error.
#[tokio::test]
async fn failed_calls_in_each_spelling() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    for (tool, arguments, word) in
        [("strict", json!({ "n": "x" }), "invalid_args"), ("strict", json!({}), "invalid_args")]
    {
        let params = json!({ "name": tool, "arguments": arguments });
        let stock = rpc(served.address, "tools/call", params.clone()).await;
        assert_eq!(stock["error"]["code"], -32603, "{stock}");
        for answer in
            [old.call(tool, &arguments).await, alone(served.address, "/mcp", "tools/call", &params).await]
        {
            let result = answer.json().await["result"].clone();
            assert_eq!(
                (&result["isError"], &result["_meta"]["oxenv"]["error_type"]),
                (&json!(true), &json!(word))
            );
            assert!(result["content"][0]["text"].as_str().unwrap().contains("call[strict]"), "{result}");
        }
    }
    // Only a tool that does not exist, and a request that its tool finds malformed, are protocol errors.
    for tool in ["nope", "reset", "step", "state", "close", "fork", "seal"] {
        let params = json!({ "name": tool, "arguments": {} });
        for answer in
            [old.call(tool, &json!({})).await, alone(served.address, "/mcp", "tools/call", &params).await]
        {
            assert_eq!(answer.json().await["error"]["code"], -32602, "{tool}");
        }
    }
    // What a session refuses is an error to everybody.
    for answer in [
        old.post_to(
            &format!("http://{}/mcp?epoch=9", served.address),
            &request("tools/call", &json!({ "name": "say" })),
        )
        .await,
        alone(served.address, "/mcp?epoch=9", "tools/call", &json!({ "name": "say" })).await,
    ] {
        let error = answer.json().await["error"].clone();
        assert_eq!(
            (&error["code"], &error["data"]["oxenv"]["code"]),
            (&json!(-32603), &json!("WRONG_EPOCH"))
        );
    }
    old.delete().await;
    served.end().await;
}

/// A call that has to wait, or that speaks, moves to a stream; nobody calls it twice.
#[tokio::test]
async fn a_call_that_takes_time_becomes_a_stream() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    let progress = |token: &str| json!({ "name": "count_to_three", "_meta": { "progressToken": token } });
    for by_hand in [true, false] {
        let mut stream = match by_hand {
            true => old.post(&request("tools/call", &progress("a"))).await,
            false => alone(served.address, "/mcp", "tools/call", &progress("a")).await,
        };
        talker.entered().await;
        for expected in [1.0, 2.0] {
            let note = stream.next().await.unwrap();
            assert_eq!(note["method"], "notifications/progress");
            assert_eq!(
                (&note["params"]["progressToken"], &note["params"]["progress"]),
                (&json!("a"), &json!(expected))
            );
        }
        talker.open();
        let rest = stream.all().await;
        assert_eq!(rest.len(), 2, "{rest:?}");
        assert_eq!(rest[0]["params"]["progress"], 3.0);
        assert_eq!(rest[1]["result"]["content"][0]["text"], "three");
    }
    // Who does not ask for progress is waited for, and gets none.
    let params = json!({ "name": "count_to_three" });
    let waiting = alone(served.address, "/mcp", "tools/call", &params);
    let (answer, ()) = tokio::join!(waiting, async {
        talker.entered().await;
        talker.open();
    });
    assert_eq!(answer.json().await["result"]["content"][0]["text"], "three");
    let session = served.app.store.default_session(false).await.unwrap();
    assert_eq!(session.info().step_count, 3);
    drop(session);
    old.delete().await;
    served.end().await;
}

/// The log goes to who asked for it, from the level on that was asked for.
#[tokio::test]
async fn a_log_is_for_those_who_want_it() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let murmur =
        |level: &str| json!({ "name": "murmur", "_meta": { "io.modelcontextprotocol/logLevel": level } });
    let silent = alone(served.address, "/mcp", "tools/call", &json!({ "name": "murmur" })).await;
    assert_eq!(silent.json().await["result"]["content"][0]["text"], "said so");
    for (level, lines) in [("debug", 3), ("info", 2), ("warning", 1), ("emergency", 0)] {
        let messages = match alone(served.address, "/mcp", "tools/call", &murmur(level)).await {
            stream if stream.is_stream() => stream.all().await,
            one => vec![one.json().await],
        };
        let logged = messages.iter().filter(|message| message["method"] == "notifications/message").count();
        assert_eq!((logged, messages.len()), (lines, lines + 1), "{level}: {messages:?}");
        assert_eq!(messages[lines]["result"]["content"][0]["text"], "said so");
    }
    // Within a handshake's session it comes on the stream of what is unasked.
    let old = Handshake::new(served.address, "/mcp").await;
    let mut stream = old.listen().await;
    let set = old.post(&request("logging/setLevel", &json!({ "level": "error" }))).await;
    assert!(set.last().await["result"].is_object());
    assert_eq!(old.call("murmur", &json!({})).await.last().await["result"]["content"][0]["text"], "said so");
    assert_eq!(stream.next().await.unwrap()["params"], json!({ "level": "error", "data": "error" }));
    old.delete().await;
    drop(stream);
    served.end().await;
}

/// Input that a tool wants comes in rounds where the revision has them, and is refused elsewhere.
#[tokio::test]
async fn input_in_rounds() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let able = json!({ "io.modelcontextprotocol/clientCapabilities": { "elicitation": {} } });
    let first = alone(served.address, "/mcp", "tools/call", &json!({ "name": "want", "_meta": able })).await;
    let first = first.json().await["result"].clone();
    assert_eq!(first["resultType"], "input_required");
    assert_eq!(first["inputRequests"]["name"]["method"], "elicitation/create");
    let given = json!({ "name": { "action": "accept", "content": { "name": "Ada" } } });
    let params = json!({ "name": "want", "_meta": able, "inputResponses": given });
    let second = alone(served.address, "/mcp", "tools/call", &params).await.json().await;
    assert_eq!(second["result"]["content"][0]["text"], "hello Ada");
    // Also when it must go by a stream.
    let mut watched = able.clone();
    watched["progressToken"] = json!(1);
    let params = json!({ "name": "want", "_meta": watched });
    assert_eq!(alone(served.address, "/mcp", "tools/call", &params).await.last().await["result"], first);
    // A client that cannot give it learns what it lacks.
    let unable = alone(served.address, "/mcp", "tools/call", &json!({ "name": "want" })).await;
    assert_eq!(unable.status, 400);
    let error = unable.json().await["error"].clone();
    assert_eq!(
        (&error["code"], &error["data"]),
        (&json!(-32021), &json!({ "requiredCapabilities": { "elicitation": {} } }))
    );
    // One that has no rounds at all is told so.
    let old = Handshake::new(served.address, "/mcp").await;
    let result = old.call("want", &json!({})).await.json().await["result"].clone();
    assert_eq!(
        (&result["isError"], &result["_meta"]["oxenv"]["code"]),
        (&json!(true), &json!("INPUT_REQUIRED"))
    );
    let stock = rpc(served.address, "tools/call", json!({ "name": "want" })).await;
    assert_eq!(stock["error"]["data"]["oxenv"]["code"], "INPUT_REQUIRED");
    old.delete().await;
    served.end().await;
}

/// A tool hears of a request's metadata what it may need: traces, state, what the client can do.
#[tokio::test]
async fn what_a_tool_is_told_of_its_request() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let old = Handshake::new(served.address, "/mcp").await;
    for (key, value) in [
        ("traceparent", json!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        ("io.modelcontextprotocol/clientCapabilities", json!({ "sampling": {} })),
        ("vendor/x", json!({ "deep": [1] })),
    ] {
        let params = json!({ "name": "told", "_meta": { key: value } });
        for answer in [
            alone(served.address, "/mcp", "tools/call", &params).await,
            old.post(&request("tools/call", &params)).await,
        ] {
            let result = answer.json().await;
            let told: Value =
                serde_json::from_str(result["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
            assert_eq!(told["_meta"][key], value, "{told}");
        }
    }
    let params = json!({ "name": "told", "requestState": "s" });
    let told = alone(served.address, "/mcp", "tools/call", &params).await.json().await;
    assert!(
        told["result"]["content"][0]["text"].as_str().unwrap().contains("\"requestState\":\"s\""),
        "{told}"
    );
    old.delete().await;
    served.end().await;
}

/// Sampling and the like, asked of a client that shook hands; one that did not offer it is not asked.
#[tokio::test]
async fn questions_to_a_client() {
    let talker = Talker::default();
    let served = talker.serve(StoreLimits::default(), ServerConfig::default()).await;
    let able = Handshake::with(served.address, "/mcp", &json!({ "sampling": {} })).await;
    let question = json!({ "messages": [], "maxTokens": 5 });
    let ask = json!({ "method": "sampling/createMessage", "params": question });
    let mut stream = able.call("ask", &ask).await;
    let asked = stream.next().await.unwrap();
    assert_eq!(asked["method"], "sampling/createMessage");
    assert_eq!((&asked["params"]["maxTokens"], &asked["params"]["messages"]), (&json!(5), &json!([])));
    let answer = json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "hi" } });
    let reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": answer });
    assert_eq!(able.post(&reply).await.status, 202);
    let result = stream.all().await.pop().unwrap();
    let said: Value = serde_json::from_str(result["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(said["content"], json!({ "type": "text", "text": "hi" }));
    // An error of the client's is the tool's to handle.
    let mut stream = able.call("ask", &ask).await;
    let asked = stream.next().await.unwrap();
    let reply = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": { "code": -1, "message": "not now" } });
    assert_eq!(able.post(&reply).await.status, 202);
    let result = stream.all().await.pop().unwrap();
    assert_eq!(
        (&result["result"]["isError"], &result["result"]["content"][0]["text"]),
        (&json!(true), &json!("not now"))
    );
    let roots = able.call("ask", &json!({ "method": "roots/list", "params": {} })).await.last().await;
    assert!(roots["result"]["content"][0]["text"].as_str().unwrap().contains("did not declare"), "{roots}");
    let params = json!({ "name": "ask", "arguments": ask, "_meta": { "progressToken": 1 } });
    let alone_said = alone(served.address, "/mcp", "tools/call", &params).await.last().await;
    assert!(
        alone_said["result"]["content"][0]["text"].as_str().unwrap().contains("input_required"),
        "{alone_said}"
    );
    able.delete().await;
    served.end().await;
}

/// In production a client that names no session reaches the server's own tools, as it ever did.
#[tokio::test]
async fn who_stands_alone_in_production() {
    let talker = Talker::default();
    let config = ServerConfig { mode: Mode::Production, ..ServerConfig::default() };
    let served = talker.serve(StoreLimits::default(), config).await;
    let said =
        alone(served.address, "/mcp", "tools/call", &json!({ "name": "say", "arguments": { "text": "x" } }))
            .await;
    assert_eq!(said.json().await["result"]["content"][0]["text"], "x");
    let read = alone(served.address, "/mcp", "resources/read", &json!({ "uri": "memo://one" })).await;
    assert_eq!(read.last().await["result"]["contents"][0]["text"], "in session: false");
    assert!(served.app.store.list().is_empty(), "a request without a session made one");
    // The dialect's way to a session works in every spelling.
    let made = post(served.address, "/mcp", &request("openenv/session/create", &json!({}))).await.json();
    let id = made["result"]["session_id"].as_str().unwrap().to_owned();
    let said = alone(served.address, "/mcp", "tools/call", &json!({ "name": "say", "session_id": id })).await;
    assert!(said.json().await["result"].is_object());
    assert_eq!(served.app.store.get(&id).unwrap().info().step_count, 1);
    rpc(served.address, "openenv/session/close", json!({ "session_id": id })).await;
    until("it is closed", || served.active() == 0).await;
    served.end().await;
}
