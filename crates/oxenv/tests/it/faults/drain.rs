//! A server that is told to stop while it has much to do.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::{BlockingSocket, Received, TempFolder, WAIT_TIMEOUT, block_until};
use serde_json::json;

use super::{recorded, reply};
use crate::process::Serving;

/// Sessions on sockets of their own, on sockets of many, and over HTTP.
const SESSIONS: [(Door, usize); 3] = [(Door::Own, 32), (Door::Many, 16), (Door::Http, 16)];

/// Answers after which the server is told to stop.
const BUSY: usize = 1_000;

#[derive(Debug, Clone, Copy)]
enum Door {
    Own,
    Many,
    Http,
}

/// What the requests of a client got.
#[derive(Default)]
struct Got {
    answered: Vec<String>,
    /// A typed error, or a goodbye with a reason: nothing was done.
    refused: Vec<String>,
    /// The end of the connection.
    cut_off: Vec<String>,
}

#[test]
fn a_server_under_load_stops_in_time_and_answers_or_refuses() {
    let drains = tries(3, 50);
    let folder = TempFolder::new("drain");
    let (mut answered, mut refused, mut cut_off, mut lost) = (0, 0, 0, 0);
    let mut longest = Duration::ZERO;
    for drain in 0..drains {
        let record = folder.join(format!("record{drain}"));
        let server = Serving::start(&["--log", "error", "--record", record.to_str().unwrap()]);
        let address = server.address;
        let answers = Arc::new(AtomicUsize::new(0));
        let mut clients = Vec::new();
        for (door, count) in SESSIONS {
            for client in 0..count {
                let answers = Arc::clone(&answers);
                let name = format!("{door:?} {client}");
                clients.push(std::thread::spawn(move || load(address, door, &name, &answers)));
            }
        }
        block_until("all are busy", || answers.load(Ordering::Relaxed) > BUSY);
        assert_eq!(server.get("/ready").1["active_sessions"], 64);
        let began = Instant::now();
        let ended = server.stop();
        longest = longest.max(began.elapsed());
        assert_eq!(ended.stderr, "");
        let done: Vec<String> = recorded(&record).values().filter_map(reply).collect();
        let done: std::collections::HashSet<&str> = done.iter().filter_map(|reply| said_in(reply)).collect();
        for client in clients {
            let got = client.join().unwrap();
            lost += got.answered.iter().filter(|said| !done.contains(said.as_str())).count();
            // What was not answered must not have been done either.
            lost +=
                got.refused.iter().chain(&got.cut_off).filter(|said| done.contains(said.as_str())).count();
            answered += got.answered.len();
            refused += got.refused.len();
            cut_off += got.cut_off.len();
        }
    }
    assert!(longest < Duration::from_secs(8), "a stop took {longest:?}");
    let tried = answered + refused + cut_off;
    let note = format!(
        "requests of 64 busy sessions over {drains} stops: {answered} answered and in the record; {refused} \
         refused (close code 1001 with its reason, or a retryable 503) and {cut_off} met a closed \
         connection, none of them run; exit code 0 after {:.2} s at most",
        longest.as_secs_f64()
    );
    report("drain under load", tried, tried - lost, &note);
}

/// The message within a recorded reply, which is the request's own name.
fn said_in(reply: &str) -> Option<&str> {
    let (_, said) = reply.split_once("<<")?;
    Some(said.split_once(">>")?.0)
}

/// Steps a session until the server stops.
fn load(address: SocketAddr, door: Door, client: &str, answers: &AtomicUsize) -> Got {
    match door {
        Door::Own => over_socket(BlockingSocket::open(address, None).unwrap(), None, client, answers),
        Door::Many => {
            let mut socket = BlockingSocket::many(address).unwrap();
            let session = socket.session().unwrap();
            over_socket(socket, Some(&session), client, answers)
        }
        Door::Http => over_http(address, client, answers),
    }
}

fn over_socket(
    mut socket: BlockingSocket,
    session: Option<&str>,
    client: &str,
    answers: &AtomicUsize,
) -> Got {
    let mut got = Got::default();
    for step in 0.. {
        let said = format!("{client}.{step}");
        let mut frame = json!({ "type": "step", "data": { "message": format!("<<{said}>>") } });
        if let Some(session) = session {
            (frame["id"], frame["session"]) = (json!(step), json!(session));
        }
        // Whether it could be sent is told by what comes.
        let _ = socket.send(&frame);
        match socket.receive() {
            Received::Frame(reply) if reply["type"] == "observation" => {
                got.answered.push(said);
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Received::Frame(reply) => {
                let data = reply["data"].get("oxenv").unwrap_or(&reply["data"]);
                assert_eq!((&data["delivered"], &data["retryable"]), (&json!("no"), &json!(true)), "{reply}");
                got.refused.push(said);
                return got;
            }
            Received::Closed(code, reason) => {
                assert_eq!((code, reason.as_str()), (1001, "the server is shutting down"));
                got.refused.push(said);
                return got;
            }
            Received::Lost => {
                got.cut_off.push(said);
                return got;
            }
        }
    }
    got
}

fn over_http(address: SocketAddr, client: &str, answers: &AtomicUsize) -> Got {
    let mut got = Got::default();
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    stream.get_ref().set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    let (_, created) = ask(&mut stream, address, "/sessions", "{}").unwrap();
    let (_, id) = created.split_once("\"session_id\":\"").unwrap();
    let path = format!("/sessions/{}/step", id.split('"').next().unwrap());
    for step in 0.. {
        let said = format!("{client}.{step}");
        let body = json!({ "action": { "message": format!("<<{said}>>") } }).to_string();
        match ask(&mut stream, address, &path, &body) {
            Ok((200, reply)) => {
                got.answered.push(said);
                answers.fetch_add(1, Ordering::Relaxed);
                // The server says that it takes no more on this connection.
                if reply.contains("\r\nconnection: close\r\n") {
                    break;
                }
            }
            Ok((status, reply)) => {
                assert!(status == 503 && reply.contains("retry-after"), "{status} {reply}");
                got.refused.push(said);
                break;
            }
            Err(_) => {
                got.cut_off.push(said);
                break;
            }
        }
    }
    got
}

/// One request on a connection that stays; the reply is its status, and its head and body.
fn ask(
    stream: &mut BufReader<TcpStream>,
    address: SocketAddr,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: \
         {length}\r\n\r\n{body}"
    );
    stream.get_mut().write_all(request.as_bytes())?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body)?;
    Ok((status, head + &String::from_utf8(body).unwrap()))
}
