//! `oxenv serve` as a process: its first line, its signals, its logs, its limits.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Ended, Serving, oxenv, run, wait};

/// The time within which `docker stop` must see it gone, and then some to spare.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn its_first_line_names_the_address() {
    let server = Serving::start(&[]);
    let (port, first) = (server.address.port(), server.first_line.clone());
    assert_ne!(port, 0);
    assert_eq!(first, format!("oxenv: serving echo on http://127.0.0.1:{port}\n"));
    assert_eq!(server.get("/health"), (200, json!({ "status": "healthy" })));
    let ended = server.stop();
    assert!(ended.stdout.starts_with("try: curl ") && ended.stdout.lines().count() == 1, "{ended:#?}");
}

/// The second line is a command that works.
#[test]
fn what_it_proposes_to_try_can_be_tried() {
    for (environment, expected) in [("echo", "\"tools\""), ("connect4", "\"legal_actions\"")] {
        let server = Serving::start(&[environment]);
        let mut stdout = String::new();
        let url = server.url();
        let listed = run(&["step", &url, "{\"type\": \"list_tools\"}"]);
        assert!(listed.succeeded().contains("\"tools\""));
        server.signal("TERM");
        stdout.push_str(&server.ended().stdout);
        let command = stdout.strip_prefix("try: ").unwrap_or_else(|| panic!("{stdout}"));
        assert!(command.contains(&url), "{command}");
        // The same request by hand, against a server at another port.
        let server = Serving::start(&[environment]);
        let command = command.replace(&url, &server.url());
        let got = Command::new("/bin/sh").args(["-c", &command]).output().unwrap();
        let reply = String::from_utf8_lossy(&got.stdout).into_owned();
        assert!(reply.contains(expected), "{command}: {reply}");
        server.stop();
    }
}

#[test]
fn it_stops_at_a_signal_with_idle_clients_about() {
    for signal in ["TERM", "INT"] {
        let server = Serving::start(&[]);
        let clients = [server.websocket("/ws"), server.websocket("/mcp"), server.connect()];
        let mut kept = server.connect();
        kept.write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
        kept.read_exact(&mut [0; 15]).unwrap();
        let started = Instant::now();
        server.signal(signal);
        let ended = server.ended();
        assert_eq!(ended.code, Some(0), "SIG{signal}: {ended:#?}");
        assert!(started.elapsed() < SOON, "SIG{signal} took {:?}", started.elapsed());
        assert!(ended.stderr.contains("stopped"), "{ended:#?}");
        drop((clients, kept));
    }
}

#[test]
fn it_stops_in_time_with_clients_that_do_not_let_go() {
    let server = Serving::start(&["--drain-timeout", "300ms"]);
    let mut half = server.connect();
    half.write_all(b"POST /step HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").unwrap();
    let mut head = server.connect();
    head.write_all(b"GET /hea").unwrap();
    // Its frame is begun and never ended.
    let mut frame = server.websocket("/ws");
    frame.write_all(&[0x81, 0xfe]).unwrap();
    let started = Instant::now();
    assert_eq!(server.stop().code, Some(0));
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

/// As process 1 it gets only the signals for which it has handlers.
#[test]
fn it_has_handlers_before_it_says_that_it_serves() {
    let server = Serving::start(&[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
    let caught = u64::from_str_radix(caught, 16).unwrap();
    for (name, number) in [("SIGINT", 2), ("SIGTERM", 15)] {
        assert!(caught & (1 << (number - 1)) != 0, "{name} is not caught");
    }
    // However early the signal comes.
    for _ in 0..5 {
        assert_eq!(Serving::start(&[]).stop().code, Some(0));
    }
    server.stop();
}

#[test]
fn an_address_that_is_taken_is_exit_code_3() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ended = run(&["serve", "--port", &address.port().to_string()]);
    ended.failed(3, &[&address.to_string(), "in use", "--port"]);
}

#[test]
fn an_address_that_is_not_ours_is_exit_code_3() {
    // A documentation address (RFC 5737) that no machine has.
    run(&["serve", "--port", "0", "--host", "192.0.2.1", "--open"]).failed(3, &["192.0.2.1", "--port"]);
}

#[test]
fn an_address_for_others_must_be_meant() {
    for host in ["0.0.0.0", "::", "192.0.2.1"] {
        run(&["serve", "--port", "0", "--host", host]).failed(2, &[host, "--open", "127.0.0.1"]);
    }
    let server = Serving::start(&["--host", "0.0.0.0", "--open"]);
    assert!(server.first_line.contains("http://0.0.0.0:"), "{}", server.first_line);
    assert_eq!(server.get("/health").0, 200);
    server.stop();
}

#[test]
fn what_cannot_be_served_is_said_by_name() {
    run(&["serve", "ecko"]).failed(2, &["'ecko'", "did you mean 'echo'"]);
    run(&["serve", "xyz"]).failed(2, &["'xyz'", "connect4, echo"]);
    let python = ["serve", "package.module:Name", "--log", "error"];
    run(&python).failed(2, &["'package'", "--python"]);
    run(&["serve", env!("CARGO_MANIFEST_DIR")]).failed(2, &["openenv.yaml", "server/app.py"]);
    run(&["serve", "/nowhere/env.py"]).failed(2, &["/nowhere/env.py"]);
    run(&["serve", ""]).failed(2, &["no environment"]);
}

#[test]
fn the_same_seed_gives_the_same_episodes() {
    let episodes = |seed: &str| {
        let server = Serving::start(&["number_guess", "--seed", seed]);
        let episode = |guess: i64| {
            let (status, reset) = server.post("/reset", &json!({}));
            assert_eq!(status, 200);
            let (_, step) = server.post("/step", &json!({ "action": { "guess": guess } }));
            (reset["observation"].clone(), step["observation"].clone())
        };
        let seen: Vec<(Value, Value)> = [50, 25, 75, 10, 90].into_iter().map(episode).collect();
        server.stop();
        seen
    };
    assert_eq!(episodes("7"), episodes("7"));
}

#[test]
fn logs_are_text_without_colour_or_json() {
    let text = Serving::start(&["--log", "debug"]);
    text.get("/health");
    let ended = text.stop();
    assert!(ended.stderr.contains("INFO") && ended.stderr.contains("serving"), "{ended:#?}");
    assert!(!ended.stderr.contains('\x1b') && !ended.stdout.contains('\x1b'), "colour without a terminal");

    let lines = Serving::start(&["--log", "trace", "--log-format", "json"]);
    lines.post("/step", &json!({ "action": { "type": "list_tools" } }));
    drop(lines.websocket("/ws"));
    let ended = lines.stop();
    let mut messages = Vec::new();
    for line in ended.stderr.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["timestamp"].is_string() && event["level"].is_string(), "{line}");
        messages.extend(event["message"].as_str().map(str::to_owned));
    }
    assert!(messages.iter().any(|message| message == "serving"), "{messages:?}");
    assert!(messages.iter().any(|message| message == "stopped"), "{messages:?}");

    let quiet = Serving::start(&["--log", "error"]);
    assert_eq!(quiet.stop().stderr, "");
}

/// Whoever only wanted the first line must not take the server along.
#[test]
fn it_serves_on_when_nobody_reads_its_output() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = oxenv()
        .args(["serve", "--port", "0", "--log-format", "json"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    assert!(line.contains("\"serving\""), "it ended: {line}");
    Command::new("/bin/sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().unwrap();
    assert_eq!(wait(&mut child).code(), Some(0));
}

#[test]
fn it_lives_through_running_out_of_descriptors() {
    let binary = env!("CARGO_BIN_EXE_oxenv");
    let script = format!("ulimit -n 64; exec '{binary}' serve --port 0");
    let server = Serving::of(Command::new("/bin/sh").env_clear().args(["-c", &script]));
    for _ in 0..2 {
        let clients: Vec<_> = (0..80).map(|_| server.connect()).collect();
        // The latest are served even now: the oldest idle ones have made room for them.
        let mut served = 0;
        for mut client in clients.iter().rev().take(5) {
            client.write_all(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").unwrap();
            let mut head = [0; 15];
            client.read_exact(&mut head).unwrap();
            served += usize::from(&head == b"HTTP/1.1 200 OK");
        }
        assert_eq!(served, 5);
        drop(clients);
        assert_eq!(server.get("/health").0, 200);
    }
    let ended: Ended = server.stop();
    assert!(!ended.stderr.contains("could not accept a connection"), "{ended:#?}");
}

#[test]
fn production_has_no_control() {
    let server = Serving::start(&["--mode", "production"]);
    assert_eq!(server.get("/state").0, 404);
    assert_eq!(server.post("/reset", &json!({})).0, 404);
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    assert!(server.post("/mcp", &list).1["result"]["tools"].is_array());
    server.stop();
}

/// A wait that no clock can hold used to be taken, and then every session panicked.
#[test]
fn a_time_that_no_clock_can_hold_is_refused_before_it_serves() {
    for flag in ["--queue-timeout", "--idle-timeout", "--drain-timeout"] {
        for endless in ["18446744073709551615s", "1e19"] {
            let refused = run(&["serve", "echo", "--port", "0", flag, endless]);
            refused.failed(2, &[flag, "must be at most 4294967296s"]);
        }
    }
}
