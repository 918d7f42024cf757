//! WebSocket clients: one that is right, and one whose frames are written by hand.
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

use crate::frame::{masked_frame, upgrade_request};
use crate::wait::soon;

/// A proper WebSocket client.
pub struct Ws(pub WebSocketStream<TcpStream>);

impl Ws {
    /// Opens a socket.
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::try_connect(address, path).await.unwrap()
    }

    /// Opens a socket, which may be refused.
    pub async fn try_connect(address: SocketAddr, path: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}{path}");
        let limits = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        let (socket, _) =
            soon(tokio_tungstenite::client_async_with_config(url, stream, Some(limits))).await?;
        Ok(Ws(socket))
    }

    /// Sends a frame.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends a text frame, which need not be JSON.
    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    /// Sends a message of any kind.
    pub async fn send_message(&mut self, message: Message) {
        soon(self.0.send(message)).await.unwrap();
    }

    /// The next frame, which must be JSON.
    pub async fn recv(&mut self) -> Value {
        match self.next().await {
            Some(Ok(Message::Text(text))) => {
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
            }
            other => panic!("no text frame: {other:?}"),
        }
    }

    /// The next message that is no ping and no pong.
    pub async fn next(&mut self) -> Option<Result<Message, Error>> {
        loop {
            match soon(self.0.next()).await {
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => return other,
            }
        }
    }

    /// Sends a frame and gives the next one.
    pub async fn ask(&mut self, frame: &Value) -> Value {
        self.send(frame).await;
        self.recv().await
    }

    /// Steps and gives the reply.
    pub async fn step(&mut self, action: &Value) -> Value {
        self.ask(&json!({ "type": "step", "data": action })).await
    }

    /// The code with which the server closes the socket, which must come next.
    pub async fn closed(mut self) -> u16 {
        let code = match self.next().await {
            Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code),
            other => panic!("no close frame: {other:?}"),
        };
        // The server waits for our own close frame, and then the connection ends.
        assert!(!matches!(self.next().await, Some(Ok(_))), "something came after the close frame");
        code
    }

    /// Ends the socket as it should be ended.
    pub async fn close(mut self) {
        soon(self.0.close(None)).await.unwrap();
        while let Some(Ok(_)) = soon(self.0.next()).await {}
    }
}

/// The code of an `error` frame.
#[track_caller]
pub fn code(frame: &Value) -> &str {
    assert_eq!(frame["type"], "error", "{frame}");
    frame["data"]["code"].as_str().unwrap()
}

/// A WebSocket whose frames are written by hand, so that they can be wrong, and which answers
/// nothing by itself.
pub struct RawWs(pub TcpStream);

impl RawWs {
    /// Opens a socket.
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::open(address, &upgrade_request(address, path)).await
    }

    /// A socket for which a subprotocol is offered.
    pub async fn with_protocol(address: SocketAddr, path: &str, protocol: &str) -> Self {
        let request = upgrade_request(address, path);
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
    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        let bytes = masked_frame(first, payload);
        // The server may have closed already, and what it says then is what a test looks at.
        let _ = soon(self.0.write_all(&bytes)).await;
    }

    /// Sends a step and waits for nothing.
    pub async fn step(&mut self, action: &Value) {
        self.send(0x81, json!({ "type": "step", "data": action }).to_string().as_bytes()).await;
    }

    /// The next frame: its first byte and its payload; none when the connection has ended.
    pub async fn recv(&mut self) -> Option<(u8, Vec<u8>)> {
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
    pub async fn close_code(&mut self) -> Option<u16> {
        while let Some((first, payload)) = self.recv().await {
            if first == 0x88 {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
        None
    }
}
