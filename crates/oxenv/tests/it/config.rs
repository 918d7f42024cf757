//! Settings: flags over environment over file over defaults, and every mistake named before a port
//! is bound.

use std::net::TcpListener;

use serde_json::json;

use crate::process::{Ended, File, Serving, oxenv, run};

/// Starts a server with variables and arguments and gives how many sessions it takes.
fn max_sessions(variables: &[(&str, &str)], arguments: &[&str]) -> u64 {
    let mut command = oxenv();
    let server =
        Serving::of(command.args(["serve", "--port", "0"]).args(arguments).envs(variables.iter().copied()));
    let max = server.get("/ready").1["max_sessions"].as_u64().unwrap();
    server.stop();
    max
}

#[test]
fn flags_over_variables_over_openenvs_over_the_file_over_defaults() {
    let file = File::new("precedence.toml", "max_sessions = 3\n");
    let config = ["--config", file.path()];
    let ours = ("OXENV_MAX_SESSIONS", "5");
    let theirs = ("MAX_CONCURRENT_ENVS", "4");
    assert_eq!(max_sessions(&[], &[]), 256);
    assert_eq!(max_sessions(&[], &config), 3);
    assert_eq!(max_sessions(&[theirs], &config), 4);
    assert_eq!(max_sessions(&[theirs, ours], &config), 5);
    let flags = ["--max-sessions", "6", config[0], config[1]];
    assert_eq!(max_sessions(&[theirs, ours], &flags), 6);
    // An empty variable is none.
    assert_eq!(max_sessions(&[("OXENV_MAX_SESSIONS", "")], &config), 3);
    assert_eq!(max_sessions(&[("OXENV_CONFIG", file.path())], &[]), 3);
}

#[test]
fn every_setting_can_come_from_a_variable_or_from_the_file() {
    let text = "env = \"connect4\"\nhost = \"127.0.0.1\"\nport = 0\nmode = \"production\"\nmax_sessions = 2\n\
                idle_timeout = \"90s\"\ndrain_timeout = 1.5\nseed = 7\nopen = false\nlog = \"debug\"\n\
                log_format = \"json\"\n";
    let file = File::new("every.toml", text);
    let variables = [
        ("OXENV_ENV", "connect4"),
        ("OXENV_HOST", "127.0.0.1"),
        ("OXENV_PORT", "0"),
        ("OXENV_MODE", "production"),
        ("OXENV_MAX_SESSIONS", "2"),
        ("OXENV_IDLE_TIMEOUT", "90s"),
        ("OXENV_DRAIN_TIMEOUT", "1.5"),
        ("OXENV_SEED", "7"),
        ("OXENV_OPEN", "false"),
        ("OXENV_LOG", "debug"),
        ("OXENV_LOG_FORMAT", "json"),
    ];
    let (mut from_file, mut from_variables) = (oxenv(), oxenv());
    from_file.args(["serve", "--config", file.path()]);
    from_variables.arg("serve").envs(variables);
    for mut command in [from_file, from_variables] {
        let server = Serving::of(&mut command);
        assert!(server.first_line.starts_with("oxenv: serving connect4 on http://127.0.0.1:"));
        assert_eq!(server.get("/ready").1["max_sessions"], 2);
        assert_eq!(server.get("/state").0, 404);
        let ended = server.stop();
        assert!(ended.stderr.lines().all(|line| line.starts_with('{')), "{ended:#?}");
    }
}

#[test]
fn openenvs_mode_is_taken_in_any_case() {
    for mode in ["production", "PRODUCTION", "Production"] {
        let server = Serving::of(oxenv().args(["serve", "--port", "0"]).env("OPENENV_MODE", mode));
        assert_eq!(server.get("/state").0, 404, "{mode}");
        server.stop();
    }
    let mut command = oxenv();
    command.args(["serve", "--port", "0", "--mode", "simulation"]).env("OPENENV_MODE", "production");
    let server = Serving::of(&mut command);
    assert_eq!(server.get("/state").0, 200);
    server.stop();
}

#[test]
fn a_mistake_in_the_file_is_shown_with_its_line() {
    for (text, says) in [
        ("port = 1\nmax_session = 3\n", &["line 2", "max_session"][..]),
        ("\n\nport = \"x\"\n", &["line 3"]),
        ("port = 99999\n", &["line 1", "port = 99999"]),
        ("port = -1\n", &["line 1"]),
        ("mode = \"prod\"\n", &["line 1", "prod"]),
        ("idle_timeout = \"soon\"\n", &["line 1"]),
        ("idle_timeout = 0\n", &["line 1"]),
        ("host = \"localhost\"\n", &["line 1"]),
        ("port = 1\nport = 2\n", &["line 2"]),
        ("port 1\n", &["line 1"]),
        ("[serve]\nport = 1\n", &["line 1", "serve"]),
        ("max_sessions = 0\n", &["max_sessions"]),
    ] {
        let file = File::new("mistake.toml", text);
        let ended = run(&["serve", "--port", "0", "--config", file.path()]);
        ended.failed(2, says);
        if !text.starts_with("max_sessions") {
            ended.failed(2, &[file.path()]);
        }
    }
    run(&["serve", "--config", "/nowhere/oxenv.toml"]).failed(2, &["/nowhere/oxenv.toml"]);
    let binary = File::new("binary.toml", "");
    std::fs::write(&binary.0, b"\xff\xfe\x00").unwrap();
    run(&["serve", "--config", binary.path()]).failed(2, &[binary.path()]);
}

#[test]
fn a_mistake_in_a_variable_names_it() {
    for (name, value) in [
        ("OXENV_PORT", "x"),
        ("OXENV_PORT", "70000"),
        ("OXENV_HOST", "localhost"),
        ("OXENV_MODE", "prod"),
        ("OXENV_MAX_SESSIONS", "-1"),
        ("MAX_CONCURRENT_ENVS", "many"),
        ("OPENENV_MODE", "training"),
        ("OXENV_IDLE_TIMEOUT", "0"),
        ("OXENV_DRAIN_TIMEOUT", "soon"),
        ("OXENV_SEED", "-1"),
        ("OXENV_OPEN", "maybe"),
        ("OXENV_LOG", "loud"),
        ("OXENV_LOG_FORMAT", "xml"),
        ("OXENV_CONFIG", "/nowhere.toml"),
    ] {
        let ended = Ended::of(oxenv().arg("serve").env(name, value).output().unwrap());
        let says = if name == "OXENV_CONFIG" { "/nowhere.toml" } else { name };
        ended.failed(2, &[says, value]);
    }
}

#[test]
fn a_mistake_in_a_flag_is_wrong_usage() {
    for arguments in [
        &["serve", "--port", "x"][..],
        &["serve", "--port", "70000"],
        &["serve", "--host", "localhost"],
        &["serve", "--mode", "prod"],
        &["serve", "--idle-timeout", "0"],
        &["serve", "--seed", "-1"],
        &["serve", "--no-such-flag"],
        &["serve", "echo", "connect4"],
        &["step", "http://127.0.0.1:1", "{}", "--seed", "1"],
        &["call"],
        &["no-such-command"],
    ] {
        run(arguments).failed(2, &[]);
    }
    run(&["serve", "--max-sessions", "0"]).failed(2, &["max_sessions"]);
}

/// With a port that is taken, a wrong setting is still what is complained about.
#[test]
fn everything_is_checked_before_a_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let file = File::new("late.toml", "nope = 1\n");
    for wrong in [&["--config", file.path()][..], &["--max-sessions", "0"], &["no_such_environment"]] {
        let arguments = [&["serve", "--port", &port], wrong].concat();
        run(&arguments).failed(2, &[]);
    }
}

#[test]
fn an_idle_timeout_holds_for_the_default_session_too() {
    let server = Serving::start(&["--idle-timeout", "50ms"]);
    assert_eq!(server.post("/reset", &json!({})).0, 200);
    let started = std::time::Instant::now();
    // Asking for the state would renew the lease; the list of sessions does not.
    while server.get("/sessions").1["sessions"].as_array().is_none_or(|sessions| !sessions.is_empty()) {
        assert!(started.elapsed().as_secs() < 20, "it never expired");
    }
    let (status, body) = server.post("/step", &json!({ "action": { "type": "list_tools" } }));
    assert_eq!(status, 410, "{body}");
    assert_eq!(server.post("/reset", &json!({})).0, 200);
    server.stop();
}
