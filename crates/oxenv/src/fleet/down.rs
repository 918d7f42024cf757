//! `oxenv fleet down`: ends instances.
//!
//! Invariant: each is reported by its id; one that cannot be ended does not keep the others alive.

use anyhow::bail;
use clap::Args;
use oxenv_client::Code;
use oxenv_client::fleet::FleetControl;

use super::access::{FleetAccess, stoppable, with_exit_code};
use crate::output::{print, printable};

/// What to end.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv fleet down 8b80c1cdd505
  oxenv fleet down --run-id r1         all of a run
  oxenv fleet down --all               all that the key can see")]
pub(super) struct DownArgs {
    /// The instances' ids
    #[arg(value_name = "ID", required_unless_present_any = ["all", "run_id"])]
    #[arg(conflicts_with_all = ["all", "run_id"])]
    ids: Vec<String>,
    /// All that the key can see
    #[arg(long)]
    all: bool,
    /// All of that run
    #[arg(long, value_name = "RUN")]
    run_id: Option<String>,
    #[command(flatten)]
    access: FleetAccess,
}

pub(super) async fn run(args: DownArgs) -> anyhow::Result<()> {
    let control = args.access.control()?;
    stoppable(async {
        let ids = match args.ids.is_empty() {
            true => running_instances(&control, args.run_id.as_deref()).await?,
            false => args.ids,
        };
        if ids.is_empty() {
            eprintln!("no instances");
        }
        let mut failed = 0;
        for id in &ids {
            match end(&control, id).await {
                Ok(()) => print(id)?,
                Err(error) => {
                    failed += 1;
                    eprintln!("{}", printable(&format!("{error:#}")));
                }
            }
        }
        if failed > 0 {
            bail!("{failed} of {} could not be ended", ids.len());
        }
        Ok(())
    })
    .await
    .map(|_| ())
}

async fn running_instances(control: &FleetControl, run_id: Option<&str>) -> anyhow::Result<Vec<String>> {
    let instances = control.instances(run_id).await.map_err(with_exit_code)?;
    let there = instances.into_iter().filter(|instance| instance.status != "stopped");
    Ok(there.map(|instance| instance.instance_id).collect())
}

/// Ends one. An unknown id is reported, because it may be a wrong one.
async fn end(control: &FleetControl, id: &str) -> anyhow::Result<()> {
    match control.instance(id).await {
        Err(error) if error.code() == Code::FleetInstanceGone => bail!("there is no instance '{id}'"),
        _ => control.delete(id).await.map_err(with_exit_code),
    }
}
