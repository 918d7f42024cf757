//! `oxenv fleet up|list|down|shell` against a simulated Fleet.
//!
//! Invariant: every test counts the instances that are left, and looks for the key in what was printed.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oxenv_fleet_simulator::{Simulator, SimulatorOptions};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::process::{Ended, File, oxenv};

/// A simulated Fleet on threads of its own.
struct Fleet {
    simulator: Simulator,
    _runtime: Runtime,
}

impl Fleet {
    fn start(options: SimulatorOptions) -> Self {
        let runtime = Runtime::new().unwrap();
        let simulator = runtime.block_on(Simulator::start(options)).unwrap();
        Fleet { simulator, _runtime: runtime }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = oxenv();
        command.arg("fleet").args(arguments);
        command
            .env("FLEET_API_KEY", self.simulator.api_key())
            .env("FLEET_BASE_URL", self.simulator.control_url());
        command
    }

    /// Runs a command to its end; it shows no key.
    fn run(&self, arguments: &[&str]) -> Ended {
        self.with_input(arguments, "")
    }

    fn with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let ended = Ended::of(child.wait_with_output().unwrap());
        assert!(!format!("{ended:?}").contains(self.simulator.api_key()), "{ended:#?}");
        ended
    }

    fn spawn(&self, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }
}

/// A command that goes on; it ends with the test, also if that fails.
struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Sends it a signal and waits for its end.
    fn end(mut self, name: &str) -> Ended {
        let child = self.0.take().unwrap();
        signal(&child, name);
        Ended::of(child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn up_keeps_an_instance_until_ctrl_c() {
    let fleet = Fleet::start(SimulatorOptions::default());
    let mut child = fleet.spawn(&["up", "fira", "--json", "--run-id", "r1", "--env", "A=1", "--ttl", "10m"]);
    let mut stdout = BufReader::new(child.child().stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let made = &fleet.simulator.views()[0];
    assert_eq!((told["instance_id"].as_str(), told["root"].as_str()), (Some(&*made.id), Some(&*made.root)));
    assert_eq!(told["mcp_urls"][0], format!("{}api/v1/mcp", made.root));
    assert_eq!(told["conflicts"][0]["name"], "search");
    // The runner's token is asked for at the same time.
    let create =
        fleet.simulator.requests().iter().find(|request| request.method == "POST").unwrap().json().unwrap();
    assert_eq!((&create["run_id"], &create["ttl_seconds"]), (&"r1".into(), &600.into()));
    assert_eq!(create["env_variables"]["A"], "1");
    assert_eq!(fleet.simulator.instances(), 1);
    let ended = child.end("INT");
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(fleet.simulator.instances(), 0, "{ended:#?}");
}

#[test]
fn ctrl_c_while_an_instance_is_made_leaves_none() {
    let fleet = Fleet::start(SimulatorOptions {
        provisioning_delay: Duration::from_mins(5),
        ..SimulatorOptions::default()
    });
    let child = fleet.spawn(&["up", "fira"]);
    while fleet.simulator.instances() == 0 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let ended = child.end("TERM");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""), "{ended:#?}");
    assert_eq!(fleet.simulator.instances(), 0);
}

#[test]
fn what_is_detached_is_listed_and_ended() {
    let fleet = Fleet::start(SimulatorOptions::default());
    let up = fleet.run(&["up", "fira:1.3.1", "--detach", "--run-id", "r1"]);
    assert_eq!(up.code, Some(0), "{up:#?}");
    let id = fleet.simulator.views()[0].id.clone();
    assert!(up.stdout.starts_with(&format!("instance  {id}\nroot      http://")), "{up:#?}");
    assert!(up.stderr.contains(&format!("oxenv fleet down {id}")), "{up:#?}");

    let table = fleet.run(&["list", "--run-id", "r1"]).succeeded().to_owned();
    let row = table.lines().nth(1).unwrap();
    assert!(table.starts_with("INSTANCE") && row.starts_with(&id), "{table}");
    assert!(row.contains("fira") && row.contains("v1.3.1") && row.contains("running"), "{table}");
    let listed: Value = serde_json::from_str(fleet.run(&["list", "--json"]).succeeded()).unwrap();
    assert_eq!(listed[0]["instance_id"], id.as_str());

    assert_eq!(fleet.run(&["down", &id]).succeeded().trim(), id);
    assert_eq!(fleet.simulator.instances(), 0);
    let unknown = fleet.run(&["down", "no-such-id"]);
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("there is no instance 'no-such-id'"), "{unknown:#?}");
    for _ in 0..2 {
        assert_eq!(fleet.run(&["up", "fira", "--detach", "--run-id", "r2"]).code, Some(0));
    }
    assert_eq!(fleet.run(&["down", "--run-id", "r3"]).code, Some(0));
    assert_eq!(fleet.simulator.instances(), 2);
    assert_eq!(fleet.run(&["down", "--all"]).succeeded().lines().count(), 2);
    assert_eq!(fleet.simulator.instances(), 0);
}

#[test]
fn the_shell_plays_an_episode_from_a_pipe_and_ends_its_instance() {
    let fleet = Fleet::start(SimulatorOptions::default());
    let lines = "reset 7\ntools\ncall computer {\"action\": \"wait\"}\n\
                 step {\"type\": \"list_tools\"}\nstate\nquit\nreset\n";
    let played = fleet.with_input(&["shell", "fira"], lines);
    assert_eq!(played.code, Some(0), "{played:#?}");
    for words in ["Environment reset with seed 7", "computer  Uses", "wait done", "\"step_count\": 1"] {
        assert!(played.stdout.contains(words), "{words}: {played:#?}");
    }
    assert_eq!(fleet.simulator.instances(), 0);

    assert_eq!(fleet.run(&["up", "fira", "--detach"]).code, Some(0));
    let id = fleet.simulator.views()[1].id.clone();
    let wrong = fleet.with_input(&["shell", &id], "call nothing\nfly\nstep {}\nreset\n");
    assert_eq!(wrong.code, Some(1), "{wrong:#?}");
    for words in ["'nothing'", "'fly' is not known", "Fleet serves no /step", "3 of the lines failed"] {
        assert!(wrong.stderr.contains(words), "{words}: {wrong:#?}");
    }
    assert_eq!(fleet.simulator.instances(), 1, "an instance of others is left running");
}

#[test]
fn what_is_wrong_is_told_with_its_exit_code() {
    let fleet = Fleet::start(SimulatorOptions::default());
    let without_key = || fleet.command(&["list"]).env_remove("FLEET_API_KEY").output().unwrap();
    Ended::of(without_key()).failed(2, &["FLEET_API_KEY", "--api-key-file"]);
    let key = File::new("fleet-key", "# mine\nsk_wrong_key\n");
    let wrong = fleet.run(&["up", "fira", "--api-key-file", key.path()]);
    wrong.failed(1, &["401", "check the API key"]);
    assert!(!wrong.stderr.contains("sk_wrong_key"));
    fleet.run(&["list", "--api-key-file", "no-such-file"]).failed(2, &["no-such-file"]);
    fleet.run(&["list", "--base-url", "nowhere"]).failed(2, &["base URL"]);
    fleet.run(&["list", "--base-url", "http://127.0.0.1:1"]).failed(4, &["cannot connect"]);
    fleet.run(&["up", "no_such_env"]).failed(1, &["no_such_env", "not found"]);
    fleet.run(&["up", "fira", "--env", "NO_SUCH_VARIABLE"]).failed(2, &["NO_SUCH_VARIABLE"]);
    assert_eq!(fleet.simulator.instances(), 0);
    let mut refused = fleet.spawn(&["down"]);
    assert_eq!(refused.child().wait().unwrap().code(), Some(2), "it wants to know which");
    let mut said = String::new();
    refused.child().stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("<ID>"), "{said}");
}
