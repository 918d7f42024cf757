//! What a fork costs: of a session of connect4 in the middle of a game, in process and over HTTP.
//!
//! Invariant: each fork is a complete session, which is looked up by its id and ended before the next fork.
//! Prints one JSON object with medians in microseconds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use oxenv_core::{
    EndReason, ResetOptions, Session, SessionOptions, SessionRequest, SessionStore, StoreLimits,
};
use oxenv_server::{Server, ServerConfig};
use oxenv_wire::{Action, raw};
use serde_json::{Value, json};

const ROUNDS: usize = 5_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut in_process = in_process().await;
    let mut over_http = tokio::task::spawn_blocking(over_http).await.expect("the measurement ends");
    println!(
        "{}",
        json!({
            "bench": "forks",
            "forks": ROUNDS,
            "in_process_us": median(&mut in_process),
            "http_us": median(&mut over_http),
        })
    );
}

fn store() -> SessionStore {
    SessionStore::new(
        oxenv_envs::connect4::factory(),
        StoreLimits { seed: Some(1), ..StoreLimits::default() },
    )
}

async fn in_process() -> Vec<f64> {
    let store = store();
    let session = store.create(SessionOptions::default()).await.expect("a session");
    let reset = ResetOptions { seed: Some(7), ..ResetOptions::default() };
    session.submit(SessionRequest::reset(reset)).await.into_outcome().expect("a reset");
    for column in [3, 3, 2] {
        step(&session, column).await;
    }
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let forks = store.fork(&session, 1, SessionOptions::default()).await.expect("a fork");
        took.push(began.elapsed().as_secs_f64() * 1e6);
        forks.iter().for_each(|fork| fork.end(EndReason::Closed));
    }
    took
}

async fn step(session: &Arc<Session>, column: u32) {
    let action = raw(&json!({ "column": column })).expect("JSON");
    let action = Action::parse(&action).expect("an action");
    session.submit(SessionRequest::step(action)).await.into_outcome().expect("a step");
}

/// The server runs on a thread of its own; this one sends requests and waits.
fn over_http() -> Vec<f64> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let address = "127.0.0.1:0".parse().expect("an address");
            let server = Server::bind(address, store(), ServerConfig::default()).await.expect("a port");
            tell.send(server.address().expect("its address")).expect("somebody waits");
            server.run(std::future::pending()).await;
        });
    });
    let stream = TcpStream::connect(told.recv().expect("an address")).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let mut http = Http { reader: BufReader::new(stream) };
    let session = http.ask("POST", "/sessions", "{}")["session_id"].as_str().expect("an id").to_owned();
    http.ask("POST", &format!("/sessions/{session}/reset"), r#"{"seed":7}"#);
    for column in [3, 3, 2] {
        http.ask(
            "POST",
            &format!("/sessions/{session}/step"),
            &format!(r#"{{"action":{{"column":{column}}}}}"#),
        );
    }
    let fork = format!("/sessions/{session}/fork");
    let mut took = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let forked = http.ask("POST", &fork, r#"{"n":1}"#);
        took.push(began.elapsed().as_secs_f64() * 1e6);
        let id = forked["sessions"][0]["session_id"].as_str().expect("an id");
        http.ask("DELETE", &format!("/sessions/{id}"), "");
    }
    took
}

/// One keep-alive connection.
struct Http {
    reader: BufReader<TcpStream>,
}

impl Http {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Value {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.reader.get_mut().write_all(request.as_bytes()).expect("the server reads");
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            self.reader.read_line(&mut line).expect("the server answers");
            match line.trim_end().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().expect("a length");
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("the whole body");
        serde_json::from_slice(&body).expect("a JSON reply")
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 1000.0).round() / 1000.0
}
