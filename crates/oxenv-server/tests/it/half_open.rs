//! Peers that vanish without a word: no close, no end of the connection, no answer.
//!
//! Invariant: with the defaults they are found within 45 s, whatever they did when they vanished.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxenv_core::{Execution, SessionStore, StoreLimits};
use oxenv_server::ServerConfig;
use oxenv_test_support::tally::{full, report, skip, tries};
use oxenv_test_support::{RawWs, WAIT_TIMEOUT, masked_frame, until, upgrade_request};
use serde_json::json;

use crate::served::Served;
use crate::stage::{Scripted, Stage};

/// Within this time with the defaults.
const PROMISED: Duration = Duration::from_secs(45);

/// A silent peer is found in time whenever it was last heard, relative to the beats of its socket.
#[tokio::test]
async fn a_silent_peer_is_found_in_time_whenever_it_fell_silent() {
    let usual = ServerConfig::default();
    let scale = 50;
    let config = ServerConfig {
        ping_every: usual.ping_every / scale,
        dead_after: usual.dead_after / scale,
        ..ServerConfig::default()
    };
    let beat = config.ping_every;
    let tried = tries(8, 32);
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let served = Served::start(&stage, factory, StoreLimits::default(), config).await;
    let mut longest = Duration::ZERO;
    for phase in 0..tried {
        let mut silent = RawWs::connect(served.address, "/ws").await;
        // Falls silent at another time of the beat; the clock is what is tested here.
        tokio::time::sleep(beat.mul_f64(1.0 + phase as f64 / tried as f64)).await;
        silent.send(0x8a, b"").await;
        let fell_silent = Instant::now();
        while silent.recv().await.is_some() {}
        longest = longest.max(fell_silent.elapsed());
    }
    served.end().await;
    let (found, promised) = (longest * scale, PROMISED);
    let note = format!("the longest took {:.1} s in the time of the defaults", found.as_secs_f64());
    println!("{note}");
    // A tenth for a machine that has much else to do.
    assert!(found < promised.mul_f64(1.1), "{note}: {} s are promised", promised.as_secs());
    report("silent sockets, in every phase of the beat", tried, tried, &note);
}

/// The other side of a network cable: a name space of its own, with an address that only we reach.
struct Elsewhere {
    name: String,
    ours: IpAddr,
}

impl Elsewhere {
    /// None where the operating system does not let us.
    fn new() -> Result<Self, String> {
        let id = std::process::id();
        let net = format!("10.{}.{}", 64 + id / 256 % 64, id % 256);
        let (name, near, far) = (format!("oxenv{id}"), format!("oxn{id}"), format!("oxf{id}"));
        let elsewhere = Elsewhere { name: name.clone(), ours: format!("{net}.1").parse().unwrap() };
        for command in [
            format!("netns add {name}"),
            format!("link add {near} type veth peer name {far} netns {name}"),
            format!("address add {net}.1/30 dev {near}"),
            format!("link set {near} up"),
            format!("-n {name} address add {net}.2/30 dev {far}"),
            format!("-n {name} link set {far} up"),
        ] {
            ip(&command)?;
        }
        Ok(elsewhere)
    }

    /// Starts the client over there and waits until it has sent what it has to send.
    fn client(&self, server: SocketAddr, sends: &str) -> Vanishing {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "half_open::a_client_that_vanishes", "--nocapture"])
            .env(ADDRESS, server.to_string())
            .env(SENDS, sends)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.ends_with("is sent\n") {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the client ended");
        }
        Vanishing { child, _stdout: stdout }
    }

    /// Pulls the cable.
    fn vanish(&self) {
        ip(&format!("-n {} link set oxf{} down", self.name, std::process::id())).unwrap();
    }

    fn appear(&self) {
        ip(&format!("-n {} link set oxf{} up", self.name, std::process::id())).unwrap();
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // What hangs in the name space goes with it.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let ran =
        Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&ran.stderr).trim())),
    }
}

/// A client whose machine will vanish.
struct Vanishing {
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Drop for Vanishing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const ADDRESS: &str = "OXENV_TEST_SERVER";
const SENDS: &str = "OXENV_TEST_SENDS";

/// The process on the other side; by itself this test does nothing.
#[test]
fn a_client_that_vanishes() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let mut stream = TcpStream::connect(&address).unwrap();
    let wait = json!({ "do": "wait" });
    match std::env::var(SENDS).unwrap().as_str() {
        "a step over HTTP" => {
            let body = json!({ "action": wait }).to_string();
            let head = "POST /step HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
        "a stream over HTTP" => stream = listening(stream, &address),
        sends => {
            stream.write_all(upgrade_request(address.parse().unwrap(), "/ws").as_bytes()).unwrap();
            let mut answer = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                answer.read_line(&mut line).unwrap();
            }
            if sends == "a step" {
                let step = json!({ "type": "step", "data": wait }).to_string();
                stream.write_all(&masked_frame(0x81, step.as_bytes())).unwrap();
            }
        }
    }
    println!("it is sent");
    std::io::stdout().flush().unwrap();
    // Until it is killed.
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

/// Shakes hands as a client of MCP, and opens the stream on which it is told of changes.
fn listening(mut stream: TcpStream, address: &str) -> TcpStream {
    let info = json!({ "name": "vanishing", "version": "1" });
    let params = json!({ "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info });
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
    let head = "host: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
                accept: application/json, text/event-stream\r\n";
    write!(stream, "POST /mcp HTTP/1.1\r\n{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let id = reply.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = "host: localhost\r\naccept: text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n";
    write!(stream, "GET /mcp HTTP/1.1\r\n{head}mcp-session-id: {id}\r\n\r\n").unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    stream
}

// Waiting for a process must not keep the server from its work.
#[tokio::test(flavor = "multi_thread")]
async fn peers_whose_cable_is_pulled_are_found() {
    let elsewhere = match Elsewhere::new() {
        Ok(elsewhere) => elsewhere,
        Err(why) => return skip("peers whose cable is pulled", &why),
    };
    // The probes of an HTTP connection are the operating system's, and always as slow as by default.
    let (config, kinds): (_, &[&str]) = match full() {
        true => (ServerConfig::default(), &["nothing", "a step", "a step over HTTP", "a stream over HTTP"]),
        false => {
            let (ping_every, dead_after) = (Duration::from_millis(150), Duration::from_millis(400));
            (ServerConfig { ping_every, dead_after, ..ServerConfig::default() }, &["nothing", "a step"])
        }
    };
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).tools(true);
    let store = SessionStore::new(Arc::new(factory), StoreLimits::default());
    let served = Served::over(SocketAddr::new(elsewhere.ours, 0), &stage, store, config).await;
    let mut clients = Vec::new();
    for kind in kinds {
        clients.push(elsewhere.client(served.address, kind));
        if kind.starts_with("a step") {
            served.stage.entered().await;
        }
    }
    until("all are connected", || served.app.connections() == kinds.len()).await;
    watched(&served);
    elsewhere.vanish();
    let vanished = Instant::now();
    let mut found = Vec::new();
    while found.len() < kinds.len() {
        let left = served.app.connections();
        found.resize(kinds.len() - left, vanished.elapsed());
        assert!(vanished.elapsed() < 5 * WAIT_TIMEOUT, "{left} are not found");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("their steps are cancelled", || served.stage.waiting() == 0).await;
    assert_eq!(served.active(), 0);
    // Or their last bytes would wait on the cable for ever.
    elsewhere.appear();
    drop(clients);
    let times: Vec<String> = found.iter().map(|time| format!("{:.1} s", time.as_secs_f64())).collect();
    let note = format!("who did {}; found after {}, in order of time", kinds.join(", "), times.join(", "));
    served.end().await;
    drop(elsewhere);
    let in_time = found.iter().filter(|time| **time < PROMISED + Duration::from_secs(1)).count();
    report("peers whose cable is pulled", kinds.len(), in_time, &note);
}

/// Every accepted connection is probed by the operating system.
fn watched(served: &Served) {
    let port = format!("sport = :{}", served.address.port());
    let Ok(listed) = Command::new("ss").args(["-tnoH", "state", "established", &port]).output() else {
        return skip("keep-alive of accepted connections", "there is no ss");
    };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for line in listed.lines() {
        assert!(line.contains("timer:(keepalive,"), "a connection is not probed: {line}");
    }
    assert_eq!(listed.lines().count(), served.app.connections(), "{listed}");
}
