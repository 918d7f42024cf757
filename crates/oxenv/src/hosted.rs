//! Environments written in Python: what a name on the command line means for them, with which Python they
//! run, and what is printed about them at the start.
//!
//! Invariant: nothing is written into the environment's folder.

mod missing_module;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use oxenv_core::EnvironmentFactory;
use oxenv_host::{Host, HostError, HostOptions, HostSource, HostedFactory, Isolation, WorkerLimits};
use oxenv_process::child::Supervisor;
use oxenv_server::Mode;
use oxenv_upstream::manifest::read_yaml;
use serde::Deserialize;

use crate::byte_size::ByteSize;
use crate::env;
use crate::exit::usage;
use crate::values::byte_size_setting;

/// Workers that are kept ready for the next sessions.
const DEFAULT_SPARES: usize = 2;
/// How long importing an environment may take: some load a model.
const DEFAULT_IMPORT_TIMEOUT: Duration = Duration::from_secs(300);
/// What marks a folder as one that holds a Python environment.
const APPLICATIONS: [&str; 4] = ["server/app.py", "app.py", "server/main.py", "main.py"];

/// How an environment written in Python is run.
#[derive(Args, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct HostArgs {
    /// The Python of an environment that is written in it: a virtual environment, or an interpreter
    /// [default: the folder's .venv, else $VIRTUAL_ENV, else python3 on the PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,

    /// A variable for the Python environment, set before it is imported (may be repeated)
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(crate) variables: Vec<String>,

    /// A file of such variables, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,

    /// The class of actions as package.module:Name [default: as the environment says]
    #[arg(long, value_name = "CLASS")]
    pub(crate) action: Option<String>,

    /// The class of observations [default: as the environment says]
    #[arg(long, value_name = "CLASS")]
    pub(crate) observation: Option<String>,

    /// What each session of a Python environment runs in [default: fork where that is safe]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) isolation: Option<IsolationName>,

    /// The working directory of each session: its own copy of the folder, or the folder itself
    /// [default: private up to 64 MiB]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) cwd: Option<DirectoryName>,

    /// Processes that are kept ready for the next sessions [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) spares: Option<usize>,

    /// Let a process whose session has ended serve the next one; what its modules hold stays
    #[arg(long)]
    pub(crate) reuse: bool,

    /// Import the Python environment again when a file of its folder changes, which ends all sessions; and
    /// the Python files of a tools.yaml, which ends none
    #[arg(long)]
    pub(crate) reload: bool,

    /// Memory of each session's processes: 512MiB, 4GiB; one that needs more ends its episode [default:
    /// no limit]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "byte_size_setting")]
    pub(crate) worker_memory: Option<ByteSize>,

    /// Seconds of CPU time of each process of a session, over all of its episodes [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) worker_cpu_seconds: Option<NonZeroU64>,

    /// Processes and threads of each session at a time [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) worker_processes: Option<NonZeroU64>,

    /// The network of each session's processes: the machine's, or none but a loopback of its own
    /// [default: shared]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) worker_network: Option<NetworkName>,
}

/// What each session runs in.
#[derive(Debug, Clone, Copy, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IsolationName {
    /// A forked child of a process that has imported the environment
    Fork,
    /// A Python that imports the environment itself
    Fresh,
    /// A thread of one Python, for many small sessions that need no protection from each other
    Thread,
}

/// The working directory of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DirectoryName {
    /// A copy of the folder, removed with the session
    Private,
    /// The folder itself
    Shared,
}

/// The network of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NetworkName {
    /// That of the server
    Shared,
    /// Loopback only, and of its own
    None,
}

/// A Python environment that a name means.
#[derive(Debug)]
pub(crate) struct PythonEnvironment {
    /// Its name if it does not declare one.
    pub(crate) name: String,
    pub(crate) source: HostSource,
}

/// An imported environment.
pub(crate) struct Hosted {
    pub(crate) factory: Arc<dyn EnvironmentFactory>,
    /// To be closed when nothing is served any more.
    pub(crate) host: Arc<Host>,
}

/// The Python environment in a folder, if there is one.
///
/// # Errors
/// Its manifest cannot be read.
pub(crate) fn in_folder(folder: &Path) -> anyhow::Result<Option<PythonEnvironment>> {
    let manifest = folder.join("openenv.yaml");
    let has_application = APPLICATIONS.iter().any(|file| folder.join(file).is_file());
    if !folder.is_dir() || !(manifest.is_file() || has_application) {
        return Ok(None);
    }
    let folder = folder.canonicalize()?;
    let declared = match manifest.is_file() {
        false => serde_json::Value::Null,
        true => {
            let text = std::fs::read_to_string(&manifest)?;
            read_yaml(&text).map_err(|error| usage(format!("{}:{error}", manifest.display())))?
        }
    };
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let target = declared_target(&declared);
    let name = text(&declared["name"]);
    let called = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Some(PythonEnvironment {
        name: name.clone().or(called).unwrap_or_else(|| "environment".to_owned()),
        source: HostSource { folder: Some(folder), name, target, ..HostSource::default() },
    }))
}

/// Whether it is known where the application of a folder is.
pub(crate) fn has_application(environment: &PythonEnvironment) -> bool {
    let HostSource { folder, target, .. } = &environment.source;
    let in_folder = |folder: &PathBuf| APPLICATIONS.iter().any(|file| folder.join(file).is_file());
    target.is_some() || folder.as_ref().is_some_and(in_folder)
}

/// The Python environment that `package.module:Name` names.
pub(crate) fn by_name(name: &str) -> PythonEnvironment {
    let class = name.rsplit(':').next().unwrap_or(name);
    let path = std::env::current_dir().ok();
    PythonEnvironment {
        name: class.to_owned(),
        source: HostSource { target: Some(name.to_owned()), path, ..HostSource::default() },
    }
}

/// The application that a manifest names, in whichever of its places.
fn declared_target(manifest: &serde_json::Value) -> Option<String> {
    let app = &manifest["app"];
    let places = [app, &manifest["runtime"]["app"], &manifest["entrypoint"], &app["startup_command"]];
    places.into_iter().filter_map(serde_json::Value::as_str).find_map(as_module)
}

/// `server/app.py`, `server/app.py:app` and a command that runs it as `server.app:app`.
fn as_module(target: &str) -> Option<String> {
    let words: Vec<&str> = target.split_whitespace().collect();
    let target = match words.as_slice() {
        [word] => word,
        words => {
            let run = words.windows(2).find(|pair| pair[0] == "-m" && pair[1] != "uvicorn");
            words.iter().find(|word| is_application(word)).or_else(|| run.map(|pair| &pair[1]))?
        }
    };
    let (file, object) = target.split_once(':').unwrap_or((target, "app"));
    let module = file.strip_suffix(".py").unwrap_or(file).trim_start_matches("./").replace('/', ".");
    Some(format!("{module}:{object}"))
}

/// Whether an argument of a command is `module:name` or a script.
fn is_application(word: &str) -> bool {
    let starts_name = |text: &str| text.starts_with(|first: char| first.is_alphabetic() || first == '_');
    word.ends_with(".py")
        || word.split_once(':').is_some_and(|(module, name)| starts_name(module) && starts_name(name))
}

/// Imports an environment, and prints with what and how it runs.
///
/// # Errors
/// It cannot be imported or made.
pub(crate) async fn start(
    found: PythonEnvironment,
    args: &HostArgs,
    mode: Mode,
    supervisor: Supervisor,
) -> anyhow::Result<Hosted> {
    let PythonEnvironment { name, mut source } = found;
    source.action.clone_from(&args.action);
    source.observation.clone_from(&args.observation);
    let python = python(args.python.as_deref(), source.folder.as_deref())?;
    let directory = directory(args.cwd, source.folder.as_deref())?;
    check_threads(args)?;
    let shown = python.display().to_string();
    let options = HostOptions {
        environment: variables(args)?,
        isolation: args.isolation.map(|isolation| match isolation {
            IsolationName::Fork => Isolation::Fork,
            IsolationName::Fresh => Isolation::Fresh,
            IsolationName::Thread => Isolation::Thread,
        }),
        spares: match args.isolation {
            Some(IsolationName::Thread) => 0,
            _ => args.spares.unwrap_or(DEFAULT_SPARES),
        },
        reuse: args.reuse,
        mode: mode.name(),
        limits: WorkerLimits {
            memory: args.worker_memory.map(ByteSize::get),
            cpu_seconds: args.worker_cpu_seconds.map(NonZeroU64::get),
            processes: args.worker_processes.map(NonZeroU64::get),
        },
        without_network: args.worker_network == Some(NetworkName::None),
        import_timeout: DEFAULT_IMPORT_TIMEOUT,
        reload: args.reload,
        directory,
        supervisor,
        python,
        source: source.clone(),
    };
    let failed =
        |error: HostError| usage(missing_module::explain(&error, &source, &shown, args.python.is_some()));
    tracing::info!(environment = name, python = shown, "importing the environment");
    let host = Host::start(options).await.map_err(failed)?;
    let isolation = match host.isolation() {
        Isolation::Fork => "a forked process for each session",
        Isolation::Fresh => "a Python of its own for each session",
        Isolation::Thread => "a thread for each session",
    };
    tracing::info!(python = shown, version = host.python_version(), isolation, "imported the environment");
    if let Some(limits) = host.limits() {
        tracing::info!("limits of each session: {limits}");
    }
    if args.worker_network == Some(NetworkName::None) {
        tracing::info!("--worker-network none: each session has a loopback of its own, and no other network");
    }
    if args.reuse {
        tracing::info!("--reuse: a process whose session has ended serves the next one");
    }
    for note in host.notes() {
        tracing::warn!("{note}");
    }
    let factory = HostedFactory::new(Arc::clone(&host), &name).await.map_err(failed)?;
    Ok(Hosted { factory: Arc::new(factory), host })
}

/// Refuses what threads of one process cannot have.
fn check_threads(args: &HostArgs) -> anyhow::Result<()> {
    let of_processes = [
        ("--worker-memory", args.worker_memory.is_some()),
        ("--worker-cpu-seconds", args.worker_cpu_seconds.is_some()),
        ("--worker-processes", args.worker_processes.is_some()),
        ("--worker-network none", args.worker_network == Some(NetworkName::None)),
        ("--reuse", args.reuse),
        ("--spares", args.spares.is_some()),
        ("--cwd private", args.cwd == Some(DirectoryName::Private)),
    ];
    match of_processes.iter().find(|(_, given)| *given) {
        Some((flag, _)) if matches!(args.isolation, Some(IsolationName::Thread)) => Err(usage(format!(
            "{flag} needs a process for each session, and --isolation thread has one for all; leave out one \
             of them"
        ))),
        _ => Ok(()),
    }
}

/// The interpreter: the one that was named, else the folder's, else the present one.
pub(crate) fn python(given: Option<&Path>, folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    let inside = |place: PathBuf| place.join("bin/python");
    if let Some(given) = given {
        let program = if given.is_dir() { inside(given.to_owned()) } else { given.to_owned() };
        // Absolute, because it is started in another folder; a bare name is looked up on the PATH.
        if program.is_file() {
            return Ok(std::path::absolute(program)?);
        }
        if !given.to_string_lossy().contains('/') {
            return Ok(program);
        }
        return Err(usage(format!(
            "--python {}: there is no Python; name a virtual environment or an interpreter",
            given.display()
        )));
    }
    let own = folder.map(|folder| inside(folder.join(".venv")));
    let active = env::lookup("VIRTUAL_ENV").map(|place| inside(place.into()));
    let found = own.into_iter().chain(active).find(|program| program.is_file());
    Ok(found.unwrap_or_else(|| PathBuf::from("python3")))
}

/// The folder of which each session gets a copy.
fn directory(kind: Option<DirectoryName>, folder: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let Some(folder) = folder.filter(|_| kind != Some(DirectoryName::Shared)) else { return Ok(None) };
    let fits = oxenv_host::size(folder, oxenv_host::MAX_COPIED_BYTES)
        .with_context(|| format!("cannot read {}", folder.display()))?
        <= oxenv_host::MAX_COPIED_BYTES;
    if !fits && kind.is_none() {
        tracing::warn!(
            "{} holds more than {} MiB: sessions share it as their working directory \
             (--cwd private copies it)",
            folder.display(),
            oxenv_host::MAX_COPIED_BYTES >> 20,
        );
        return Ok(None);
    }
    Ok(Some(folder.to_owned()))
}

/// The variables of the environment's processes: this process's but for our own, the file's, those given.
fn variables(args: &HostArgs) -> anyhow::Result<Vec<(OsString, OsString)>> {
    let mut variables = env::inherited();
    let mut set = |name: &str, value: &str| {
        variables.retain(|(known, _)| known != name);
        variables.push((name.into(), value.into()));
    };
    if let Some(file) = &args.env_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| usage(format!("--env-file {}: {error}", file.display())))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| usage(format!("{}:{}: expected NAME=VALUE", file.display(), number + 1)))?;
            set(name.trim(), unquoted(value.trim()));
        }
    }
    for (number, given) in args.variables.iter().enumerate() {
        match given.split_once('=') {
            Some((name, value)) => set(name, value),
            // What was given may be a secret.
            None => return Err(usage(format!("--env number {}: expected NAME=VALUE", number + 1))),
        }
    }
    Ok(variables)
}

/// A value without the quotes around it.
fn unquoted(value: &str) -> &str {
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    quoted('"').or_else(|| quoted('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_a_module_however_it_is_written() {
        for (written, module) in [
            ("server.app:app", "server.app:app"),
            ("server/app.py", "server.app:app"),
            ("./server/app.py:create_app", "server.app:create_app"),
            ("server.app", "server.app:app"),
            ("uvicorn server.main:app --host 0.0.0.0 --port 8000", "server.main:app"),
            ("python -m uvicorn envs.my_env.server.app:app", "envs.my_env.server.app:app"),
            ("python server/app.py --port 8000", "server.app:app"),
            ("python -m server.app", "server.app:app"),
        ] {
            assert_eq!(as_module(written).as_deref(), Some(module), "{written}");
        }
        assert_eq!(as_module("uv run --project . server"), None);
    }

    #[test]
    fn a_manifest_names_its_application_in_several_places() {
        for manifest in [
            "spec_version: 1\nruntime: fastapi\napp: server.app:app",
            "runtime:\n  app: server/app.py",
            "app:\n  startup_command: uvicorn server.app:app --port 8000",
            "entrypoint: server.app:app\nvariables:\n  - name: LEVEL\nvalidation: {}",
        ] {
            let found = declared_target(&read_yaml(manifest).unwrap());
            assert_eq!(found.as_deref(), Some("server.app:app"), "{manifest}");
        }
        assert_eq!(declared_target(&read_yaml("name: old\naction: Move").unwrap()), None);
    }

    #[test]
    fn values_of_an_env_file_lose_their_quotes() {
        assert_eq!(unquoted("\"a b\""), "a b");
        assert_eq!(unquoted("'a'"), "a");
        assert_eq!(unquoted("a\""), "a\"");
    }
}
