//! Child processes: how one is started, read, and ended together with all that it started.
//!
//! Each command runs under a supervisor process (`supervise.rs`) that outlives this process for a moment, so
//! that not even a kill -9 of this process leaves anything behind. Commands get the environment they are
//! given and nothing else, and no descriptor but stdin, stdout and stderr.
//!
//! Invariant: dropping a [`Child`] begins the end of its whole tree.

mod output;

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

use crate::secret::Redactor;
use crate::supervise;
use crate::tail::OutputTail;

/// How long [`Child::stop`] waits beyond the grace: SIGTERM's second, and time to spare.
const STOP_MARGIN: Duration = Duration::from_secs(3);
/// How long output is read on after the end, in case a process outside the tree holds it open.
const OUTPUT_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// The codes that stand for signals; a command may exit with higher ones by itself.
const SIGNAL_EXIT_CODES: RangeInclusive<i32> = 129..=192;

/// A command to run.
pub struct ChildSpec {
    /// What the log calls it: the name of a toolset or of an instance.
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
    /// The file whose shared lock it holds.
    lock: Option<PathBuf>,
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
    tail: Arc<Mutex<OutputTail>>,
    redactor: Redactor,
}

/// A command that goes on without this process, until its supervisor gets SIGTERM. Dropping it changes
/// nothing.
pub struct DetachedChild {
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
        Supervisor { program: program.into(), arguments, lock: None }
    }

    /// Makes the supervisors of [`spawn`](Supervisor::spawn) hold a shared lock of this file while their
    /// commands live: for commands that work
    /// in folders which are deleted by the process that gets that lock exclusively.
    #[must_use]
    pub fn with_shared_lock(self, lock: PathBuf) -> Self {
        Supervisor { lock: Some(lock), ..self }
    }

    /// Starts a command; returns it with its stdin and stdout. Each line of its stderr becomes a debug event
    /// with the field `toolset`, up to 64 KiB a second.
    ///
    /// It must be called within a Tokio runtime, and does not wait. A command that cannot be run is reported
    /// as an end: [`Child::describe_end`] describes why.
    ///
    /// # Errors
    ///
    /// If the folder does not exist, or the supervisor cannot be started.
    pub fn spawn(&self, spec: ChildSpec, redactor: Redactor) -> io::Result<(Child, ChildStdin, ChildStdout)> {
        let mut flags = flags(["--parent", &this_process(), "--grace-ms", &milliseconds(spec.grace)]);
        flags.extend(self.lock.iter().flat_map(|lock| ["--lock".into(), lock.into()]));
        let mut process =
            self.start(in_own_group(&mut self.command(&spec, &flags)?).envs(spec.environment))?;
        let pipes = (process.id(), process.stdin.take(), process.stdout.take(), process.stderr.take());
        let (Some(pid), Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("a process was started without its pipes"));
        };
        Ok((Child::watched(process, pid, stderr, spec.label, spec.grace, redactor), stdin, stdout))
    }

    /// Starts a server: its stdin is empty, and what it writes to stdout is read as stderr is. Asked to end,
    /// it gets SIGTERM at once, and SIGKILL after its grace.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`].
    pub fn spawn_server(&self, spec: ChildSpec, redactor: Redactor) -> io::Result<Child> {
        let flags = server_flags(&this_process(), spec.grace);
        self.spawn_read(spec, &flags, Stdio::null(), redactor)
    }

    /// Starts a worker that is spoken to over a socket, which is its stdin; what it writes to stdout is read
    /// as stderr is. Python takes the socket with `socket.socket(fileno=0)`; more descriptors can be sent
    /// over it. Drop this end of the socket before the worker is asked to end: it can end by itself then,
    /// within its grace; else see [`Child`].
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`].
    pub fn spawn_with_socket(
        &self,
        spec: ChildSpec,
        socket: impl Into<OwnedFd>,
        redactor: Redactor,
    ) -> io::Result<Child> {
        let flags = flags(["--parent", &this_process(), "--grace-ms", &milliseconds(spec.grace)]);
        self.spawn_read(spec, &flags, Stdio::from(socket.into()), redactor)
    }

    /// Starts a command that reads `stdin`; returns it with what it writes to stdout and stderr, as one
    /// stream.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`].
    pub fn spawn_with_output(&self, spec: ChildSpec, stdin: Stdio) -> io::Result<(Child, ChildStdout)> {
        let flags = flags(["--parent", &this_process(), "--grace-ms", &milliseconds(spec.grace)]);
        let (process, pid, output) = self.start_joined(&spec, &flags, stdin)?;
        let output = ChildStdout::from_std(std::process::ChildStdout::from(output))?;
        // All of its output is the caller's to read.
        let nothing = std::process::ChildStderr::from(OwnedFd::from(io::pipe()?.0));
        let nothing = ChildStderr::from_std(nothing)?;
        Ok((Child::watched(process, pid, nothing, spec.label, spec.grace, Redactor::default()), output))
    }

    /// Starts a command whose stdout and stderr are read here.
    fn spawn_read(
        &self,
        spec: ChildSpec,
        flags: &[OsString],
        stdin: Stdio,
        redactor: Redactor,
    ) -> io::Result<Child> {
        let (process, pid, output) = self.start_joined(&spec, flags, stdin)?;
        let output = ChildStderr::from_std(std::process::ChildStderr::from(output))?;
        Ok(Child::watched(process, pid, output, spec.label, spec.grace, redactor))
    }

    /// Starts a command in a group of its own; returns the end of the pipe that it writes to.
    fn start_joined(
        &self,
        spec: &ChildSpec,
        flags: &[OsString],
        stdin: Stdio,
    ) -> io::Result<(tokio::process::Child, u32, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        let mut command = self.command(spec, flags)?;
        command.stdin(stdin).stdout(writer.try_clone()?).stderr(writer);
        let process = self.start(in_own_group(&mut command).envs(spec.environment.iter().cloned()))?;
        // Else its own copies would keep the pipe and the socket open.
        drop(command);
        let pid = process.id().ok_or_else(|| io::Error::other("a process ended as it was started"))?;
        Ok((process, pid, OwnedFd::from(reader)))
    }

    /// Starts a server that goes on when this process ends, with a session of its own. The end of what it
    /// writes is kept in the file `log`, at most 2 MiB of it; older parts are in the file of that name and
    /// `.old`.
    ///
    /// # Errors
    ///
    /// As [`Supervisor::spawn`], and if the file cannot be made.
    pub fn spawn_detached(&self, spec: ChildSpec, log: &Path) -> io::Result<DetachedChild> {
        let mut flags = server_flags("none", spec.grace);
        flags.extend(["--log".into(), log.into()]);
        let mut command = self.command(&spec, &flags)?;
        let own_problems = supervise::open_log(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(own_problems).envs(spec.environment);
        let process = self.start(&mut command)?;
        let pid = process.id().ok_or_else(|| io::Error::other("a process ended as it was started"))?;
        Ok(DetachedChild { pid, process })
    }

    fn start(&self, command: &mut Command) -> io::Result<tokio::process::Child> {
        command.spawn().map_err(|error| {
            let supervisor = self.program.display();
            io::Error::new(error.kind(), format!("cannot start the supervisor '{supervisor}': {error}"))
        })
    }

    fn command(&self, spec: &ChildSpec, flags: &[OsString]) -> io::Result<Command> {
        let mut command = Command::new(&self.program);
        command
            // A name of its own, which a `pkill` of the server does not hit.
            .arg0("mcp-supervisor")
            .args(&self.arguments)
            .args(flags)
            .arg("--")
            .arg(&spec.program)
            .args(&spec.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(folder) = &spec.folder {
            // The kernel's error does not distinguish a missing folder from a missing program.
            if !folder.is_dir() {
                let message =
                    format!("the folder '{}' does not exist; make it or name another", folder.display());
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            command.current_dir(folder);
        }
        Ok(command)
    }
}

impl Child {
    /// A process whose output is read and whose end is awaited from now on.
    fn watched(
        process: tokio::process::Child,
        pid: u32,
        stderr: ChildStderr,
        label: String,
        grace: Duration,
        redactor: Redactor,
    ) -> Self {
        let process = Arc::new(Mutex::new(process));
        let tail = Arc::new(Mutex::new(OutputTail::default()));
        let (ended, status) = watch::channel(None);
        tokio::spawn(watch(process.clone(), stderr, label.clone(), tail.clone(), redactor.clone(), ended));
        Child { label, pid, grace, process, status, tail, redactor }
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
    pub async fn stop(&self) -> io::Result<ExitStatus> {
        self.begin_stop();
        timeout(self.grace.saturating_add(STOP_MARGIN), self.wait()).await.map_err(|_| {
            let Child { label, pid, .. } = &self;
            let message = format!("the processes of '{label}' do not end; look at those below process {pid}");
            io::Error::new(io::ErrorKind::TimedOut, message)
        })
    }

    /// Waits until the command and all it started have ended by themselves; returns the command's status, in
    /// which signal N is code 128 + N. The code is [`supervise::FAILED`] if the status is lost; there is none
    /// if the supervisor itself was ended by a signal, as when it is stopped before it started the command.
    ///
    /// Dropping this future changes nothing; it may be called again.
    pub async fn wait(&self) -> ExitStatus {
        let mut status = self.status.clone();
        let status = status.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status).unwrap_or_else(unknown_status)
    }

    /// Waits as [`Child::wait`] does; describes how it ended, with the last lines of stderr:
    /// `exited with code 1: no such option`.
    pub async fn describe_end(&self) -> String {
        let status = self.wait().await;
        let how = describe_status(status);
        match self.output_tail() {
            tail if tail.is_empty() => how,
            tail => format!("{how}: {tail}"),
        }
    }

    /// The last lines that it wrote to stderr, and to stdout unless [`Supervisor::spawn`] returned that: 20
    /// lines and 4 KiB at most, without secrets.
    pub fn output_tail(&self) -> String {
        self.tail.lock().text(&self.redactor)
    }

    /// Begins the end of the whole tree, as a drop does.
    pub fn begin_stop(&self) {
        let process = self.process.lock();
        // Under the lock it is not reaped, so that its number is its own.
        if let Some(pid) = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

impl DetachedChild {
    /// The process id of its supervisor.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the command and all it started have ended; as [`Child::wait`].
    pub async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await.unwrap_or_else(|_| unknown_status())
    }
}

/// Asks the supervisor of a [`DetachedChild`] command, which another process may have started, to end its
/// tree. The caller makes sure that the number is still that of the supervisor.
pub fn begin_stop_detached(supervisor: u32) {
    if let Some(pid) = i32::try_from(supervisor).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// How a command ended, from the status of its supervisor: `exited with code 1`.
pub fn describe_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if SIGNAL_EXIT_CODES.contains(&code) => describe_signal(code - 128),
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => {
            format!("ended with its supervisor, by signal {signal}{}", signal_name(signal))
        }
        (None, None) => "ended".to_owned(),
    }
}

/// How a command ended that a signal ended: `was ended by signal 9 (SIGKILL)`.
pub fn describe_signal(signal: i32) -> String {
    format!("was ended by signal {signal}{}", signal_name(signal))
}

/// The name of a signal, in brackets; empty for one that is not expected to end a process.
fn signal_name(number: i32) -> &'static str {
    let names = [
        (Signal::HUP, " (SIGHUP)"),
        (Signal::INT, " (SIGINT)"),
        (Signal::QUIT, " (SIGQUIT)"),
        (Signal::ILL, " (SIGILL)"),
        (Signal::TRAP, " (SIGTRAP)"),
        (Signal::ABORT, " (SIGABRT)"),
        (Signal::BUS, " (SIGBUS)"),
        (Signal::FPE, " (SIGFPE)"),
        (Signal::KILL, " (SIGKILL)"),
        (Signal::SEGV, " (SIGSEGV)"),
        (Signal::PIPE, " (SIGPIPE)"),
        (Signal::ALARM, " (SIGALRM)"),
        (Signal::TERM, " (SIGTERM)"),
        (Signal::XCPU, " (SIGXCPU)"),
    ];
    names.iter().find(|(signal, _)| signal.as_raw() == number).map_or("", |(_, name)| name)
}

/// A terminal's Ctrl-C is for this process, which ends its children in its own order.
fn in_own_group(command: &mut Command) -> &mut Command {
    command.process_group(0)
}

/// Arguments that give the supervisor of a server the process whose end to wait for, and how long
/// SIGTERM may take.
fn server_flags(parent: &str, term_timeout: Duration) -> Vec<OsString> {
    flags(["--parent", parent, "--grace-ms", "0", "--term-timeout-ms", &milliseconds(term_timeout)])
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

/// Reads the output and waits for the end, which comes soon after the [`Child`] is dropped.
async fn watch(
    process: Arc<Mutex<tokio::process::Child>>,
    output: ChildStderr,
    label: String,
    tail: Arc<Mutex<OutputTail>>,
    redactor: Redactor,
    ended: watch::Sender<Option<ExitStatus>>,
) {
    let mut following = tokio::spawn(output::follow(output, label, tail, redactor));
    let status = poll_fn(|context| pin!(process.lock().wait()).poll(context)).await;
    if timeout(OUTPUT_DRAIN_TIMEOUT, &mut following).await.is_err() {
        following.abort();
    }
    ended.send_replace(Some(status.unwrap_or_else(|_| unknown_status())));
}

fn unknown_status() -> ExitStatus {
    ExitStatus::from_raw(i32::from(supervise::FAILED) << 8)
}
