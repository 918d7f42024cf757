//! Commands of others that run for the user, who sees what they write.
//!
//! Invariant: each line that a command writes is passed on to stderr as it comes, and a command that fails is
//! an error with the last of them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::anyhow;
use oxenv_process::child::{ChildSpec, Supervisor, describe_status};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::env;
use crate::output::{in_shell, printable};

/// Lines of a command that an error shows.
const MAX_ERROR_LINES: usize = 20;
/// How long a command may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(1);

/// A command, which ends with this process.
pub(crate) struct ShownCommand {
    /// The program and its arguments.
    pub(crate) words: Vec<OsString>,
    /// Where it runs; without one, where this process does.
    pub(crate) folder: Option<PathBuf>,
    /// Its whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl ShownCommand {
    /// Runs it to its end.
    ///
    /// # Errors
    /// It cannot be started, or does not succeed: with its last lines.
    pub(crate) async fn run(self, stdin: Stdio) -> anyhow::Result<()> {
        let shown: Vec<String> = self.words.iter().map(|word| in_shell(&word.to_string_lossy())).collect();
        let shown = shown.join(" ");
        report(&format!("$ {shown}"));
        let mut words = self.words.into_iter();
        let program = words.next().ok_or_else(|| anyhow!("there is no command to run"))?;
        let spec = ChildSpec {
            label: program.to_string_lossy().into_owned(),
            program,
            arguments: words.collect(),
            environment: self.environment,
            folder: self.folder,
            grace: GRACE,
        };
        let supervisor = Supervisor::new(std::env::current_exe()?, ["supervise"]);
        let (child, output) = supervisor.spawn_with_output(spec, stdin)?;
        let mut last = VecDeque::new();
        let mut lines = BufReader::new(output).split(b'\n');
        while let Some(line) = lines.next_segment().await? {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            report(&line);
            if last.len() == MAX_ERROR_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        let status = child.wait().await;
        if status.success() {
            return Ok(());
        }
        let last: Vec<String> = last.into();
        let how = describe_status(status);
        Err(anyhow!("{shown}: {how}; its last lines were:\n{}", last.join("\n")))
    }
}

/// The program of that name on the `PATH`: absolute, because it may be started in another folder.
pub(crate) fn on_path(name: &str) -> io::Result<Option<PathBuf>> {
    let path = env::lookup("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join(name));
    places.find(|program| program.is_file()).map(std::path::absolute).transpose()
}

/// Writes a line to stderr, beside what the commands write.
pub(crate) fn report(line: &str) {
    // There is no reader when stderr is gone.
    let _ = writeln!(io::stderr(), "{}", printable(line));
}
