//! A server with few descriptors, and more connections than it has of them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::{BlockingSocket, TempFolder, block_until};
use serde_json::{Value, json};

use super::Footprint;
use crate::process::Serving;

/// Descriptors that the server may have.
const LIMIT: usize = 96;
/// What of them it keeps for its sessions.
const RESERVE: usize = 24;
/// Connections that come all the same.
const FLOOD: usize = 100;
/// Sessions that live meanwhile, each with a socket, a folder and an entry in the record per step.
const SESSIONS: usize = 8;

/// Tools that are compiled in; each session of them has a folder of its own.
const MANIFEST: &str = "tools:\n  - name: echo\n    mcp_server: { transport: builtin, toolset: echo }\n";

/// A server with so few descriptors, and where it keeps what it has.
struct Few {
    server: Serving,
    temporary: TempFolder,
    _files: TempFolder,
}

impl Few {
    fn start() -> Self {
        let (temporary, files) = (TempFolder::new("few-temporary"), TempFolder::new("few-files"));
        let manifest = files.file("tools.yaml", MANIFEST);
        let record = format!("{}/record", files.as_str());
        let mut command = Command::new("/bin/sh");
        command.env_clear().env("TMPDIR", temporary.as_str()).args([
            "-c",
            &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_oxenv"),
        ]);
        command.args(["serve", "--port", "0", "--log", "error", "--metrics"]);
        let server = Serving::of(command.args(["--tools", &manifest, "--record", &record]));
        Few { server, temporary, _files: files }
    }

    fn descriptors(&self) -> usize {
        Footprint::of(self.server.pid()).descriptors
    }

    /// Folders of sessions.
    fn folders(&self) -> usize {
        let roots = fs::read_dir(self.temporary.path()).unwrap().flatten();
        roots
            .flat_map(|root| fs::read_dir(root.path()).unwrap().flatten())
            .filter(|at| at.path().is_dir())
            .count()
    }

    fn metric(&self, name: &str) -> usize {
        let page = self.server.text("/metrics");
        let line = page.lines().find(|line| line.split(' ').next() == Some(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// A connection that does nothing, after it has done what its number says.
    fn idle(&self, number: usize) -> Option<Idle> {
        match number % 3 {
            0 => Some(Idle::Silent(self.server.connect())),
            1 => {
                let mut stream = self.server.connect();
                // Another may need its place before it was heard.
                stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").ok()?;
                stream.read_exact(&mut [0; 15]).ok()?;
                Some(Idle::Silent(stream))
            }
            _ => BlockingSocket::many(self.server.address).ok().map(Idle::WithoutSession),
        }
    }
}

#[expect(dead_code, reason = "they are held open")]
enum Idle {
    Silent(TcpStream),
    WithoutSession(BlockingSocket),
}

/// A step whose entry in the record is kept beside it, for it is long.
fn long_step(socket: &mut BlockingSocket, number: usize) -> bool {
    let message = format!("{number} {}", "x".repeat(100 << 10));
    let call =
        json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": message } });
    let reply = socket.ask(&json!({ "type": "step", "data": call }));
    reply["type"] == "observation" && reply["data"]["observation"]["error"] == Value::Null
}

#[test]
fn a_server_with_few_descriptors_keeps_them_for_its_sessions() {
    let rounds = tries(5, 100);
    let few = Few::start();
    let server = &few.server;
    let mut sockets: Vec<BlockingSocket> =
        (0..SESSIONS).map(|_| BlockingSocket::open(server.address, None).unwrap()).collect();
    assert!(sockets.iter_mut().enumerate().all(|(number, socket)| long_step(socket, number)));
    let before = Footprint::of(server.pid());
    let folders = few.folders();
    assert!(folders >= SESSIONS, "a session has no folder");
    let (mut tried, mut stepped, mut made) = (0, 0, 0);
    for round in 0..rounds {
        let flood: Vec<Idle> = (0..FLOOD).filter_map(|number| few.idle(number)).collect();
        tried += FLOOD;
        assert!(few.descriptors() <= LIMIT - RESERVE + 1, "{} are taken", few.descriptors());
        for (number, socket) in sockets.iter_mut().enumerate() {
            stepped += usize::from(long_step(socket, 1000 + round * SESSIONS + number));
        }
        // One that comes now is served as well, with all that a session needs.
        let mut socket = BlockingSocket::open(server.address, None).unwrap();
        made += usize::from(long_step(&mut socket, round));
        assert!(few.folders() > folders);
        drop(socket);
        block_until("the folder of a session that ended is removed", || few.folders() == folders);
        drop(flood);
        assert_eq!(server.get("/health").0, 200);
        block_until("every descriptor is given back", || few.descriptors() <= before.descriptors);
    }
    assert_eq!((stepped, made), (rounds * SESSIONS, rounds));
    assert_eq!((few.metric("process_max_fds"), few.metric("oxenv_log_failed_total")), (LIMIT, 0));
    let ended = few.metric("oxenv_connections_ended_total");
    assert!(ended >= rounds * FLOOD / 2, "{ended}");
    assert_eq!(few.metric("oxenv_connections_refused_total"), 0);

    // Where every connection has a session, none of them ends: the next one is refused.
    let mut more = Vec::new();
    while let Ok(mut socket) = BlockingSocket::open(server.address, None) {
        assert!(long_step(&mut socket, more.len()));
        more.push(socket);
        assert!(more.len() < LIMIT);
    }
    assert!(sockets.iter_mut().chain(&mut more).all(|socket| long_step(socket, 7)));
    drop(more);
    block_until("they are gone", || few.descriptors() <= before.descriptors);
    assert_eq!(few.metric("oxenv_connections_refused_total"), 1);
    drop(sockets);
    let Few { server, temporary, .. } = few;
    server.stop();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "a folder is left");
    let note = format!(
        "idle connections to a server with {LIMIT} descriptors, {FLOOD} at a time: meanwhile {stepped} steps \
         of {SESSIONS} sessions and of {made} new ones, each with a blob in the record and a folder that was \
         removed at the end; {ended} idle ones ended for others"
    );
    report("descriptor exhaustion", tried, tried, &note);
}

/// Sessions without a connection take descriptors too. What is left is for those who want to look and to end
/// some.
#[test]
fn sessions_leave_descriptors_for_who_ends_them() {
    let few = Few::start();
    let server = &few.server;
    let mut sessions = Vec::new();
    let refusal = loop {
        match server.post("/sessions", &json!({ "queue_s": 0.1 })) {
            (201, made) => sessions.push(made["session_id"].as_str().unwrap().to_owned()),
            (status, refusal) => {
                assert_eq!(status, 503, "{refusal}");
                break refusal;
            }
        }
        assert!(sessions.len() < LIMIT);
    };
    assert!(
        refusal["detail"].as_str().unwrap().contains(&format!("of the {LIMIT} that it may have")),
        "{refusal}"
    );
    assert_eq!(
        (&refusal["oxenv"]["code"], &refusal["oxenv"]["retryable"]),
        (&json!("CAPACITY_REACHED"), &json!(true))
    );
    let forked = server.post(&format!("/sessions/{}/fork", sessions[0]), &json!({ "n": 30 }));
    assert_eq!(forked.0, 503, "{}", forked.1);
    assert_eq!((server.get("/health").0, server.get("/ready").0), (200, 200));
    for session in sessions.drain(5..) {
        assert_eq!(server.delete(&format!("/sessions/{session}")).0, 200);
    }
    block_until("there is room again", || server.post("/sessions", &json!({ "queue_s": 0.1 })).0 == 201);
    let Few { server, temporary, .. } = few;
    server.stop();
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "a folder is left");
}
