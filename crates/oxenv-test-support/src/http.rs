//! HTTP by hand: a request and its reply, as bytes if they are to be wrong.
//!
//! Invariant: every wait has an end, so a server that hangs fails a test instead of hanging it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::soon;

/// What an HTTP request got.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status of its first line.
    pub status: u16,
    /// Names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// All that came behind the head.
    pub body: Vec<u8>,
}

impl Reply {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in the reply: {text:?}"));
        let head = str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("no header: {line}")))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Reply { status, headers, body: bytes[end + 4..].to_vec() }
    }

    /// The value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, which says and is JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

/// One request on a connection of its own.
pub async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        request.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    let mut bytes = request.into_bytes();
    bytes.extend_from_slice(body);
    Reply::parse(&raw(address, &bytes).await)
}

/// A request with a JSON body.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    post_text(address, path, &body.to_string()).await
}

/// A request with a body that is announced as JSON.
pub async fn post_text(address: SocketAddr, path: &str, body: &str) -> Reply {
    http(address, "POST", path, &[("content-type", "application/json")], body.as_bytes()).await
}

/// A request without a body.
pub async fn get(address: SocketAddr, path: &str) -> Reply {
    http(address, "GET", path, &[], b"").await
}

/// A JSON-RPC request to `/mcp`; gives the whole reply.
pub async fn rpc(address: SocketAddr, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let reply = post(address, "/mcp", &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Writes bytes to a connection and reads until the server closes it. A server may have refused
/// and closed before everything was written, which is no error here.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let sending = async {
        let _ = write.write_all(bytes).await;
    };
    let receiving = async {
        let mut all = Vec::new();
        let mut some = vec![0; 64 << 10];
        while let Ok(count @ 1..) = read.read(&mut some).await {
            all.extend_from_slice(&some[..count]);
        }
        all
    };
    soon(async { tokio::join!(sending, receiving) }).await.1
}

/// The code of a JSON-RPC error.
#[track_caller]
pub fn rpc_code(reply: &Value) -> i64 {
    reply["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {reply}"))
}
