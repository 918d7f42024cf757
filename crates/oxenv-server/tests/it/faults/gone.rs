//! Clients whose connection is reset while their step runs.

use std::time::Duration;

use serde_json::json;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::tally::{report, tries};
use super::{multi, open, step};
use crate::client::{Ws, http, post};
use crate::served::{Served, serve, until};

const AT_ONCE: usize = 50;

/// A client with a step in flight, by one of three ways, and the session that outlives it.
struct Client {
    stream: Stream,
    session: Option<String>,
}

enum Stream {
    Ws(Box<Ws>),
    Http(TcpStream),
}

impl Client {
    async fn new(served: &Served, way: usize) -> Self {
        let wait = json!({ "do": "wait", "at": "never" });
        match way % 3 {
            0 => {
                let mut socket = served.ws("/ws").await;
                socket.send(&json!({ "type": "step", "data": wait })).await;
                Client { stream: Stream::Ws(Box::new(socket)), session: None }
            }
            1 => {
                let mut socket = multi(served.address).await;
                let session = open(&mut socket).await;
                socket.send(&step(1, &session, &wait)).await;
                Client { stream: Stream::Ws(Box::new(socket)), session: Some(session) }
            }
            _ => {
                let created = post(served.address, "/sessions", &json!({})).await.json();
                let session = created["session_id"].as_str().unwrap().to_owned();
                let body = json!({ "action": wait }).to_string();
                let mut stream = TcpStream::connect(served.address).await.unwrap();
                let head = format!(
                    "POST /sessions/{session}/step HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\n\r\n{body}",
                    served.address,
                    body.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                Client { stream: Stream::Http(stream), session: Some(session) }
            }
        }
    }

    /// Has the operating system reset the connection, as it does when a process dies with bytes unread.
    fn reset(self) -> Option<String> {
        let stream = match &self.stream {
            Stream::Ws(socket) => socket.0.get_ref(),
            Stream::Http(stream) => stream,
        };
        SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        self.session
    }
}

#[tokio::test]
async fn connections_that_are_reset_in_mid_step_leave_nothing() {
    let tried = tries(150, 1000);
    let served = serve().await;
    let mut other = served.ws("/ws").await;
    let mut gone = 0;
    while gone < tried {
        let mut clients = Vec::new();
        for way in 0..AT_ONCE.min(tried - gone) {
            clients.push(Client::new(&served, way).await);
        }
        for _ in &clients {
            served.stage.entered().await;
        }
        gone += clients.len();
        let left: Vec<String> = clients.into_iter().filter_map(Client::reset).collect();
        until("each step is cancelled", || served.stage.cancelled() == gone).await;
        for session in left {
            let path = format!("/sessions/{session}");
            assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
        }
        until("each slot is free", || served.active() == 1).await;
        until("each connection is closed", || served.app.connections() == 1).await;
        assert_eq!(other.step(&json!({})).await["type"], "observation");
    }
    let survived = served.stage.cancelled();
    other.close().await;
    // No session, environment, task, connection or descriptor is left.
    served.end().await;
    report(
        "connections reset in mid-step",
        tried,
        survived,
        "nothing left of them, and another session went on",
    );
}
