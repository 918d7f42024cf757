//! Peers that are lost without a word: killed, half open, reading nothing, writing half of it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use oxenv_core::{Execution, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::{RawWs, masked_frame, soon, until, upgrade_request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

async fn with(config: ServerConfig) -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    Served::start(&stage, factory, StoreLimits::default(), config).await
}

async fn impatient() -> Served {
    with(ServerConfig {
        ping_every: Duration::from_millis(20),
        dead_after: Duration::from_millis(100),
        ..ServerConfig::default()
    })
    .await
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_closed() {
    for (path, busy) in [("/ws", false), ("/ws", true), ("/mcp", false)] {
        let served = impatient().await;
        let mut silent = RawWs::connect(served.address, path).await;
        if busy {
            silent.step(&json!({ "do": "wait" })).await;
            served.stage.entered().await;
        }
        let mut pings = 0;
        while let Some((first, _)) = silent.recv().await {
            assert_eq!(first, 0x89, "something else than a ping");
            pings += 1;
        }
        assert!(pings >= 2, "{path}: only {pings} pings");
        until("its session is gone", || served.active() == 0).await;
        assert_eq!(served.stage.cancelled(), usize::from(busy));
        drop(silent);
        served.end().await;
    }
}

#[tokio::test]
async fn a_socket_that_answers_stays() {
    for busy in [false, true] {
        let served = impatient().await;
        let mut socket = served.ws("/ws").await;
        if busy {
            socket.send(&json!({ "type": "step", "data": { "do": "wait" } })).await;
            served.stage.entered().await;
        }
        // Several times as many as a silent one gets.
        for _ in 0..30 {
            match soon(socket.0.next()).await {
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("no ping: {other:?}"),
            }
        }
        if busy {
            served.stage.open("");
            assert_eq!(socket.recv().await["data"]["reward"], 2);
        }
        assert_eq!(socket.step(&json!({})).await["type"], "observation");
        socket.close().await;
        served.end().await;
    }
}

/// A long message on its way is a sign of life, although no frame is whole and no ping answered.
#[tokio::test]
async fn a_writer_that_takes_its_time_is_heard_out() {
    let served = impatient().await;
    let mut slow = RawWs::connect(served.address, "/ws").await;
    let action = format!("{:5000}", json!({ "type": "step", "data": {} }).to_string());
    let message = masked_frame(0x81, action.as_bytes());
    let mut pieces = message.chunks(message.len() / 30);
    // A piece for each ping: several times as long as a dead one is given.
    let reply = loop {
        if let Some(piece) = pieces.next() {
            slow.0.write_all(piece).await.unwrap();
        }
        match slow.recv().await.expect("it was taken for dead") {
            (0x89, _) => {}
            reply => break reply,
        }
    };
    assert_eq!(reply.0, 0x81, "{reply:?}");
    drop(slow);
    served.end().await;
}

/// A frame that is begun and never ended is no sign of life either.
#[tokio::test]
async fn half_a_frame_is_given_up() {
    let served = impatient().await;
    let mut half = RawWs::connect(served.address, "/ws").await;
    half.0.write_all(&masked_frame(0x81, &[b'x'; 500])[..100]).await.unwrap();
    while half.recv().await.is_some() {}
    until("its session is gone", || served.active() == 0).await;
    drop(half);
    served.end().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_dropped_and_others_go_on() {
    let served = with(ServerConfig { stall: Duration::from_millis(100), ..ServerConfig::default() }).await;
    let mut slow = RawWs::connect(served.address, "/ws").await;
    let mut quick = served.ws("/ws").await;
    // More than the buffers of both ends take.
    for _ in 0..60 {
        slow.step(&json!({ "do": "big", "bytes": 1 << 20 })).await;
    }
    let mut answered = 0;
    until("both have a session", || served.active() >= 1).await;
    while served.active() > 1 || answered < 10 {
        assert_eq!(quick.step(&json!({})).await["type"], "observation");
        answered += 1;
    }
    quick.close().await;
    until("all are gone", || served.active() == 0).await;
    drop(slow);
    served.end().await;
}

#[tokio::test]
async fn a_reader_of_http_that_takes_nothing_is_dropped() {
    let served = with(ServerConfig { stall: Duration::from_millis(100), ..ServerConfig::default() }).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    let body = json!({ "action": { "do": "big", "bytes": 60 << 20 } }).to_string();
    let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    slow.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    until("it is connected", || served.app.connections() == 1).await;
    until("it is dropped", || served.app.connections() == 0).await;
    // What was underway may still be read, but never all of it.
    let mut got = Vec::new();
    let _ = soon(slow.read_to_end(&mut got)).await;
    assert!(got.len() < 60 << 20);
    drop(slow);
    served.end().await;
}

/// A slow reader is not one that reads nothing.
#[tokio::test]
async fn a_reader_that_takes_a_little_at_a_time_gets_everything() {
    let served = with(ServerConfig { stall: Duration::from_secs(1), ..ServerConfig::default() }).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    let size = 30 << 20;
    let body = json!({ "action": { "do": "big", "bytes": size } }).to_string();
    let head =
        "POST /step HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n";
    slow.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut some = vec![0; 512 << 10];
    let mut got = 0;
    loop {
        // Whoever reads at a pace is slow by the clock; nothing is waited for here.
        tokio::time::sleep(Duration::from_millis(20)).await;
        match soon(slow.read(&mut some)).await.unwrap() {
            0 => break,
            count => got += count,
        }
    }
    assert!(got > size, "{got}");
    drop(slow);
    served.end().await;
}

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// A client that has said all that it wants to say, and still listens, is answered what needs no waiting, as
/// far as bytes behind its last request hide the end.
#[tokio::test]
async fn a_client_that_stops_writing_is_answered_what_is_done_at_once() {
    let served = serve().await;
    for (sent, statuses) in
        [([HEALTH, b"\r\n"].concat(), &["200"][..]), ([&*HEALTH.repeat(3), b"\r\n"].concat(), &["200"; 3])]
    {
        let client = TcpStream::connect(served.address).await.unwrap();
        let (mut read, mut write) = client.into_split();
        let send = async move {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, received) = tokio::join!(send, soon(read.read_to_end(&mut got)));
        received.unwrap();
        let got = String::from_utf8(got).unwrap();
        let told: Vec<&str> = got.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
        assert_eq!(told, statuses);
    }
    served.end().await;
}

/// A socket is not read while so many requests wait that there is no room for more; its end is found all the
/// same.
#[tokio::test]
async fn a_socket_with_many_requests_ahead_is_found_when_it_goes() {
    for how in ["closes", "resets"] {
        let served = serve().await;
        let mut client = RawWs::connect(served.address, "/ws").await;
        client.step(&json!({ "do": "wait" })).await;
        served.stage.entered().await;
        let step = masked_frame(0x81, json!({ "type": "step", "data": {} }).to_string().as_bytes());
        client.0.write_all(&step.repeat(1500)).await.unwrap();
        if how == "resets" {
            client.0.set_zero_linger().unwrap();
        }
        let began = std::time::Instant::now();
        drop(client);
        until("its step is cancelled", || served.stage.cancelled() == 1).await;
        until("its session is gone", || served.active() == 0).await;
        // Before the first ping, which is all that told it otherwise.
        assert!(began.elapsed() < Duration::from_secs(5), "{how}: {:?}", began.elapsed());
        served.end().await;
    }
}

const ADDRESS: &str = "OXENV_TEST_SERVER";
const SENDS: &str = "OXENV_TEST_SENDS";

/// The process that the tests below kill; by itself this test does nothing.
#[test]
fn a_client_to_be_killed() {
    use std::io::{Read, Write};
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let wait = json!({ "do": "wait" });
    let hanging = json!({ "type": "step", "data": wait }).to_string();
    let mut answer = [0; 12];
    match std::env::var(SENDS).unwrap().as_str() {
        "http" => {
            let body = json!({ "action": wait }).to_string();
            let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
        sends => {
            stream.write_all(upgrade_request(address.parse().unwrap(), "/ws").as_bytes()).unwrap();
            stream.read_exact(&mut answer).unwrap();
            stream.write_all(&masked_frame(0x81, hanging.as_bytes())).unwrap();
            if sends == "half a frame" {
                stream.write_all(&masked_frame(0x81, &[b'x'; 1000])[..500]).unwrap();
            }
        }
    }
    // Until it is killed, or the server has gone.
    let _ = stream.read_to_end(&mut Vec::new());
}

fn client(served: &Served, sends: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lost_peers::a_client_to_be_killed"])
        .env(ADDRESS, served.address.to_string())
        .env(SENDS, sends)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_client_that_is_killed_leaves_nothing() {
    for sends in ["a frame", "half a frame", "http"] {
        let served = serve().await;
        let mut other = served.ws("/ws").await;
        other.step(&json!({})).await;
        let mut client = client(&served, sends);
        served.stage.entered().await;
        client.kill().unwrap();
        client.wait().unwrap();
        until("its step is cancelled", || served.stage.cancelled() == 1).await;
        until("its session is gone", || served.active() == 1).await;
        assert_eq!(other.step(&json!({})).await["data"]["observation"]["count"], 2, "{sends}");
        other.close().await;
        served.end().await;
    }
}
