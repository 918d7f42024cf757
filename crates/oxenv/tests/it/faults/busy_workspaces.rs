//! Tool servers that never stop writing into their workspace, by themselves and by a grandchild in the
//! background, while their sessions are reset and end in every way there is.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use oxenv_test_support::{TempFolder, block_until, tally};
use serde_json::{Value, json};

use crate::process::{Serving, oxenv};
use crate::records::Session;

/// How many sessions end in each way.
const FEW: usize = 5;
const MANY: usize = 100;
/// Sessions of one server at a time.
const AT_ONCE: usize = 5;

/// A server that writes from its first call on: a thread of it, and a process that it leaves behind, which is
/// in a session of its own and takes no SIGTERM. All of them make their folder again if it is gone.
const WRITER: &str = r#"
import json, os, subprocess, sys, threading

WRITE = """
import os, signal, sys, threading
folder, name = sys.argv[1:3]
if name == "orphan":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
number = 0
while True:
    number += 1
    try:
        deep = os.path.join(folder, name, str(number % 7), "deep")
        os.makedirs(deep, exist_ok=True)
        for path in (os.path.join(deep, str(number % 50)), os.path.join(folder, name + str(number % 50)), name):
            with open(path, "w") as file:
                file.write("text")
    except OSError:
        pass
"""

def write():
    subprocess.Popen(["sh", "-c", 'setsid "$0" -S -c "$1" "$2" orphan &', sys.executable, WRITE, sys.argv[1]])
    sys.argv[2:] = ["thread"]
    threading.Thread(target=exec, args=(WRITE, {}), daemon=True).start()

def call(tool):
    mark = os.path.join(sys.argv[1], "mark")
    if tool == "write":
        return write()
    if tool == "mark":
        return open(mark, "w").close()
    return [os.path.exists(mark), len(sys.argv) > 2, os.path.exists(os.path.join(sys.argv[1], "given"))]

def result(method, params):
    if method == "initialize":
        information = {"name": "writer", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": information}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("write", "mark", "look")]}
    if method != "tools/call":
        return None
    return {"content": [{"type": "text", "text": json.dumps(call(params["name"]))}]}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    done = result(message["method"], message.get("params"))
    outcome = {"error": {"code": -32601, "message": "unknown"}} if done is None else {"result": done}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)
# It goes on writing when its input has ended.
threading.Event().wait()
"#;

/// A server's temporary folder, with the manifest beside it.
struct Stage {
    folder: TempFolder,
    temporary: PathBuf,
}

impl Stage {
    fn new(name: &str, on_reset: &str) -> Self {
        let folder = TempFolder::new(name);
        let temporary = folder.join("temporary");
        fs::create_dir(&temporary).unwrap();
        fs::create_dir(folder.join("seed")).unwrap();
        folder.file("seed/given", "given");
        let script = folder.file("writer.py", WRITER);
        folder.file(
            "tools.yaml",
            &format!(
                "tools:\n  - name: writer\n    mcp_server:\n      command: python3\n      \
                 args: [\"-S\", \"{script}\", \"${{workspace}}\"]\n    on_reset: {on_reset}\n"
            ),
        );
        Stage { folder, temporary }
    }

    fn serve(&self, more: &[&str]) -> Serving {
        let path = std::env::var_os("PATH").unwrap();
        let manifest = format!("{}/tools.yaml", self.folder.as_str());
        let mut command = oxenv();
        command.env("PATH", path).env("TMPDIR", &self.temporary);
        command.args(["serve", "--port", "0", "--log", "error", "--tools", &manifest]).args(more);
        Serving::of(&mut command)
    }

    /// What of sessions is left: their folders, and those in which they are, if no server has them.
    fn left(&self) -> Vec<PathBuf> {
        let inside = |path: &Path| -> Vec<PathBuf> {
            fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
        };
        let roots = inside(&self.temporary);
        let sessions = roots.iter().flat_map(|root| inside(root)).filter(|path| !path.ends_with("lock"));
        sessions.chain(roots.iter().filter(|root| !root.join("lock").exists()).cloned()).collect()
    }

    fn roots(&self) -> usize {
        fs::read_dir(&self.temporary).unwrap().count()
    }

    /// Where a session has its folder.
    fn workspace(&self, session: &str) -> PathBuf {
        let roots = fs::read_dir(&self.temporary).unwrap().flatten();
        roots.map(|root| root.path().join(session)).find(|path| path.is_dir()).unwrap()
    }
}

/// What a tool says.
fn call(session: &Session<'_>, tool: &str) -> Value {
    let reply = session
        .post("step", &json!({ "action": { "type": "call_tool", "tool_name": tool, "arguments": {} } }));
    let text = reply["observation"]["result"]["content"][0]["text"].as_str();
    serde_json::from_str(text.unwrap_or_else(|| panic!("{reply}"))).unwrap()
}

/// Sessions whose tools write, all of them; gives their folders.
fn busy<'a>(stage: &Stage, server: &'a Serving, count: usize) -> Vec<(Session<'a>, PathBuf)> {
    let sessions = (0..count).map(|_| {
        let session = Session::open(server);
        call(&session, "write");
        let folder = stage.workspace(&session.id);
        (session, folder)
    });
    let sessions: Vec<_> = sessions.collect();
    for (_, folder) in &sessions {
        for writer in ["thread", "orphan"] {
            block_until("it writes", || folder.join(writer).exists());
        }
    }
    sessions
}

fn end(server: &Serving, session: &Session<'_>) {
    let mut stream = server.connect();
    let (id, address) = (&session.id, server.address);
    write!(stream, "DELETE /sessions/{id} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
}

/// How many of these folders are gone. That must stay so: nobody is left who could make them again.
fn gone(folders: &HashSet<PathBuf>) -> usize {
    folders.iter().filter(|folder| !folder.exists()).count()
}

#[test]
fn sessions_that_end_while_their_tools_write_leave_nothing() {
    let tried = tally::tries(FEW, MANY);
    let stage = Stage::new("busy-close", "keep");
    let mut survived = 0;
    // By a close.
    let server = stage.serve(&[]);
    for _ in 0..tried / AT_ONCE {
        let sessions = busy(&stage, &server, AT_ONCE);
        let folders: HashSet<PathBuf> = sessions.iter().map(|(_, folder)| folder.clone()).collect();
        sessions.iter().for_each(|(session, _)| end(&server, session));
        block_until("its tools have ended", || sessions.iter().all(|(session, _)| !mentioned(&session.id)));
        block_until("its folder is gone", || gone(&folders) == AT_ONCE);
        survived += gone(&folders);
    }
    block_until("nothing is left", || stage.left().is_empty());
    server.stop();
    assert_eq!(stage.roots(), 0);
    // By the end of its lease.
    let server = stage.serve(&["--idle-timeout", "5s"]);
    for _ in 0..tried / AT_ONCE {
        let sessions = busy(&stage, &server, AT_ONCE);
        block_until("its lease has run out", || sessions.iter().all(|(session, _)| !mentioned(&session.id)));
        let folders = sessions.into_iter().map(|(_, folder)| folder).collect();
        block_until("its folder is gone", || gone(&folders) == AT_ONCE);
        survived += gone(&folders);
    }
    server.stop();
    assert_eq!(stage.roots(), 0);
    // With the server: asked to end, and killed; the next one sweeps.
    for signal in ["TERM", "KILL"] {
        for _ in 0..tried / AT_ONCE {
            let server = stage.serve(&[]);
            let folders: HashSet<PathBuf> =
                busy(&stage, &server, AT_ONCE).into_iter().map(|(_, folder)| folder).collect();
            server.signal(signal);
            let ended = server.ended();
            assert_eq!(ended.code, (signal == "TERM").then_some(0), "{ended:#?}");
            let next = stage.serve(&[]);
            block_until("only the next server's root is left", || stage.roots() == 1);
            survived += gone(&folders);
            next.stop();
            assert_eq!(stage.roots(), 0, "after {signal}");
        }
    }
    let note = "sessions whose tool writes in a loop, by a thread and by a process that it left behind: a \
                quarter each closed, expired, drained, and killed with their server; no folder left, and no \
                process";
    tally::report(
        "workspaces under writing tools, at the end",
        4 * (tried / AT_ONCE) * AT_ONCE,
        survived,
        note,
    );
}

/// Whether a process has that in its command line.
fn mentioned(text: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(text))
}

#[test]
fn resets_succeed_while_tools_write() {
    let tried = tally::tries(FEW, MANY);
    let mut survived = 0;
    for on_reset in ["keep", "restart"] {
        let stage = Stage::new(&format!("busy-{on_reset}"), on_reset);
        let seed = format!("{}/seed", stage.folder.as_str());
        let server = stage.serve(&["--workspace", &seed]);
        let session = Session::open(&server);
        for round in 0..tried {
            if round == 0 || on_reset == "restart" {
                call(&session, "write");
            }
            call(&session, "mark");
            session.post("reset", &json!({}));
            // What was there before is gone, what is given is there, and the process is kept or is another.
            let looks = call(&session, "look");
            assert_eq!(looks, json!([false, on_reset == "keep", true]), "{on_reset}");
            if on_reset == "restart" {
                let mut names = fs::read_dir(stage.workspace(&session.id)).unwrap().flatten();
                assert!(names.all(|entry| entry.file_name() == "given"), "the last episode still writes");
            }
            survived += 1;
        }
        drop(server.stop());
        assert_eq!(stage.roots(), 0);
    }
    let note = "resets of sessions whose tool writes in a loop, by a thread and by a process that it left \
                behind: half with on_reset: keep, half with restart; nothing of before was left, and what is \
                given was there";
    tally::report("workspaces under writing tools, at a reset", 2 * tried, survived, note);
}
