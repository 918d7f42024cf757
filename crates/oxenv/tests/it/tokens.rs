//! Tokens of the command: where they come from, who gets in with them, and that nothing shows one.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::process::{Ended, File, Serving, oxenv, run};

/// A request with an `Authorization` header.
fn ask(server: &Serving, authorization: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = server.connect();
    let body = body.to_string();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nauthorization: {authorization}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

fn bearer(server: &Serving, token: &str, path: &str) -> u16 {
    ask(server, &format!("Bearer {token}"), "GET", path, &Value::Null).0
}

#[test]
fn tokens_come_from_files_and_variables_together() {
    let control = File::new("control.tokens", "# training\nalice:one-token\ntwo-token\n");
    let observers = File::new("observer.tokens", "three-token\n");
    let settings = format!(
        "control_token_file = \"{}\"\nobserver_token_file = \"{}\"\nmax_sessions_per_token = 1\n",
        control.path(),
        observers.path()
    );
    let file = File::new("tokens.toml", &settings);
    let flags = ["--control-token-file", control.path(), "--observer-token-file", observers.path()];
    let (mut by_flags, mut by_variables, mut by_file) = (oxenv(), oxenv(), oxenv());
    by_flags.args(["serve", "--port", "0", "--max-sessions-per-token", "1"]).args(flags);
    by_variables.args(["serve", "--port", "0"]).envs([
        ("OXENV_CONTROL_TOKEN_FILE", control.path()),
        ("OXENV_OBSERVER_TOKEN_FILE", observers.path()),
        ("OXENV_MAX_SESSIONS_PER_TOKEN", "1"),
    ]);
    by_file.args(["serve", "--port", "0", "--config", file.path()]);
    for mut command in [by_flags, by_variables, by_file] {
        command.envs([("OXENV_CONTROL_TOKEN", "four-token"), ("OXENV_OBSERVER_TOKEN", "bob:five-token")]);
        let server = Serving::of(&mut command);
        for token in ["one-token", "two-token", "four-token"] {
            let made = ask(&server, &format!("Bearer {token}"), "POST", "/sessions", &json!({}));
            assert_eq!(made.0, 201, "{token}: {}", made.1);
        }
        for token in ["three-token", "five-token"] {
            assert_eq!(bearer(&server, token, "/sessions"), 200, "{token}");
            assert_eq!(
                ask(&server, &format!("Bearer {token}"), "POST", "/reset", &json!({})).0,
                403,
                "{token}"
            );
        }
        assert_eq!((server.get("/sessions").0, server.get("/health").0), (401, 200));
        server.stop();
    }
}

#[test]
fn generated_tokens_are_printed_once_and_never_logged() {
    let server = Serving::start(&["--generate-tokens", "--host", "0.0.0.0", "--log", "trace"]);
    server.signal("TERM");
    let first = server.ended();
    let server = Serving::start(&["--generate-tokens", "--log", "trace", "--log-format", "json"]);
    let address = server.address;
    assert_eq!(server.get("/state").0, 401);
    // What was printed is read at the end, so here is a request with a token that is none.
    assert_eq!(bearer(&server, "no-token-of-anybody", "/state"), 401);
    let second = server.stop();
    let mut seen = Vec::new();
    for ended in [&first, &second] {
        for whose in ["control", "observer"] {
            let line = format!("{whose} token: ");
            let tokens: Vec<&str> =
                ended.stdout.lines().filter_map(|text| text.strip_prefix(&line)).collect();
            assert_eq!(tokens.len(), 1, "{ended:#?}");
            assert_eq!(tokens[0].len(), 43);
            assert!(!ended.stderr.contains(tokens[0]), "a token is logged");
            assert_eq!(ended.stdout.matches(tokens[0]).count(), 1);
            assert!(!seen.contains(&tokens[0].to_owned()), "a token came twice");
            seen.push(tokens[0].to_owned());
        }
        assert!(ended.stdout.contains("Authorization: Bearer $TOKEN"), "{ended:#?}");
        assert!(!ended.stderr.contains("no-token-of-anybody"), "what was presented is logged");
    }
    assert_ne!(address.port(), 0);
}

/// Every door, with everything logged.
#[test]
fn tokens_are_in_no_log_and_no_reply() {
    let mut command = oxenv();
    command
        .args(["serve", "--port", "0", "--log", "trace"])
        .envs([("OXENV_CONTROL_TOKEN", "hidden-control"), ("OXENV_OBSERVER_TOKEN", "hidden-observer")]);
    let server = Serving::of(&mut command);
    let (status, made) = ask(&server, "Bearer hidden-control", "POST", "/sessions", &json!({}));
    assert_eq!(status, 201, "{made}");
    let agent = made["agent_token"].as_str().unwrap();
    let mac = agent.rsplit_once('.').unwrap().1;
    let path = format!("/sessions/{}/mcp", made["session_id"].as_str().unwrap());
    let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" },
    } });
    // The base64 of "oxenv:hidden-control".
    let basic = "Basic b3hlbnY6aGlkZGVuLWNvbnRyb2w=";
    let agents = format!("Bearer {agent}");
    let wrong = format!("Bearer {agent}x");
    let mut told = Vec::new();
    for authorization in
        [basic, "Bearer hidden-control", "Bearer hidden-observer", &agents, &wrong, "Bearer hidden-x"]
    {
        for (method, path, body) in [
            ("GET", "/openapi.json", &Value::Null),
            ("GET", "/sessions", &Value::Null),
            ("GET", "/metadata", &Value::Null),
            ("POST", "/mcp", &list),
            ("POST", "/mcp", &hello),
            ("POST", path.as_str(), &list),
            ("POST", path.as_str(), &hello),
            ("POST", "/step", &json!({})),
            ("GET", "/ws", &Value::Null),
        ] {
            told.push(ask(&server, authorization, method, path, body).1.to_string());
        }
    }
    let ended = server.stop();
    told.extend([ended.stdout, ended.stderr]);
    for text in told {
        for secret in ["hidden", mac, "aGlkZGVu"] {
            assert!(!text.contains(secret), "'{secret}' is told in {text}");
        }
    }
}

#[test]
fn wrong_tokens_are_told_by_their_place() {
    let bad = File::new("bad.tokens", "good\nsecret word\n");
    let empty = File::new("empty.tokens", "# none yet\n");
    let ended = run(&["serve", "--control-token-file", bad.path()]);
    ended.failed(2, &[bad.path(), "line 2"]);
    assert!(!ended.stderr.contains("secret"), "{ended:#?}");
    run(&["serve", "--control-token-file", empty.path()]).failed(2, &[empty.path(), "no token"]);
    run(&["serve", "--control-token-file", "/nowhere.tokens"]).failed(2, &["/nowhere.tokens"]);
    run(&["serve", "--max-sessions-per-token", "2"])
        .failed(2, &["max_sessions_per_token", "--control-token-file"]);
    run(&["serve", "--generate-tokens", "--max-sessions-per-token", "0"])
        .failed(2, &["max_sessions_per_token"]);
    for (name, value, says) in [
        ("OXENV_CONTROL_TOKEN", "secret word", "OXENV_CONTROL_TOKEN"),
        ("OXENV_OBSERVER_TOKEN", "secret", "--control-token-file"),
        ("OXENV_GENERATE_TOKENS", "maybe", "OXENV_GENERATE_TOKENS"),
        ("OXENV_MAX_SESSIONS_PER_TOKEN", "many", "OXENV_MAX_SESSIONS_PER_TOKEN"),
    ] {
        let ended = Ended::of(oxenv().arg("serve").env(name, value).output().unwrap());
        ended.failed(2, &[says]);
        assert!(!ended.stderr.contains("secret"), "{ended:#?}");
    }
}

/// An address that others can reach needs tokens, or to be meant.
#[test]
fn with_tokens_others_may_reach_it() {
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--host", "0.0.0.0"]).env("OXENV_CONTROL_TOKEN", "one");
    let server = Serving::of(&mut command);
    assert_eq!((server.get("/state").0, bearer(&server, "one", "/state")), (401, 200));
    server.stop();
    run(&["serve", "--host", "0.0.0.0"])
        .failed(2, &["0.0.0.0", "--open", "--control-token-file", "127.0.0.1"]);
}

#[test]
fn clients_send_a_token() {
    let mut command = oxenv();
    command.args(["serve", "--port", "0"]).env("OXENV_CONTROL_TOKEN", "hidden/to=ken");
    let server = Serving::of(&mut command);
    let (url, with) = (server.url(), format!("http://oxenv:hidden%2Fto%3Dken@{}", server.address));
    let action = r#"{"type": "list_tools"}"#;
    assert!(run(&["step", &with, action]).succeeded().contains("\"tools\""));
    run(&["step", &url, action, "--reset", "--token", "hidden/to=ken"]).succeeded();
    let said = run(&["call", &with, "echo_message", r#"{"message": "hi"}"#]);
    assert_eq!(said.succeeded(), "hi\n");
    let by_variable =
        oxenv().args(["step", &url, action]).env("OXENV_TOKEN", "hidden/to=ken").output().unwrap();
    Ended::of(by_variable).succeeded();
    // What is given wins over the URL, and the URL over the variable.
    run(&["step", &with, action, "--token", "hidden-x"]).failed(1, &["401"]);
    let by_url = oxenv().args(["step", &with, action]).env("OXENV_TOKEN", "hidden-x").output().unwrap();
    Ended::of(by_url).succeeded();
    for arguments in [
        &["step", &url, action][..],
        &["step", &url, action, "--token", "hidden-x"],
        &["call", &with.replace("ken", "kem"), "echo_message"],
        &["call", &format!("{with}/nowhere"), "echo_message"],
        &["call", &with.replace("http", "https"), "echo_message"],
        &["step", "http://oxenv:hidden@127.0.0.1:1", action],
        &["step", "http://oxenv:hidden@nobody.invalid", action],
        &["step", "http://oxenv:hid den@127.0.0.1:1", action],
    ] {
        let ended = run(arguments);
        assert_ne!(ended.code, Some(0), "{arguments:?}");
        assert!(!ended.stderr.contains("hid"), "a token is shown: {ended:#?}");
        assert!(ended.stderr.starts_with("error: "), "{ended:#?}");
    }
    server.stop();
}
