//! Puts tools together: a manifest, its servers, workspaces, the audit file, around an environment.
//!
//! Invariant: every error of a manifest is reported before a port is bound.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use oxenv_core::{AuditSink, Auditor, EnvironmentFactory, Redact, Toolset, WorkspaceSource, Workspaces};
use oxenv_host::Host;
use oxenv_process::child::{Supervisor, base_environment};
use oxenv_server::Mode;
use oxenv_store::JsonlAudit;
use oxenv_upstream::manifest::{Manifest, Problem, Transport};
use oxenv_upstream::{FactoryOptions, ManagerOptions, ToolFactory, UpstreamManager};
use serde::Deserialize;

use crate::exit::usage;
use crate::hosted::HostArgs;
use crate::recorded_tools::{ToolTape, taped};
use crate::{env, hosted, registry};

/// Servers of tools that are started at once.
const MAX_CONCURRENT_STARTS: usize = 4;
/// Instances of a server that are kept ready for the next session.
const WARM_INSTANCES: usize = 1;
/// How long the end waits for the audit file.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Where tools come from, and where their calls are audited.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ToolArgs {
    /// A manifest (tools.yaml) whose tools are offered; see oxenv validate
    #[arg(id = "tools", long = "tools", value_name = "FILE")]
    #[serde(rename = "tools")]
    pub(crate) manifest: Option<PathBuf>,

    /// What `${workspace}` holds at the beginning of each episode: a copy of this folder, which is
    /// itself never changed [default: an empty folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,

    /// Let all sessions work in the folder of --workspace itself; it is never cleared
    #[arg(long, requires = "workspace")]
    pub(crate) share_workspace: bool,

    /// Append one JSON line per tool call to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,

    /// Put the arguments of calls into that file as well, without secrets
    #[arg(long)]
    pub(crate) audit_arguments: bool,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) python: HostArgs,
}

/// The served environment, and the servers of its tools.
pub(crate) struct ServedEnvironment {
    pub(crate) factory: Arc<dyn EnvironmentFactory>,
    /// Takes the manifest's secrets out of a text.
    pub(crate) redact: Option<Redact>,
    /// For each of the manifest's toolsets, whether it is another server's.
    pub(crate) upstream: Vec<bool>,
    /// For the toolsets with `${seed}`, whether each episode's seed reaches them.
    pub(crate) seeded: Vec<SeededToolset>,
    /// The audit file.
    pub(crate) audit: Option<Arc<JsonlAudit>>,
    manager: Option<Arc<UpstreamManager>>,
    /// The host of an environment that is written in Python.
    host: Option<Arc<Host>>,
}

/// A toolset that gets the seed from its manifest.
pub(crate) struct SeededToolset {
    pub(crate) toolset: String,
    /// Whether it is started anew with each episode's seed.
    pub(crate) follows: bool,
}

impl ServedEnvironment {
    /// Ends the servers of tools and the environment, and writes what is left to the audit file. After
    /// `hurry` the processes of the environment are not waited for; their supervisors end them.
    pub(crate) async fn close(self, hurry: impl Future<Output = ()>) {
        if let Some(host) = self.host {
            host.close(hurry).await;
        }
        if let Some(manager) = self.manager {
            manager.close().await;
        }
        if let Some(audit) = self.audit {
            let file = Arc::clone(&audit);
            let flushed = tokio::task::spawn_blocking(move || file.flush(FLUSH_TIMEOUT)).await;
            if !flushed.unwrap_or(false) {
                let waiting = audit.status().waiting;
                tracing::error!(waiting, "the audit file does not take its last records in time");
            }
        }
    }
}

/// Finds what a name and the tool settings mean together.
pub(crate) async fn environment(
    name: Option<&str>,
    tools: &ToolArgs,
    mode: Mode,
) -> anyhow::Result<ServedEnvironment> {
    assemble_parts(name, tools, mode, None).await
}

/// The same for sessions that are done again, with tools that are answered from the tape.
pub(crate) async fn environment_with_recorded_tools(
    name: Option<&str>,
    tools: &ToolArgs,
    tape: &Arc<ToolTape>,
) -> anyhow::Result<ServedEnvironment> {
    assemble_parts(name, tools, Mode::Simulation, Some(tape)).await
}

async fn assemble_parts(
    name: Option<&str>,
    tools: &ToolArgs,
    mode: Mode,
    tape: Option<&Arc<ToolTape>>,
) -> anyhow::Result<ServedEnvironment> {
    let mut host = None;
    let (base, own) = match (name, &tools.manifest) {
        (None, Some(_)) => (None, None),
        (name, _) => match registry::resolve(name.unwrap_or("echo"))? {
            registry::ServedName::Environment(factory) => (Some(factory), None),
            registry::ServedName::Manifest(path) => (None, Some(path)),
            registry::ServedName::Python(found, own) => {
                let hosted = hosted::start(found, &tools.python, mode, supervisor()?).await?;
                host = Some(hosted.host);
                (Some(hosted.factory), own)
            }
        },
    };
    let path = match (&tools.manifest, own) {
        (Some(given), Some(own)) => {
            let (given, own) = (given.display(), own.display());
            return Err(usage(format!(
                "{own} is served already, so --tools {given} has no place: name one of them"
            )));
        }
        (Some(path), None) => path.clone(),
        (None, Some(path)) => path,
        (None, None) => {
            let factory = base.ok_or_else(|| usage("nothing to serve"))?;
            refuse_without_manifest(tools)?;
            let factory = with_tape(factory, tape, Vec::new());
            return Ok(ServedEnvironment {
                factory,
                redact: None,
                upstream: Vec::new(),
                seeded: Vec::new(),
                audit: None,
                manager: None,
                host,
            });
        }
    };
    Ok(ServedEnvironment { host, ..with_manifest(base, &path, tools, mode, tape)? })
}

fn with_manifest(
    base: Option<Arc<dyn EnvironmentFactory>>,
    path: &Path,
    tools: &ToolArgs,
    mode: Mode,
    tape: Option<&Arc<ToolTape>>,
) -> anyhow::Result<ServedEnvironment> {
    let (mut manifest, warnings) =
        Manifest::load(path, &env::lookup).map_err(|problems| usage(problem_lines(path, &problems)))?;
    let unknown = manifest.unknown_builtins(&builtin_names());
    if !unknown.is_empty() {
        return Err(usage(problem_lines(path, &unknown)));
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    if tape.is_some() {
        forget_rates(&mut manifest);
    }
    let redactor = manifest.secrets();
    let redact: Redact = Arc::new(move |text: &str| redactor.redact(text).into_owned());
    let audit = match &tools.audit {
        None => None,
        Some(file) => Some(Arc::new(JsonlAudit::open(file).map_err(|error| usage(error.to_string()))?)),
    };
    let auditor = audit.clone().map(|sink| {
        Arc::new(Auditor::new(sink as Arc<dyn AuditSink>, tools.audit_arguments, Arc::clone(&redact)))
    });
    let workspaces = Workspaces::new(&std::env::temp_dir(), workspace_source(tools))
        .map_err(|error| usage(error.to_string()))?;
    let options = ManagerOptions {
        supervisor: supervisor()?.with_shared_lock(workspaces.lock_path()),
        base_environment: base_environment(&env::lookup),
        concurrency: MAX_CONCURRENT_STARTS,
        warm: WARM_INSTANCES,
        builtin: Arc::new(builtin),
        discover_scope: mode == Mode::Simulation,
        reload: tools.python.reload,
    };
    let manager = UpstreamManager::new(manifest.clone(), options);
    let options =
        FactoryOptions { base, name: environment_name(path), workspaces: Arc::new(workspaces), auditor };
    let factory =
        ToolFactory::new(&manifest, Arc::clone(&manager), options).map_err(|(toolset, error)| {
            usage(format!("{}: toolset '{toolset}': {}: {}", path.display(), error.place, error.problem))
        })?;
    manager.start();
    let enabled = manifest.toolsets.iter().filter(|entry| entry.enabled);
    let upstream: Vec<bool> =
        enabled.map(|entry| !matches!(entry.transport, Transport::Builtin { .. })).collect();
    let seeded = manifest.toolsets.iter().filter(|entry| entry.needs_seed());
    let seeded =
        seeded.map(|entry| SeededToolset { toolset: entry.name.clone(), follows: entry.follows_seed() });
    let seeded = seeded.collect();
    let factory = with_tape(Arc::new(factory), tape, upstream.clone());
    Ok(ServedEnvironment {
        factory,
        redact: Some(redact),
        upstream,
        seeded,
        audit,
        manager: Some(manager),
        host: None,
    })
}

/// What starts processes and ends them: this program, as `oxenv supervise`.
pub(crate) fn supervisor() -> std::io::Result<Supervisor> {
    Ok(Supervisor::new(std::env::current_exe()?, ["supervise"]))
}

fn with_tape(
    factory: Arc<dyn EnvironmentFactory>,
    tape: Option<&Arc<ToolTape>>,
    upstream: Vec<bool>,
) -> Arc<dyn EnvironmentFactory> {
    match tape {
        Some(tape) => taped(factory, Arc::clone(tape), upstream),
        None => factory,
    }
}

/// Rates are about time, which passes differently when a session is done again; calls that were refused
/// for them are on the tape.
fn forget_rates(manifest: &mut Manifest) {
    for entry in &mut manifest.toolsets {
        entry.rules.rate_limit = None;
        entry.rules.roles.values_mut().for_each(|rules| rules.rate_limit = None);
    }
}

fn workspace_source(tools: &ToolArgs) -> WorkspaceSource {
    match (&tools.workspace, tools.share_workspace) {
        (None, _) => WorkspaceSource::Empty,
        (Some(folder), false) => WorkspaceSource::CopyOf(folder.clone()),
        (Some(folder), true) => WorkspaceSource::Shared(folder.clone()),
    }
}

/// The toolsets that are compiled in: those of the bundled environments, by their names.
fn builtin(name: &str) -> Option<Arc<dyn Toolset>> {
    let factory = registry::bundled(name)?;
    factory.server_tools().mounts().first().map(|mount| Arc::clone(&mount.toolset))
}

/// The names of the built-in toolsets.
pub(crate) fn builtin_names() -> Vec<String> {
    registry::names().into_iter().filter(|name| builtin(name).is_some()).collect()
}

/// The name of a manifest's environment: its folder, if the file has the usual name, else the file.
fn environment_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match (stem.as_str(), folder) {
        ("tools", Some(folder)) => folder,
        _ => stem,
    }
}

fn refuse_without_manifest(tools: &ToolArgs) -> anyhow::Result<()> {
    let given: [(&str, &Option<PathBuf>); 2] = [("--workspace", &tools.workspace), ("--audit", &tools.audit)];
    match given.iter().find(|(_, value)| value.is_some()) {
        Some((flag, _)) => Err(usage(format!("{flag} is about the tools of a manifest: add --tools FILE"))),
        None => Ok(()),
    }
}

fn problem_lines(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    format!("{} cannot be served:\n{}", path.display(), lines.join("\n"))
}
