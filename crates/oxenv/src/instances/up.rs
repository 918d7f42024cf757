//! `oxenv up`.
//!
//! Invariant: it ends with an instance that is healthy and shown by `oxenv ps`, or with nothing running.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use oxenv_providers::{
    InstanceSpec, ListenAddress, Provider, ProviderCode, ProviderError, PullPolicy, ResourceLimits,
    SecretText,
};

use super::{containers, problem, processes};
use crate::byte_size::ByteSize;
use crate::env;
use crate::exit::usage;
use crate::output::print;
use crate::registry::{self, ServedName};
use crate::signals::EndSignals;
use crate::values::duration;

const HELP: &str =
    "A bundled environment's name, a manifest or a folder with a tools.yaml is served by a process of
oxenv itself; anything else that is no path is an image. What was started runs until oxenv down ends it.

Examples:
  oxenv up echo
  oxenv up ./my-tools --workspace .              the tools of my-tools/tools.yaml, in this folder
  oxenv up echo -- --max-sessions 2048           with options of oxenv serve
  oxenv up coding-env:latest --workspace . --env GITHUB_TOKEN
  oxenv up coding-env:latest --memory 512MiB --cpus 1.5 --pids 256
  URL=$(oxenv up echo --json | jq -r .url)";

/// What to start.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct UpArgs {
    /// What to start: an image, a folder with a tools.yaml, or a bundled environment
    #[arg(value_name = "IMAGE|DIR|ENV")]
    pub(crate) target: String,

    /// A name for oxenv ps and oxenv down [default: a generated one]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// The folder to work in; a container sees it at /workspace. It is never cleared
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,

    /// A variable of its environment; without a value it is copied from here, which keeps secrets out
    /// of arguments (may be repeated)
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,

    /// The port of 127.0.0.1 to be reached at [default: a free one]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Memory that a container may use: 512MiB, 4GiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,

    /// Processors that a container may use; 1.5 is one and a half [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<f64>,

    /// Processes and threads that a container may have [default: no limit]
    #[arg(long, value_name = "N")]
    pub(crate) pids: Option<u32>,

    /// Whether an image may be fetched
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(crate) pull: Pull,

    /// Where it runs [default: what the target is]
    #[arg(long, value_name = "PROVIDER")]
    pub(crate) provider: Option<ProviderName>,

    /// How long to wait until it is healthy
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,

    /// Let a container share this machine's network, if the daemon has none for containers
    #[arg(long)]
    pub(crate) host_network: bool,

    /// Let a container write to all of its files, keep its capabilities and run as its image's own user
    #[arg(long)]
    pub(crate) privileged_root: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// More arguments: for oxenv serve, or in the place of the image's command
    #[arg(last = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Never: the image must be here
    Never,
    /// If it is not here
    Missing,
    /// Each time
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderName {
    /// A container
    Docker,
    /// A process of this machine
    Process,
}

pub(crate) async fn up(args: UpArgs) -> anyhow::Result<()> {
    let kind = kind(&args)?;
    let spec = spec(&args, kind)?;
    let provider: Box<dyn Provider> = match kind {
        ProviderName::Process => Box::new(processes()?),
        ProviderName::Docker => Box::new(containers().await.map_err(|error| explain(error, &args))?),
    };
    if let Err(error) = provider.sweep().await {
        eprintln!("warning: what was left behind earlier cannot be ended: {error}");
    }
    let mut signals = EndSignals::new()?;
    // The start that is dropped ends what it began.
    let instance = tokio::select! {
        started = provider.start(&spec) => started.map_err(|error| explain(error, &args))?,
        () = signals.next() => bail!("interrupted; nothing was left running"),
    };
    let info = instance.info();
    if args.json {
        return print(&serde_json::to_string_pretty(info)?);
    }
    print(&format!("oxenv: {} runs at {}\nend it with: oxenv down {}", args.target, info.url, info.name))
}

/// Where a target runs.
fn kind(args: &UpArgs) -> anyhow::Result<ProviderName> {
    if let Some(provider) = args.provider {
        return Ok(provider);
    }
    match registry::resolve(&args.target) {
        Ok(_) => Ok(ProviderName::Process),
        Err(error) if Path::new(&args.target).exists() => Err(error),
        Err(_) => Ok(ProviderName::Docker),
    }
}

fn spec(args: &UpArgs, kind: ProviderName) -> anyhow::Result<InstanceSpec> {
    let mut spec = InstanceSpec {
        name: args.name.clone(),
        env: args.env.iter().map(|given| variable(given)).collect::<anyhow::Result<_>>()?,
        workspace: args.workspace.clone(),
        listen: args.port.map_or(ListenAddress::FreePort, ListenAddress::Port),
        limits: ResourceLimits { memory: args.memory.map(ByteSize::get), cpus: args.cpus, pids: args.pids },
        pull: match args.pull {
            Pull::Never => PullPolicy::Never,
            Pull::Missing => PullPolicy::Missing,
            Pull::Always => PullPolicy::Always,
        },
        privileged_root: args.privileged_root,
        host_network: args.host_network,
        start_timeout: args.timeout,
        detached: true,
        ..InstanceSpec::default()
    };
    match kind {
        ProviderName::Docker => {
            spec.image = Some(args.target.clone());
            spec.command.clone_from(&args.arguments);
        }
        ProviderName::Process => spec.command = serve_command(args)?,
    }
    Ok(spec)
}

/// `oxenv serve` with what to serve.
fn serve_command(args: &UpArgs) -> anyhow::Result<Vec<OsString>> {
    let found = registry::resolve(&args.target)?;
    let path = Path::new(&args.target);
    // It may run in another folder than this command.
    let target = if path.exists() { path.canonicalize()?.into() } else { OsString::from(&args.target) };
    let mut command = vec![std::env::current_exe()?.into(), "serve".into(), target];
    command.extend(["--host", "127.0.0.1", "--port", "{port}"].map(OsString::from));
    let has_tools =
        matches!(found, ServedName::Manifest(_)) || args.arguments.iter().any(|word| word == "--tools");
    if let Some(workspace) = args.workspace.as_ref().filter(|_| has_tools) {
        let folder = workspace.canonicalize();
        let folder =
            folder.map_err(|error| usage(format!("--workspace {}: {error}", workspace.display())))?;
        command.extend(["--workspace".into(), folder.into(), "--share-workspace".into()]);
    }
    command.extend(args.arguments.iter().cloned());
    Ok(command)
}

/// A variable as it is given, or as it is here.
fn variable(given: &str) -> anyhow::Result<(String, SecretText)> {
    if let Some((name, value)) = given.split_once('=') {
        return Ok((name.to_owned(), SecretText::new(value)));
    }
    match env::lookup(given) {
        Some(value) => Ok((given.to_owned(), SecretText::new(value))),
        None => {
            Err(usage(format!("--env {given}: the variable is not set here; set it or write {given}=VALUE")))
        }
    }
}

/// A failure with its exit code. A name that is not an image may have been meant as an
/// environment's.
fn explain(mut error: ProviderError, args: &UpArgs) -> anyhow::Error {
    let without = matches!(error.code, ProviderCode::ImageNotFound | ProviderCode::ProviderUnavailable);
    let is_name = args.provider.is_none() && !args.target.contains(['/', ':', '.']);
    if let (true, true, Err(unknown)) = (without, is_name, registry::resolve(&args.target)) {
        error.message = format!("{unknown}; as an image: {}", error.message);
    }
    problem(error)
}
