//! `oxenv rescore`: other rewards for what was recorded, and not a byte of it changed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::process::{Serving, run};
use crate::records::{Folder, Session, actions, killed_server};

#[test]
fn another_rubric_gives_other_rewards_and_changes_nothing() {
    let folder = Folder::new("rescore");
    killed_server(&["connect4"], &folder, &actions("connect4"));
    let rubric = folder.file(
        "rubric.json",
        r#"{"version": 1, "rubric": {"type": "sum", "parts": [
            {"type": "environment_reward", "name": "own"}, {"type": "constant", "name": "half", "value": 0.5}
        ]}}"#,
    );
    let (records, before) = (folder.records(), folder.log());
    let out = folder.0.join("scores.jsonl").display().to_string();
    let ended = run(&["rescore", &records, "--rubric", &rubric, "--out", &out]);
    assert!(ended.succeeded().lines().next().unwrap().ends_with("epoch 1  0 → 2"), "{ended:#?}");
    assert_eq!(before, folder.log(), "the log has changed");
    let written = fs::read_to_string(&out).unwrap();
    let first: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(first["reward"], 2.0, "{first}");
    assert_eq!(first["scores"]["half"], 2.0, "{first}");
    assert_eq!(first["steps"].as_array().unwrap().len(), 4, "{first}");
    assert_eq!(first["steps"][0]["parts"]["half"], 0.5, "{first}");
    assert_eq!(run(&["rescore", &records, "--rubric", &rubric, "--json"]).succeeded(), written);
    assert!(run(&["replay", &records]).succeeded().ends_with("5 of 5 the same\n"));
}

/// A judge that always says the same, and how often it was asked.
fn judge(answers: usize) -> (String, std::thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        for number in 0..answers {
            let mut stream = listener.accept().unwrap().0;
            let mut request = vec![0; 1 << 16];
            let mut read = 0;
            while !request[..read].windows(2).any(|bytes| bytes == b"]}" || bytes == b"}}") {
                let more = stream.read(&mut request[read..]).unwrap();
                if more == 0 {
                    return number;
                }
                read += more;
            }
            let body = r#"{"choices": [{"message": {"role": "assistant", "content": "0.75"}}]}"#;
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
        answers
    });
    (url, asked)
}

#[test]
fn what_a_judge_said_is_in_the_record_and_it_is_not_asked_again() {
    let folder = Folder::new("judged");
    let rubric = folder.file(
        "judged.json",
        r#"{"version": 1, "rubric": {"type": "judge", "prompt": "How good is {transcript}?", "range": [0, 1]}}"#,
    );
    let (url, asked) = judge(1);
    let records = folder.records();
    let judged = ["--rubric", &rubric, "--judge-url", &url, "--judge-model", "m"];
    let server = Serving::start(&[&["connect4", "--record", &records][..], &judged].concat());
    let session = Session::open(&server);
    session.post("reset", &json!({ "seed": 7 }));
    // The last column is none, which ends the game.
    session.steps(&[json!({ "column": 3 }), json!({ "column": 9 })]);
    assert_eq!(asked.join().unwrap(), 1);
    server.stop();
    // Nobody listens at the judge's address any more.
    let replayed = run(&[&["replay", &records][..], &judged].concat());
    assert!(replayed.succeeded().ends_with("1 of 1 the same\n"), "{replayed:#?}");
    let rescored = run(&[&["rescore", &records, "--judge-recorded"][..], &judged].concat());
    assert!(rescored.succeeded().ends_with("0.75 → 0.75\n"), "{rescored:#?}");
    let other = ["--rubric", &rubric, "--judge-url", &url, "--judge-model", "another"];
    let rescored = run(&[&["rescore", &records, "--judge-recorded"][..], &other].concat());
    assert_eq!(rescored.code, Some(1), "{rescored:#?}");
    assert!(rescored.stdout.contains("the record has no answer"), "{rescored:#?}");
}

#[test]
fn what_is_wrong_with_a_rubric_is_said_first() {
    let folder = Folder::new("rubrics");
    let unknown =
        folder.file("rubric.json", r#"{"version": 1, "rubric": {"type": "sequenze", "parts": []}}"#);
    run(&["rescore", folder.path(), "--rubric", &unknown]).failed(2, &["rubric.json", "sequenze"]);
    run(&["rescore", folder.path()]).failed(2, &["--rubric FILE"]);
    let judged = folder.file(
        "judged.json",
        r#"{"version": 1, "rubric": {"type": "judge", "prompt": "How good is {transcript}?", "range": [0, 1]}}"#,
    );
    run(&["rescore", folder.path(), "--rubric", &judged]).failed(2, &["--judge-url"]);
    run(&["serve", "echo", "--rubric", &unknown]).failed(2, &["sequenze"]);
}
