//! The small commands against a real server, and against things that are none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::process::{Ended, Serving, oxenv, run};

#[test]
fn envs_lists_what_can_be_served() {
    let listed = run(&["envs", "--json"]);
    let list: Value = serde_json::from_str(listed.succeeded()).unwrap();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["connect4", "echo", "grid_world", "number_guess"]);
    for one in list.as_array().unwrap() {
        assert!(!one["description"].as_str().unwrap().is_empty() && one["version"].is_string(), "{one}");
        assert!(one["capabilities"]["deterministic"].is_boolean(), "{one}");
    }
    let text = run(&["envs"]);
    assert_eq!(text.succeeded().lines().count(), names.len());
    assert!(names.iter().all(|name| text.stdout.contains(name)), "{}", text.stdout);
}

#[test]
fn call_prints_what_the_tool_gives() {
    let server = Serving::start(&[]);
    let url = server.url();
    assert_eq!(run(&["call", &url, "echo_message", r#"{"message": "hé\n"}"#]).succeeded(), "hé\n\n");
    // The scheme may be left out, a slash may be too many.
    let bare = format!("{}/", server.address);
    assert_eq!(run(&["call", &bare, "echo_message", r#"{"message": "hi"}"#]).succeeded(), "hi\n");
    let data = run(&["call", &url, "echo_with_length", r#"{"message": "hi"}"#]);
    let data: Value = serde_json::from_str(data.succeeded()).unwrap();
    assert_eq!(data, json!({ "message": "hi", "length": 2 }));
    let whole = run(&["call", &url, "echo_message", r#"{"message": "hi"}"#, "--json"]);
    let whole: Value = serde_json::from_str(whole.succeeded()).unwrap();
    assert_eq!((&whole["data"], &whole["is_error"]), (&json!("hi"), &json!(false)));

    let (_, created) = server.post("/sessions", &json!({}));
    let mcp = created["mcp_url"].as_str().unwrap();
    assert_eq!(run(&["call", mcp, "echo_message", r#"{"message": "there"}"#]).succeeded(), "there\n");
    let id = created["session_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/sessions/{id}")).1["step_count"], 1);
    server.stop();
}

#[test]
fn call_fails_with_code_1_when_the_tool_does() {
    let server = Serving::start(&[]);
    let url = server.url();
    run(&["call", &url, "nope"]).failed(1, &["'nope'", "Unknown tool"]);
    run(&["call", &url, "echo_message"]).failed(1, &["message"]);
    run(&["call", &url, "echo_message", r#"{"message": 5}"#]).failed(1, &["message", "string"]);
    run(&["call", &format!("{url}/sessions/none/mcp"), "echo_message"]).failed(1, &["404", "none"]);
    run(&["call", &format!("{url}/elsewhere"), "echo_message"]).failed(1, &["404"]);
    server.stop();
}

#[test]
fn step_takes_steps_of_the_default_session() {
    let server = Serving::start(&["connect4"]);
    let url = server.url();
    let first = run(&["step", &url, r#"{"column": 3}"#, "--reset", "--seed", "7"]);
    let first: Value = serde_json::from_str(first.succeeded()).unwrap();
    assert_eq!(first["observation"]["board"][5][3], 1);
    run(&["step", &url, r#"{"column": 3}"#]).succeeded();
    assert_eq!(server.get("/state").1["step_count"], 2);
    let (_, created) = server.post("/sessions", &json!({}));
    let session = format!("{url}/sessions/{}", created["session_id"].as_str().unwrap());
    run(&["step", &session, r#"{"column": 0}"#, "--reset"]).succeeded();
    assert_eq!(server.get("/state").1["step_count"], 2);
    run(&["step", &url, r#"{"column": "x"}"#]).failed(1, &["422", "column"]);
    run(&["step", &url, r#"{"row": 1}"#]).failed(1, &["422", "column", "row"]);
    server.stop();
}

#[test]
fn arguments_that_are_wrong_are_exit_code_2() {
    for json in ["[]", "5", "\"x\"", "null"] {
        run(&["call", "127.0.0.1:1", "t", json]).failed(2, &["the arguments must be a JSON object"]);
        run(&["step", "127.0.0.1:1", json]).failed(2, &["the action must be a JSON object"]);
    }
    for (json, says) in [
        ("{", "line 1 column 2"),
        ("nope", "char 0"),
        ("{\"a\": NaN}", "NaN"),
        ("{}{}", "Extra data"),
        ("", "char 0"),
    ] {
        run(&["call", "127.0.0.1:1", "t", json]).failed(2, &["the arguments", says]);
        run(&["step", "127.0.0.1:1", json]).failed(2, &["the action", says]);
    }
    for url in ["ws://127.0.0.1:1", "ftp://a", "http://", "http://a b", ""] {
        run(&["call", url, "t"]).failed(2, &[url]);
    }
    run(&["call", "127.0.0.1:1", "t", "--timeout", "0"]).failed(2, &[]);
}

#[test]
fn a_server_that_cannot_be_reached_is_exit_code_4() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    run(&["call", &url, "t"]).failed(4, &[&url, "is the server running?"]);
    run(&["step", &url, "{}"]).failed(4, &[&url, "is the server running?"]);
    // A name under which there is nobody (RFC 6761).
    run(&["call", "http://nobody.invalid:8000", "t"]).failed(4, &["nobody.invalid"]);
    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    run(&["call", &url, "t", "--timeout", "100ms"]).failed(4, &[&url, "100ms", "--timeout"]);
}

/// A server that answers every request with these bytes.
fn saying(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(bytes);
        }
    });
    address
}

#[test]
fn a_server_that_speaks_something_else_is_exit_code_1() {
    for bytes in [
        &b"220 mail ready\r\n"[..],
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe",
        b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n",
    ] {
        let url = format!("http://{}", saying(bytes));
        run(&["call", &url, "t"]).failed(1, &[]);
    }
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        for command in ["serve", "envs", "call", "step", "completions"] {
            assert!(script.succeeded().contains(command), "{shell} does not know {command}");
        }
    }
    run(&["completions", "cmd"]).failed(2, &["cmd"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    for arguments in
        [&["completions", "bash"][..], &["envs"], &["envs", "--json"], &["--help"], &["serve", "--help"]]
    {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = oxenv().args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let ended = Ended::of(output);
        assert!(!ended.stderr.contains("panicked"), "{arguments:?}: {ended:#?}");
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:#?}");
    }
}
