//! `oxenv fleet simulate`: what it prints, what it refuses, how it ends.

use serde_json::Value;

use crate::process::{Ended, File, Serving, oxenv, run};

const SIMULATE: [&str; 2] = ["fleet", "simulate"];

fn refused(arguments: &[&str]) -> Ended {
    run(&[&SIMULATE, arguments].concat())
}

#[test]
fn what_is_printed_is_what_a_shell_needs() {
    let simulating = Serving::of(oxenv().args(SIMULATE));
    assert_eq!(simulating.first_line, format!("# oxenv: simulating Fleet on {}\n", simulating.url()));
    assert_eq!(simulating.get("/v1/account").0, 401);
    let url = simulating.url();
    let stdout = simulating.stop().stdout;
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], format!("export FLEET_BASE_URL={url}"));
    assert!(lines[1].starts_with("export FLEET_API_KEY=sk_") && lines.len() == 2, "{lines:?}");
}

#[test]
fn keys_of_a_file_are_not_printed() {
    let keys = File::new("fleet-keys", "# two teams\nteam-1:sk_hidden\nteam-2:sk_other\n");
    let simulating = Serving::of(oxenv().args(SIMULATE).args(["--api-key-file", keys.path()]));
    let ended = simulating.stop();
    assert!(!ended.stdout.contains("sk_") && ended.stdout.contains(keys.path()), "{ended:#?}");
}

#[test]
fn one_line_of_json() {
    let mut child =
        oxenv().args(SIMULATE).arg("--json").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    assert!(said["base_url"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{said}");
    assert!(said["api_key"].as_str().unwrap().starts_with("sk_"), "{said}");
}

#[test]
fn wrong_usage() {
    refused(&["--api-key-file", "/nowhere"]).failed(2, &["/nowhere"]);
    let empty = File::new("no-fleet-keys", "\n# nothing\n");
    refused(&["--api-key-file", empty.path()]).failed(2, &[empty.path(), "no API key"]);
    let ended = refused(&["--fault", "create:explode"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("'explode' is no effect"), "{ended:#?}");
    let taken = Serving::of(oxenv().args(SIMULATE));
    let port = taken.address.port().to_string();
    refused(&["--port", &port]).failed(3, &[&port, "choose another"]);
}
