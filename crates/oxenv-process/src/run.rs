//! Runs a short command to its end, without a supervisor.
//!
//! Invariant: the command is killed when its caller no longer waits for it, or when its time is over.
//! What it started is not: commands that start others belong under a
//! [`Supervisor`](crate::child::Supervisor).

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time;

/// Runs a program of the `PATH` with this input; returns its status and all that it wrote, which is kept in
/// memory. It inherits the environment of this process.
///
/// # Errors
///
/// If it cannot be started. [`io::ErrorKind::TimedOut`] if it did not end within `timeout`.
pub async fn run(program: &str, arguments: &[&str], input: &[u8], timeout: Duration) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program} cannot be started: {error}")))?;
    let stdin = child.stdin.take();
    let ended = async {
        if let Some(mut stdin) = stdin {
            // A command that ended early reports the reason itself.
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    time::timeout(timeout, ended).await.map_err(|_| {
        let message = format!("{program} did not end within {} s", timeout.as_secs_f64());
        io::Error::new(io::ErrorKind::TimedOut, message)
    })?
}
