//! Clients that can be wrong: HTTP as bytes, WebSocket frames by hand, and one proper WebSocket
//! client for the tests that want to be right.
//!
//! Invariant: every wait has an end, so a server that hangs fails a test instead of hanging it.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::stage::soon;

/// What an HTTP request got.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
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

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, which says and is JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{}: {}", self.status, self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

/// One request on a connection of its own.
pub(crate) async fn http(
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
pub(crate) async fn post(address: SocketAddr, path: &str, body: &Value) -> Reply {
    post_text(address, path, &body.to_string()).await
}

/// A request with a body that is announced as JSON.
pub(crate) async fn post_text(address: SocketAddr, path: &str, body: &str) -> Reply {
    http(address, "POST", path, &[("content-type", "application/json")], body.as_bytes()).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    http(address, "GET", path, &[], b"").await
}

/// A JSON-RPC request to `/mcp`; gives the whole reply.
pub(crate) async fn rpc(address: SocketAddr, method: &str, params: Value) -> Value {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let reply = post(address, "/mcp", &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Writes bytes to a connection and reads until the server closes it. A server may have refused
/// and closed before everything was written, which is no error here.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
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

/// A proper WebSocket client.
pub(crate) struct Ws(pub(crate) WebSocketStream<TcpStream>);

impl Ws {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::try_connect(address, path).await.unwrap()
    }

    pub(crate) async fn try_connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}{path}");
        let limits = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        let (socket, _) =
            soon(tokio_tungstenite::client_async_with_config(url, stream, Some(limits))).await?;
        Ok(Ws(socket))
    }

    pub(crate) async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub(crate) async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        soon(self.0.send(message)).await.unwrap();
    }

    /// The next frame, which must be JSON.
    pub(crate) async fn recv(&mut self) -> Value {
        match self.next().await {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
            }
            other => panic!("no text frame: {other:?}"),
        }
    }

    /// The next message that is no ping and no pong.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn ask(&mut self, frame: &Value) -> Value {
        self.send(frame).await;
        self.recv().await
    }

    pub(crate) async fn step(&mut self, action: &Value) -> Value {
        self.ask(&json!({ "type": "step", "data": action })).await
    }

    /// The code with which the server closes the socket, which must come next.
    pub(crate) async fn closed(mut self) -> u16 {
        let code = match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code),
            other => panic!("no close frame: {other:?}"),
        };
        // The server waits for our own close frame, and then the connection ends.
        assert!(!matches!(self.next().await, Some(Ok(_))), "something came after the close frame");
        code
    }

    /// Ends the socket as it should be ended.
    pub(crate) async fn close(mut self) {
        soon(self.0.close(None)).await.unwrap();
        while let Some(Ok(_)) = soon(self.0.next()).await {}
    }
}

/// The code of an `error` frame.
#[track_caller]
pub(crate) fn code(frame: &Value) -> &str {
    assert_eq!(frame["type"], "error", "{frame}");
    frame["data"]["code"].as_str().unwrap()
}

/// The code of a JSON-RPC error.
#[track_caller]
pub(crate) fn rpc_code(reply: &Value) -> i64 {
    reply["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {reply}"))
}

/// A WebSocket whose frames are written by hand, so that they can be wrong, and which answers
/// nothing by itself.
pub(crate) struct RawWs(pub(crate) TcpStream);

impl RawWs {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::open(address, &upgrade(address, path)).await
    }

    /// A socket for which a subprotocol is offered.
    pub(crate) async fn with_protocol(address: SocketAddr, path: &str, protocol: &str) -> Self {
        let request = upgrade(address, path);
        let request = format!("{}sec-websocket-protocol: {protocol}\r\n\r\n", &request[..request.len() - 2]);
        Self::open(address, &request).await
    }

    async fn open(address: SocketAddr, request: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(stream.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        RawWs(stream)
    }

    /// Writes a frame; the first byte holds the flags and the opcode.
    pub(crate) async fn send(&mut self, first: u8, payload: &[u8]) {
        let bytes = frame(first, payload);
        // The server may have closed already, and what it says then is what a test looks at.
        let _ = soon(self.0.write_all(&bytes)).await;
    }

    pub(crate) async fn step(&mut self, action: &Value) {
        self.send(0x81, json!({ "type": "step", "data": action }).to_string().as_bytes()).await;
    }

    /// The next frame: its first byte and its payload; none when the connection has ended.
    pub(crate) async fn recv(&mut self) -> Option<(u8, Vec<u8>)> {
        soon(async {
            let first = self.0.read_u8().await.ok()?;
            let mut length = u64::from(self.0.read_u8().await.ok()?);
            if length == 126 {
                length = u64::from(self.0.read_u16().await.ok()?);
            } else if length == 127 {
                length = self.0.read_u64().await.ok()?;
            }
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((first, payload))
        })
        .await
    }

    /// The close code that comes next, after frames of other kinds; none if there is no close frame.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.recv().await {
            if first == 0x88 {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
        None
    }
}

/// The head that asks for a WebSocket.
pub(crate) fn upgrade(address: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A masked frame, with a mask of zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}
