//! The code engine `monty`, with its built worker: the contract, and what ends a worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use oxenv_code::{Monty, MontyOptions, contract};
use oxenv_core::{CodeContext, CodeEngine, CodeLimits};
use oxenv_process::child::Supervisor;
use oxenv_test_support::TempFolder;

/// The engine with the worker that was built.
pub(crate) async fn monty() -> Monty {
    Monty::start(options(Path::new(env!("CARGO_BIN_EXE_oxenv-monty")))).await.unwrap()
}

fn options(worker: &Path) -> MontyOptions {
    let supervisor = Supervisor::new(env!("CARGO_BIN_EXE_oxenv"), ["supervise"]);
    MontyOptions { worker: worker.to_owned(), supervisor, spares: 1 }
}

/// The workers below this process, by their numbers.
pub(crate) fn workers() -> Vec<u32> {
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let mut found: Vec<u32> = numbers
        .filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_worker = command.starts_with(env!("CARGO_BIN_EXE_oxenv-monty").as_bytes());
            is_worker && parent(*pid).and_then(parent) == Some(std::process::id())
        })
        .collect();
    found.sort_unstable();
    found
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which is in brackets: the state, and the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

pub(crate) fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn monty_keeps_the_contract() {
    let violations = contract::check(Arc::new(monty().await)).await;
    assert!(violations.is_empty(), "{violations:#?}");
}

#[tokio::test]
async fn a_spare_that_was_killed_is_replaced() {
    let engine = monty().await;
    let spares = workers();
    assert_eq!(spares.len(), 1);
    kill(spares[0]);
    let context = CodeContext { seed: 1, limits: CodeLimits::default() };
    assert!(engine.open(context).await.is_ok());
    assert!(!workers().contains(&spares[0]));
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_named_with_what_to_do() {
    let folder = TempFolder::new("no-worker");
    let missing = PathBuf::from(folder.as_str()).join("oxenv-monty");
    let error = Monty::start(options(&missing)).await.err().unwrap().to_string();
    for words in [missing.to_str().unwrap(), "is no file", "--code-worker PATH"] {
        assert!(error.contains(words), "{error}");
    }
    for (worker, says) in [("/bin/true", "cannot be started: it exited with code 0"), ("/etc/passwd", "126")]
    {
        let error = Monty::start(options(Path::new(worker))).await.err().unwrap().to_string();
        assert!(error.contains(worker) && error.contains(says), "{error}");
    }
}
