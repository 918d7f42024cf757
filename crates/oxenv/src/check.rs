//! `oxenv check`: whether an environment keeps what it promises.
//!
//! Invariant: everything is checked through the doors that trainers use, so what passes here holds
//! for them; a feature that a server lacks is reported as missing, and is no failure.

mod door;
mod report;
mod rules;
mod sample;
mod suite;

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use oxenv_server::Mode;
use serde_json::Value;

use crate::assemble;
use crate::assemble::ToolArgs;
use crate::client::ConnectionArgs;
use crate::exit::usage;
use crate::output::print;
use crate::values::object;
use report::CheckReport;
use rules::DeclaredCapabilities;
use suite::Local;

#[derive(Args)]
#[command(after_help = "\
Rules: the same seed and actions give the same bytes, sessions do not see each other, sessions
without a seed do not all show the same, forks and restored snapshots go on as the original, a
repeated request is run once, a wrong action is the agent's fault, what was recorded can be
replayed. Without --actions, actions are generated from the schemas.

Examples:
  oxenv check connect4
  oxenv check tools.yaml --actions calls.jsonl
  oxenv check http://127.0.0.1:8000 --seed 11 --episodes 5
  oxenv check http://127.0.0.1:8000 --nondeterministic --json")]
pub(crate) struct CheckArgs {
    /// What to check: as for oxenv serve, or the URL of a server
    #[arg(value_name = "ENV|URL")]
    environment: String,
    #[command(flatten)]
    tools: ToolArgs,
    /// A file with the actions of an episode, one JSON object a line
    #[arg(long, value_name = "FILE")]
    actions: Option<PathBuf>,
    /// Number of episodes, each with its own seed
    #[arg(long, value_name = "N", default_value = "2")]
    episodes: u64,
    /// Seed of the first episode, and of the generated actions
    #[arg(long, value_name = "N", default_value = "7")]
    seed: u64,
    /// The environment at the URL does not promise the same bytes for the same seed
    #[arg(long)]
    nondeterministic: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// The actions to try.
struct CheckPlan {
    /// Given ones; absent: they are made.
    actions: Option<Vec<Value>>,
    episodes: u64,
    seed: u64,
}

pub(crate) async fn run(args: CheckArgs) -> anyhow::Result<()> {
    if args.episodes == 0 {
        return Err(usage("--episodes is 0, so nothing would be checked: use at least 1"));
    }
    let actions = args.actions.as_deref().map(read).transpose()?;
    let plan = CheckPlan { actions, episodes: args.episodes, seed: args.seed };
    let report = match args.environment.contains("://") {
        true => {
            let client = args.connection.client(&args.environment)?;
            let promises =
                DeclaredCapabilities { deterministic: !args.nondeterministic, starts_servers: false };
            suite::over_the_wire(Arc::new(client), &plan, promises).await?
        }
        false => {
            let mut served =
                assemble::environment(Some(&args.environment), &args.tools, Mode::Simulation).await?;
            let upstream = std::mem::take(&mut served.upstream);
            let seeded = std::mem::take(&mut served.seeded);
            let factory = Arc::clone(&served.factory);
            let local = Local { factory, upstream, seeded, timeout: args.connection.timeout };
            let report = suite::in_process(local, &plan).await;
            served.close(pending()).await;
            report?
        }
    };
    print(&if args.json { serde_json::to_string_pretty(&report)? } else { report.table() })?;
    failed(&report)
}

fn failed(report: &CheckReport) -> anyhow::Result<()> {
    match report.failures() {
        0 => Ok(()),
        number => bail!("{number} rules do not hold"),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read the actions {shown}: {error}")))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let actions = lines.map(|(index, line)| object(&format!("{shown}, line {}", index + 1), line));
    let actions = actions.collect::<anyhow::Result<Vec<Value>>>().context("an action is no JSON object")?;
    match actions.is_empty() {
        true => Err(usage(format!("{shown} has no action: write one JSON object a line"))),
        false => Ok(actions),
    }
}
