//! Child processes: how one is started, heard, and ended together with all that it started.
//!
//! Each command runs under a supervisor process (`supervise.rs`) that outlives this process for a moment, so
//! that not even a kill -9 of this process leaves anything behind. Commands get the environment they are
//! given and nothing else, and no descriptor but their three pipes.
//!
//! Invariant: this file and the supervisor that it starts (`supervise.rs`) alone start tools' servers, and
//! dropping a [`Child`] begins the end of its whole tree.

mod stderr;

use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
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
const STDERR_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The codes that stand for signals; a command may exit with higher ones by itself.
const SIGNAL_EXIT_CODES: RangeInclusive<i32> = 129..=192;

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
    holds: Option<PathBuf>,
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

/// A command that goes on without this process, until its supervisor is told to end it by SIGTERM. Dropping
/// it changes nothing.
pub struct Detached {
    pid: u32,
    process: tokio::process::Child,
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
        let arguments = arguments.into_iter().map(Into::into).collect();
        Supervisor { program: program.into(), arguments, holds: None }
    }

    /// The same, for commands that work in folders which are deleted by whoever gets this file's lock: while
    /// one of them lives, its supervisor holds a shared lock.
    #[must_use]
    pub fn holding(self, lock: PathBuf) -> Self {
        Supervisor { holds: Some(lock), ..self }
    }

    /// Starts a command; gives it with its stdin and stdout. Each line of its stderr becomes a debug event
    /// with the field `toolset`, as far as it is no flood.
    ///
    /// It must be called within a Tokio runtime, and does not wait. A command that cannot be run is told by
    /// [`Child::describe_end`], as any that ends at once.
    ///
    /// # Errors
    ///
    /// If the folder does not exist, or the supervisor cannot be started.
    pub fn spawn(&self, spec: ChildSpec, redact: Redact) -> io::Result<(Child, ChildStdin, ChildStdout)> {
        let mut order = flags(["--parent", &this_process(), "--grace-ms", &milliseconds(spec.grace)]);
        order.extend(self.holds.iter().flat_map(|lock| ["--hold".into(), lock.into()]));
        let mut process =
            self.start(in_own_group(&mut self.command(&spec, &order)?).envs(spec.environment))?;
        let pipes = (process.id(), process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(pid), Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("a process was started without its pipes"));
        };
        Ok((Child::watched(process, pid, stderr, spec.label, spec.grace, redact), stdin, stdout))
    }

    /// Starts a server: its stdin is empty, and what it writes to stdout is heard as stderr is. Asked to end,
    /// it gets SIGTERM at once, and SIGKILL after its grace.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`].
    pub fn spawn_server(&self, spec: ChildSpec, redact: Redact) -> io::Result<Child> {
        let (heard, said) = io::pipe()?;
        let order = server_flags(&this_process(), spec.grace);
        let mut command = self.command(&spec, &order)?;
        in_own_group(command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said))
            .envs(spec.environment);
        let process = self.start(&mut command)?;
        // Else its own copy of the pipe would keep it open.
        drop(command);
        let pid = process.id().ok_or_else(|| io::Error::other("a process ended as it was started"))?;
        let heard = ChildStderr::from_std(std::process::ChildStderr::from(OwnedFd::from(heard)))?;
        Ok(Child::watched(process, pid, heard, spec.label, spec.grace, redact))
    }

    /// Starts a server that goes on when this process ends, with a session of its own. The end of what it
    /// writes is kept in the file `log`, 2 MiB of it at the most; older parts are in the file of that name
    /// and `.old`.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`], and if the file cannot be made.
    pub fn spawn_detached(&self, spec: ChildSpec, log: &Path) -> io::Result<Detached> {
        let mut order = server_flags("none", spec.grace);
        order.extend(["--log".into(), log.into()]);
        let mut command = self.command(&spec, &order)?;
        let own_problems = supervise::open_log(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(own_problems).envs(spec.environment);
        let process = self.start(&mut command)?;
        let pid = process.id().ok_or_else(|| io::Error::other("a process ended as it was started"))?;
        Ok(Detached { pid, process })
    }

    fn start(&self, command: &mut Command) -> io::Result<tokio::process::Child> {
        command.spawn().map_err(|error| {
            let supervisor = self.program.display();
            io::Error::new(error.kind(), format!("cannot start the supervisor '{supervisor}': {error}"))
        })
    }

    fn command(&self, spec: &ChildSpec, order: &[OsString]) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command
            // A name of its own, which a `pkill` of the server does not hit.
            .arg0("mcp-supervisor")
            .args(&self.arguments)
            .args(order)
            .arg("--")
            .arg(&spec.program)
            .args(&spec.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
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
    /// A process whose stderr is read and whose end is awaited from now on.
    fn watched(
        process: tokio::process::Child,
        pid: u32,
        stderr: ChildStderr,
        label: String,
        grace: Duration,
        redact: Redact,
    ) -> Self {
        let process = Arc::new(Mutex::new(process));
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (ended, status) = watch::channel(None);
        tokio::spawn(keep(process.clone(), stderr, label.clone(), tail.clone(), redact.clone(), ended));
        Child { label, pid, grace, process, status, tail, redact }
    }

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
    pub async fn stop(self) -> io::Result<ExitStatus> {
        self.finish().await
    }

    /// Ends it as [`Child::stop`] does, for who shares it. If this future is dropped, the end goes on without
    /// it.
    ///
    /// # Errors
    ///
    /// As [`Child::stop`].
    pub async fn finish(&self) -> io::Result<ExitStatus> {
        self.end();
        timeout(self.grace.saturating_add(STOP_MARGIN), self.over()).await.map_err(|_| {
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
        self.over().await
    }

    /// Waits as [`Child::wait`] does, for who shares it.
    pub async fn over(&self) -> ExitStatus {
        let mut status = self.status.clone();
        let status = status.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status).unwrap_or_else(unknown)
    }

    /// Waits as [`Child::wait`] does; gives how it ended in words, with the last lines of stderr:
    /// `exited with code 1: no such option`.
    pub async fn describe_end(&mut self) -> String {
        let status = self.wait().await;
        let how = in_words(status);
        match self.stderr_tail() {
            tail if tail.is_empty() => how,
            tail => format!("{how}: {tail}"),
        }
    }

    /// The last lines that it wrote to stderr: 20 lines and 4 KiB at most, without secrets.
    pub fn stderr_tail(&self) -> String {
        self.tail.lock().text(&*self.redact)
    }

    /// Begins the end of the whole tree, as a drop does.
    pub fn end(&self) {
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

impl Detached {
    /// The process id of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the command and all it started have ended; as [`Child::wait`].
    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await.unwrap_or_else(|_| unknown())
    }
}

/// Asks the supervisor of a [`Detached`] command, which another process may have started, to end its tree.
/// That the number is still the supervisor's is the caller's care.
pub fn end_detached(supervisor: u32) {
    if let Some(pid) = i32::try_from(supervisor).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// How a command ended, of the status that its supervisor gave.
pub fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if SIGNAL_EXIT_CODES.contains(&code) => format!("was ended by signal {}", code - 128),
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("ended with its supervisor, by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// A terminal's Ctrl-C is for this process, which ends its children in its own order.
fn in_own_group(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// What tells the supervisor of a server whose end to wait for, and how long SIGTERM may take.
fn server_flags(parent: &str, patience: Duration) -> Vec<OsString> {
    flags(["--parent", parent, "--grace-ms", "0", "--patience-ms", &milliseconds(patience)])
}

fn flags<const N: usize>(words: [&str; N]) -> Vec<OsString> {
    words.into_iter().map(OsString::from).collect()
}

fn this_process() -> String {
    std::process::id().to_string()
}

fn milliseconds(time: Duration) -> String {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).to_string()
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
    if timeout(STDERR_DRAIN_TIMEOUT, &mut listening).await.is_err() {
        listening.abort();
    }
    ended.send_replace(Some(status.unwrap_or_else(|_| unknown())));
}

fn unknown() -> ExitStatus {
    ExitStatus::from_raw(i32::from(supervise::FAILED) << 8)
}
