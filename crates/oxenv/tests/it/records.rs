//! Sessions that a server records, whatever happens to it, and what the tests of records share.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use oxenv_test_support::TempFolder;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use crate::process::{Serving, run};

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) TempFolder);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        Folder(TempFolder::new(name))
    }

    pub(crate) fn path(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        self.0.file(name, text)
    }

    /// Where the record of the test is.
    pub(crate) fn records(&self) -> String {
        self.0.join("records").display().to_string()
    }

    /// The bytes of all segments.
    pub(crate) fn log(&self) -> Vec<u8> {
        segments(&self.0.join("records")).iter().flat_map(|path| fs::read(path).unwrap()).collect()
    }
}

pub(crate) fn segments(records: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(records).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "oxl")).collect();
    segments.sort();
    segments
}

/// A session over HTTP.
pub(crate) struct Session<'a> {
    pub(crate) server: &'a Serving,
    pub(crate) id: String,
}

impl<'a> Session<'a> {
    pub(crate) fn open(server: &'a Serving) -> Self {
        let (status, created) = server.post("/sessions", &json!({ "seed": 11 }));
        assert_eq!(status, 201, "{created}");
        Session { server, id: created["session_id"].as_str().unwrap().to_owned() }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, reply) = self.server.post(&format!("/sessions/{}/{path}", self.id), body);
        assert!(status < 300, "{path}: {status} {reply}");
        reply
    }

    pub(crate) fn steps(&self, actions: &[Value]) {
        for action in actions {
            self.post("step", &json!({ "action": action }));
        }
    }

    pub(crate) fn fork(&self) -> Session<'a> {
        let forked = self.post("fork", &json!({ "n": 1 }));
        Session { server: self.server, id: forked["sessions"][0]["session_id"].as_str().unwrap().to_owned() }
    }

    pub(crate) fn restored(&self) -> Session<'a> {
        let snapshot = self.post("snapshot", &json!({}))["snapshot"].clone();
        let (status, made) = self.server.post("/restore", &json!({ "snapshot": snapshot }));
        assert_eq!(status, 201, "{made}");
        Session { server: self.server, id: made["session_id"].as_str().unwrap().to_owned() }
    }
}

/// A stock client's socket.
pub(crate) struct Socket(WebSocket<TcpStream>);

impl Socket {
    pub(crate) fn open(server: &Serving) -> Self {
        let url = format!("ws://{}/ws", server.address);
        Socket(client(url, server.connect()).unwrap().0)
    }

    pub(crate) fn ask(&mut self, frame: &Value) -> Value {
        self.0.send(Message::text(frame.to_string())).unwrap();
        loop {
            if let Message::Text(text) = self.0.read().unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }
}

/// An action of each bundled environment that can be taken again and again.
pub(crate) fn actions(environment: &str) -> Vec<Value> {
    match environment {
        "connect4" => [3, 3, 2, 4].map(|column| json!({ "column": column })).to_vec(),
        "number_guess" => [50, 25, 75].map(|guess| json!({ "guess": guess })).to_vec(),
        "grid_world" => ["DOWN", "RIGHT", "UP"].map(|way| json!({ "action": way })).to_vec(),
        _ => vec![
            json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": "é\n" } }),
            json!({
                "type": "CallToolAction", "tool_name": "echo_with_length", "parameters": { "message": "j" }
            }),
            json!({ "action_type": "tool", "tool_name": "echo_message", "tool_args": { "message": "u" } }),
            json!({ "type": "call_tools", "calls": [
                { "id": "a", "tool_name": "echo_message", "arguments": { "message": "x" } },
                { "id": "b", "tool_name": "echo_message", "arguments": { "message": "${a}" } },
                { "id": "c", "tool_name": "nobody", "arguments": {} },
            ] }),
            json!({ "message": "old" }),
            json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": 5 } }),
        ],
    }
}

/// Everything that can become of sessions, ended by a kill.
pub(crate) fn killed_server(environment: &[&str], folder: &Folder, actions: &[Value]) {
    let records = folder.records();
    let server = Serving::start(&[environment, &["--record", &records, "--seed", "5"]].concat());
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    session.steps(actions);
    let (fork, restored) = (session.fork(), session.restored());
    session.post("reset", &json!({}));
    for copy in [&fork, &restored, &fork.fork()] {
        copy.post("reset", &json!({ "episode_id": "mine" }));
        copy.steps(&actions[..1]);
    }
    // Refused by the environment or by the wire, which is recorded or not.
    server.post(&format!("/sessions/{}/step", session.id), &json!({ "action": { "no such field": [[]] } }));
    session.steps(&[json!({ "type": "list_tools" })]);
    let mut socket = Socket::open(&server);
    socket.ask(&json!({ "type": "reset", "data": { "seed": 3 } }));
    for action in actions {
        assert_eq!(socket.ask(&json!({ "type": "step", "data": action }))["type"], "observation");
    }
    server.signal("KILL");
    server.ended();
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_can_be_replayed() {
    for environment in ["echo", "connect4", "number_guess", "grid_world"] {
        let folder = Folder::new(environment);
        killed_server(&[environment], &folder, &actions(environment));
        let records = folder.records();
        let replayed = run(&["replay", &records]);
        assert!(replayed.succeeded().ends_with("5 of 5 the same\n"), "{replayed:#?}");
        let listed = run(&["trajectories", "list", &records, "--json"]);
        let sessions: Vec<Value> =
            listed.succeeded().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(sessions.len(), 5);
        assert_eq!(sessions[0]["steps"], actions(environment).len() as u64 + 1, "{sessions:#?}");
        assert_eq!(sessions[1]["origin"]["kind"], "fork");
    }
}

#[test]
fn a_server_tells_what_it_records_page_by_page() {
    let folder = Folder::new("pages");
    let server = Serving::start(&["connect4", "--record", &folder.records()]);
    let mut ids: Vec<String> = (0..5)
        .map(|_| {
            let session = Session::open(&server);
            session.post("reset", &json!({ "seed": 7 }));
            session.steps(&actions("connect4"));
            session.id
        })
        .collect();
    let mut told = Vec::new();
    let mut next = String::new();
    loop {
        let (status, page) = server.get(&format!("/trajectories?limit=2{next}"));
        assert_eq!(status, 200, "{page}");
        told.extend(
            page["trajectories"].as_array().unwrap().iter().map(|session| session["session_id"].clone()),
        );
        match page["next"].as_str() {
            Some(id) => next = format!("&after={id}"),
            None => break,
        }
    }
    assert_eq!(told, ids);
    let id = ids.remove(0);
    let (_, session) = server.get(&format!("/trajectories/{id}"));
    assert_eq!((&session["environment"], &session["steps"]), (&json!("connect4"), &json!(4)));
    let (_, page) = server.get(&format!("/trajectories/{id}/steps?after=1&limit=2"));
    let steps = page["steps"].as_array().unwrap();
    assert_eq!((steps.len(), &page["next"]), (2, &json!(3)));
    assert_eq!(steps[0]["action"], json!({ "column": 3 }));
    assert!(steps[0]["reply"]["observation"]["board"].is_array(), "{page}");
    let (_, rest) = server.get(&format!("/trajectories/{id}/steps?after=3"));
    assert_eq!((rest["steps"].as_array().unwrap().len(), &rest["next"]), (2, &Value::Null));
    for (path, status) in [
        ("/trajectories/nobody", 404),
        ("/trajectories/nobody/steps", 404),
        ("/trajectories?limit=0", 422),
        ("/trajectories?limit=x", 400),
    ] {
        assert_eq!(server.get(path).0, status, "{path}");
    }
    let (_, none) = server.get("/trajectories?environment=echo");
    assert_eq!(none, json!({ "trajectories": [], "next": null }));
    // The command shows the same of the server and of its folder.
    let (url, records) = (server.url(), folder.records());
    let of_server = run(&["trajectories", "list", &url, "--json"]);
    assert_eq!(of_server.succeeded(), run(&["trajectories", "list", &records, "--json"]).succeeded());
    let of_server = run(&["trajectories", "show", &url, &id]);
    assert_eq!(of_server.succeeded(), run(&["trajectories", "show", &records, &id]).succeeded());
    assert!(of_server.succeeded().contains("step 1  control  {\"column\":3}  reward 0.0"), "{of_server:#?}");
    run(&["trajectories", "show", &url, "nobody"]).failed(1, &["404", "nobody"]);
}

/// A page ends behind the entry that makes it large, and says where the next one begins.
#[test]
fn a_page_of_large_entries_ends_early() {
    let folder = Folder::new("large");
    let server = Serving::start(&["echo", "--record", &folder.records()]);
    let session = Session::open(&server);
    session.post("reset", &json!({}));
    // An echo holds its message four times.
    let text = "x".repeat(5 << 20);
    let call = json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": text } });
    session.steps(&[call.clone(), call]);
    let (mut path, mut pages) = (String::new(), Vec::<Vec<u64>>::new());
    loop {
        let (_, page) = server.get(&format!("/trajectories/{}/steps?{path}", session.id));
        pages.push(
            page["steps"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect(),
        );
        match page["next"].as_u64() {
            Some(next) => path = format!("after={next}"),
            None => break,
        }
    }
    let expected = [vec![0, 1, 2], vec![3], vec![]];
    assert_eq!(pages, expected);
    let of_server = run(&["trajectories", "show", &server.url(), &session.id]);
    assert_eq!(
        of_server.succeeded(),
        run(&["trajectories", "show", &folder.records(), &session.id]).succeeded()
    );
}

#[test]
fn nothing_is_recorded_unless_asked_for() {
    let server = Serving::start(&["echo"]);
    let (status, refusal) = server.get("/trajectories");
    assert_eq!((status, refusal["detail"].as_str().unwrap().contains("--record DIR")), (404, true));
    run(&["trajectories", "list", &server.url()]).failed(1, &["records nothing", "--record DIR"]);
    run(&["trajectories", "list", "/no/such/folder"]).failed(2, &["no folder"]);
    run(&["serve", "echo", "--record-sync", "machine"]).failed(2, &["--record DIR"]);
    run(&["serve", "echo", "--record-keep", "soon"]).code.filter(|code| *code == 2).unwrap();
}

#[test]
fn a_folder_has_one_writer() {
    let folder = Folder::new("writer");
    let records = folder.records();
    let server = Serving::start(&["echo", "--record", &records, "--record-keep", "30d 1GB"]);
    run(&["serve", "echo", "--port", "0", "--record", &records]).failed(2, &["written by another process"]);
    server.stop();
}

#[test]
fn records_are_exported_as_lines() {
    let folder = Folder::new("export");
    killed_server(&["connect4"], &folder, &actions("connect4"));
    let out = folder.0.join("out.jsonl").display().to_string();
    let records = folder.records();
    let printed = run(&["trajectories", "export", &records]);
    assert_eq!(run(&["trajectories", "export", &records, "--out", &out]).succeeded(), "");
    assert_eq!(printed.succeeded(), fs::read_to_string(&out).unwrap());
    assert_eq!(printed.succeeded().lines().count(), 5);
    for line in printed.succeeded().lines() {
        let session: Value = serde_json::from_str(line).unwrap();
        assert!(session["epochs"].is_array(), "{line}");
    }
    assert_eq!(run(&["trajectories", "export", &records, "--environment", "echo"]).succeeded(), "");
}
