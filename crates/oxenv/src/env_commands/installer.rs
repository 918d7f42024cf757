//! What makes virtual environments and installs into them: uv where it is on the `PATH`, else Python's own
//! venv and pip.
//!
//! Invariant: each line that a command writes is passed on to stderr as it comes, and a command that fails is
//! an error with the last of them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use oxenv_process::child::{ChildSpec, Supervisor, describe_status};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::env;
use crate::output::{in_shell, printable};

/// Lines of a command that an error shows.
const MAX_ERROR_LINES: usize = 20;
/// How long a command may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(1);

/// Installs packages.
pub(super) struct Installer {
    /// Where its commands run, which is what relative requirements are relative to.
    folder: PathBuf,
    supervisor: Supervisor,
    uv: Option<PathBuf>,
}

impl Installer {
    pub(super) fn find(folder: PathBuf) -> io::Result<Self> {
        let supervisor = Supervisor::new(std::env::current_exe()?, ["supervise"]);
        let uv = on_path("uv")?;
        Ok(Installer { folder, supervisor, uv })
    }

    pub(super) fn name(&self) -> &'static str {
        if self.uv.is_some() { "uv" } else { "pip" }
    }

    /// Whether it installs only where pip is installed.
    pub(super) fn needs_pip(&self) -> bool {
        self.uv.is_none()
    }

    /// Makes a virtual environment.
    pub(super) async fn make_venv(&self, python: &Path, place: &Path) -> anyhow::Result<()> {
        let words: Vec<OsString> = match &self.uv {
            Some(uv) => vec![uv.into(), "venv".into(), "--python".into(), python.into(), place.into()],
            None => vec![python.into(), "-m".into(), "venv".into(), place.into()],
        };
        self.run(words).await.with_context(|| format!("cannot make {}", place.display()))
    }

    /// Installs pip into the virtual environment of `python`, which another program has made without it.
    pub(super) async fn add_pip(&self, python: &Path) -> anyhow::Result<()> {
        let words = ["-m", "ensurepip", "--upgrade", "--default-pip"].map(OsString::from);
        self.run([python.into()].into_iter().chain(words).collect()).await.context("pip cannot be installed")
    }

    /// Installs into the virtual environment of `python`.
    pub(super) async fn install(&self, python: &Path, requirements: &[String]) -> anyhow::Result<()> {
        let mut words: Vec<OsString> = match &self.uv {
            Some(uv) => vec![uv.into(), "pip".into(), "install".into(), "--python".into(), python.into()],
            None => vec![python.into(), "-m".into(), "pip".into(), "install".into()],
        };
        words.extend(requirements.iter().map(OsString::from));
        self.run(words).await.context("the requirements cannot be installed")
    }

    /// Runs a command to its end.
    async fn run(&self, words: Vec<OsString>) -> anyhow::Result<()> {
        let shown: Vec<String> = words.iter().map(|word| in_shell(&word.to_string_lossy())).collect();
        let shown = shown.join(" ");
        report(&format!("$ {shown}"));
        let mut words = words.into_iter();
        let program = words.next().ok_or_else(|| anyhow!("there is no command to run"))?;
        let spec = ChildSpec {
            label: "installer".to_owned(),
            program,
            arguments: words.collect(),
            environment: env::inherited(),
            folder: Some(self.folder.clone()),
            grace: GRACE,
        };
        let (child, output) = self.supervisor.spawn_with_output(spec)?;
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

/// The program of that name on the `PATH`: absolute, because it is started in another folder.
pub(super) fn on_path(name: &str) -> io::Result<Option<PathBuf>> {
    let path = env::lookup("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|place| place.join(name));
    places.find(|program| program.is_file()).map(std::path::absolute).transpose()
}

fn report(line: &str) {
    // There is no reader when stderr is gone.
    let _ = writeln!(io::stderr(), "{}", printable(line));
}
