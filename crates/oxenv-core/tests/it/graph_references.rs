//! What `${id.path}` becomes within the arguments of a graph's calls.

use std::sync::Arc;

use oxenv_core::{Session, SessionStore, Toolbox, Work};
use oxenv_wire::{Content, RawJson, Structured, ToolErrorType, ToolResult};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::graph::{of, run, session_of};
use crate::toolbox_support::{Outcome, Set, done, mounts, value};

/// `give` gives what stands below; `echo` gives its arguments.
async fn stage() -> (SessionStore, Arc<Session>, Arc<Set>) {
    let given = json!({
        "int": 3, "big": 18_446_744_073_709_551_615_u64, "float": 1.5, "text": "it's", "yes": true,
        "nothing": null,
        "list": [10, { "deep": "item" }, [1, 2]], "object": { "a": { "b": "c" }, "0": "key" }, "": "empty",
        "dotted.key": 1,
    });
    let set =
        Set::new("set", &["give", "echo", "text", "unreadable", "huge"]).answering(move |tool, arguments| {
            match tool {
                "give" => done(&given),
                "text" => Work::done(Ok(ToolResult {
                    content: [Content::Text("one".to_owned()), Content::Text("two".to_owned())]
                        .into_iter()
                        .collect(),
                    ..ToolResult::default()
                })),
                "unreadable" => raw_result(r#"{"x": 1e999}"#),
                "huge" => done(&json!({ "text": "x".repeat(1 << 20) })),
                _ => done(&arguments),
            }
        });
    let set = Arc::new(set);
    let (store, session) = session_of(Toolbox::new(mounts(&[&set]))).await;
    (store, session, set)
}

fn raw_result(json: &str) -> Work<'static, Outcome> {
    let json: RawJson = RawValue::from_string(json.to_owned()).unwrap();
    Work::done(Ok(ToolResult { structured: Structured::Object(json), ..ToolResult::default() }))
}

/// What a call's argument `x` becomes after a call `give` of the id `a`.
async fn filled(session: &Arc<Session>, x: Value) -> Result<Value, String> {
    let calls = [json!(["a", "give"]), json!(["b", "echo", { "x": x }])];
    let reply = run(session, &calls).await.unwrap();
    match of(&reply, "b") {
        Ok(_) => Ok(value(of(&reply, "b"))["x"].clone()),
        Err(error) => {
            assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
            Err(error.message.clone())
        }
    }
}

#[tokio::test]
async fn a_reference_alone_keeps_the_type() {
    let (_store, session, _) = stage().await;
    for (reference, expected) in [
        ("${a.int}", json!(3)),
        ("${a.big}", json!(18_446_744_073_709_551_615_u64)),
        ("${a.float}", json!(1.5)),
        ("${a.text}", json!("it's")),
        ("${a.yes}", json!(true)),
        ("${a.nothing}", json!(null)),
        ("${a.list}", json!([10, { "deep": "item" }, [1, 2]])),
        ("${a.list.1.deep}", json!("item")),
        ("${a.list.2.0}", json!(1)),
        ("${a.object.a.b}", json!("c")),
        ("${a.object.0}", json!("key")),
        ("${a.}", json!("empty")),
    ] {
        assert_eq!(filled(&session, json!(reference)).await, Ok(expected), "{reference}");
        // Wherever it stands.
        let nested = json!({ "y": [reference, { "z": reference }], "plain": [1, null, "text"] });
        let value = filled(&session, nested).await.unwrap();
        assert_eq!(value["y"][0], value["y"][1]["z"]);
    }
    assert_eq!(filled(&session, json!("${a}")).await.unwrap()["float"], json!(1.5));
}

#[tokio::test]
async fn within_a_text_values_become_text() {
    let (_store, session, _) = stage().await;
    for (text, expected) in [
        ("is ${a.int}", "is 3"),
        ("${a.int}${a.float}", "31.5"),
        (" ${a.text}", " it's"),
        ("${a.yes} or ${a.nothing}", "true or null"),
        ("list: ${a.list.2}", "list: [1,2]"),
        ("é${a.object.a}é", "é{\"b\":\"c\"}é"),
    ] {
        assert_eq!(filled(&session, json!(text)).await, Ok(json!(expected)));
    }
}

#[tokio::test]
async fn what_only_looks_like_a_reference_stays() {
    let (_store, session, _) = stage().await;
    for (text, expected) in [
        ("$${a.int}", "${a.int}"),
        ("$${", "${"),
        ("${a.int} is $${a.int}", "3 is ${a.int}"),
        ("$$${a.int}", "$${a.int}"),
        ("$a {a} $ {a} $", "$a {a} $ {a} $"),
        ("${a.int", "${a.int"),
        ("}${", "}${"),
        ("", ""),
    ] {
        assert_eq!(filled(&session, json!(text)).await, Ok(json!(expected)), "{text}");
    }
    // Keys are names, not values.
    assert_eq!(filled(&session, json!({ "${a.int}": 1 })).await, Ok(json!({ "${a.int}": 1 })));
}

/// What was filled in is data: nothing in it is filled in again.
#[tokio::test]
async fn a_result_is_never_taken_for_a_reference() {
    let (_store, session, _) = stage().await;
    let calls = [
        json!(["a", "echo", { "text": "$${b.secret} $${a}" }]),
        json!(["b", "echo", { "x": "${a.text}", "y": "<${a.text}>" }]),
        json!(["c", "echo", { "x": "${b.x}" }]),
    ];
    let reply = run(&session, &calls).await.unwrap();
    assert_eq!(value(of(&reply, "b")), json!({ "x": "${b.secret} ${a}", "y": "<${b.secret} ${a}>" }));
    assert_eq!(value(of(&reply, "c")), json!({ "x": "${b.secret} ${a}" }));
}

#[tokio::test]
async fn a_path_that_is_not_there_fails_that_call_alone() {
    let (_store, session, set) = stage().await;
    for (reference, missing) in [
        ("${a.none}", "'none'"),
        ("${a.list.3}", "'3'"),
        ("${a.list.-1}", "'-1'"),
        ("${a.list.deep}", "'deep'"),
        ("${a.int.0}", "'0'"),
        ("${a.text.0}", "'0'"),
        ("${a.nothing.x}", "'x'"),
        ("${a.dotted.key}", "'dotted'"),
        ("${a..int}", "'int'"),
        ("text ${a.object.z} text", "'z'"),
    ] {
        let message = filled(&session, json!(reference)).await.unwrap_err();
        assert!(message.contains(missing) && message.contains("'a'"), "{reference}: {message}");
    }
    let before = set.calls().len();
    let calls = [
        json!(["a", "give"]),
        json!(["b", "echo", { "x": "${a.none}" }]),
        json!(["c", "echo", {}, "b"]),
        json!(["d", "echo", {}, "a"]),
    ];
    let reply = run(&session, &calls).await.unwrap();
    assert!(of(&reply, "c").as_ref().unwrap_err().message.contains("not called: 'b'"));
    of(&reply, "d").as_ref().unwrap();
    assert_eq!(set.calls().len(), before + 2);
}

#[tokio::test]
async fn a_result_of_text_alone_is_its_text() {
    let (_store, session, _) = stage().await;
    let calls = [
        json!(["a", "text"]),
        json!(["b", "echo", { "x": "${a}", "y": "<${a}>" }]),
        json!(["c", "echo", { "x": "${a.0}" }]),
    ];
    let reply = run(&session, &calls).await.unwrap();
    assert_eq!(value(of(&reply, "b")), json!({ "x": "one\ntwo", "y": "<one\ntwo>" }));
    assert_eq!(of(&reply, "c").as_ref().unwrap_err().error_type, ToolErrorType::InvalidArgs);
}

#[tokio::test]
async fn a_result_that_no_reader_takes_is_never_guessed() {
    let (_store, session, _) = stage().await;
    let calls = [
        json!(["a", "unreadable"]),
        json!(["b", "echo", { "x": "${a.x}" }]),
        // Who only waits for it does not read it.
        json!(["c", "echo", {}, "a"]),
    ];
    let reply = run(&session, &calls).await.unwrap();
    let error = of(&reply, "b").as_ref().unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ExecutionError);
    assert!(error.message.contains("the result of 'a' cannot be read"), "{}", error.message);
    of(&reply, "c").as_ref().unwrap();
}

#[tokio::test]
async fn arguments_without_references_reach_the_tool_byte_for_byte() {
    let (_store, session, set) = stage().await;
    let own = r#"{ "big":12345678901234567890123456789, "z" : 1.0e0,"a":"\u0041$" }"#;
    let escaped = r#"{ "x" : "\u0024${y", "z": 1.0e0 }"#;
    for (arguments, heard) in [(own, own), (escaped, r#"{ "x" : "${y", "z": 1.0e0 }"#)] {
        let text = format!(
            r#"{{"type": "call_tools", "calls": [{{"id": "a", "tool_name": "echo", "arguments": {arguments}}}]}}"#
        );
        let text = RawValue::from_string(text).unwrap();
        let action = oxenv_wire::Action::parse(&text).unwrap();
        session.submit(oxenv_core::SessionRequest::step(action)).await.into_outcome().unwrap();
        assert_eq!(set.calls().pop().unwrap().1, heard);
    }
    run(&session, &[json!(["a", "echo"])]).await.unwrap();
    let absent = json!({ "type": "call_tools", "calls": [{ "id": "a", "tool_name": "echo" }] });
    crate::support::step(&session, absent).await.unwrap();
    assert_eq!(set.calls().pop().unwrap().1, "none");
}

/// Results that are put into each other would grow without end.
#[tokio::test]
async fn what_references_put_in_is_bounded() {
    let (_store, session, set) = stage().await;
    let twice = |id: usize| format!("${{{}.x}}${{{}.x}}", id - 1, id - 1);
    let mut calls = vec![json!(["first", "huge"]), json!(["0", "echo", { "x": "${first.text}" }])];
    calls.extend((1..40).map(|id| json!([id.to_string(), "echo", { "x": twice(id) }])));
    let reply = run(&session, &calls).await.unwrap();
    of(&reply, "3").as_ref().unwrap();
    let error = of(&reply, "4").as_ref().unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    assert!(error.message.contains("16777216 bytes"), "{}", error.message);
    assert!(of(&reply, "39").as_ref().unwrap_err().message.contains("not called"));
    assert!(set.calls().iter().all(|(_, arguments)| arguments.len() <= (16 << 20) + 100));
}

/// The bound is one of the whole graph: calls side by side have it together.
#[tokio::test]
async fn all_calls_of_a_graph_share_the_bound() {
    let (_store, session, _) = stage().await;
    let mut calls = vec![json!(["first", "huge"])];
    calls.extend((0..40).map(|id| json!([id.to_string(), "text", { "x": "${first.text}" }])));
    let reply = run(&session, &calls).await.unwrap();
    let called = reply.results.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert_eq!(called, 1 + 15, "15 times a text of 1 MiB and its quotes");
    let error = of(&reply, "39").as_ref().unwrap_err();
    assert!(error.message.contains("16777216 bytes"), "{}", error.message);
}

#[tokio::test]
async fn the_results_of_a_graph_are_bounded_together() {
    let (_store, session, set) = stage().await;
    let calls: Vec<Value> = (0..80).map(|id| json!([id.to_string(), "huge"])).collect();
    let reply = run(&session, &calls).await.unwrap();
    assert_eq!(set.calls().len(), 80);
    let kept = reply.results.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert_eq!(kept, 63, "63 results of 1 MiB and a little");
    let error = of(&reply, "79").as_ref().unwrap_err();
    assert_eq!(error.code, Some(oxenv_wire::ErrorCode::InvalidResult));
    assert!(error.message.contains("67108864 bytes"), "{}", error.message);
}
