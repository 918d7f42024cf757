//! Calls of tools: what passes, both ways, unharmed.

use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{CallContext, ChangeCounter, Principal, RequestError, Toolset};
use oxenv_wire::ToolErrorType;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::upstream_support::*;

async fn plain() -> (Stage, Arc<dyn Toolset>) {
    let stage = Stage::new(&[odd("odd", "plain", "")]);
    let toolset = stage.session(1).remove(0);
    toolset.ready().await;
    (stage, toolset)
}

#[tokio::test]
async fn a_call_gets_its_result() {
    let (stage, toolset) = plain().await;
    assert_eq!(toolset.problem(), None);
    assert!(toolset.list().iter().any(|tool| tool.name == "echo" && tool.description.is_empty()));
    let result = call(&toolset, "echo", json!({"text": "hä\n\u{1f600}"})).await.unwrap();
    assert_eq!(result.text(), "hä\n\u{1f600}");
    let extras = toolset.extras();
    assert_eq!(extras.resources, [json!({"uri": "odd:one", "name": "one", "later": 1})]);
    assert_eq!(extras.templates.len(), 1);
    assert!(extras.prompts.is_empty());
    stage.manager.close().await;
    assert_eq!(stage.commands(), Vec::<String>::new());
}

#[tokio::test]
async fn content_of_every_kind_keeps_its_bytes() {
    let (_stage, toolset) = plain().await;
    let mut written = String::new();
    call(&toolset, "rich", json!({})).await.unwrap().write_mcp(&mut written);
    // As the server's own json module writes it; only the last field is ours.
    let expected = r#"{"content":[{"type": "image", "data": "AAAA", "mimeType": "image/png", "later": 1.5},{"type": "audio", "data": "BBBB", "mimeType": "audio/wav", "annotations": {"priority": 0.5}},{"type": "resource", "resource": {"uri": "a:b", "text": "t", "mimeType": "text/plain"}},{"type": "resource_link", "uri": "c:d", "name": "n"},{"type": "hologram", "depth": 3}],"structuredContent":{"n": 12345678901234567890, "f": 1.0},"_meta":{"trace": "x"},"isError":false}"#;
    assert_eq!(written, expected);
}

#[tokio::test]
async fn errors_have_their_categories() {
    let (_stage, toolset) = plain().await;
    let error = call(&toolset, "refuse", json!({})).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ExecutionError);
    assert_eq!(error.message, "refused with ***");
    let error = call(&toolset, "wrong", json!({})).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    let result = call(&toolset, "fail", json!({})).await.unwrap();
    assert!(result.is_error);
    let error = call(&toolset, "nothing", json!({})).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ToolNotFound);
    let error = call(&toolset, "strange", json!({})).await.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::ExecutionError);
    assert!(call(&toolset, "more", json!({})).await.unwrap().input_required.is_some());
}

#[tokio::test]
async fn notes_come_in_order_before_the_result() {
    let (_stage, toolset) = plain().await;
    let recorder = Recorder::default();
    let result = call_as(&toolset, Some(&recorder), "notes", json!({})).await.unwrap();
    assert_eq!(result.text(), "told");
    let heard = recorder.0.into_inner();
    assert_eq!(heard.len(), 6);
    assert_eq!(heard[0], r#"0/Some(3.0) Some("step 0")"#);
    assert_eq!(heard[5], r#"warning Some("odd") {"step":2}"#);
    // Who does not listen costs the server no notes.
    assert_eq!(say(&toolset, "notes").await, "untold");
}

#[tokio::test]
async fn questions_go_to_the_caller_of_the_only_call() {
    let (_stage, toolset) = plain().await;
    let recorder = Recorder::default();
    let result = call_as(&toolset, Some(&recorder), "ask", json!({})).await.unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&result.text()).unwrap(),
        json!({"method": "sampling/createMessage",
            "parameters": {"messages": [], "maxTokens": 5, "unheard": true}})
    );
    let refused = say(&toolset, "ask").await;
    assert!(refused.contains("there is not exactly one call whose caller can be asked"), "{refused}");
    let waiting = call(&toolset, "wait", json!({}));
    let asking = call_as(&toolset, Some(&recorder), "ask", json!({}));
    tokio::select! {
        biased;
        _ = waiting => panic!("it did not wait"),
        asked = asking => assert!(asked.unwrap().text().contains("there is not exactly one call")),
    }
}

#[tokio::test]
async fn dropping_a_call_cancels_it_at_its_server() {
    let (_stage, toolset) = plain().await;
    assert!(timeout(Duration::from_millis(200), call(&toolset, "wait", json!({}))).await.is_err());
    assert_eq!(say(&toolset, "cancelled").await, "1");
}

#[tokio::test]
async fn metadata_of_the_request_travels_with_the_call() {
    let (_stage, toolset) = plain().await;
    let request = oxenv_wire::raw(&json!({
        "name": "x", "requestState": "s", "inputResponses": {"a": 1},
        "_meta": {"traceparent": "00-1", "progressToken": 7, "io.modelcontextprotocol/clientInfo": {}},
    }));
    let request = request.unwrap();
    let context = CallContext { request: Some(&request), ..CallContext::sessionless(Principal::Agent) };
    let arguments = serde_json::value::RawValue::from_string("{\"a\":\n1e2}".to_owned()).unwrap();
    let result = toolset.call(context, "seen", Some(&arguments)).await.unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&result.text()).unwrap(),
        json!({"name": "seen", "arguments": {"a": 100.0}, "requestState": "s", "inputResponses": {"a": 1},
            "_meta": {"traceparent": "00-1"}})
    );
}

/// What a caller says of its request is built as values to be passed on, so there is a bound; arguments are
/// not.
#[tokio::test]
async fn metadata_of_many_values_is_refused() {
    let (_stage, toolset) = plain().await;
    let zeros = vec![0; 5000];
    let arguments = oxenv_wire::raw(&json!({ "zeros": zeros })).unwrap();
    for (meta, refused) in [(json!({ "x": zeros }), true), (json!({ "x": [0] }), false)] {
        let request = oxenv_wire::raw(&json!({ "name": "seen", "arguments": {}, "_meta": meta })).unwrap();
        let context = CallContext { request: Some(&request), ..CallContext::sessionless(Principal::Agent) };
        let outcome = toolset.call(context, "seen", Some(&arguments)).await;
        assert_eq!(outcome.is_err(), refused, "{outcome:?}");
        if let Err(error) = outcome {
            assert!(error.message.contains("_meta has more than 4096 values"), "{}", error.message);
        }
        let parameters = json!({ "uri": "odd:one", "_meta": meta });
        let parameters = oxenv_wire::raw(&parameters).unwrap();
        let context = CallContext::sessionless(Principal::Agent);
        assert_eq!(toolset.request(context, "resources/read", &parameters).await.is_err(), refused);
    }
}

#[tokio::test]
async fn other_requests_pass_and_the_rest_is_refused() {
    let (_stage, toolset) = plain().await;
    let context = CallContext::sessionless(Principal::Agent);
    let parameters = oxenv_wire::raw(&json!({"uri": "odd:one", "_meta": {"progressToken": 1}})).unwrap();
    let result = toolset.request(context, "resources/read", &parameters).await.unwrap();
    assert_eq!(result.get(), r#"{"contents": [{"uri": "odd:one", "text": "one", "later": 1.5}]}"#);
    let fault = toolset.request(context, "prompts/get", &parameters).await.unwrap_err();
    assert_eq!(fault, RequestError::new(-32601, "no prompts/get"));
    let fault = toolset.request(context, "tools/call", &parameters).await.unwrap_err();
    assert_eq!(fault.code, -32601);
}

#[tokio::test]
async fn a_list_that_changes_during_a_call_is_read_again() {
    let (_stage, toolset) = plain().await;
    let changes = ChangeCounter::default();
    toolset.watch(&changes);
    let before = toolset.list();
    assert!(Arc::ptr_eq(&before, &toolset.list()));
    let calling = call(&toolset, "change", json!({}));
    let (result, count) = tokio::join!(calling, changes.after(0));
    assert_eq!((result.unwrap().text().as_str(), count), ("changed", 1));
    assert_eq!(toolset.list().len(), before.len() + 1);
    // The list of other sessions is their own.
    let other = _stage.session(2).remove(0);
    assert_eq!(other.list().len(), before.len());
}

#[tokio::test]
async fn a_large_result_passes() {
    let (_stage, toolset) = plain().await;
    let bytes = 50 << 20;
    let result = call(&toolset, "big", json!({"bytes": bytes})).await.unwrap();
    assert_eq!(result.text().len(), bytes);
}
