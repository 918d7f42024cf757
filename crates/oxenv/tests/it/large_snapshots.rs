//! Snapshots as large as they may be: what can be taken can be given back, and what cannot be is refused
//! before it is made, at every door.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, client::client_with_config};

use crate::process::{Serving, oxenv};
use crate::records::{Folder, Session};

const MIB: u64 = 1 << 20;

/// Functions over a sparse file in the folder that they run in.
const TOOLS: &str = r#"
import os

def fill(size: int):
    with open("large", "wb") as file:
        file.truncate(size)
        for at in (0, size // 2, size - 4):
            file.seek(at)
            file.write(b"data")
    return size

def look():
    with open("large", "rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = [file.seek(at) is None or file.read(4) == b"data" for at in (0, size // 2, size - 4)]
    return [size, found]
"#;

fn serve(folder: &Folder, more: &[&str]) -> Serving {
    folder.file("tools.py", TOOLS);
    let entry = "tools:\n  - name: files\n    mcp_server: { transport: python, path: tools.py }\n    \
                 on_fork: workspace\n";
    let manifest = folder.file("tools.yaml", entry);
    let mut command = oxenv();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", folder.path());
    Serving::of(command.args(["serve", "--port", "0", "--log", "error", "--tools", &manifest]).args(more))
}

fn call(session: &Session<'_>, tool: &str, arguments: &Value) -> Value {
    let action = json!({ "type": "call_tool", "tool_name": tool, "arguments": arguments });
    let reply = session.post("step", &json!({ "action": action }));
    let text = reply["observation"]["result"]["content"][0]["text"].as_str();
    serde_json::from_str(text.unwrap_or_else(|| panic!("{reply}"))).unwrap()
}

/// A request whose body and answer are not copied about here; the answer's status and body.
fn ask(server: &Serving, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = server.connect();
    // Without optimisation, the code of so many bytes takes its time.
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let (host, length) = (server.address, body.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server that refuses a body need not read it.
    let _ = stream.write_all(body);
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let status = std::str::from_utf8(&reply[9..12]).unwrap().parse().unwrap();
    (status, reply.split_off(end + 4))
}

/// The most memory that the server had since this was last asked, in MiB.
fn peak(server: &Serving) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    std::fs::write(format!("/proc/{}/clear_refs", server.pid()), "5").unwrap();
    peak / 1024
}

#[test]
fn what_can_be_taken_can_be_given_back() {
    let size = 200;
    let folder = Folder::new("large-snapshots");
    let server = serve(&folder, &[]);
    let session = Session::open(&server);
    assert_eq!(call(&session, "fill", &json!({ "size": size * MIB })), size * MIB);
    let before = peak(&server);
    let (status, reply) = ask(&server, &format!("/sessions/{}/snapshot", session.id), b"");
    assert_eq!(status, 200);
    let taken = peak(&server).saturating_sub(before);
    // The reply is the very body of a restore.
    let (status, made) = ask(&server, "/restore", &reply);
    let given = peak(&server).saturating_sub(before);
    let made: Value = serde_json::from_slice(&made).unwrap();
    assert_eq!(status, 201, "{made}");
    let restored = Session { server: &server, id: made["session_id"].as_str().unwrap().to_owned() };
    assert_eq!(call(&restored, "look", &json!({})), json!([size * MIB, [true, true, true]]));
    println!("a snapshot of {size} MiB: {taken} MiB of memory to take it, {given} MiB to give it back");
    assert!(taken < size * 5 / 4 && given < size * 5 / 2, "{taken} and {given} MiB for {size}");
}

#[test]
fn what_is_too_large_is_refused_before_it_is_made() {
    let folder = Folder::new("too-large-snapshots");
    let server = serve(&folder, &["--max-snapshot", "8MiB"]);
    let session = Session::open(&server);
    call(&session, "fill", &json!({ "size": 6 * MIB }));
    let (status, small) = ask(&server, &format!("/sessions/{}/snapshot", session.id), b"");
    assert_eq!(status, 200);
    assert_eq!(ask(&server, "/restore", &small).0, 201);
    call(&session, "fill", &json!({ "size": 1024 * MIB }));
    let before = peak(&server);
    let (status, refusal) = ask(&server, &format!("/sessions/{}/snapshot", session.id), b"");
    let refusal = String::from_utf8(refusal).unwrap();
    assert_eq!(status, 501, "{refusal}");
    for says in
        ["has 1073741824 bytes in 1 files", "no more than 8388608 bytes", "--max-snapshot allows more"]
    {
        assert!(refusal.contains(says), "{refusal}");
    }
    assert!(peak(&server).saturating_sub(before) < 16, "it was read");
    // Nor is one taken that another server has made.
    let smaller = serve(&folder, &["--max-snapshot", "1MiB"]);
    let (status, refusal) = ask(&smaller, "/restore", &small);
    assert!(!(200..300).contains(&status), "{}", String::from_utf8_lossy(&refusal));
}

/// A frame and a batch hold 100 MiB, which is what clients accept; larger snapshots are taken over HTTP.
#[test]
fn a_socket_refuses_what_no_frame_holds() {
    let folder = Folder::new("framed-snapshots");
    let server = serve(&folder, &[]);
    let session = Session::open(&server);
    call(&session, "fill", &json!({ "size": 80 * MIB }));
    let asked = json!({ "items": [{ "type": "snapshot", "session": session.id }] }).to_string();
    let (status, batch) = ask(&server, "/batch", asked.as_bytes());
    let batch = String::from_utf8(batch).unwrap();
    assert!(status == 200 && batch.len() < 2000, "{status}: {}", batch.len());
    let mut socket = multi(&server);
    let reply = exchange(&mut socket, &json!({ "id": 1, "type": "attach", "session": session.id }));
    assert_eq!(reply["type"], "attached", "{reply}");
    let reply = exchange(&mut socket, &json!({ "id": 2, "type": "snapshot", "session": session.id }));
    for refusal in [batch, reply.to_string()] {
        for says in ["UNSUPPORTED", "POST /sessions/{id}/snapshot", "no more than 78643200 bytes"] {
            assert!(refusal.contains(says), "{refusal}");
        }
    }
    // The socket goes on, and carries what fits.
    call(&session, "fill", &json!({ "size": MIB }));
    let reply = exchange(&mut socket, &json!({ "id": 3, "type": "snapshot", "session": session.id }));
    assert_eq!(reply["type"], "snapshot");
    let reply = exchange(&mut socket, &json!({ "id": 4, "type": "restore", "data": reply["data"] }));
    assert_eq!(reply["type"], "opened", "{reply}");
}

type Socket = tokio_tungstenite::tungstenite::WebSocket<TcpStream>;

fn multi(server: &Serving) -> Socket {
    let mut request = format!("ws://{}/ws", server.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "oxenv.1".parse().unwrap());
    let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    client_with_config(request, server.connect(), Some(limits)).unwrap().0
}

fn exchange(socket: &mut Socket, frame: &Value) -> Value {
    socket.send(Message::text(frame.to_string())).unwrap();
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}
