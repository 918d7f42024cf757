//! Both MCP endpoints, by hand.

use oxenv_fleet_simulator::{Framing, McpAuth, SimulatorOptions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::caller::{Answer, Caller, answered};

/// One endpoint of one instance, and the session that it gave.
struct Endpoint<'a> {
    caller: &'a Caller,
    url: String,
    session: Option<String>,
}

impl<'a> Endpoint<'a> {
    async fn open(caller: &'a Caller, root: &str, path: &str) -> Self {
        let mut endpoint = Endpoint { caller, url: format!("{root}{path}"), session: None };
        let params = json!({
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}
        });
        let answer = endpoint.send("initialize", params).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        endpoint.session = answer.header("mcp-session-id").map(str::to_owned);
        endpoint
    }

    async fn send(&self, method: &str, params: Value) -> reqwest::Result<Answer> {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let mut request = self.caller.request(Method::POST, &self.url).json(&body);
        if let Some(session) = &self.session {
            request = request.header("mcp-session-id", session);
        }
        answered(request).await
    }

    async fn names(&self) -> Vec<String> {
        let tools = self.send("tools/list", json!({})).await.unwrap().json();
        let tools = tools["result"]["tools"].as_array().unwrap().clone();
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn call(&self, name: &str, arguments: Value) -> Value {
        let params = json!({"name": name, "arguments": arguments});
        self.send("tools/call", params).await.unwrap().json()["result"].clone()
    }
}

/// The text of a result, as JSON.
fn text_content(result: &Value) -> Value {
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn two_servers_with_one_name_in_common() {
    let caller = Caller::with(&[]).await;
    let (_, root) = caller.made().await;
    let own = Endpoint::open(&caller, &root, "mcp").await;
    let aggregator = Endpoint::open(&caller, &root, "api/v1/mcp").await;
    let (names, others) = (own.names().await, aggregator.names().await);
    assert_eq!(names.iter().filter(|name| others.contains(name)).collect::<Vec<_>>(), ["search"]);
    let created = text_content(&own.call("create_issue", json!({"title": "A zebra"})).await);
    assert_eq!(created[0]["id"], 6);
    let found = text_content(&own.call("search", json!({"query": "zebra"})).await);
    assert_eq!((&found[0]["answered_by"], &found[0]["title"]), (&json!("mcp"), &json!("A zebra")));
    let found = text_content(&aggregator.call("search", json!({"query": "zebra", "limit": 1})).await);
    assert_eq!(found[0]["answered_by"], "api/v1/mcp");
    let missing = aggregator.call("search", json!({"query": "zebra"})).await;
    assert_eq!(missing["isError"], true);
    let done = text_content(&own.call("set_status", json!({"id": 6, "status": "done"})).await);
    assert_eq!(done[0]["status"], "done");
    let image = text_content(&aggregator.call("computer", json!({"action": "screenshot"})).await);
    assert!(image["base64_image"].as_str().unwrap().starts_with("data:image/png;base64,iVBOR"), "{image}");
    assert_eq!(aggregator.call("computer", json!({"action": "fly"})).await["isError"], true);
}

#[tokio::test]
async fn images_that_serve_one_endpoint_alone() {
    let caller = Caller::with(&[]).await;
    for (key, there, absent) in [("echo", "mcp", "api/v1/mcp"), ("desk", "api/v1/mcp", "mcp")] {
        let made = caller.create(key).await.unwrap().json();
        let root = made["urls"]["root"].as_str().unwrap();
        Endpoint::open(&caller, root, there).await;
        assert_eq!(caller.post(&format!("{root}{absent}"), &json!({})).await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn the_protocol() {
    let caller = Caller::with(&[]).await;
    let (_, root) = caller.made().await;
    let mut own = Endpoint::open(&caller, &root, "mcp").await;
    let code = |answer: Answer| (answer.status, answer.json()["error"]["code"].as_i64());
    assert_eq!(own.send("server/discover", json!({})).await.map(code).unwrap(), (200, Some(-32601)));
    assert_eq!(own.send("tools/call", json!({"name": "nope"})).await.map(code).unwrap(), (200, Some(-32602)));
    assert_eq!(own.send("ping", json!({})).await.unwrap().json()["result"], json!({}));
    let raw = |text: &'static str| answered(caller.request(Method::POST, &own.url).body(text));
    assert_eq!(raw("{").await.map(code).unwrap(), (400, Some(-32700)));
    assert_eq!(raw("[]").await.map(code).unwrap(), (400, Some(-32600)));
    let note = raw(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await.unwrap();
    assert_eq!((note.status, note.text.as_str()), (202, ""));
    assert_eq!(caller.get(&own.url).await.unwrap().status, 405);
    // A newer client is answered with what the server knows.
    let offer = json!({"protocolVersion": "2026-07-28"});
    let answer = own.send("initialize", offer).await.unwrap().json();
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    let end = |session: String| caller.request(Method::DELETE, &own.url).header("mcp-session-id", session);
    let session = own.session.clone().unwrap();
    assert_eq!(answered(end(session.clone())).await.unwrap().status, 204);
    assert_eq!(answered(end(session)).await.unwrap().status, 404);
    assert_eq!(own.send("ping", json!({})).await.map(code).unwrap(), (404, Some(-32001)));
    own.session = None;
    assert_eq!(own.send("ping", json!({})).await.unwrap().status, 200);
}

#[tokio::test]
async fn sessions_get_lost() {
    let caller = Caller::with(&[]).await;
    let (_, root) = caller.made().await;
    let own = Endpoint::open(&caller, &root, "mcp").await;
    caller.inject("mcp.call:lose-session*1");
    let call = json!({"name": "create_issue", "arguments": {"title": "Lost"}});
    assert_eq!(own.send("tools/call", call.clone()).await.unwrap().status, 404);
    assert_eq!(own.send("ping", json!({})).await.unwrap().status, 404);
    let again = Endpoint::open(&caller, &root, "mcp").await;
    assert_eq!(text_content(&again.call("search", json!({"query": "Lost"})).await), json!([]));

    caller.inject("mcps.call:lose-session-in-call*1");
    assert!(again.send("tools/call", call).await.is_err());
    assert_eq!(again.send("ping", json!({})).await.unwrap().status, 404);
    // That one ran.
    let last = Endpoint::open(&caller, &root, "mcp").await;
    assert_eq!(
        text_content(&last.call("search", json!({"query": "Lost"})).await).as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn what_servers_get_wrong() {
    let caller = Caller::with(&["mcp.list:empty-tools*1", "mcp.initialize:no-session*1"]).await;
    let (_, root) = caller.made().await;
    let own = Endpoint::open(&caller, &root, "mcp").await;
    assert_eq!((own.session.as_ref(), own.names().await.len()), (None, 0));
    assert_eq!(own.names().await.len(), 5);
    let aggregator = Endpoint::open(&caller, &root, "api/v1/mcp").await;
    let shot = json!({"action": "screenshot"});
    caller.inject("api/v1/mcp.call:null-image*1");
    assert_eq!(text_content(&aggregator.call("computer", shot.clone()).await), json!({"base64_image": null}));
    caller.inject("api/v1/mcp.call:mcp-image*1");
    assert_eq!(aggregator.call("computer", shot.clone()).await["content"][0]["type"], "image");
    caller.inject("mcps.call:is-error*1");
    assert_eq!(aggregator.call("computer", shot).await["isError"], true);
    // Down when it is listed, up when it is called.
    caller.inject("mcp.list:502*1");
    assert_eq!(own.send("tools/list", json!({})).await.unwrap().status, 502);
    assert_eq!(own.call("search", json!({"query": "x"})).await["isError"], false);
}

#[tokio::test]
async fn replies_in_both_framings() {
    let options = SimulatorOptions { framing: Framing::Sse, ..SimulatorOptions::default() };
    let caller = Caller::start(options).await;
    let (_, root) = caller.made().await;
    let own = Endpoint::open(&caller, &root, "mcp").await;
    let framed = own.send("ping", json!({})).await.unwrap();
    assert_eq!(framed.header("content-type"), Some("text/event-stream"));
    assert_eq!(framed.text, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\n");
    caller.inject("mcp:json*1");
    assert_eq!(own.send("ping", json!({})).await.unwrap().header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn endpoints_that_ask_who_it_is() {
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let options = SimulatorOptions { mcp_auth: McpAuth::Bearer, ..SimulatorOptions::default() };
    let caller = Caller::start(options).await;
    let url = format!("{}mcp", caller.made().await.1);
    assert_eq!(caller.post(&url, &ping).await.unwrap().status, 200);
    let stranger = reqwest::Client::new();
    assert_eq!(answered(stranger.post(&url).json(&ping)).await.unwrap().status, 401);

    let options = SimulatorOptions { mcp_auth: McpAuth::Runner, ..SimulatorOptions::default() };
    let caller = Caller::start(options).await;
    let url = format!("{}mcp", caller.made().await.1);
    assert_eq!(caller.post(&url, &ping).await.unwrap().status, 404);
    let token = caller.get("/v1/runner-auth/token").await.unwrap().json();
    let with = stranger.post(&url).json(&ping).header("x-runner-token", token["token"].as_str().unwrap());
    assert_eq!(answered(with).await.unwrap().status, 200);
}
