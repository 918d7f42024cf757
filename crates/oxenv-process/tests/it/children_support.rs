//! Starts children and looks at processes through `/proc`.
//!
//! Invariant: every wait has an end; whatever a test started carries its mark in the environment, so that
//! nothing which was left behind can hide, whoever its parent is by now.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use oxenv_process::child::{Child, ChildSpec, Supervisor};
use oxenv_process::secret::{Redactor, Secret};
use oxenv_test_support::{soon, until};
use tokio::process::{ChildStdin, ChildStdout};

/// A Python program that ends for no request: it ignores its stdin and the polite signals.
pub(crate) const STUBBORN: &str = "
import signal, time
for name in ('SIGTERM', 'SIGINT', 'SIGHUP'): signal.signal(getattr(signal, name), signal.SIG_IGN)
print('ready', flush=True)
while True: time.sleep(1000)
";

/// One that starts a stubborn daemon (another session, orphaned by a double fork), and is stubborn itself.
pub(crate) const STUBBORN_FAMILY: &str = "
import os, signal, time
for name in ('SIGTERM', 'SIGINT', 'SIGHUP'): signal.signal(getattr(signal, name), signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() > 0: os._exit(0)
    if os.fork() == 0: os.setsid()
    while True: time.sleep(1000)
os.wait()
print('ready', flush=True)
while True: time.sleep(1000)
";

pub(crate) const SUPERVISOR: &str = env!("CARGO_BIN_EXE_oxenv-supervise");

/// What the processes of one test have in their environment.
pub(crate) struct Mark(pub(crate) String);

impl Mark {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Mark(format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A small environment that has the mark.
    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap();
        vec![("PATH".into(), path), ("OXENV_MARK".into(), self.0.clone().into())]
    }

    pub(crate) fn spec(&self, program: &str, arguments: &[&str]) -> ChildSpec {
        ChildSpec {
            label: "files".to_owned(),
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: self.environment(),
            folder: None,
            grace: Duration::from_millis(200),
        }
    }

    /// The living processes that have it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let entry = format!("OXENV_MARK={}", self.0);
        let pids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        // That of a process that has ended is empty, or not there.
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|found| found == entry.as_bytes())
        };
        pids.filter(marked).collect()
    }

    /// Waits until so many processes have it.
    pub(crate) async fn count(&self, wanted: usize) {
        until(&format!("{wanted} processes"), || self.processes().len() == wanted).await;
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // A test that failed leaves nothing to the next.
        for pid in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

pub(crate) fn supervisor() -> Supervisor {
    Supervisor::new(SUPERVISOR, [""; 0])
}

pub(crate) fn redactor() -> Redactor {
    Redactor::new([&Secret::new("hunter2")])
}

pub(crate) fn spawn(spec: ChildSpec) -> (Child, ChildStdin, ChildStdout) {
    supervisor().spawn(spec, redactor()).unwrap()
}

/// A shell script's child.
pub(crate) fn shell(mark: &Mark, script: &str) -> (Child, ChildStdin, ChildStdout) {
    spawn(mark.spec("sh", &["-c", script]))
}

/// Waits until the child says that it is ready.
pub(crate) async fn ready(stdout: &mut ChildStdout) {
    let mut word = [0; 6];
    soon(tokio::io::AsyncReadExt::read_exact(stdout, &mut word)).await.unwrap();
    assert_eq!(&word, b"ready\n");
}

pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// What the descriptors of a process lead to, by number.
pub(crate) fn descriptors(pid: u32) -> Vec<(u32, PathBuf)> {
    let mut all: Vec<(u32, PathBuf)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            // The descriptor of this very listing is gone already.
            Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?))
        })
        .collect();
    all.sort();
    all
}

/// Those of this process that the ones it starts would get, had they no others.
pub(crate) fn inheritable() -> Vec<(u32, PathBuf)> {
    let close_on_exec = 0o2_000_000;
    let is_kept = |number: &u32| {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).unwrap() & close_on_exec == 0)
    };
    descriptors(std::process::id()).into_iter().filter(|(number, _)| is_kept(number)).collect()
}
