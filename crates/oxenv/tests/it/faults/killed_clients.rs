//! Clients that are killed (signal 9) while a tool of theirs, a process of its own, still works.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use oxenv_test_support::tally::{report, tries};
use oxenv_test_support::{BlockingSocket, TempFolder, block_until};
use serde_json::json;

use super::Footprint;
use crate::process::{Serving, oxenv};

const AT_ONCE: usize = 20;

/// A server of one tool that says that it was called and then sleeps for a day, in a child of its own.
const DOZING: &str = r#"
while read -r line; do
    id=${line#*\"id\":}
    id=${id%%[,\}]*}
    case $line in
    *'"method":"initialize"'*)
        printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"dozing","version":"1"}}}\n' "$id" ;;
    *'"method":"tools/list"'*)
        printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"doze","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
    *'"method":"tools/call"'*)
        : > "$1/$$"
        sleep "$2" & wait ;;
    *'"id":'*)
        printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"Method not found"}}\n' "$id" ;;
    esac
done
"#;

#[test]
fn clients_that_are_killed_in_mid_step_leave_nothing() {
    let tried = tries(20, 1000);
    let folder = TempFolder::new("killed-clients");
    let (called, temporary) = (folder.join("called"), folder.join("temporary"));
    fs::create_dir(&called).unwrap();
    fs::create_dir(&temporary).unwrap();
    folder.file("dozing.sh", DOZING);
    // No other process on this machine sleeps for just that time.
    let nap = format!("86399.{}", std::process::id());
    let manifest = format!(
        "version: \"1.0\"\ntools:\n  - name: dozing\n    mcp_server:\n      command: /bin/sh\n      args: \
         [\"{}/dozing.sh\", \"{}\", \"{nap}\", \"${{workspace}}\"]\n    timeout_s: 600\n",
        folder.as_str(),
        called.display(),
    );
    let manifest = folder.file("tools.yaml", &manifest);
    let mut command = oxenv();
    command.env("TMPDIR", &temporary).env("PATH", "/usr/bin:/bin");
    let server = Serving::of(command.args([
        "serve",
        "--port",
        "0",
        "--log",
        "error",
        "--tools",
        &manifest,
        "--idle-timeout",
        "3s",
    ]));
    let mut other = BlockingSocket::open(server.address, None).unwrap();
    let list = json!({ "type": "step", "data": { "type": "list_tools" } });
    assert_eq!(other.ask(&list)["type"], "observation");
    let folders = || workspaces(&temporary);
    let (before, made) = (Footprint::of(server.pid()), folders());
    let mut killed = 0;
    while killed < tried {
        let now = AT_ONCE.min(tried - killed);
        let mut clients: Vec<Child> = (0..now).map(|way| client(&server, way)).collect();
        block_until("each client's tool works", || fs::read_dir(&called).unwrap().count() == now);
        for client in &mut clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        killed += now;
        block_until("each slot is free", || server.get("/ready").1["active_sessions"] == 1);
        for mark in fs::read_dir(&called).unwrap() {
            fs::remove_file(mark.unwrap().path()).unwrap();
        }
        assert_eq!(other.ask(&list)["type"], "observation", "another session was harmed");
    }
    block_until("no process is left", || Footprint::of(server.pid()).descendants <= before.descendants);
    block_until("no process of a tool is left anywhere", || sleeping(&nap) == 0);
    block_until("no workspace is left", || folders() <= made);
    block_until("no descriptor and no thread is left", || Footprint::of(server.pid()).within(&before));
    assert_eq!(server.get("/ready").1["stuck_environments"], 0);
    drop(other);
    server.stop();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "the server left something behind");
    let note = "client processes killed while their tool worked: no slot, process, workspace, descriptor or \
                thread left, another session went on";
    report("clients killed in mid-step", tried, killed, note);
}

/// Folders of sessions.
fn workspaces(temporary: &std::path::Path) -> usize {
    let roots = fs::read_dir(temporary).unwrap().map(|root| root.unwrap().path());
    roots.map(|root| fs::read_dir(root).map_or(0, Iterator::count)).sum()
}

/// Processes that sleep for just that time, whoever their parent is.
fn sleeping(nap: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let sleeps = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line == format!("sleep\0{nap}\0"))
    };
    processes.filter(sleeps).count()
}

const ADDRESS: &str = "OXENV_TEST_SERVER";
const WAY: &str = "OXENV_TEST_WAY";

fn client(server: &Serving, way: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::killed_clients::a_client_to_be_killed"])
        .env(ADDRESS, server.address.to_string())
        .env(WAY, (way % 4).to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The process that is killed; by itself this test does nothing.
#[test]
fn a_client_to_be_killed() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let address = address.parse().unwrap();
    let action = json!({ "type": "call_tool", "tool_name": "doze", "arguments": {} });
    let mut stream = match std::env::var(WAY).unwrap().as_str() {
        way @ ("0" | "1") => {
            let mut socket = BlockingSocket::open(address, None).unwrap();
            socket.send(&json!({ "type": "step", "data": action })).unwrap();
            if way == "1" {
                // Requests that nobody will read, and replies that this process will not have read.
                socket.send(&json!({ "type": "step", "data": action })).unwrap();
                socket.send(&json!({ "type": "state" })).unwrap();
            }
            socket.stream().try_clone().unwrap()
        }
        "2" => {
            let mut socket = BlockingSocket::many(address).unwrap();
            let session = socket.session().unwrap();
            socket.send(&json!({ "id": 1, "type": "step", "session": session, "data": action })).unwrap();
            socket.stream().try_clone().unwrap()
        }
        _ => {
            let created = post(address, "/sessions", "{}", "connection: close\r\n");
            let mut reply = String::new();
            (&created).read_to_string(&mut reply).unwrap();
            let (_, id) = reply.split_once("\"session_id\":\"").unwrap();
            let path = format!("/sessions/{}/step", id.split('"').next().unwrap());
            post(address, &path, &json!({ "action": action }).to_string(), "")
        }
    };
    // Until it is killed, or the server has gone.
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

fn post(address: std::net::SocketAddr, path: &str, body: &str, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{more}content-length: \
         {length}\r\n\r\n{body}"
    )
    .unwrap();
    stream
}
