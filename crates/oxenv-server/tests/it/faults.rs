//! Faults that clients and environments bring about, each tried many times and counted; the figures
//! stand in `docs/reliability.md`.
//!
//! Invariant: each test prints what it tried, what survived and what was lost, and nothing may be lost.
//! `scripts/faults` asks for the full counts; a usual run makes do with few.

mod gone;
mod order;
mod panics;
mod readers;
mod resets;
mod slow_disk;

use std::net::SocketAddr;

use oxenv_test_support::{Ws, soon};
use oxenv_wire::MULTI_PROTOCOL;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// A socket of many sessions.
async fn multi(address: SocketAddr) -> Ws {
    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", MULTI_PROTOCOL.parse().unwrap());
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    Ws(socket)
}

/// Makes a session on a socket of many; it lives on for a minute when its socket goes.
async fn open(socket: &mut Ws) -> String {
    let opened = socket.ask(&json!({ "id": 0, "type": "open", "data": { "resume_s": 60 } })).await;
    opened["session"].as_str().unwrap_or_else(|| panic!("no session: {opened}")).to_owned()
}

/// A frame with a step.
fn step(id: usize, session: &str, action: &Value) -> Value {
    json!({ "id": id, "type": "step", "session": session, "data": action })
}
