//! `serve --audit` when the file's disk does not take what is written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::Serving;
use crate::records::{Folder, Session};

fn call(session: &Session<'_>, message: &str) -> Value {
    let action =
        json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": { "message": message } });
    session.post("step", &json!({ "action": action }))["observation"].clone()
}

/// A pipe that nobody reads is a disk that stalls. Sessions go on, but for their calls, none of which runs
/// unaudited; when the disk goes on, so do calls, and each that was made has its line, once.
#[test]
fn a_stalled_audit_file_refuses_calls_and_holds_nobody_up() {
    let folder = Folder::new("stalled-audit");
    let echo = "mcp_server: { transport: builtin, toolset: echo }";
    let manifest = folder.file("tools.yaml", &format!("tools:\n  - name: echo\n    {echo}\n"));
    let audit = format!("{}/audit.jsonl", folder.path());
    assert!(Command::new("mkfifo").arg(&audit).status().unwrap().success());
    let arguments = ["--tools", &manifest, "--audit", &audit, "--audit-arguments", "--metrics"];
    let server = Serving::start(&[&["grid_world"][..], &arguments].concat());
    let (busy, other) = (Session::open(&server), Session::open(&server));

    // Long arguments fill what may wait.
    let long = "x".repeat(1 << 20);
    let mut made = 0;
    let refused = loop {
        let began = Instant::now();
        let reply = call(&busy, &format!("{made} {long}"));
        if !reply["error"].is_null() {
            let took = began.elapsed();
            assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "{took:?}");
            break reply;
        }
        made += 1;
        assert!(made < 100, "the pipe takes everything");
    };
    assert_eq!(refused["error"]["error_type"], "transport_error");
    let ours = &refused["metadata"]["oxenv"];
    assert_eq!(
        (&ours["code"], &ours["kind"], &ours["delivered"], &ours["retryable"]),
        (&json!("AUDIT_UNAVAILABLE"), &json!("infrastructure"), &json!("no"), &json!(true)),
        "{refused}"
    );

    // While a call waits for its second, others do not.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| call(&busy, "refused"));
        let mut steps = 0;
        while !waiting.is_finished() {
            let began = Instant::now();
            other.post("reset", &json!({}));
            other.post("step", &json!({ "action": { "action": "UP" } }));
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
            steps += 1;
        }
        assert!(steps > 3, "{steps}");
        assert_eq!(waiting.join().unwrap()["metadata"]["oxenv"]["code"], "AUDIT_UNAVAILABLE");
    });
    let page = server.text("/metrics");
    let value = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()
    };
    assert_eq!((value("oxenv_audit_refused_total "), value("oxenv_audit_failed_total ")), (2, 0));
    assert_eq!(value("oxenv_audit_waiting_records "), made);

    // The disk is back.
    let reader = BufReader::new(File::open(&audit).unwrap());
    let read = std::thread::spawn(move || {
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        for line in reader.lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            let key = match (&line["refused"], line["arguments"]["message"].as_str()) {
                (Value::Number(count), _) => format!("refused {count}"),
                (_, Some(message)) => message.split(' ').next().unwrap().to_owned(),
                _ => panic!("{line}"),
            };
            *lines.entry(key).or_default() += 1;
        }
        lines
    });
    for number in made..made + 20 {
        let reply = call(&busy, &format!("{number} {long}"));
        assert!(reply["error"].is_null(), "{reply}");
    }
    let ended = server.stop();
    let said = ended.stderr.matches("tool calls are refused").count();
    assert!((1..=3).contains(&said), "{}", ended.stderr);
    let mut expected: BTreeMap<String, usize> =
        (0..made + 20).map(|number| (number.to_string(), 1)).collect();
    expected.insert("refused 2".to_owned(), 1);
    assert_eq!(read.join().unwrap(), expected);
}

/// A disk that takes nothing at all does not keep the server from its end, and what is lost is said.
#[test]
fn a_full_audit_disk_does_not_keep_the_server_from_its_end() {
    let folder = Folder::new("full-audit");
    let echo = "mcp_server: { transport: builtin, toolset: echo }";
    let manifest = folder.file("tools.yaml", &format!("tools:\n  - name: echo\n    {echo}\n"));
    let server = Serving::start(&["--tools", &manifest, "--audit", "/dev/full"]);
    let session = Session::open(&server);
    for number in 0..20 {
        assert!(call(&session, &number.to_string())["error"].is_null());
    }
    let ended = server.stop();
    assert!(
        ended.stderr.contains("audit records cannot be written, and are tried again"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("waiting=20"), "{}", ended.stderr);
}
