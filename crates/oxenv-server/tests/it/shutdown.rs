//! A process that is told to end by a signal, whatever its threads do.
//!
//! Invariant: the process under test is this test's own binary, started once more.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxenv_core::{Execution, SessionStore, StoreLimits};
use oxenv_server::{Server, ServerConfig, Shutdown};
use oxenv_test_support::{WAIT_TIMEOUT, upgrade_request};
use serde_json::{Value, json};

use crate::stage::{Scripted, Stage};

/// What makes the test below a server: its drain time in milliseconds.
const DRAIN: &str = "OXENV_TEST_DRAIN_MS";
/// Set if its main thread is to be blocked once the server has returned.
const BLOCKS_MAIN: &str = "OXENV_TEST_BLOCKS_MAIN";
/// Beyond what is promised, for a machine that has much else to do.
const SLACK: Duration = Duration::from_secs(4);

/// A server in a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(drain: Duration, blocks_main: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "shutdown::a_process_that_serves", "--nocapture"]);
        command.env(DRAIN, drain.as_millis().to_string()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if blocks_main {
            command.env(BLOCKS_MAIN, "1");
        }
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "it did not serve");
            if let Some((_, address)) = line.trim().split_once("serving on ") {
                break address.parse().unwrap();
            }
        };
        Process { child, address }
    }

    /// Begins a step in a session of its own; the connection is to be kept.
    fn step(&self, action: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(upgrade_request(self.address, "/ws").as_bytes()).unwrap();
        let frame = json!({ "type": "step", "data": action }).to_string();
        stream.write_all(&oxenv_test_support::masked_frame(0x81, frame.as_bytes())).unwrap();
        stream
    }

    /// Whether it answers a request within that time.
    fn answers(&self, within: Duration) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else { return false };
        stream.set_read_timeout(Some(within)).unwrap();
        let request = format!("GET /health HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).is_ok() && matches!(stream.read(&mut [0; 16]), Ok(1..))
    }

    /// Blocks every thread of its runtime for ever.
    fn block(&self) -> Vec<TcpStream> {
        let mut blocked = Vec::new();
        while self.answers(Duration::from_millis(500)) {
            blocked.push(self.step(&json!({ "do": "block" })));
            assert!(blocked.len() < 100, "it answers still");
        }
        blocked
    }

    fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(Command::new("/bin/sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for its end; gives its status and what is in its log.
    fn ended(mut self, within: Duration) -> (ExitStatus, String) {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut log = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                return (status, log);
            }
            assert!(started.elapsed() < within + SLACK, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process under test; as a test of its own it does nothing.
#[test]
fn a_process_that_serves() {
    let Ok(drain) = std::env::var(DRAIN) else { return };
    let drain = Duration::from_millis(drain.parse().unwrap());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let shutdown = runtime.block_on(async {
        let shutdown = Shutdown::on_signals(drain).unwrap();
        let stage = Stage::default();
        let store =
            SessionStore::new(Arc::new(Scripted::new(&stage, Execution::Inline)), StoreLimits::default());
        let config = ServerConfig { drain, ..ServerConfig::default() };
        let server = Server::bind("127.0.0.1:0".parse().unwrap(), store, config).await.unwrap();
        println!("serving on {}", server.address().unwrap());
        server.run_until(&shutdown).await;
        if std::env::var_os(BLOCKS_MAIN).is_some() {
            std::thread::sleep(WAIT_TIMEOUT * 10);
        }
        shutdown
    });
    runtime.shutdown_background();
    std::process::exit(if shutdown.is_over() { Shutdown::EXIT_CODE } else { 0 });
}

#[test]
fn a_server_whose_threads_are_all_blocked_ends_in_time() {
    let drain = Duration::from_millis(500);
    for blocks_main in [false, true] {
        let process = Process::start(drain, blocks_main);
        let blocked = process.block();
        let started = Instant::now();
        process.terminate();
        let (status, log) = process.ended(drain + Duration::from_secs(1));
        eprintln!("it ended after {:?}, with {} steps that block", started.elapsed(), blocked.len());
        assert_eq!(status.code(), Some(Shutdown::EXIT_CODE), "{log}");
        assert!(log.contains("connections are left that do not end"), "{log}");
        let by_force = "ending the process: the drain time is over, and something still runs 1 s later";
        assert_eq!(log.contains(by_force), blocks_main, "{log}");
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let process = Process::start(Duration::from_secs(600), false);
    let mut waiting = process.step(&json!({ "do": "wait" }));
    // The pong comes once the step runs, for the socket is read in order.
    waiting.write_all(&oxenv_test_support::masked_frame(0x89, b"ping")).unwrap();
    let (mut said, started) = (Vec::new(), Instant::now());
    while !said.ends_with(b"\x8a\x04ping") {
        let mut byte = [0];
        waiting.read_exact(&mut byte).unwrap();
        said.extend(byte);
    }
    process.terminate();
    // It drains once nobody can connect any more.
    while TcpStream::connect(process.address).is_ok() {
        assert!(started.elapsed() < WAIT_TIMEOUT, "it listens still");
    }
    process.terminate();
    let (status, log) = process.ended(Duration::from_secs(1));
    assert_eq!(status.code(), Some(0), "{log}");
}
