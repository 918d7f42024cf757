//! Replies are what `/openapi.json` says that they are: status, body, examples.

use std::sync::Arc;

use oxenv_core::schema::CheckBudget;
use oxenv_core::{Execution, Schema, StoreLimits};
use oxenv_server::{Metrics, ServerConfig, Tokens};
use oxenv_test_support::{Reply, get, http, post};
use serde_json::{Value, json};

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

struct Document(Value);

impl Document {
    async fn of(served: &Served) -> Self {
        Document(get(served.address, "/openapi.json").await.json())
    }

    /// Why a value does not fit a schema of the document.
    fn misfit(&self, schema: &Value, value: &Value) -> Option<String> {
        let mut whole = schema.clone();
        whole["components"] = self.0["components"].clone();
        let schema = Schema::compile(&whole).unwrap();
        schema.first_error(value, &CheckBudget::of(value)).unwrap()
    }

    /// Holds a reply against what is said of the route.
    fn check(&self, method: &str, path: &str, reply: &Reply) {
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let status = reply.status.to_string();
        let said = responses.get(&status).unwrap_or_else(|| {
            panic!("{method} {path} answered {status}, which is not said: {}", reply.text());
        });
        let media = reply.header("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default();
        let schema = &said["content"][media]["schema"];
        assert!(!schema.is_null(), "{method} {path} answered {status} with {media}, which is not said");
        if media == "application/json" {
            let misfit = self.misfit(schema, &reply.json());
            assert_eq!(misfit, None, "{method} {path} {status}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn replies_fit_the_schemas_of_their_routes() {
    let served = serve().await;
    let document = Document::of(&served).await;
    let address = served.address;
    let check = |method: &str, path: &str, reply: &Reply| document.check(method, path, reply);

    for path in [
        "/health",
        "/ready",
        "/metadata",
        "/schema",
        "/tools",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/list_environments",
        "/state",
        "/sessions",
    ] {
        check("GET", path, &get(address, path).await);
    }
    let created = post(address, "/sessions", &json!({ "seed": 7 })).await;
    check("POST", "/sessions", &created);
    let id = created.json()["session_id"].as_str().unwrap().to_owned();
    let of = |rest: &str| format!("/sessions/{id}{rest}");
    check("POST", "/sessions", &post(address, "/sessions", &json!({ "seed": -1 })).await);
    check("POST", "/sessions/{id}/reset", &post(address, &of("/reset"), &json!({})).await);
    let step = json!({ "action": { "type": "call_tool", "tool_name": "say", "arguments": {} } });
    check("POST", "/sessions/{id}/step", &post(address, &of("/step"), &step).await);
    check("POST", "/sessions/{id}/step", &post(address, &of("/step"), &json!({})).await);
    check("GET", "/sessions/{id}", &get(address, &of("")).await);
    check("GET", "/sessions/{id}/state", &get(address, &of("/state")).await);
    check("GET", "/sessions", &get(address, "/sessions").await);
    check("POST", "/sessions/{id}/keepalive", &post(address, &of("/keepalive"), &json!({})).await);
    check("POST", "/sessions/{id}/fork", &post(address, &of("/fork"), &json!({ "n": 0 })).await);
    check("POST", "/sessions/{id}/fork", &post(address, &of("/fork"), &json!({ "n": 2 })).await);
    check("POST", "/sessions/{id}/snapshot", &post(address, &of("/snapshot"), &json!({})).await);
    check("POST", "/restore", &post(address, "/restore", &json!({ "snapshot": "oxs2.x" })).await);
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    check("POST", "/sessions/{id}/mcp", &post(address, &of("/mcp"), &list).await);
    check("POST", "/mcp", &post(address, "/mcp", &list).await);
    let accept = ("accept", "application/json, text/event-stream");
    let json = ("content-type", "application/json");
    for session in ["x", ""] {
        let headers = [accept, json, ("mcp-session-id", session), ("mcp-protocol-version", "2025-11-25")];
        check("POST", "/mcp", &http(address, "POST", "/mcp", &headers, list.to_string().as_bytes()).await);
        check("GET", "/mcp", &http(address, "GET", "/mcp", &headers, b"").await);
    }
    check("POST", "/sessions/{id}/mcp", &post(address, "/sessions/nobody/mcp", &list).await);
    let items = json!({ "items": [{ "type": "step", "session": id, "data": { "type": "list_tools" } }] });
    check("POST", "/batch", &post(address, "/batch", &items).await);
    check("POST", "/batch", &post(address, "/batch", &json!({ "items": [] })).await);
    check("POST", "/reset", &post(address, "/reset", &json!({ "seed": 1 })).await);
    check("POST", "/step", &post(address, "/step", &step).await);
    check("DELETE", "/sessions/{id}", &http(address, "DELETE", &of(""), &[], b"").await);
    check("GET", "/sessions/{id}", &get(address, &of("")).await);
    check("GET", "/sessions/{id}", &get(address, "/sessions/nobody").await);
    check("GET", "/{environment}/splits", &get(address, "/scripted/splits").await);
    served.app.store.end_all(&oxenv_core::EndReason::Closed);
    served.end().await;
}

/// A server with tokens and metrics says so.
#[tokio::test]
async fn tokens_and_metrics_are_in_the_document() {
    let stage = Stage::default();
    let mut tokens = Tokens::default();
    tokens.add_control("secret-of-control").unwrap();
    let config =
        ServerConfig { tokens, metrics: Some(Arc::new(Metrics::new("scripted"))), ..ServerConfig::default() };
    let served =
        Served::start(&stage, Scripted::new(&stage, Execution::Task), StoreLimits::default(), config).await;
    let bearer = [("authorization", "Bearer secret-of-control")];
    let document = Document(http(served.address, "GET", "/openapi.json", &bearer, b"").await.json());
    assert_eq!(document.0["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    assert!(document.0["paths"]["/health"]["get"].get("security").is_none());
    assert!(document.0["paths"]["/step"]["post"]["security"].is_array());
    document.check("GET", "/state", &get(served.address, "/state").await);
    document.check("GET", "/metrics", &http(served.address, "GET", "/metrics", &bearer, b"").await);
    served.end().await;
}

#[tokio::test]
async fn the_examples_fit_their_schemas() {
    let served = serve().await;
    let document = Document::of(&served).await;
    let mut examples = 0;
    for (name, schema) in document.0["components"]["schemas"].as_object().unwrap() {
        for example in schema["examples"].as_array().into_iter().flatten() {
            assert_eq!(document.misfit(schema, example), None, "an example of {name}");
            examples += 1;
        }
    }
    assert!(examples > 5, "only {examples} examples were found");
    served.end().await;
}
