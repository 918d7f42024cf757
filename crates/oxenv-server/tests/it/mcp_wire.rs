//! MCP by hand: requests of both eras, and streams read event by event.
//!
//! Invariant: every wait has an end.

use std::net::SocketAddr;

use oxenv_test_support::soon;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

pub(crate) const BOTH: &str = "application/json, text/event-stream";

/// What a client says of itself in each request of 2026-07-28.
pub(crate) fn meta(more: &Value) -> Value {
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    for (key, value) in more.as_object().unwrap() {
        meta[key] = value.clone();
    }
    meta
}

/// A request, as JSON.
pub(crate) fn request(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })
}

/// A reply that may be a stream.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    response: reqwest::Response,
    seen: String,
}

impl Answer {
    fn new(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, response, seen: String::new() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type") == Some("text/event-stream")
    }

    /// The body, which is one JSON text.
    pub(crate) async fn json(self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.status);
        soon(self.response.json()).await.unwrap()
    }

    /// The next message of a stream; nothing when it has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        assert!(self.is_stream(), "{} {:?}", self.status, self.header("content-type"));
        loop {
            if let Some((event, rest)) = self.seen.split_once("\n\n") {
                let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
                let message = serde_json::from_str(&data.join("\n")).ok();
                self.seen = rest.to_owned();
                if message.is_some() {
                    return message;
                }
                continue;
            }
            let chunk = soon(self.response.chunk()).await.unwrap()?;
            self.seen.push_str(str::from_utf8(&chunk).unwrap());
        }
    }

    /// Every message until the stream ends.
    pub(crate) async fn all(mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }

    /// The result of a request, whether it came as JSON or as the end of a stream.
    pub(crate) async fn last(self) -> Value {
        match self.is_stream() {
            true => self.all().await.pop().unwrap(),
            false => self.json().await,
        }
    }
}

/// A client that shook hands, by hand.
pub(crate) struct Handshake {
    http: reqwest::Client,
    url: String,
    pub(crate) id: String,
}

impl Handshake {
    pub(crate) async fn new(address: SocketAddr, path: &str) -> Self {
        Self::with(address, path, &json!({})).await
    }

    pub(crate) async fn with(address: SocketAddr, path: &str, capabilities: &Value) -> Self {
        let answer = Self::ask(address, path, capabilities).await;
        assert_eq!(answer.status, 200);
        let id = answer.header("mcp-session-id").unwrap().to_owned();
        let result = answer.last().await;
        assert_eq!(result["result"]["protocolVersion"], "2025-11-25", "{result}");
        let client = Handshake { http: client(), url: format!("http://{address}{path}"), id };
        let said = client.post(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })).await;
        assert_eq!(said.status, 202);
        client
    }

    /// The handshake's first request.
    pub(crate) async fn ask(address: SocketAddr, path: &str, capabilities: &Value) -> Answer {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": { "name": "by hand", "version": "1" },
        });
        let request = request("initialize", &params);
        let url = format!("http://{address}{path}");
        let sent = client().post(url).header(ACCEPT, BOTH).json(&request).send();
        Answer::new(soon(sent).await.unwrap())
    }

    pub(crate) async fn post(&self, message: &Value) -> Answer {
        self.post_to(&self.url, message).await
    }

    pub(crate) async fn post_to(&self, url: &str, message: &Value) -> Answer {
        let sent = self.http.post(url).headers(self.headers()).json(message).send();
        Answer::new(soon(sent).await.unwrap())
    }

    pub(crate) async fn call(&self, tool: &str, arguments: &Value) -> Answer {
        self.post(&request("tools/call", &json!({ "name": tool, "arguments": arguments }))).await
    }

    /// The stream of what comes unasked.
    pub(crate) async fn listen(&self) -> Answer {
        Answer::new(soon(self.http.get(&self.url).headers(self.headers()).send()).await.unwrap())
    }

    /// The stream that broke after that event.
    pub(crate) async fn resume(&self, last: &str) -> Answer {
        let sent = self.http.get(&self.url).headers(self.headers()).header("last-event-id", last).send();
        Answer::new(soon(sent).await.unwrap())
    }

    pub(crate) async fn delete(&self) -> u16 {
        soon(self.http.delete(&self.url).headers(self.headers()).send()).await.unwrap().status().as_u16()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(BOTH));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("mcp-session-id", self.id.parse().unwrap());
        headers.insert("mcp-protocol-version", HeaderValue::from_static("2025-11-25"));
        headers
    }
}

/// A request of 2026-07-28 with all of its headers.
pub(crate) async fn alone(address: SocketAddr, path: &str, method: &str, params: &Value) -> Answer {
    let mut params = params.clone();
    params["_meta"] = meta(&params.get("_meta").cloned().unwrap_or_else(|| json!({})));
    let mut sent = client().post(format!("http://{address}{path}"));
    if let Some(name) = params["name"].as_str().or(params["uri"].as_str()) {
        sent = sent.header("mcp-name", name);
    }
    let sent = sent
        .header(ACCEPT, BOTH)
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", method)
        .json(&request(method, &params))
        .send();
    Answer::new(soon(sent).await.unwrap())
}

/// Keeps no connection, so that a test sees the server without any when it ends.
fn client() -> reqwest::Client {
    reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()
}
