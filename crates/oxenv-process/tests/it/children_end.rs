//! How children end: with everything they started, whoever asks and whoever is killed.
//!
//! Invariant: no process of a test is left when it ends, and no descriptor.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oxenv_test_support::soon;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt;

use crate::children_support::{
    Mark, STUBBORN, STUBBORN_FAMILY, SUPERVISOR, children_of, descriptors, ready, shell, spawn,
};

/// The supervisor, the command, and its two daemons.
const FAMILY: usize = 4;

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn the_tree_ends_when_its_child_is_dropped() {
    let mark = Mark::new();
    let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", STUBBORN_FAMILY]));
    ready(&mut stdout).await;
    mark.count(FAMILY).await;
    drop(child);
    assert_eq!(mark.processes().len(), FAMILY, "dropping waited");
    mark.count(0).await;
}

#[tokio::test]
async fn stopping_ends_the_most_stubborn_within_its_bound() {
    let mark = Mark::new();
    let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", STUBBORN_FAMILY]));
    ready(&mut stdout).await;
    mark.count(FAMILY).await;
    let started = Instant::now();
    assert_eq!(soon(child.stop()).await.unwrap().code(), Some(128 + 9));
    // Its bound is in what it gives; the grace and the second after SIGTERM it had.
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1200), "{took:?}");
    assert_eq!(mark.processes(), [0; 0]);
}

#[tokio::test]
async fn one_that_heeds_its_stdin_gets_no_signal() {
    let mark = Mark::new();
    let (child, stdin, mut stdout) =
        shell(&mark, "trap 'echo signal; exit 1' TERM; echo ready; read line; echo bye; exit 5");
    ready(&mut stdout).await;
    drop(stdin);
    assert_eq!(soon(child.stop()).await.unwrap().code(), Some(5));
    let mut said = String::new();
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "bye\n");
}

#[tokio::test]
async fn a_grace_may_be_endless() {
    let mark = Mark::new();
    let mut spec = mark.spec("sh", &["-c", "echo ready; cat"]);
    spec.grace = Duration::MAX;
    let (child, stdin, mut stdout) = spawn(spec);
    ready(&mut stdout).await;
    drop(stdin);
    assert_eq!(soon(child.stop()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn one_that_is_stopped_before_it_starts_leaves_nothing() {
    let mark = Mark::new();
    let spawned: Vec<_> = (0..20).map(|_| spawn(mark.spec("python3", &["-c", STUBBORN]))).collect();
    let stopping: Vec<_> =
        spawned.into_iter().map(|(child, _, _)| tokio::spawn(async move { child.stop().await })).collect();
    for stopped in stopping {
        soon(stopped).await.unwrap().unwrap();
    }
    assert_eq!(mark.processes(), [0; 0]);
}

#[tokio::test]
async fn one_that_heeds_sigterm_is_not_killed() {
    let mark = Mark::new();
    let (child, _stdin, mut stdout) =
        shell(&mark, "trap 'echo signal; exit 6' TERM; echo ready; while :; do sleep 1000 & wait; done");
    ready(&mut stdout).await;
    mark.count(3).await;
    assert_eq!(soon(child.stop()).await.unwrap().code(), Some(6));
    let mut said = String::new();
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "signal\n");
    assert_eq!(mark.processes(), [0; 0]);
}

#[tokio::test]
async fn daemons_end_with_the_command_and_its_code_is_kept() {
    let mark = Mark::new();
    let leaving = STUBBORN_FAMILY.replace("print('ready', flush=True)", "os._exit(4)");
    let (child, _stdin, _stdout) = spawn(mark.spec("python3", &["-c", &leaving]));
    assert_eq!(soon(child.wait()).await.code(), Some(4));
    assert_eq!(mark.processes(), [0; 0]);
}

#[tokio::test]
async fn one_that_forks_away_all_the_time_is_caught() {
    let mark = Mark::new();
    // Each process lives for a moment only; they give up by themselves long after the test.
    let hopping = "
import os, time
end = time.monotonic() + 120
print('ready', flush=True)
while time.monotonic() < end:
    if os.fork() > 0: os._exit(0)
    os.setsid()
";
    let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", hopping]));
    ready(&mut stdout).await;
    let pid = child.pid();
    // Its first process ended at once, so that the end has begun already.
    soon(child.stop()).await.unwrap();
    assert!(std::fs::metadata(format!("/proc/{pid}")).is_err());
    assert_eq!(mark.processes(), [0; 0]);
}

/// A server that starts a supervisor as ours does, and is killed with no chance to clean up.
#[tokio::test]
async fn the_tree_ends_when_the_server_is_killed() {
    let mark = Mark::new();
    let server = "
import os, subprocess, sys, time
pipe = subprocess.PIPE
command = [sys.argv[1], '--parent', str(os.getpid()), '--grace-ms', '100', '--', 'python3', '-c', sys.argv[2]]
child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)
print(child.stdout.readline(), flush=True)
while True: time.sleep(1000)
";
    let mut server = Command::new("python3")
        .args(["-c", server, SUPERVISOR, STUBBORN_FAMILY])
        .env_clear()
        .envs(mark.environment())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    mark.count(1 + FAMILY).await;
    kill(server.id(), Signal::KILL);
    server.wait().unwrap();
    mark.count(0).await;
}

#[tokio::test]
async fn the_command_ends_when_its_supervisor_is_killed() {
    let mark = Mark::new();
    let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", STUBBORN]));
    ready(&mut stdout).await;
    mark.count(2).await;
    kill(child.pid(), Signal::KILL);
    assert_eq!(soon(child.describe_end()).await, "ended with its supervisor, by signal 9 (SIGKILL)");
    mark.count(0).await;
}

#[tokio::test]
async fn a_supervisor_heeds_the_signals_of_a_terminal_too() {
    for signal in [Signal::INT, Signal::HUP] {
        let mark = Mark::new();
        let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", STUBBORN]));
        ready(&mut stdout).await;
        kill(child.pid(), signal);
        assert_eq!(soon(child.wait()).await.code(), Some(128 + 9));
    }
}

#[test]
fn the_tree_ends_with_the_runtime() {
    let mark = Mark::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    first.block_on(async {
        let (child, _stdin, mut stdout) = spawn(mark.spec("python3", &["-c", STUBBORN_FAMILY]));
        ready(&mut stdout).await;
        // A task that would hold it for ever.
        tokio::spawn(async move {
            let child = child;
            child.wait().await
        });
    });
    drop(first);
    runtime().block_on(mark.count(0));
}

#[tokio::test]
async fn fifty_start_and_end_at_once_and_leave_nothing() {
    let mark = Mark::new();
    // The runtime's own descriptors come with the first child.
    let (first, stdin, _stdout) = spawn(mark.spec("cat", &[]));
    drop(stdin);
    soon(first.stop()).await.unwrap();
    drop(_stdout);
    let before = descriptors(std::process::id()).len();

    let mut children: Vec<_> = (0..50).map(|_| shell(&mark, "sleep 1000 & echo ready; cat")).collect();
    for (_, _, stdout) in &mut children {
        ready(stdout).await;
    }
    mark.count(50 * 4).await;
    let stopping: Vec<_> = children
        .into_iter()
        .map(|(child, stdin, stdout)| {
            drop((stdin, stdout));
            tokio::spawn(async move { child.stop().await })
        })
        .collect();
    for stopped in stopping {
        soon(stopped).await.unwrap().unwrap();
    }
    assert_eq!(mark.processes(), [0; 0]);
    assert_eq!(children_of(std::process::id()), [0; 0], "not even their remains");
    let after = descriptors(std::process::id());
    assert_eq!(after.len(), before, "{after:?}");
}

#[test]
fn wrong_arguments_are_told() {
    let say = |arguments: &[&str]| {
        let output = Command::new(SUPERVISOR).args(arguments).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let no_command = "supervisor: no command is given after `--`\n".to_owned();
    assert_eq!(say(&[]), (Some(125), no_command.clone()));
    assert_eq!(say(&["--"]), (Some(125), no_command));
    let flag = |name: &str| (Some(125), format!("supervisor: cannot read its flag {name}\n"));
    assert_eq!(say(&["--grace-ms", "soon", "--", "true"]), flag("--grace-ms"));
    assert_eq!(say(&["--parent", "0", "--", "true"]), flag("--parent"));
    assert_eq!(say(&["true"]), flag("true"));
    assert_eq!(say(&["--grace-ms", "1", "--", "true"]), (Some(0), String::new()));
}

#[test]
fn a_log_that_was_removed_stays_removed() {
    let folder = std::env::temp_dir().join(format!("oxenv-it-log-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let log = folder.join("server.log");
    let written = |script: &str| {
        let order = ["--parent", "none", "--log", log.to_str().unwrap(), "--", "sh", "-c", script, "sh"];
        let status = Command::new(SUPERVISOR).args(order).arg(&folder).status().unwrap();
        assert!(status.success());
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    // Longer than a file may become, so that the next is begun.
    let long = "head -c 3000000 /dev/zero";
    assert!(written(long).is_empty(), "it was not there when the supervisor started");

    std::fs::write(&log, "").unwrap();
    assert!(written(&format!("rm \"$1\"/*; {long}")).is_empty(), "it was removed meanwhile");

    std::fs::write(&log, "").unwrap();
    assert_eq!(written(long), ["server.log", "server.log.old"]);
    std::fs::remove_dir_all(&folder).unwrap();
}
