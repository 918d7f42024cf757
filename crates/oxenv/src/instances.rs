//! `oxenv up`, `oxenv ps`, `oxenv down`: servers that outlive the command that started them.
//!
//! Invariant: what `up` leaves running, `ps` shows and `down` ends.

mod up;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use oxenv_process::child::base_environment;
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{InstanceInfo, Provider, ProviderCode, ProviderError};

use crate::exit::{Problem, usage};
use crate::output::print;
use crate::{assemble, env};

pub(crate) use up::{UpArgs, up};

/// The default address of Docker's daemon.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// How to list.
#[derive(Args)]
#[command(after_help = "Instances that a running program started and will end itself are shown too.

Examples:
  oxenv ps
  oxenv ps --json")]
pub(crate) struct PsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to end.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv down env-1a2b3c4d
  oxenv down --all        everything that was left running by oxenv up")]
pub(crate) struct DownArgs {
    /// Names or ids, as oxenv ps shows them
    #[arg(value_name = "NAME", required_unless_present = "all")]
    pub(crate) names: Vec<String>,

    /// End all that oxenv up left running, and what killed programs left behind
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
}

/// The providers that can be asked here; why one cannot although it was named.
struct Providers {
    all: Vec<Box<dyn Provider>>,
    missing: Option<ProviderError>,
}

pub(crate) async fn ps(args: &PsArgs) -> anyhow::Result<()> {
    let providers = Providers::find().await?;
    let mut found = Vec::new();
    for provider in &providers.all {
        found.extend(provider.list().await.map_err(problem)?);
    }
    providers.tell_missing();
    found.sort_by_key(|info| info.started_us);
    if args.json {
        return print(&serde_json::to_string_pretty(&found)?);
    }
    if found.is_empty() {
        eprintln!("nothing runs; start something with oxenv up");
        return Ok(());
    }
    print(&table(&found))
}

pub(crate) async fn down(args: &DownArgs) -> anyhow::Result<()> {
    let providers = Providers::find().await?;
    if args.all {
        for provider in &providers.all {
            for info in provider.list().await.map_err(problem)?.into_iter().filter(|info| info.detached) {
                provider.stop(&info.id).await.map_err(problem)?;
                print(&format!("ended {}", info.name))?;
            }
            provider.sweep().await.map_err(problem)?;
        }
        providers.tell_missing();
        return Ok(());
    }
    for name in &args.names {
        providers.stop(name).await?;
        print(&format!("ended {name}"))?;
    }
    Ok(())
}

impl Providers {
    async fn find() -> anyhow::Result<Self> {
        let mut providers = Providers { all: vec![Box::new(processes()?)], missing: None };
        if env::docker_host().is_some() || Path::new(DOCKER_SOCKET).exists() {
            match containers().await {
                Ok(docker) => providers.all.push(Box::new(docker)),
                Err(error) => providers.missing = Some(error),
            }
        }
        Ok(providers)
    }

    /// Ends what has that name, wherever it runs.
    async fn stop(&self, name: &str) -> anyhow::Result<()> {
        let mut ended = false;
        let mut unknown = None;
        for provider in &self.all {
            match provider.stop(name).await {
                Ok(()) => ended = true,
                Err(error) if error.code == ProviderCode::InstanceNotFound => unknown = Some(error),
                Err(error) => return Err(problem(error)),
            }
        }
        self.tell_missing();
        match unknown {
            Some(error) if !ended => Err(problem(error)),
            _ => Ok(()),
        }
    }

    fn tell_missing(&self) {
        if let Some(error) = &self.missing {
            eprintln!("warning: containers are not seen: {error}");
        }
    }
}

/// Starts processes, each under this program as its supervisor.
fn processes() -> anyhow::Result<ProcessProvider> {
    let provider =
        ProcessProvider::new(assemble::supervisor()?).with_environment(base_environment(&env::lookup));
    let runtime = env::lookup("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_dir());
    Ok(match runtime {
        Some(folder) => provider.with_registry(folder.join("oxenv")),
        None => provider,
    })
}

async fn containers() -> Result<DockerProvider, ProviderError> {
    DockerProvider::connect(env::docker_host().as_deref()).await
}

/// A provider's failure with its exit code.
fn problem(error: ProviderError) -> anyhow::Error {
    match error.code {
        ProviderCode::InvalidSpec => usage(error.to_string()),
        ProviderCode::ProviderUnavailable => Problem::Unreachable(error.to_string()).into(),
        _ => error.into(),
    }
}

fn table(found: &[InstanceInfo]) -> String {
    let heads = ["NAME", "PROVIDER", "URL", "SINCE", "SOURCE"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(heads).chain(found.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let lines = rows.iter().map(|[name, provider, url, since, source]| {
        let [n, p, u, s] = widths;
        format!("{name:n$}  {provider:p$}  {url:u$}  {since:s$}  {source}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn row(info: &InstanceInfo) -> [String; 5] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = std::time::Duration::from_secs(now.saturating_sub(info.started_us / 1_000_000));
    [
        info.name.clone(),
        info.provider.clone(),
        info.url.clone(),
        humantime::format_duration(age).to_string(),
        info.source.clone(),
    ]
}
