//! Clients that go while their step runs.

use std::time::{Duration, Instant};

use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::{RawWs, Ws, http, masked_frame, post, until};
use serde_json::json;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{multi, open, step};
use crate::served::{Served, serve};

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

/// How a client goes.
const WAYS: [&str; 3] = ["closes", "resets", "stops writing"];

/// Clients that go while bytes of theirs stand unread behind the request that runs. `way` says which and how.
async fn with_bytes_behind(served: &Served, way: usize) -> Behind {
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let wait = json!({ "do": "wait", "at": "never" });
    let how = WAYS[way % WAYS.len()];
    let more = match way / WAYS.len() % 5 {
        0 => b"\r\n".to_vec(),
        1 => HEALTH.to_vec(),
        2 => b"half a li".to_vec(),
        3 => HEALTH.repeat(500),
        _ => {
            let mut socket = RawWs::connect(served.address, "/ws").await;
            socket.step(&wait).await;
            let step = masked_frame(0x81, json!({ "type": "step", "data": {} }).to_string().as_bytes());
            socket.0.write_all(&step.repeat(1500)).await.unwrap();
            return Behind { stream: socket.0, how, session: None };
        }
    };
    let created = post(served.address, "/sessions", &json!({})).await.json();
    let session = created["session_id"].as_str().unwrap().to_owned();
    let body = json!({ "action": wait }).to_string();
    let head = format!(
        "POST /sessions/{session}/step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json"
    );
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&[request.as_bytes(), &more].concat()).await.unwrap();
    Behind { stream, how, session: Some(session) }
}

struct Behind {
    stream: TcpStream,
    how: &'static str,
    session: Option<String>,
}

impl Behind {
    /// Goes; what is left is held on to.
    async fn go(mut self) -> (Option<TcpStream>, Option<String>) {
        match self.how {
            "closes" => {}
            "resets" => SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap(),
            _ => {
                self.stream.shutdown().await.unwrap();
                return (Some(self.stream), self.session);
            }
        }
        (None, self.session)
    }
}

#[tokio::test]
async fn clients_that_go_with_bytes_behind_their_request_are_found() {
    let tried = tries(150, 1500);
    let served = serve().await;
    let mut other = served.ws("/ws").await;
    let mut gone = 0;
    let mut longest = Duration::ZERO;
    while gone < tried {
        let mut clients = Vec::new();
        for way in 0..AT_ONCE.min(tried - gone) {
            clients.push(with_bytes_behind(&served, gone + way).await);
        }
        for _ in &clients {
            served.stage.entered().await;
        }
        gone += clients.len();
        let began = Instant::now();
        let (mut held, mut sessions) = (Vec::new(), Vec::new());
        for client in clients {
            let (stream, session) = client.go().await;
            held.extend(stream);
            sessions.extend(session);
        }
        until("each step is cancelled", || served.stage.cancelled() == gone).await;
        longest = longest.max(began.elapsed());
        for session in sessions {
            let path = format!("/sessions/{session}");
            assert_eq!(http(served.address, "DELETE", &path, &[], b"").await.status, 200);
        }
        until("each slot is free", || served.active() == 1).await;
        drop(held);
        until("each connection is closed", || served.app.connections() == 1).await;
        assert_eq!(other.step(&json!({})).await["type"], "observation");
    }
    let survived = served.stage.cancelled();
    other.close().await;
    served.end().await;
    // Earlier than a ping would tell it.
    assert!(longest < Duration::from_secs(8), "{longest:?}");
    let note = format!(
        "closed, reset, or closed for writing behind a stray line end, half a request, up to 500 requests in \
         advance, or 1,500 frames; each step cancelled, {AT_ONCE} at a time after {:.1} s at most",
        longest.as_secs_f64()
    );
    report("clients gone behind unread bytes", tried, survived, &note);
}
