//! `/openapi.json` says exactly what the router does, in both modes.

use std::collections::BTreeSet;

use oxenv_core::SessionOptions;
use oxenv_server::Mode;
use oxenv_test_support::{get, http};
use serde_json::{Map, Value};

use crate::served::{Served, serve, serve_production};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

async fn in_mode(mode: Mode) -> Served {
    match mode {
        Mode::Simulation => serve().await,
        Mode::Production => serve_production().await,
    }
}

async fn document(served: &Served) -> Value {
    get(served.address, "/openapi.json").await.json()
}

fn paths(document: &Value) -> &Map<String, Value> {
    document["paths"].as_object().unwrap()
}

/// The methods that a path answers with anything but "not found" and "not allowed".
async fn answered(served: &Served, path: &str) -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    for method in METHODS {
        // Within an MCP session that does not exist, the streams of one are not found, but in MCP's words.
        let reply = http(served.address, method, path, &[("mcp-session-id", "x")], b"").await;
        if !matches!(reply.status, 404 | 405) || reply.text().contains("jsonrpc") {
            methods.insert(method.to_lowercase());
        }
    }
    methods
}

#[tokio::test]
async fn the_document_lists_the_routers_routes() {
    for mode in [Mode::Simulation, Mode::Production] {
        let served = in_mode(mode).await;
        let document = document(&served).await;
        for (path, operations) in paths(&document) {
            let session = served.app.store.create(SessionOptions::default()).await.unwrap();
            let real = path.replace("{id}", session.id()).replace("{environment}", "scripted");
            let listed: BTreeSet<String> = operations.as_object().unwrap().keys().cloned().collect();
            assert_eq!(answered(&served, &real).await, listed, "{path}");
            drop(session);
            // Some of these requests make sessions.
            served.app.store.end_all(&oxenv_core::EndReason::Closed);
        }
        served.end().await;
    }
}

/// What `openenv validate --url` looks at.
#[tokio::test]
async fn the_mode_shows_in_the_document() {
    for mode in [Mode::Simulation, Mode::Production] {
        let served = in_mode(mode).await;
        let document = document(&served).await;
        assert_eq!(document["info"]["version"], "1.0.0");
        for path in ["/reset", "/step", "/state"] {
            assert_eq!(paths(&document).contains_key(path), mode == Mode::Simulation, "{path}");
        }
        for path in ["/health", "/schema", "/metadata", "/mcp"] {
            assert!(paths(&document).contains_key(path), "{path}");
        }
        served.end().await;
    }
}

/// The rules of OpenAPI 3.1 that a generated document can break.
#[tokio::test]
async fn the_document_is_sound() {
    for mode in [Mode::Simulation, Mode::Production] {
        let served = in_mode(mode).await;
        let document = document(&served).await;
        assert_eq!(document["openapi"], "3.1.0");
        let mut ids = BTreeSet::new();
        for (path, operations) in paths(&document) {
            assert!(path.starts_with('/'));
            for (method, operation) in operations.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(ids.insert(id.to_owned()), "two operations are called {id}");
                assert!(!operation["summary"].as_str().unwrap().is_empty());
                let responses = operation["responses"].as_object().unwrap();
                assert!(!responses.is_empty());
                assert!(responses.values().all(|response| response["description"].is_string()));
                let in_path: BTreeSet<&str> =
                    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
                let declared: BTreeSet<&str> = operation["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|parameter| parameter["in"] == "path")
                    .map(|parameter| {
                        assert_eq!(parameter["required"], true);
                        parameter["name"].as_str().unwrap()
                    })
                    .collect();
                assert_eq!(in_path, declared, "{method} {path}");
                assert!(method != "get" || operation.get("requestBody").is_none(), "{path}");
            }
        }
        references(&document, &document);
        served.end().await;
    }
}

/// Every reference leads somewhere.
fn references(document: &Value, part: &Value) {
    match part {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("not local: {reference}"));
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            fields.values().for_each(|field| references(document, field));
        }
        Value::Array(items) => items.iter().for_each(|item| references(document, item)),
        _ => {}
    }
}
