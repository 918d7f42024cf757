//! Servers that misbehave, and how tests connect.
//!
//! Invariant: what a server here does depends on what it was sent, never on time.

use std::future::Future;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use oxenv_client::{
    ClientError, ClientOptions, EnvClient, OpenOptions, Protocol, ResetOptions, Result, StepResult,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// A WebSocket of a server that a test plays.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<TcpStream>,
}

/// A server that a test plays: each socket that is opened comes to it.
pub(crate) struct FakeStockServer {
    pub(crate) url: String,
    peers: mpsc::Receiver<Peer>,
}

pub(crate) fn stock() -> ClientOptions {
    ClientOptions { protocol: Protocol::Stock, ..ClientOptions::default() }
}

pub(crate) fn http() -> ClientOptions {
    ClientOptions { protocol: Protocol::Http, ..ClientOptions::default() }
}

pub(crate) async fn open(url: &str, options: &ClientOptions) -> Result<EnvClient> {
    EnvClient::connect_with(url, options, &OpenOptions::default()).await
}

/// What refuses a connection.
pub(crate) async fn refused(url: &str, options: &ClientOptions) -> ClientError {
    open(url, options).await.expect_err("it connected")
}

/// A step whose action lives as long as it.
pub(crate) async fn step(client: &EnvClient, action: Value) -> Result<StepResult> {
    client.step(&action).await
}

/// A reset with nothing of its own.
pub(crate) async fn reset(client: &EnvClient) -> Result<StepResult> {
    client.reset(&ResetOptions::default()).await
}

impl FakeStockServer {
    pub(crate) async fn start() -> Self {
        let (sender, peers) = mpsc::channel(16);
        let url = listen(move |stream| {
            let sender = sender.clone();
            async move {
                let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                let _ = sender.send(Peer { socket }).await;
            }
        })
        .await;
        FakeStockServer { url, peers }
    }

    /// The next socket that is opened.
    pub(crate) async fn accept(&mut self) -> Peer {
        self.peers.recv().await.unwrap()
    }

    /// A client of it and the other end.
    pub(crate) async fn pair(&mut self, options: &ClientOptions) -> (EnvClient, Peer) {
        let client = open(&self.url, options).await.unwrap();
        (client, self.accept().await)
    }

    /// Whether somebody has connected and was not accepted yet.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.peers.try_recv().is_err()
    }
}

impl Peer {
    /// The next text.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            match self.socket.next().await.unwrap().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other}"),
            }
        }
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Answers a step with an observation that has this number.
    pub(crate) async fn observe(&mut self, n: usize) {
        let reply =
            json!({"type": "observation", "data": {"observation": {"n": n}, "reward": null, "done": false}});
        self.say(&reply.to_string()).await;
    }
}

/// A listener on a port of its own; gives its URL.
pub(crate) async fn listen<F, Served>(serve: F) -> String
where
    F: Fn(TcpStream) -> Served + Send + 'static,
    Served: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

/// A server that reads a request's head, answers with these bytes and hangs up.
pub(crate) async fn server_answering(answer: impl Into<Vec<u8>>) -> String {
    let answer: Arc<[u8]> = answer.into().into();
    listen(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut head).await;
        }
    })
    .await
}

/// A server that takes connections and never says anything.
pub(crate) async fn silent_server() -> String {
    listen(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}
