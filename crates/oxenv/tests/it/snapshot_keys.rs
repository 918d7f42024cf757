//! Snapshots of the built binary: who can restore one, and what is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::process::{File, Serving, oxenv, run};
use crate::records::{Folder, Session};

/// A snapshot of a new session.
fn saved(server: &Serving) -> String {
    let session = Session::open(server);
    session.post("reset", &json!({}));
    session.post("snapshot", &json!({}))["snapshot"].as_str().unwrap().to_owned()
}

fn restore(server: &Serving, snapshot: &str) -> (u16, Value) {
    server.post("/restore", &json!({ "snapshot": snapshot }))
}

/// That it is refused as no snapshot for this server, for a reason that says this.
#[track_caller]
fn refused(server: &Serving, snapshot: &str, says: &str) {
    let (status, reply) = restore(server, snapshot);
    assert_eq!((status, &reply["oxenv"]["code"]), (422, &json!("SNAPSHOT_INVALID")), "{reply}");
    assert!(reply["detail"].as_str().unwrap().contains(says), "'{says}' is not said: {reply}");
}

#[test]
fn a_server_without_a_key_file_restores_what_itself_has_saved() {
    let (one, other) = (Serving::start(&["grid_world"]), Serving::start(&["grid_world"]));
    let snapshot = saved(&one);
    assert_eq!(restore(&one, &snapshot).0, 201);
    refused(&other, &snapshot, "only snapshots that this process has made");
    refused(&one, &snapshot[..snapshot.len() / 2], "it is cut or changed");
    let (start, end) = snapshot.split_at(snapshot.len() / 2);
    let changed =
        if let Some(rest) = end.strip_prefix('A') { format!("B{rest}") } else { format!("A{}", &end[1..]) };
    refused(&one, &format!("{start}{changed}"), "it is cut or changed");
    refused(&one, &snapshot.replacen("oxs2.", "oxs1.", 1), "an older version");
    assert_eq!(other.get("/sessions").1["sessions"].as_array().map(Vec::len), Some(0));
}

#[test]
fn servers_with_the_same_key_file_restore_each_others_snapshots() {
    let key = File::new("snapshots.key", "0123456789abcdef0123456789abcdef\n");
    let same = File::new("same.key", "0123456789abcdef0123456789abcdef");
    let another = File::new("another.key", "0123456789abcdef0123456789abcdeX\n");
    let config = File::new("snapshots.toml", &format!("snapshot_key_file = \"{}\"\n", same.path()));
    let one = Serving::start(&["grid_world", "--snapshot-key-file", key.path()]);
    let snapshot = saved(&one);
    let by_file = Serving::start(&["grid_world", "--config", config.path()]);
    let mut command = oxenv();
    command.args(["serve", "grid_world", "--port", "0"]).env("OXENV_SNAPSHOT_KEY_FILE", key.path());
    let by_variable = Serving::of(&mut command);
    for server in [&one, &by_file, &by_variable] {
        assert_eq!(restore(server, &snapshot).0, 201);
    }
    let other = Serving::start(&["grid_world", "--snapshot-key-file", another.path()]);
    refused(&other, &snapshot, "--snapshot-key-file, so only snapshots of servers with the same file");
}

#[test]
fn the_key_beside_a_record_outlives_its_server() {
    let folder = Folder::new("snapshot-key");
    let records = folder.records();
    let one = Serving::start(&["grid_world", "--record", &records]);
    let snapshot = saved(&one);
    one.stop();
    let path = std::path::Path::new(&records).join("snapshot.key");
    let about = fs::metadata(&path).unwrap();
    assert_eq!((about.len(), about.permissions().mode() & 0o777), (32, 0o600));
    let again = Serving::start(&["grid_world", "--record", &records]);
    assert_eq!(restore(&again, &snapshot).0, 201);
    again.stop();
    fs::remove_file(&path).unwrap();
    let without = Serving::start(&["grid_world", "--record", &records]);
    refused(&without, &snapshot, "snapshot.key beside its record");
    without.stop();
    // Records are read as if it were not there.
    assert!(run(&["trajectories", "list", &records]).succeeded().contains("grid_world"));
}

#[test]
fn what_cannot_be_a_key_is_refused_before_anything_is_served() {
    let short = File::new("short.key", "secret\n");
    let ended = run(&["serve", "--port", "0", "--snapshot-key-file", short.path()]);
    ended.failed(2, &[short.path(), "from 32 to 4096 bytes", "openssl rand"]);
    assert!(!ended.stderr.contains("secret"), "{ended:#?}");
    run(&["serve", "--port", "0", "--snapshot-key-file", "/nonexistent/key"])
        .failed(2, &["/nonexistent/key"]);
    run(&["serve", "--port", "0", "--snapshot-key-file", "/dev/zero"]).failed(2, &["/dev/zero", "4096"]);
}

/// A server with two tools, one of which leaves a mark.
const SERVER: &str = r#"#!/bin/sh
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9][0-9]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"fine","description":"","inputSchema":{"type":"object"}},{"name":"evil","description":"","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
    *'"tools/call"'*)
      case "$line" in *'"evil"'*) echo ran > "$MARK" ;; esac
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"done"}]}}\n' "$id" ;;
    *) [ -n "$id" ] && printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id" ;;
  esac
done
"#;

/// The manifest of that server, with more rules.
fn manifest(folder: &Folder, name: &str, rules: &str) -> String {
    let (script, mark) = (folder.file("server.sh", SERVER), folder.path().to_owned() + "/mark");
    let server =
        format!("{{ transport: stdio, command: sh, args: [\"{script}\"], env: {{ MARK: \"{mark}\" }} }}");
    let entry =
        format!("  - name: s\n    mcp_server: {server}\n    on_fork: replay\n    on_reset: restart\n{rules}");
    folder.file(name, &format!("tools:\n{entry}"))
}

/// A snapshot of a session that has called that tool.
fn saved_after(server: &Serving, tool: &str) -> String {
    let session = Session::open(server);
    session.post("reset", &json!({}));
    session.steps(&[json!({ "type": "call_tool", "tool_name": tool, "arguments": {} })]);
    session.post("snapshot", &json!({}))["snapshot"].as_str().unwrap().to_owned()
}

/// A snapshot that is changed to make another call, and a digest that anybody can make.
#[test]
fn a_forged_snapshot_runs_no_tool_that_policy_denies() {
    let folder = Folder::new("forged");
    let mark = folder.0.join("mark");
    let strict = manifest(&folder, "strict.yaml", "    deny: [evil]\n");
    let server = Serving::start(&["--tools", &strict]);
    let snapshot = saved_after(&server, "fine");
    let bytes = URL_SAFE_NO_PAD.decode(&snapshot["oxs2.".len()..]).unwrap();
    let mut forged = bytes.clone();
    let name = b"\"fine\"";
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!places.is_empty(), "the call is in the snapshot");
    for at in places {
        forged[at + 1..at + 5].copy_from_slice(b"evil");
    }
    let end = forged.len() - 32;
    let digest = Sha256::digest(&forged[..end]);
    forged[end..].copy_from_slice(&digest);
    refused(&server, &format!("oxs2.{}", URL_SAFE_NO_PAD.encode(&forged)), "made with another key");
    refused(&server, &format!("oxs1.{}", URL_SAFE_NO_PAD.encode(&forged)), "not authenticated");
    assert!(!mark.exists(), "the tool ran");
    assert_eq!(restore(&server, &snapshot).0, 201);
}

/// The key vouches for who made a snapshot, not for what the policy of this server is.
#[test]
fn a_genuine_snapshot_repeats_no_call_that_policy_denies_here() {
    let folder = Folder::new("denied-here");
    let mark = folder.0.join("mark");
    let tools = manifest(&folder, "tools.yaml", "");
    let key = folder.file("key", "0123456789abcdef0123456789abcdef");
    let audit = folder.0.join("audit.jsonl").display().to_string();
    let key = ["--snapshot-key-file", &key];
    let one = Serving::start(&["--tools", &tools, "--audit", &audit, key[0], key[1]]);
    let snapshot = saved_after(&one, "evil");
    assert_eq!(restore(&one, &snapshot).0, 201);
    one.stop();
    fs::remove_file(&mark).unwrap();
    let tools = manifest(&folder, "tools.yaml", "    deny: [evil]\n");
    let other = Serving::start(&["--tools", &tools, "--audit", &audit, key[0], key[1]]);
    let (status, reply) = restore(&other, &snapshot);
    assert_eq!((status, &reply["oxenv"]["code"]), (501, &json!("UNSUPPORTED")), "{reply}");
    assert!(reply["detail"].as_str().unwrap().contains("deny: evil"), "{reply}");
    other.stop();
    assert!(!mark.exists(), "the tool ran");
    let audit = fs::read_to_string(&audit).unwrap();
    let decisions: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decisions: Vec<&str> = decisions.iter().map(|record| record["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["allowed", "repeat", "denied"], "{audit}");
}
