//! `oxenv env install`: a virtual environment with what a folder's environment needs.
//!
//! Invariant: nothing but `.venv` is made in the folder, and what is there already is kept.

mod installer;

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::exit::usage;
use crate::hosted;
use crate::output::{in_shell, print};
use crate::requirements::{PLACES, Requirements};
use crate::shown_command::on_path;
use installer::Installer;

#[derive(Args)]
#[command(after_help = "Example:
  oxenv env install my_env")]
pub(crate) struct EnvArgs {
    #[command(subcommand)]
    command: EnvCommand,
}

#[derive(Subcommand)]
enum EnvCommand {
    /// Install the requirements of a folder into a virtual environment, DIR/.venv.
    Install(InstallArgs),
}

#[derive(Args)]
#[command(after_help = "\
What [project] of pyproject.toml, server/requirements.txt and requirements.txt list is installed,
with uv if it is on the PATH, else with pip; their settings and variables hold. uv also follows
uv.lock and [tool.uv.sources]. A .venv that is there is kept and completed. oxenv serve DIR uses it.

Examples:
  oxenv env install my_env
  oxenv env install my_env --python python3.12
  oxenv env install my_env --json")]
struct InstallArgs {
    /// The folder of the environment
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// The Python of the new virtual environment: an interpreter, or another virtual environment
    /// [default: python3 on the PATH]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,

    /// Print what there is as JSON
    #[arg(long)]
    json: bool,
}

/// What a Python tells about itself.
#[derive(Deserialize, PartialEq, Eq)]
struct PythonFacts {
    version: String,
    /// The installation behind a virtual environment.
    base: String,
    has_pip: bool,
    /// What is installed: names and versions.
    packages: serde_json::Map<String, serde_json::Value>,
}

/// What was installed.
#[derive(Serialize)]
struct Installed {
    folder: PathBuf,
    python: PathBuf,
    version: String,
    /// Whether the virtual environment was made by this command.
    made: bool,
    installer: &'static str,
    /// The files that list the requirements.
    requirements: Vec<&'static str>,
    /// Whether the versions are those of `uv.lock`.
    locked: bool,
    packages: serde_json::Map<String, serde_json::Value>,
}

pub(crate) async fn run(args: &EnvArgs) -> anyhow::Result<()> {
    let EnvCommand::Install(args) = &args.command;
    let installed = install(args).await?;
    if args.json {
        return print(&serde_json::to_string_pretty(&installed)?);
    }
    let Installed { python, version, packages, .. } = &installed;
    print(&format!(
        "{}: Python {version} with {} packages\nserve it: oxenv serve {}",
        python.display(),
        packages.len(),
        in_shell(&args.folder.to_string_lossy())
    ))
}

async fn install(args: &InstallArgs) -> anyhow::Result<Installed> {
    if !args.folder.is_dir() {
        return Err(usage(format!("{} is no folder", args.folder.display())));
    }
    let folder = args.folder.canonicalize()?;
    let shown = args.folder.display();
    let requirements = Requirements::of(&folder, &|_| false)?
        .ok_or_else(|| usage(format!("{shown} lists no requirements; looked for {PLACES}")))?;
    let place = folder.join(".venv");
    let python = place.join("bin/python");
    let base = match &args.python {
        Some(given) => hosted::python(Some(given), None)?,
        None => on_path("python3")?
            .ok_or_else(|| usage("there is no python3 on the PATH; name a Python with --python"))?,
    };
    let known = present(&place, &python).await?;
    if let (Some(known), Some(_)) = (&known, &args.python) {
        must_be_same(&place, known, &base).await?;
    }
    let installer = Installer::find(folder.clone())?;
    match &known {
        None => installer.make_venv(&base, &place).await?,
        Some(known) if !known.has_pip && installer.needs_pip() => installer.add_pip(&python).await?,
        Some(_) => {}
    }
    installer.install_all(&python, &requirements).await?;
    let facts = facts(&python).await?;
    Ok(Installed {
        folder,
        python,
        version: facts.version,
        made: known.is_none(),
        installer: installer.name(),
        locked: installer.follows_uv() && requirements.of_uv.has_lock,
        requirements: requirements.files,
        packages: facts.packages,
    })
}

/// The virtual environment that is there.
async fn present(place: &Path, python: &Path) -> anyhow::Result<Option<PythonFacts>> {
    if !place.join("bin").exists() {
        return Ok(None);
    }
    let known = facts(python).await.map_err(|error| {
        usage(format!("{} is there, but {error:#}; remove it and repeat", place.display()))
    })?;
    Ok(Some(known))
}

/// Refuses to go on with a virtual environment of another Python than the one that was named.
async fn must_be_same(place: &Path, known: &PythonFacts, base: &Path) -> anyhow::Result<()> {
    let wanted =
        facts(base).await.map_err(|error| usage(format!("--python {}: {error:#}", base.display())))?;
    if (&wanted.version, &wanted.base) == (&known.version, &known.base) {
        return Ok(());
    }
    Err(usage(format!(
        "{} is there with Python {} of {}, not {} of {}; remove it, or leave out --python",
        place.display(),
        known.version,
        known.base,
        wanted.version,
        wanted.base
    )))
}

/// Asks a Python about itself.
async fn facts(python: &Path) -> anyhow::Result<PythonFacts> {
    const QUESTION: &str = "import importlib.metadata, importlib.util, json, platform, sys\n\
        packages = {each.metadata['Name']: each.version for each in importlib.metadata.distributions()}\n\
        has_pip = importlib.util.find_spec('pip') is not None\n\
        print(json.dumps({'version': platform.python_version(), 'base': sys.base_prefix,\n\
        'has_pip': has_pip, 'packages': dict(sorted(packages.items()))}))";
    const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
    let program = python.to_str().ok_or_else(|| anyhow!("{} is no UTF-8", python.display()))?;
    let answer = oxenv_process::run::run(program, &["-I", "-c", QUESTION], b"", TIMEOUT).await?;
    if !answer.status.success() {
        let said = String::from_utf8_lossy(&answer.stderr);
        let how = oxenv_process::child::describe_status(answer.status);
        return Err(anyhow!("{program} {how}: {}", said.trim_end()));
    }
    serde_json::from_slice(&answer.stdout)
        .with_context(|| format!("{program} does not answer as Python does"))
}
