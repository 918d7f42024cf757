//! `oxenv replay`: what it proves, and what it finds.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Ended, Serving, oxenv, run};
use crate::records::{Folder, Session, actions, killed_server, segments};

const TOKEN: &str = "hunter2-of-the-test";

/// An MCP server whose one tool gives the next number of a file, or of its session, and a secret.
const COUNTER: &str = r#"#!/bin/sh
own=0
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9][0-9]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"counter","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"next","description":"The next number.","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
    *'"tools/call"'*)
      count=$(($(cat "$COUNT") + 1)); echo "$count" > "$COUNT"
      own=$((own + 1)); [ "$BY" = session ] && count=$own
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s %s"}]}}\n' "$id" "$count" "$TOKEN" ;;
    *) [ -n "$id" ] && printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id" ;;
  esac
done
"#;

/// A manifest with that server.
fn counter(folder: &Folder, by: &str, rules: &str) -> String {
    let script = folder.file("counter.sh", COUNTER);
    let count = folder.file("count", "0\n");
    folder.file(
        "tools.yaml",
        &format!(
            "version: \"1.0\"\ntools:\n  - name: counter\n    {rules}\n    mcp_server:\n      \
             command: /bin/sh\n      args: [\"{script}\"]\n      env: {{ COUNT: \"{count}\", BY: {by}, \
             TOKEN: \"${{TOKEN}}\" }}\n"
        ),
    )
}

fn with_token(command: &mut Command) -> &mut Command {
    command.env("TOKEN", TOKEN).env("PATH", "/usr/bin:/bin")
}

fn replay(arguments: &[&str]) -> Ended {
    Ended::of(with_token(oxenv().arg("replay").args(arguments)).output().unwrap())
}

#[test]
fn a_changed_byte_is_found_though_its_checksum_fits() {
    let folder = Folder::new("tampered");
    killed_server(&["connect4"], &folder, &actions("connect4"));
    let segment = segments(&folder.0.join("records")).remove(0);
    let log = fs::read_to_string(&segment).unwrap();
    let mut changed = 0;
    let tampered: String = log
        .split_inclusive('\n')
        .map(|line| {
            let json = line.get(18..).unwrap_or_default().trim_end();
            let entry: Value = serde_json::from_str(json).unwrap_or_default();
            if changed > 0 || entry["event"] != "step" || entry["step"] != 3 {
                return line.to_owned();
            }
            changed += 1;
            let json = json.replacen("\"board\":[[0", "\"board\":[[1", 1);
            format!("{:08x} {:08x} {json}\n", json.len(), crc32fast::hash(json.as_bytes()))
        })
        .collect();
    assert_eq!((changed, tampered.len(), log != tampered), (1, log.len(), true));
    fs::write(&segment, tampered).unwrap();
    let records = folder.records();
    let ended = run(&["replay", &records, "--json"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    let lines: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["outcome"], &lines[0]["seq"]), (&json!("differs"), &json!(4)), "{ended:#?}");
    assert!(lines[0]["recorded"].as_str().unwrap().contains("[[1"), "{ended:#?}");
    assert!(lines[0]["replayed"].as_str().unwrap().contains("[[0"), "{ended:#?}");
    // A socket's session has nothing to do with it.
    assert_eq!(lines[4]["outcome"], "same", "{ended:#?}");
    let ended = run(&["replay", &records]);
    assert!(ended.stdout.contains("differs at seq 4") && ended.stdout.contains("recorded: "), "{ended:#?}");
    assert!(ended.stderr.contains("were not the same"), "{ended:#?}");
}

/// The tool gives another number each time, so only the tape can give the recorded ones.
#[test]
fn tools_of_other_servers_are_answered_from_the_record() {
    let folder = Folder::new("tape");
    let manifest = counter(&folder, "file", "rate_limit: 3/h");
    let records = folder.records();
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--tools", &manifest, "--record", &records]);
    let server = Serving::of(with_token(&mut command));
    let session = Session::open(&server);
    session.post("reset", &json!({}));
    let call = json!({ "type": "call_tool", "tool_name": "next", "arguments": {} });
    let wrong = json!({ "type": "call_tool", "tool_name": "nobody", "arguments": {} });
    // The fourth call is one too many for the hour.
    session.steps(&[call.clone(), json!({ "type": "list_tools" }), call.clone(), wrong]);
    let agent = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "next", "arguments": {} },
    });
    let said = session.post("mcp", &agent).to_string();
    assert!(said.contains("3 "), "{said}");
    session.steps(std::slice::from_ref(&call));
    server.stop();
    let log = String::from_utf8(folder.log()).unwrap();
    assert!(log.contains("RATE_LIMITED") && !log.contains(TOKEN), "{log}");
    let tools = ["--tools", &manifest];
    let same = replay(&[&[records.as_str()], &tools[..]].concat());
    assert!(same.succeeded().ends_with("1 of 1 the same\n"), "{same:#?}");
    assert_eq!(fs::read_to_string(folder.0.join("count")).unwrap(), "3\n", "a tool was called");
    let live = replay(&[&[records.as_str(), "--live"], &tools[..]].concat());
    assert_eq!(live.code, Some(1), "{live:#?}");
    assert!(live.stdout.contains("differs at seq 2") && !live.stdout.contains(TOKEN), "{live:#?}");
    let without = replay(&[&records]);
    assert!(
        without.stdout.contains("cannot be replayed") && without.stdout.contains("--tools FILE"),
        "{without:#?}"
    );
}

/// A fork by replay calls tools again; the replay of such a fork does not.
#[test]
fn forks_and_restored_sessions_of_other_servers_tools_are_replayed() {
    let folder = Folder::new("forks");
    let manifest = counter(&folder, "session", "on_fork: replay");
    let records = folder.records();
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--tools", &manifest, "--record", &records]);
    let server = Serving::of(with_token(&mut command));
    let session = Session::open(&server);
    session.post("reset", &json!({}));
    let call = [json!({ "type": "call_tool", "tool_name": "next", "arguments": {} })];
    session.steps(&call);
    let (fork, restored) = (session.fork(), session.restored());
    fork.steps(&call);
    restored.steps(&call);
    server.stop();
    let count = || fs::read_to_string(folder.0.join("count")).unwrap();
    assert_eq!(count(), "5\n");
    let same = replay(&[&records, "--tools", &manifest]);
    assert!(same.succeeded().ends_with("3 of 3 the same\n"), "{same:#?}");
    assert_eq!(count(), "5\n", "a tool was called");
}

/// A server whose tool counts, and then waits as long as it is told to before it answers.
const SLOW_COUNTER: &str = r#"#!/bin/sh
count=0
while read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9][0-9]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"counter","version":"1"}}}\n' "$id" ;;
    *'"tools/list"'*)
      printf '{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"next","description":"The next number.","inputSchema":{"type":"object"}}]}}\n' "$id" ;;
    *'"tools/call"'*)
      count=$((count + 1))
      case "$line" in *'"slow":true'*) read -r line ;; esac
      printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}\n' "$id" "$count" ;;
    *) [ -n "$id" ] && printf '{"jsonrpc":"2.0","id":%s,"result":{}}\n' "$id" ;;
  esac
done
"#;

#[test]
fn a_call_that_was_cut_off_is_a_result_and_neither_forks_nor_replays_pretend_to_know_it() {
    for (forks_by, refused) in [("replay", true), ("stateless", false)] {
        let folder = Folder::new(&format!("cut-off-{forks_by}"));
        let script = folder.file("counter.sh", SLOW_COUNTER);
        let manifest = folder.file(
            "tools.yaml",
            &format!(
                "version: \"1.0\"\ntools:\n  - {{ name: counter, on_fork: {forks_by}, mcp_server: \
                 {{ command: /bin/sh, args: [\"{script}\"] }} }}\n"
            ),
        );
        let records = folder.records();
        let server = Serving::of(with_token(
            oxenv().args(["serve", "--port", "0", "--record", &records, "--tools", &manifest]),
        ));
        let session = Session::open(&server);
        let call =
            |slow: bool| json!({ "type": "call_tool", "tool_name": "next", "arguments": { "slow": slow } });
        session.post("reset", &json!({}));
        session.post("step", &json!({ "action": call(false) }));
        let cut_off = session.post("step", &json!({ "action": call(true), "timeout_s": 0.3 }));
        let observation = &cut_off["observation"];
        assert_eq!(observation["error"]["error_type"], "timeout", "{cut_off}");
        let ours = &observation["metadata"]["oxenv"];
        assert_eq!(
            (&ours["code"], &ours["delivered"]),
            (&json!("DEADLINE_EXCEEDED"), &json!("maybe")),
            "{cut_off}"
        );
        assert_eq!((&cut_off["reward"], &cut_off["done"]), (&Value::Null, &json!(false)), "{cut_off}");
        session.post("step", &json!({ "action": call(false) }));
        for what in ["fork", "snapshot"] {
            let (status, body) = server.post(&format!("/sessions/{}/{what}", session.id), &json!({}));
            assert_eq!(status == 409, refused, "{what}: {status} {body}");
            let named = body.to_string().contains("a call of tool 'next' was cut off");
            assert_eq!(named, refused, "{what}: {body}");
        }
        drop(server);
        let ended = replay(&[&records, "--tools", &manifest]);
        match refused {
            true => {
                let named = "cannot be replayed: a call of tool 'next' was cut off (seq 3)";
                assert!(ended.code == Some(1) && ended.stdout.starts_with(named), "{ended:?}");
            }
            false => assert!(ended.succeeded().starts_with("same"), "{ended:?}"),
        }
    }
}

#[test]
fn a_session_with_a_rubric_is_replayed_with_it() {
    let folder = Folder::new("rubric");
    let rubric = folder.file(
        "rubric.toml",
        "version = 1\n[rubric]\ntype = \"sequence\"\nparts = [{ type = \"environment_reward\" }, { type = \
         \"constant\", value = 0.25 }]\n",
    );
    let records = folder.records();
    let server = Serving::start(&["number_guess", "--record", &records, "--rubric", &rubric]);
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    session.steps(&actions("number_guess"));
    let id = session.id.clone();
    server.stop();
    let same = run(&["replay", &records, &id, "--rubric", &rubric]);
    assert!(same.succeeded().ends_with("1 of 1 the same\n"), "{same:#?}");
    let without = run(&["replay", &records, &id]);
    assert_eq!(without.code, Some(1), "{without:#?}");
}

/// Every command of docs/replay.md, but for the server's own.
#[test]
fn the_documentation_s_examples_work() {
    let folder = Folder::new("documented");
    folder.file(
        "tools.yaml",
        "version: \"1.0\"\ntools:\n  - name: echo\n    mcp_server: { transport: builtin, toolset: echo }\n",
    );
    let call = &actions("echo")[0];
    folder.file("calls.jsonl", &format!("{call}\n"));
    folder.file("rubric.json", r#"{"version": 1, "rubric": {"type": "environment_reward"}}"#);
    let server = Serving::start(&["connect4", "--record", &folder.records()]);
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    session.steps(&actions("connect4"));
    let documentation = include_str!("../../../../docs/replay.md");
    let blocks = documentation.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut tried = 0;
    for line in blocks.flat_map(str::lines).filter(|line| !line.contains(" serve ")) {
        let line = line.split(" #").next().unwrap();
        let line = line.replace("SESSION", &session.id).replace("http://127.0.0.1:8000", &server.url());
        let arguments = line.strip_prefix("oxenv ").unwrap().split_whitespace();
        let ended = Ended::of(oxenv().args(arguments).current_dir(folder.path()).output().unwrap());
        assert_eq!(ended.code, Some(0), "{line}: {ended:#?}");
        tried += 1;
    }
    assert!(tried >= 10, "{tried}");
}

#[test]
fn what_cannot_be_replayed_is_said() {
    let folder = Folder::new("cannot");
    killed_server(&["echo"], &folder, &actions("echo"));
    let records = folder.records();
    let ended = run(&["replay", &records, "--environment", "connect4"]);
    assert_eq!(ended.code, Some(1), "{ended:#?}");
    run(&["replay", &records, "nobody"]).failed(2, &["nobody", "record"]);
    run(&["replay", "/no/such/folder"]).failed(2, &["no folder"]);
    let empty = Folder::new("empty");
    fs::create_dir(empty.0.join("records")).unwrap();
    run(&["replay", &empty.records()]).failed(2, &["no record"]);
}

/// The folders that replays have made within another.
fn made(within: &Path) -> Vec<String> {
    let names = fs::read_dir(within).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("oxenv-replay-")).collect()
}

#[test]
fn a_replay_that_is_ended_leaves_nothing_or_is_cleared_up_after_by_the_next() {
    let folder = Folder::new("ended");
    let script = folder.file("nap.sh", &SLOW_COUNTER.replace("read -r line ;; esac\n", "sleep 2 ;; esac\n"));
    let manifest = folder.file(
        "tools.yaml",
        &format!(
            "version: \"1.0\"\ntools:\n  - {{ name: counter, mcp_server: {{ command: /bin/sh, args: \
             [\"{script}\"] }} }}\n"
        ),
    );
    let records = folder.records();
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--tools", &manifest, "--record", &records]);
    let server = Serving::of(with_token(&mut command));
    let session = Session::open(&server);
    session.post("reset", &json!({}));
    session.steps(&[json!({ "type": "call_tool", "tool_name": "next", "arguments": { "slow": true } })]);
    server.stop();
    let temporary = folder.0.join("temporary");
    fs::create_dir(&temporary).unwrap();
    let start = || {
        let mut command = oxenv();
        command.args(["replay", &records, "--tools", &manifest, "--live"]).env("TMPDIR", &temporary);
        with_token(&mut command).spawn().unwrap()
    };
    for (signal, code) in [("TERM", Some(5)), ("INT", Some(5)), ("KILL", None)] {
        let mut replay = start();
        while made(&temporary).is_empty() {
            assert!(replay.try_wait().unwrap().is_none(), "it ended before");
            std::thread::yield_now();
        }
        let sent = Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {}", replay.id())]).status();
        assert!(sent.unwrap().success());
        assert_eq!(replay.wait().unwrap().code(), code, "{signal}");
        assert_eq!(made(&temporary).len(), usize::from(code.is_none()), "{signal}");
    }
    assert_eq!(start().wait().unwrap().code(), Some(0));
    assert_eq!(made(&temporary), [""; 0]);
}
