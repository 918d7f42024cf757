//! Replies are what `/openapi.json` says that they are: status, headers, body, examples.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{Execution, StoreLimits};
use oxenv_schema::{CheckBudget, Schema};
use oxenv_server::{Metrics, ServerConfig, Tokens};
use oxenv_test_support::{Reply, get, http, post};
use serde_json::{Value, json};

use crate::mcp_wire::{Answer, Handshake, request};
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
        let headers = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let documented = self.check_head(method, path, reply.status, headers);
        if reply.header("content-type") == Some("application/json") {
            let schema = &documented["content"]["application/json"]["schema"];
            let misfit = self.misfit(schema, &reply.json());
            assert_eq!(misfit, None, "{method} {path} {}: {}", reply.status, reply.text());
        }
    }

    /// Compares the status and the headers of a reply with the route's description: each header beside those
    /// of HTTP's framing is documented and fits its schema, and those that are required are there. Returns
    /// the description of the status.
    fn check_head<'a>(
        &self,
        method: &str,
        path: &str,
        status: u16,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> &Value {
        let reply = format!("{method} {path} answered {status}");
        let documented = &self.0["paths"][path][method.to_lowercase()]["responses"][status.to_string()];
        assert!(!documented.is_null(), "{reply}, which is not documented");
        let mut missing: BTreeMap<String, &Value> = documented["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, header)| (name.to_lowercase(), header))
            .collect();
        for (name, value) in headers {
            if name == "content-type" {
                let media = value.split(';').next().unwrap();
                let content = &documented["content"][media];
                assert!(!content.is_null(), "{reply} with {media}, which is not documented");
            }
            if FRAMING.contains(&name) {
                continue;
            }
            let header = missing.remove(name);
            let header = header.unwrap_or_else(|| panic!("{reply} with {name}, which is not documented"));
            let value = match header["schema"]["type"].as_str() {
                Some("string") => json!(value),
                _ => serde_json::from_str(value).unwrap(),
            };
            assert_eq!(self.misfit(&header["schema"], &value), None, "{reply} with {name}: {value}");
        }
        missing.retain(|_, header| header["required"] == true);
        assert!(missing.is_empty(), "{reply} without {:?}", missing.keys());
        documented
    }
}

/// Headers that every reply may have: OpenAPI leaves them to HTTP.
const FRAMING: [&str; 5] = ["content-type", "content-length", "transfer-encoding", "connection", "date"];

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
    check("GET", "/sessions/{id}/logs", &get(address, &of("/logs")).await);
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
    let key = [("content-type", "application/json"), ("idempotency-key", "one")];
    for (method, path, route) in [
        ("POST", of("/step"), "/sessions/{id}/step"),
        ("POST", of("/step"), "/sessions/{id}/step"),
        ("POST", of("/reset"), "/sessions/{id}/reset"),
        ("POST", "/sessions".to_owned(), "/sessions"),
        ("POST", "/sessions".to_owned(), "/sessions"),
    ] {
        let body = if path.ends_with("/step") { step.to_string() } else { "{}".to_owned() };
        check(method, route, &http(address, method, &path, &key, body.as_bytes()).await);
    }
    check("DELETE", "/sessions/{id}", &http(address, "DELETE", &of(""), &[], b"").await);
    check("GET", "/sessions/{id}", &get(address, &of("")).await);
    check("GET", "/sessions/{id}", &get(address, "/sessions/nobody").await);
    check("GET", "/{environment}/splits", &get(address, "/scripted/splits").await);
    served.app.store.end_all(&oxenv_core::EndReason::Closed);
    served.end().await;
}

/// The session of a client that shakes hands, its events and its end.
#[tokio::test]
async fn replies_of_mcp_have_the_headers_of_their_routes() {
    let served = serve().await;
    let document = Document::of(&served).await;
    let check = |method: &str, answer: &Answer| {
        let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
        document.check_head(method, "/mcp", answer.status, headers);
    };
    let begun = Handshake::ask(served.address, "/mcp", &json!({})).await;
    assert!(begun.header("mcp-session-id").is_some());
    check("POST", &begun);
    drop(begun);
    let client = Handshake::new(served.address, "/mcp").await;
    let events = client.listen().await;
    assert!(events.is_stream());
    check("GET", &events);
    let token = json!({ "name": "say", "arguments": {}, "_meta": { "progressToken": 1 } });
    check("POST", &client.post(&request("tools/call", &token)).await);
    check("POST", &client.post(&request("ping", &json!({}))).await);
    let id = [("mcp-session-id", client.id.as_str()), ("mcp-protocol-version", "2025-11-25")];
    document.check("DELETE", "/mcp", &http(served.address, "DELETE", "/mcp", &id, b"").await);
    document.check("DELETE", "/mcp", &http(served.address, "DELETE", "/mcp", &[], b"").await);
    drop(events);
    served.end().await;
}

/// A browser's request from elsewhere is refused on every route, and the document says so of each.
#[tokio::test]
async fn the_refusal_of_foreign_origins_is_in_the_document() {
    let served = serve().await;
    let document = Document::of(&served).await;
    let origin = [("origin", "http://evil.example")];
    for (path, operations) in document.0["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let reply = http(served.address, &method, path, &origin, b"").await;
            assert_eq!(reply.status, 403, "{method} {path}");
            document.check(&method, path, &reply);
        }
    }
    served.end().await;
}

/// A server that has no room for a session says when to try again.
#[tokio::test]
async fn a_full_server_is_in_the_document() {
    let stage = Stage::default();
    let limits = StoreLimits { max_sessions: 1, queue: Duration::ZERO, ..StoreLimits::default() };
    let factory = Scripted::new(&stage, Execution::Inline);
    let served = Served::start(&stage, factory, limits, ServerConfig::default()).await;
    let document = Document::of(&served).await;
    document.check("POST", "/sessions", &post(served.address, "/sessions", &json!({})).await);
    let full = post(served.address, "/sessions", &json!({})).await;
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    document.check("POST", "/sessions", &full);
    document.check("GET", "/ready", &get(served.address, "/ready").await);
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
