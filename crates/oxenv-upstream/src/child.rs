//! Child processes: how one is started, heard, and ended together with all that it started.
//!
//! Each command runs under a supervisor process (`supervise.rs`) that outlives this process for a moment, so
//! that not even a kill -9 of this process leaves anything behind. Commands get the environment they are
//! given and nothing else, and no descriptor but their three pipes.
//!
//! Invariant: this file alone starts processes, and dropping a [`Child`] begins the end of its whole tree.

mod stderr;

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::supervise;
use stderr::Tail;

/// Takes the secrets out of a text before it is shown.
///
/// It is given whole lines as far as they are shorter than 16 KiB. No secret may be longer than 8 KiB.
pub type Redact = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// How long [`Child::stop`] waits beyond the grace: SIGTERM's second, and time to spare.
const STOP_MARGIN: Duration = Duration::from_secs(3);
/// How long stderr is read on after the end, in case someone outside the tree holds it open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The codes that stand for signals; a command may exit with higher ones by itself.
const SIGNALLED: RangeInclusive<i32> = 129..=192;

/// A command to run.
pub struct ChildSpec {
    /// The toolset's name, for logs.
    pub label: String,
    /// The command: a path, or a name to find on the `PATH` of `environment`.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment: nothing is inherited.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it runs; without one, where this process does.
    pub folder: Option<PathBuf>,
    /// How long it has to end by itself once it is asked to.
    pub grace: Duration,
}

/// The program that runs commands and ends them: `oxenv supervise`, or `oxenv-supervise`.
#[derive(Clone, Debug)]
pub struct Supervisor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// A running command, with everything it starts.
///
/// Dropping it begins the end of the whole tree and waits for nothing: the command has its grace to end by
/// itself, then comes SIGTERM for all of the tree, and a second later SIGKILL. Drop its stdin before: most
/// commands end when that closes.
pub struct Child {
    label: String,
    pid: u32,
    grace: Duration,
    process: Arc<Mutex<tokio::process::Child>>,
    status: watch::Receiver<Option<ExitStatus>>,
    tail: Arc<Mutex<Tail>>,
    redact: Redact,
}

/// The environment that every command starts from: PATH, HOME, TMPDIR (`/tmp` if unset) and LANG (`C.UTF-8`
/// if unset), as `lookup` has them.
pub fn base_environment(lookup: &dyn Fn(&str) -> Option<String>) -> Vec<(OsString, OsString)> {
    let base = [("PATH", None), ("HOME", None), ("TMPDIR", Some("/tmp")), ("LANG", Some("C.UTF-8"))];
    let set = base.into_iter().filter_map(|(name, default)| {
        let value = lookup(name).or_else(|| default.map(str::to_owned))?;
        Some((name.into(), value.into()))
    });
    set.collect()
}

impl Supervisor {
    /// A supervisor by its absolute path, with the arguments that make it one (`["supervise"]`).
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Supervisor { program: program.into(), arguments: arguments.into_iter().map(Into::into).collect() }
    }

    /// Starts a command; gives it with its stdin and stdout. Each line of its stderr becomes a debug event
    /// with the field `toolset`, as far as it is no flood.
    ///
    /// It must be called within a Tokio runtime, and does not wait. A command that cannot be run is told by
    /// [`Child::ending`], as any that ends at once.
    ///
    /// # Errors
    ///
    /// If the folder does not exist, or the supervisor cannot be started.
    pub fn spawn(&self, spec: ChildSpec, redact: Redact) -> io::Result<(Child, ChildStdin, ChildStdout)> {
        let mut process = self.command(&spec)?.envs(spec.environment).spawn().map_err(|error| {
            let supervisor = self.program.display();
            io::Error::new(error.kind(), format!("cannot start the supervisor '{supervisor}': {error}"))
        })?;
        let pipes = (process.id(), process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(pid), Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("a process was started without its pipes"));
        };
        let process = Arc::new(Mutex::new(process));
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (ended, status) = watch::channel(None);
        tokio::spawn(keep(process.clone(), stderr, spec.label.clone(), tail.clone(), redact.clone(), ended));
        let child = Child { label: spec.label, pid, grace: spec.grace, process, status, tail, redact };
        Ok((child, stdin, stdout))
    }

    fn command(&self, spec: &ChildSpec) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command
            // A name of its own, which a `pkill` of the server does not hit.
            .arg0("mcp-supervisor")
            .args(&self.arguments)
            .args(["--parent", &std::process::id().to_string()])
            .args(["--grace-ms", &u64::try_from(spec.grace.as_millis()).unwrap_or(u64::MAX).to_string()])
            .arg("--")
            .arg(&spec.program)
            .args(&spec.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the server, which ends its children in its own order.
            .process_group(0);
        if let Some(folder) = &spec.folder {
            // The kernel's error would not tell a missing folder from a missing program.
            if !folder.is_dir() {
                let says =
                    format!("the folder '{}' does not exist; make it or name another", folder.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, says));
            }
            command.current_dir(folder);
        }
        Ok(command)
    }
}

impl Child {
    /// The process id of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the whole tree and waits for that: for the grace, then a second after SIGTERM, then until
    /// SIGKILL is through. Drop its stdin before.
    ///
    /// If this future is dropped, the end goes on without it.
    ///
    /// # Errors
    ///
    /// If it takes over three seconds more than the grace. The supervisor goes on then.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.end();
        timeout(self.grace.saturating_add(STOP_MARGIN), self.wait()).await.map_err(|_| {
            let Child { label, pid, .. } = &self;
            let says = format!("the processes of '{label}' do not end; look at those below process {pid}");
            io::Error::new(io::ErrorKind::TimedOut, says)
        })
    }

    /// Waits until the command and all it started have ended by themselves; gives the command's status, in
    /// which signal N is code 128 + N. The code is [`supervise::FAILED`] if the status is lost; there is none
    /// if the supervisor itself was ended by a signal, as when it is stopped before it started the command.
    ///
    /// Dropping this future changes nothing; it may be called again.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = self.status.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status).unwrap_or_else(unknown)
    }

    /// Waits as [`Child::wait`] does; gives how it ended in words, with the last lines of stderr:
    /// `exited with code 1: no such option`.
    pub async fn ending(&mut self) -> String {
        let status = self.wait().await;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) if SIGNALLED.contains(&code) => format!("was ended by signal {}", code - 128),
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("ended with its supervisor, by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        match self.stderr_tail() {
            tail if tail.is_empty() => how,
            tail => format!("{how}: {tail}"),
        }
    }

    /// The last lines that it wrote to stderr: 20 lines and 4 KiB at most, without secrets.
    pub fn stderr_tail(&self) -> String {
        self.tail.lock().text(&*self.redact)
    }

    /// Asks the supervisor to end the tree.
    fn end(&self) {
        let process = self.process.lock();
        // Under the lock it is not reaped, so that its number is its own.
        if let Some(pid) = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads stderr and waits for the end, which comes soon after the [`Child`] is dropped.
async fn keep(
    process: Arc<Mutex<tokio::process::Child>>,
    stderr: ChildStderr,
    label: String,
    tail: Arc<Mutex<Tail>>,
    redact: Redact,
    ended: watch::Sender<Option<ExitStatus>>,
) {
    let mut listening = tokio::spawn(stderr::listen(stderr, label, tail, redact));
    let status = poll_fn(|context| pin!(process.lock().wait()).poll(context)).await;
    if timeout(LAST_WORDS, &mut listening).await.is_err() {
        listening.abort();
    }
    ended.send_replace(Some(status.unwrap_or_else(|_| unknown())));
}

fn unknown() -> ExitStatus {
    ExitStatus::from_raw(i32::from(supervise::FAILED) << 8)
}
