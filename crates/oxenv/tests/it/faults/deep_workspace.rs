//! A tool server that nests folders deeper than a stack, a path or the server's descriptors reach.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use oxenv_test_support::{block_until, tally};
use serde_json::{Value, json};

use super::Footprint;
use crate::process::Serving;
use crate::records::Session;

const LEVELS: usize = 20_000;
/// Descriptors that the server may have.
const LIMIT: usize = 128;

/// A server of one tool that nests folders where it works, and says how deep they are.
const NESTING: &str = r#"
import json, os, sys

def depth():
    levels = 0
    while os.path.isdir("d"):
        os.chdir("d")
        levels += 1
    return levels

def nest(levels):
    for _ in range(levels):
        os.mkdir("d")
        os.chdir("d")

def result(method, params):
    if method == "initialize":
        information = {"name": "nesting", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": information}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("nest", "depth")]}
    if method != "tools/call":
        return None
    os.chdir(sys.argv[1])
    said = nest(params["arguments"]["levels"]) if params["name"] == "nest" else depth()
    return {"content": [{"type": "text", "text": json.dumps(said)}]}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    done = result(message["method"], message.get("params"))
    outcome = {"error": {"code": -32601, "message": "unknown"}} if done is None else {"result": done}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **outcome}), flush=True)
"#;

/// A folder in memory where there is one: a disk takes long to make and remove so many folders.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("oxenv-deep-{}", std::process::id()));
        fs::create_dir_all(folder.join("temporary")).unwrap();
        Temporary(folder)
    }

    /// What is left in the temporary folder of the server.
    fn left(&self) -> usize {
        fs::read_dir(self.0.join("temporary")).unwrap().count()
    }

    /// The folder of a session, if it is there.
    fn workspace(&self, session: &str) -> Option<PathBuf> {
        let roots = fs::read_dir(self.0.join("temporary")).unwrap().flatten();
        roots.map(|root| root.path().join(session)).find(|folder| folder.exists())
    }

    fn serve(&self) -> Serving {
        fs::write(self.0.join("nesting.py"), NESTING).unwrap();
        let folder = self.0.display();
        let manifest = format!(
            "version: \"1.0\"\ntools:\n  - name: nesting\n    mcp_server:\n      command: python3\n      \
             args: [\"-S\", \"{folder}/nesting.py\", \"${{workspace}}\"]\n    on_fork: workspace\n"
        );
        fs::write(self.0.join("tools.yaml"), manifest).unwrap();
        let mut command = Command::new("/bin/sh");
        let path = std::env::var_os("PATH").unwrap();
        command.env_clear().env("PATH", path).env("TMPDIR", self.0.join("temporary")).args([
            "-c",
            &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_oxenv"),
        ]);
        let manifest = format!("{folder}/tools.yaml");
        Serving::of(command.args(["serve", "--port", "0", "--log", "error", "--tools", &manifest]))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = oxenv_core::folders::remove(&self.0);
    }
}

/// What a tool says.
fn call(session: &Session<'_>, tool: &str, arguments: &Value) -> String {
    let action = json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments });
    let reply = session.post("step", &json!({ "action": action }));
    reply["observation"]["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{reply}")).into()
}

fn end(server: &Serving, session: &Session<'_>) {
    let mut stream = server.connect();
    let (id, address) = (&session.id, server.address);
    write!(stream, "DELETE /sessions/{id} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 2"), "{reply}");
}

#[test]
fn a_server_survives_the_folders_that_a_tool_nests() {
    let temporary = Temporary::new();
    let server = temporary.serve();
    let other = Session::open(&server);
    assert_eq!(call(&other, "depth", &json!({})), "0");
    let session = Session::open(&server);
    let nest = |session: &Session<'_>| call(session, "nest", &json!({ "levels": LEVELS }));
    nest(&session);
    assert_eq!(call(&session, "depth", &json!({})), LEVELS.to_string());
    let (fork, restored) = (session.fork(), session.restored());
    for copy in [&fork, &restored] {
        assert_eq!(call(copy, "depth", &json!({})), LEVELS.to_string());
    }
    session.post("reset", &json!({}));
    assert_eq!(call(&session, "depth", &json!({})), "0");
    assert_eq!(fs::read_dir(temporary.workspace(&session.id).unwrap()).unwrap().count(), 0);
    nest(&session);
    for session in [&session, &fork] {
        end(&server, session);
        block_until("its folder is gone", || temporary.workspace(&session.id).is_none());
    }
    assert_eq!(call(&other, "depth", &json!({})), "0", "another session goes on");
    let descriptors = Footprint::of(server.pid()).descriptors;
    assert!(descriptors < LIMIT / 2, "{descriptors} descriptors are open");
    assert!(temporary.workspace(&restored.id).is_some());
    server.stop();
    assert_eq!(temporary.left(), 0, "the server left something behind");
    let note = "folders within each other in a workspace, by a tool: reset, forked, saved, restored, closed \
                and removed at the end, with 128 descriptors";
    tally::report("nested folders", LEVELS, LEVELS, note);
}
