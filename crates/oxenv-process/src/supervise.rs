//! The supervisor: a small process between the server and one command, which ends the command and all
//! that it started when the server asks, when the server is gone, or when the command has ended.
//!
//! It adopts the orphans among its descendants (`PR_SET_CHILD_SUBREAPER`), so it has no child left exactly
//! when the whole tree is gone, whatever was daemonised or has a session of its own. It is started as
//!
//! ```text
//! PROGRAM LEADING… [--parent PID|none] [--grace-ms N] [--term-timeout-ms N] [--log FILE] [--lock FILE]
//!     -- COMMAND ARGUMENTS…
//! ```
//!
//! It starts itself once more, with `--exec`, for what must happen in the command's own process just before
//! that runs: a session of its own, and a death signal from the kernel in case the supervisor is killed.
//! Without a parent it has a session of its own as well, and ends only when it is signalled or the command
//! has ended.
//!
//! Systems other than Linux have neither orphans' adoption nor death signals: there, what leaves the
//! command's process group survives, and the server's end is noticed within half a second.
//!
//! Invariant: on Linux it exits only when no descendant is left.

mod log;

use std::ffi::OsString;
use std::io::Write;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::process::PidfdFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::signal::unix::{self, SignalKind};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) use log::open as open_log;

/// The supervisor's exit code when the command cannot be found.
pub const NOT_FOUND: u8 = 127;
/// The exit code when the command was found and cannot be run.
pub const NOT_RUNNABLE: u8 = 126;
/// The exit code when the supervisor itself failed.
pub const FAILED: u8 = 125;
/// How long processes have between SIGTERM and SIGKILL.
pub const TERM_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the command has to end by itself, once it is asked to, unless `--grace-ms` sets it.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(1);

/// The first pause between two rounds of SIGKILL; it doubles.
const INITIAL_KILL_PAUSE: Duration = Duration::from_millis(1);
/// The longest such pause.
const MAX_KILL_PAUSE: Duration = Duration::from_millis(100);
/// How often to look for the parent where the kernel does not report its end.
const PARENT_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the supervisor on the arguments of this process, as its whole `main`.
///
/// `leading` are the arguments before the supervisor's own, for a program that is something else as well
/// (`["supervise"]`). It must be called on the main thread, before any runtime is started: the kernel ties
/// the death signal to the thread that starts the command.
///
/// Returns the command's exit code, or 128 + N if signal N ended it. [`NOT_FOUND`], [`NOT_RUNNABLE`]
/// and [`FAILED`] come with a line on stderr.
pub fn main(leading: &[&str]) -> ExitCode {
    let code = SuperviseArgs::read(std::env::args_os().skip(1 + leading.len())).and_then(|args| {
        match args.execute {
            Some(supervisor) => Err(become_command(supervisor, &args.command)),
            None => supervise(&args, leading),
        }
    });
    ExitCode::from(code.unwrap_or_else(|failure| {
        // The reader may be gone.
        let _ = writeln!(std::io::stderr(), "{}", failure.message);
        failure.code
    }))
}

/// The parsed arguments.
struct SuperviseArgs {
    /// The process whose end ends the command.
    parent: Option<Pid>,
    /// Whether it goes on when its starter ends.
    detached: bool,
    grace: Duration,
    /// How long processes have between SIGTERM and SIGKILL.
    term_timeout: Duration,
    /// The file for the command's output, when no other process reads it.
    log: Option<PathBuf>,
    /// The file whose lock is shared until nothing is left.
    lock: Option<PathBuf>,
    /// Set in the second stage, which becomes the command: the supervisor.
    execute: Option<Pid>,
    /// Program and arguments; never empty.
    command: Vec<OsString>,
}

/// Why there is no exit code of a command.
struct SuperviseError {
    code: u8,
    message: String,
}

/// The command and everything below it.
struct ProcessTree {
    command: Pid,
    term_timeout: Duration,
    status: Option<WaitStatus>,
    child_signals: unix::Signal,
}

impl SuperviseArgs {
    fn read(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, SuperviseError> {
        let mut parsed = SuperviseArgs {
            parent: rustix::process::getppid(),
            detached: false,
            grace: DEFAULT_GRACE,
            term_timeout: TERM_TIMEOUT,
            log: None,
            lock: None,
            execute: None,
            command: Vec::new(),
        };
        while let Some(flag) = arguments.next() {
            if flag == "--" {
                parsed.command = arguments.collect();
                break;
            }
            let text = arguments.next();
            let value = text.as_ref().and_then(|value| value.to_str()?.parse::<u64>().ok());
            let pid = value.and_then(|value| Pid::from_raw(i32::try_from(value).ok()?));
            match (flag.to_str(), value, pid) {
                (Some("--parent"), _, None) if text.as_ref().is_some_and(|text| text == "none") => {
                    parsed.detached = true;
                }
                (Some("--parent"), _, Some(pid)) => parsed.parent = Some(pid),
                (Some("--grace-ms"), Some(grace), _) => parsed.grace = Duration::from_millis(grace),
                (Some("--term-timeout-ms"), Some(time), _) => {
                    parsed.term_timeout = Duration::from_millis(time);
                }
                (Some("--log"), _, _) => parsed.log = text.map(PathBuf::from),
                (Some("--lock"), _, _) => parsed.lock = text.map(PathBuf::from),
                (Some("--exec"), _, Some(pid)) => parsed.execute = Some(pid),
                _ => {
                    return Err(SuperviseError::internal(&format!(
                        "cannot read its flag {}",
                        flag.display()
                    )));
                }
            }
        }
        if parsed.command.is_empty() {
            return Err(SuperviseError::internal("no command is given after `--`"));
        }
        Ok(parsed)
    }
}

impl SuperviseError {
    fn internal(why: &str) -> Self {
        SuperviseError { code: FAILED, message: format!("supervisor: {why}") }
    }

    /// Why the command could not be executed, and what to do.
    fn of_command(program: &OsString, error: &std::io::Error) -> Self {
        let name = program.display();
        let path = Path::new(program);
        let (code, message) = match error.kind() {
            std::io::ErrorKind::NotFound if path.components().count() < 2 => (
                NOT_FOUND,
                format!("command '{name}' was not found on PATH; install it or give its full path"),
            ),
            std::io::ErrorKind::NotFound if path.exists() => (
                NOT_RUNNABLE,
                format!("command '{name}' needs an interpreter that does not exist; check its first line"),
            ),
            std::io::ErrorKind::NotFound => {
                (NOT_FOUND, format!("command '{name}' does not exist; correct its path"))
            }
            std::io::ErrorKind::PermissionDenied => {
                (NOT_RUNNABLE, format!("command '{name}' may not be executed; check its permissions"))
            }
            _ => (NOT_RUNNABLE, format!("command '{name}' cannot be run: {error}")),
        };
        SuperviseError { code, message }
    }
}

impl ProcessTree {
    /// Reaps ended processes; returns whether nothing is left.
    fn reap(&mut self) -> bool {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.status = Some(status),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                // No child. Without adoption, orphans may still be in the command's group.
                Err(_) => {
                    return cfg!(target_os = "linux")
                        || rustix::process::test_kill_process_group(self.command).is_err();
                }
            }
        }
    }

    async fn command_ends(&mut self) {
        while !self.reap() && self.status.is_none() {
            self.child_signals.recv().await;
        }
    }

    async fn empties(&mut self) {
        while !self.reap() {
            self.child_signals.recv().await;
        }
    }

    /// Ends all that is left, however long the kernel needs for it.
    async fn end(&mut self) {
        if self.reap() {
            return;
        }
        self.signal(Signal::TERM);
        if timeout(self.term_timeout, self.empties()).await.is_ok() {
            return;
        }
        let mut pause = INITIAL_KILL_PAUSE;
        loop {
            self.signal(Signal::KILL);
            if timeout(pause, self.empties()).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(MAX_KILL_PAUSE);
        }
    }

    /// Signals every descendant, or the group where the descendants cannot be listed.
    fn signal(&self, signal: Signal) {
        let descendants = descendants();
        for pid in &descendants {
            // It may have ended since it was listed.
            let _ = rustix::process::kill_process(*pid, signal);
        }
        if descendants.is_empty() {
            let _ = rustix::process::kill_process_group(self.command, signal);
        }
    }

    fn code(&self) -> u8 {
        let code = self.status.and_then(|status| {
            status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        });
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED)
    }
}

/// The second stage: sets up this process and replaces it by the command; returns only on failure.
fn become_command(supervisor: Pid, command: &[OsString]) -> SuperviseError {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return SuperviseError::internal(&format!("cannot set the command's death signal: {error}"));
    }
    if rustix::process::getppid() != Some(supervisor) {
        return SuperviseError::internal("it was ended before the command started");
    }
    if let Err(error) = rustix::process::setsid() {
        return SuperviseError::internal(&format!("cannot give the command a session: {error}"));
    }
    SuperviseError::of_command(&command[0], &Command::new(&command[0]).args(&command[1..]).exec())
}

fn supervise(args: &SuperviseArgs, leading: &[&str]) -> Result<u8, SuperviseError> {
    let failed = |error: std::io::Error| SuperviseError::internal(&error.to_string());
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| SuperviseError::internal(&format!("cannot adopt orphans: {error}")))?;
        // A name of its own, which a `pkill` of the server does not hit.
        let _ = rustix::thread::set_name(c"mcp-supervisor");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(run(args, leading)).map_err(failed)
}

/// Starts the command and sees it to its end, and to that of all it started.
async fn run(args: &SuperviseArgs, leading: &[&str]) -> std::io::Result<u8> {
    // From here on a signal is a request to end, or it would orphan the command.
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    let mut hang_up = unix::signal(SignalKind::hangup())?;
    let child_signals = unix::signal(SignalKind::child())?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    if args.detached {
        rustix::process::setsid()?;
    }

    let _held = share_lock(args.lock.as_deref())?;
    let StartedCommand { pid: command, log } = start(args, leading)?;
    let mut tree = ProcessTree { command, term_timeout: args.term_timeout, status: None, child_signals };
    // Only the command holds its pipes, so each side sees the other's close.
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;

    let must_end = tokio::select! {
        () = tree.command_ends() => false,
        () = end_of(args.parent), if !args.detached => true,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        _ = hang_up.recv() => true,
    };
    if must_end {
        // Past the grace it is made to.
        let _ = timeout(args.grace, tree.command_ends()).await;
    }
    tree.end().await;
    if let Some(log) = log {
        // A process outside the tree may hold the pipe open.
        let _ = timeout(TERM_TIMEOUT, log).await;
    }
    Ok(tree.code())
}

/// Takes a shared lock of a file. A process that has it exclusively deletes the folders that the command
/// would work in.
fn share_lock(file: Option<&Path>) -> std::io::Result<Option<std::fs::File>> {
    // A file that was deleted protects nothing.
    let Some(Ok(file)) = file.map(std::fs::File::open) else { return Ok(None) };
    file.try_lock_shared().map_err(|_| std::io::Error::other("its server has ended"))?;
    Ok(Some(file))
}

/// The second stage, which becomes the command, and the task that writes its log if it has one.
struct StartedCommand {
    pid: Pid,
    log: Option<JoinHandle<()>>,
}

/// Starts the second stage.
fn start(args: &SuperviseArgs, leading: &[&str]) -> std::io::Result<StartedCommand> {
    // On Linux by this name, which also works when the file was replaced since.
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.args(leading).args(["--exec", &std::process::id().to_string(), "--"]).args(&args.command);
    let mut log = None;
    if let Some(path) = &args.log {
        let (reader, writer) = std::io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        log = Some(tokio::spawn(log::write(pipe::Receiver::from_owned_fd(reader.into())?, path.clone())));
    }
    Ok(StartedCommand { pid: Pid::from_child(&command.spawn()?), log })
}

/// Waits until the parent is gone.
async fn end_of(parent: Option<Pid>) {
    #[cfg(target_os = "linux")]
    if let Some(pid) = parent
        && let Ok(handle) = handle_of(pid)
        // Else the handle may be of another process that got the number.
        && rustix::process::getppid() == parent
    {
        let _ = handle.readable().await;
        return;
    }
    while rustix::process::getppid() == parent {
        tokio::time::sleep(PARENT_POLL_INTERVAL).await;
    }
}

/// A handle that becomes readable when that process ends.
#[cfg(target_os = "linux")]
#[allow(deprecated, reason = "the new way is unsafe, and an owned descriptor keeps what it demands")]
fn handle_of(pid: Pid) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// All living descendants of this process; none where they cannot be listed.
#[cfg(target_os = "linux")]
fn descendants() -> Vec<Pid> {
    let mut found = children(rustix::process::getpid());
    let mut at = 0;
    while at < found.len() {
        found.extend(children(found[at]));
        at += 1;
    }
    found
}

#[cfg(not(target_os = "linux"))]
fn descendants() -> Vec<Pid> {
    Vec::new()
}

/// The children that each thread of a process has.
#[cfg(target_os = "linux")]
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())) else {
        return Vec::new();
    };
    let lists = threads.flatten().filter_map(|thread| {
        let list = std::fs::read_to_string(thread.path().join("children")).ok()?;
        Some(
            list.split_ascii_whitespace()
                .filter_map(|pid| Pid::from_raw(pid.parse().ok()?))
                .collect::<Vec<_>>(),
        )
    });
    lists.flatten().collect()
}
