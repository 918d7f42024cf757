//! Very many sessions, opened, stepped and closed.

use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use oxenv_test_support::tally::{report, status, tries};
use oxenv_test_support::{BlockingSocket, TempFolder, block_until};
use serde_json::{Value, json};

use super::Footprint;
use crate::process::{Serving, oxenv};

const SOCKETS: usize = 4;
/// Sessions that a socket has at once.
const AT_ONCE: usize = 64;

/// Tools that are compiled in; each session of them has a folder of its own.
const MANIFEST: &str = r#"
version: "1.0"
tools:
  - name: echo
    mcp_server: { transport: builtin, toolset: echo }
"#;

#[test]
fn sessions_by_the_hundred_thousand_leave_nothing() {
    let server = Churned::new("grid_world", &["grid_world"]);
    server.churned(tries(9_000, 990_000), &json!({ "action": "UP" }));
}

#[test]
fn sessions_with_folders_leave_none() {
    let folder = TempFolder::new("churn-manifest");
    let manifest = folder.file("tools.yaml", MANIFEST);
    let server = Churned::new("tools with folders", &["--tools", &manifest]);
    let folders = server.folders();
    let mut socket = BlockingSocket::many(server.server.address).unwrap();
    assert!(socket.session().is_some());
    assert!(server.folders() > folders, "a session has no folder, so none could be left");
    drop(socket);
    let arguments = json!({ "message": "hi" });
    let action = json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": arguments });
    server.churned(tries(500, 10_000), &action);
}

/// A server that is to see many sessions.
struct Churned {
    environment: &'static str,
    server: Serving,
    temporary: TempFolder,
}

impl Churned {
    fn new(environment: &'static str, arguments: &[&str]) -> Self {
        let temporary = TempFolder::new("churn");
        let mut command = oxenv();
        command.env("TMPDIR", temporary.path()).args(["serve", "--port", "0", "--log", "error"]);
        Churned { environment, server: Serving::of(command.args(arguments)), temporary }
    }

    fn folders(&self) -> usize {
        below(self.temporary.path())
    }

    /// Opens, steps and closes sessions, stops the server, and looks for what is left of them.
    fn churned(self, count: usize, action: &Value) {
        let (server, environment) = (&self.server, self.environment);
        let emptied = || server.get("/ready").1["active_sessions"] == 0;
        // The memory and threads that the first ones bring stay, as a warm server has them.
        churn(server.address, SOCKETS * AT_ONCE * 4, action);
        block_until("the first ones are gone", emptied);
        let (before, memory) = (Footprint::of(server.pid()), status(server.pid(), "VmRSS"));
        let folders = self.folders();
        let began = Instant::now();
        let opened = churn(server.address, count, action);
        let took = began.elapsed().as_secs_f64();
        block_until("each slot is free", emptied);
        block_until("no descriptor, thread or process is left", || {
            Footprint::of(server.pid()).within(&before)
        });
        block_until("no folder is left", || self.folders() <= folders);
        assert_eq!(server.get("/sessions").1, json!({ "sessions": [] }));
        let grown = status(server.pid(), "VmRSS").saturating_sub(memory);
        // What is remembered of sessions that have ended is bounded; a leak of 10 bytes each would show.
        assert!(grown < 8 << 10, "{environment}: {grown} KiB more after {opened} sessions");
        let Churned { server, temporary, .. } = self;
        server.stop();
        assert_eq!(below(temporary.path()), 0, "the server left something behind");
        let note = format!(
            "sessions opened, stepped and closed in {took:.0} s: no slot, thread, descriptor, folder left, \
             memory {grown} KiB up from {memory}"
        );
        report(&format!("sessions that come and go, {environment}"), opened, opened, &note);
    }
}

/// Everything below a folder.
fn below(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + if entry.path().is_dir() { below(&entry.path()) } else { 0 }).sum()
}

/// Opens, steps and closes so many sessions, several sockets with several sessions each at once.
fn churn(address: SocketAddr, sessions: usize, action: &Value) -> usize {
    let each = sessions.div_ceil(SOCKETS);
    let sockets: Vec<_> = (0..SOCKETS)
        .map(|_| {
            let action = action.clone();
            std::thread::spawn(move || {
                let mut socket = BlockingSocket::many(address).unwrap();
                let mut done = 0;
                while done < each {
                    done += round(&mut socket, AT_ONCE.min(each - done), &action);
                }
                done
            })
        })
        .collect();
    sockets.into_iter().map(|socket| socket.join().unwrap()).sum()
}

/// A batch that opens, and one that steps and closes.
fn round(socket: &mut BlockingSocket, sessions: usize, action: &Value) -> usize {
    let opened = batch(socket, &vec![json!({ "type": "open" }).to_string(); sessions]);
    let ids: Vec<&str> =
        opened.split("\"session\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.len(), sessions, "{opened}");
    let step_and_close = |id: &&str| {
        let step = format!("{{\"type\":\"step\",\"session\":\"{id}\",\"data\":{action}}}");
        [step, format!("{{\"type\":\"close\",\"session\":\"{id}\"}}")]
    };
    let done = batch(socket, &ids.iter().flat_map(step_and_close).collect::<Vec<_>>());
    let count = |kind: &str| done.matches(&format!("\"type\":\"{kind}\"")).count();
    assert_eq!((count("observation"), count("closed")), (sessions, sessions), "{done}");
    sessions
}

/// The reply to a batch of these items, as it came: to read it all would be most of the test's work.
fn batch(socket: &mut BlockingSocket, items: &[String]) -> String {
    let items = items.join(",");
    socket.ask_text(&format!("{{\"id\":1,\"type\":\"batch\",\"data\":{{\"items\":[{items}]}}}}"))
}
