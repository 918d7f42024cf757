//! Arguments that do not fit a tool's schema never reach it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;

use oxenv_core::{CallContext, CallRequest, Mount, Principal, Toolbox};
use oxenv_wire::{ToolErrorType, ToolSpelling};
use serde_json::{Value, json};

use crate::toolbox_support::{Set, ask};

fn of_schema(schema: Value) -> (Arc<Set>, Toolbox) {
    let set = Arc::new(Set::with_schemas("set", schema, None));
    let toolbox = Toolbox::new(vec![Mount::new(Arc::clone(&set) as Arc<_>)]);
    (set, toolbox)
}

/// A call that must be refused; gives what the caller reads.
async fn refused(schema: Value, arguments: &str) -> String {
    let (set, toolbox) = of_schema(schema);
    let error = ask(&toolbox, "tool", arguments).await.unwrap_err();
    assert_eq!((error.error_type, error.code), (ToolErrorType::InvalidArgs, None), "{}", error.message);
    assert!(set.calls().is_empty(), "it ran");
    error.message
}

fn add() -> Value {
    json!({
        "type": "object",
        "properties": { "a": { "type": "integer" }, "b": { "type": "integer" } },
        "required": ["a", "b"],
        "additionalProperties": false,
    })
}

#[tokio::test]
async fn every_issue_is_told_as_pydantic_tells_it() {
    let message = refused(add(), r#"{"a": "one", "c": 3}"#).await;
    assert!(message.starts_with("3 validation errors for call[tool]"), "{message}");
    for part in [
        "\na\n  Input should be a valid integer, unable to parse string as an integer [type=int_parsing, \
         input_value=one]",
        "\nb\n  Field required [type=missing,",
        "\nc\n  Extra inputs are not permitted [type=extra_forbidden, input_value=3]",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let message = refused(add(), r#"{"a": 1.5, "b": 2}"#).await;
    assert!(message.starts_with("1 validation error for call[tool]\na\n"), "{message}");
}

#[tokio::test]
async fn absent_arguments_are_an_empty_object() {
    let (set, toolbox) = of_schema(json!({ "type": "object" }));
    let outcome =
        toolbox.find("tool").call(&CallRequest::new(CallContext::sessionless(Principal::Agent), None)).await;
    assert!(outcome.is_ok());
    assert_eq!(set.calls()[0].1, "none", "the tool is told that there were none");
    let (set, toolbox) = of_schema(add());
    let outcome =
        toolbox.find("tool").call(&CallRequest::new(CallContext::sessionless(Principal::Agent), None)).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    assert!(error.message.starts_with("2 validation errors"), "{}", error.message);
    assert!(set.calls().is_empty());
}

#[tokio::test]
async fn what_fits_reaches_the_tool_byte_for_byte() {
    let (set, toolbox) = of_schema(add());
    let arguments = r#"{ "b":2e0,"a" : 12345678901234567890123 }"#;
    ask(&toolbox, "tool", arguments).await.unwrap();
    assert_eq!(set.calls()[0].1, arguments);
}

#[tokio::test]
async fn a_schema_that_is_none_leaves_the_tool_usable() {
    let schemas = [
        json!("nonsense"),
        json!(null),
        json!(12),
        json!({ "type": 12 }),
        json!({ "properties": [] }),
        json!({ "properties": { "a": { "pattern": "(" } } }),
        json!({ "$schema": "http://example.com/not-a-draft", "type": "object" }),
        json!({ "$ref": "#/$defs/missing" }),
        json!({ "$ref": "file:///etc/passwd" }),
        json!({}),
        json!(true),
    ];
    for schema in schemas {
        let (set, toolbox) = of_schema(schema.clone());
        let outcome = ask(&toolbox, "tool", r#"{"a": 1}"#).await;
        assert!(outcome.is_ok(), "{schema}: {outcome:?}");
        assert_eq!(set.calls().len(), 1);
        // It is still listed as its server wrote it.
        let listing = toolbox.listing(Principal::Agent, ToolSpelling::Mcp);
        assert_eq!(serde_json::from_str::<Value>(&listing).unwrap()[0]["inputSchema"], schema);
        // What is no Unicode never reaches a tool, schema or not.
        let error = ask(&toolbox, "tool", r#"{"a": "\udc00"}"#).await.unwrap_err();
        assert_eq!(error.error_type, ToolErrorType::InvalidArgs);
    }
    let message = refused(json!(false), "{}").await;
    assert!(message.contains("call[tool]"), "{message}");
}

#[tokio::test]
async fn a_schema_is_never_fetched() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/schema.json", listener.local_addr().unwrap());
    for schema in [
        json!({ "$ref": url }),
        json!({ "properties": { "a": { "$ref": url } } }),
        json!({ "$id": url, "$ref": "other.json" }),
        json!({ "$schema": url }),
    ] {
        let (set, toolbox) = of_schema(schema);
        ask(&toolbox, "tool", r#"{"a": 1}"#).await.unwrap();
        assert_eq!(set.calls().len(), 1);
    }
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "somebody came for it");
}

#[tokio::test]
async fn a_schema_that_refers_to_itself_ends() {
    // What goes in a circle without going into a value says nothing.
    for schema in [
        json!({ "$ref": "#" }),
        json!({ "allOf": [{ "$ref": "#" }] }),
        json!({
            "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }
        }),
        json!({ "$dynamicRef": "#x", "$dynamicAnchor": "x" }),
    ] {
        let (_, toolbox) = of_schema(schema);
        assert_eq!(ask(&toolbox, "tool", "{}").await.unwrap_err().error_type, ToolErrorType::ToolNotFound);
        let problem = toolbox.problems().remove(0).message;
        assert!(problem.contains("'tool'") && problem.contains("in a circle"), "{problem}");
    }
    let tree = json!({
        "type": "object",
        "properties": { "next": { "$ref": "#" }, "leaf": { "type": "string" } },
        "additionalProperties": false,
    });
    let nested = |leaf: &str| format!("{}{{\"leaf\": {leaf}}}{}", "{\"next\": ".repeat(100), "}".repeat(100));
    let (_, toolbox) = of_schema(tree.clone());
    ask(&toolbox, "tool", &nested("\"end\"")).await.unwrap();
    assert!(refused(tree, &nested("1")).await.contains("next.leaf"));
}

#[tokio::test]
async fn a_pattern_that_makes_others_explode_ends() {
    let schema = json!({ "properties": { "a": { "type": "string", "pattern": "^(a+)+$" } } });
    let arguments = json!({ "a": format!("{}b", "a".repeat(5_000)) }).to_string();
    refused(schema, &arguments).await;
}

#[tokio::test]
async fn what_no_reader_takes_is_told_in_words() {
    for arguments in [r#"{"a": "\ud800"}"#, r#"{"\ud800": 1}"#, r#"{"a": "\udc00\ud800"}"#] {
        let message = refused(json!({ "type": "object" }), arguments).await;
        assert!(message.contains("json_invalid"), "{message}");
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let message = refused(json!({ "type": "object" }), &deep).await;
    assert!(message.contains("128 levels"), "{message}");
    let message = refused(json!({ "type": "object" }), r#"{"a": 1e999}"#).await;
    assert!(message.contains("call[tool]"), "{message}");
    // Just deep enough.
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(125), "]".repeat(125));
    let (_, toolbox) = of_schema(json!({ "type": "object" }));
    ask(&toolbox, "tool", &deep).await.unwrap();
}

/// An echo of a large value would be as large, and a list of a million mistakes larger.
#[tokio::test]
async fn a_refusal_is_never_much_larger_than_its_reason() {
    let text = "x".repeat(100_000);
    let schemas = [
        json!({ "properties": { "a": { "type": "integer" } } }),
        json!({ "properties": { "a": { "pattern": "^y" } } }),
        json!({ "properties": { "a": { "anyOf": [{ "type": "null" }, { "type": "integer" }] } } }),
        json!({ "properties": { "a": { "items": { "type": "string" }, "type": "array" } } }),
        json!({ "maxProperties": 0 }),
    ];
    for (schema, arguments) in schemas.iter().flat_map(|schema| {
        [json!({ "a": text }), json!({ "a": vec![1; 50_000] })].map(|arguments| (schema, arguments))
    }) {
        let (_, toolbox) = of_schema(schema.clone());
        if let Err(error) = ask(&toolbox, "tool", &arguments.to_string()).await {
            assert!(error.message.len() < 20_000, "{} bytes for {schema}", error.message.len());
        }
    }
}

#[tokio::test]
async fn a_toolset_that_checks_for_itself_is_left_to_it() {
    let set = Arc::new(Set::with_schemas("set", add(), None).with(|set| set.validates = true));
    let toolbox = Toolbox::new(vec![Mount::new(Arc::clone(&set) as Arc<_>)]);
    ask(&toolbox, "tool", r#"{"a": "\ud800"}"#).await.unwrap();
    assert_eq!(set.calls(), [("tool".to_owned(), r#"{"a": "\ud800"}"#.to_owned())]);
}
