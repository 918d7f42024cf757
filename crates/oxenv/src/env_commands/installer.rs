//! What makes virtual environments and installs into them: uv where it is on the `PATH`, else Python's own
//! venv and pip.
//!
//! Entry point: [`Installer::find`].

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;

use crate::env;
use crate::requirements::Requirements;
use crate::shown_command::{ShownCommand, on_path, report};

/// Installs packages.
pub(super) struct Installer {
    /// Where its commands run, which is what relative requirements are relative to.
    folder: PathBuf,
    uv: Option<PathBuf>,
}

impl Installer {
    pub(super) fn find(folder: PathBuf) -> io::Result<Self> {
        Ok(Installer { folder, uv: on_path("uv")? })
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

    /// Whether it follows what uv has for a project.
    pub(super) fn follows_uv(&self) -> bool {
        self.uv.is_some()
    }

    /// Installs what a folder lists into the virtual environment of `python`: by uv's lock and sources where
    /// there are some.
    pub(super) async fn install_all(&self, python: &Path, requirements: &Requirements) -> anyhow::Result<()> {
        let of_uv = requirements.of_uv;
        let arguments = match (&self.uv, of_uv.describe()) {
            (None, Some(what)) => {
                report(&format!(
                    "note: pip does not follow {what}: with uv on the PATH the packages are those"
                ));
                requirements.arguments.clone()
            }
            (Some(uv), Some(_)) if of_uv.has_lock => {
                self.sync(uv, python).await?;
                requirements.lists()
            }
            (Some(_), Some(_)) => {
                let project = ["-r".to_owned(), "pyproject.toml".to_owned()];
                project.into_iter().chain(requirements.lists()).collect()
            }
            (_, None) => requirements.arguments.clone(),
        };
        if arguments.is_empty() { Ok(()) } else { self.install(python, &arguments).await }
    }

    /// Installs what `uv.lock` has for the project, without the project itself and its groups for developers.
    async fn sync(&self, uv: &Path, python: &Path) -> anyhow::Result<()> {
        let flags = ["--locked", "--inexact", "--no-install-project", "--no-default-groups", "--python"];
        let mut words: Vec<OsString> = vec![uv.into(), "sync".into()];
        words.extend(flags.map(OsString::from));
        words.push(python.into());
        self.run(words).await.context("what uv.lock has cannot be installed")
    }

    /// Installs into the virtual environment of `python`.
    async fn install(&self, python: &Path, requirements: &[String]) -> anyhow::Result<()> {
        let mut words: Vec<OsString> = match &self.uv {
            Some(uv) => vec![uv.into(), "pip".into(), "install".into(), "--python".into(), python.into()],
            None => vec![python.into(), "-m".into(), "pip".into(), "install".into()],
        };
        words.extend(requirements.iter().map(OsString::from));
        self.run(words).await.context("the requirements cannot be installed")
    }

    async fn run(&self, words: Vec<OsString>) -> anyhow::Result<()> {
        let command =
            ShownCommand { words, folder: Some(self.folder.clone()), environment: env::inherited() };
        command.run(Stdio::null()).await
    }
}
