//! `oxenv fleet up`: an instance, kept while the command runs.
//!
//! Invariant: stdout has the instance's address and nothing else; it is deleted when the command ends,
//! unless `--detach` was given.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use oxenv_client::fleet::{FleetControl, FleetEnvClient};
use oxenv_client::{Code, ToolListing};
use serde_json::json;

use super::access::{FleetAccess, InstanceArgs, stoppable, with_exit_code};
use crate::output::print;

/// How often Fleet is asked whether the instance is still there.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// What to make.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv fleet up fira                                the newest version, until Ctrl-C
  oxenv fleet up fira:1.3.1 --data-key base:2 --ttl 2h
  oxenv fleet up fira --env SEED=7 --run-id r1 --json
  oxenv fleet up fira --ttl 1h --detach              left running; end it with `oxenv fleet down ID`

The key is read from FLEET_API_KEY or --api-key-file, a runner's token from RUNNER_AUTH_TOKEN.")]
pub(super) struct UpArgs {
    /// The environment, as KEY or KEY:VERSION
    #[arg(value_name = "ENV_KEY")]
    environment: String,
    #[command(flatten)]
    making: InstanceArgs,
    /// Leave it running and end this command
    #[arg(long, conflicts_with = "heartbeat")]
    detach: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: FleetAccess,
}

pub(super) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let (key, control) = (args.access.key()?, args.access.control()?);
    let options = args.making.options(&args.access)?;
    let kept = stoppable(async {
        let (client, tools) =
            FleetEnvClient::from_fleet(&key, &args.environment, options).await.map_err(with_exit_code)?;
        let listing = tools.list().await.map_err(with_exit_code)?;
        print(&summary_text(&client, &listing, args.json))?;
        if args.detach {
            let id = client.detach();
            eprintln!("it runs on; end it with `oxenv fleet down {id}`");
            return Ok(());
        }
        eprintln!("it is ended with this command: press Ctrl-C");
        watch(&control, client.instance_id()).await
    });
    match kept.await? {
        Some(()) => Ok(()),
        None => {
            eprintln!("ended");
            Ok(())
        }
    }
}

fn summary_text(client: &FleetEnvClient, listing: &ToolListing, as_json: bool) -> String {
    let instance = client.instance();
    if as_json {
        return json!({
            "instance_id": instance.instance_id, "env_key": instance.env_key, "version": instance.version,
            "region": instance.region, "root": client.root(), "mcp_urls": instance.mcp_urls(),
            "endpoints": listing.endpoints, "conflicts": listing.conflicts, "tools": listing.tools.len(),
        })
        .to_string();
    }
    let mut lines =
        vec![format!("instance  {}", instance.instance_id), format!("root      {}", client.root())];
    for endpoint in &listing.endpoints {
        let how = match (&endpoint.error, endpoint.absent) {
            (Some(error), _) => error.clone(),
            (None, true) => "absent".to_owned(),
            (None, false) => format!("{} tools", endpoint.tools),
        };
        lines.push(format!("mcp       {}  {how}", endpoint.url));
    }
    lines.extend(listing.conflicts.iter().map(|conflict| {
        format!(
            "conflict  {}  of {}, also offered by {}",
            conflict.name,
            conflict.owner,
            conflict.shadowed.join(", ")
        )
    }));
    lines.join("\n")
}

/// Returns when the instance is gone.
async fn watch(control: &FleetControl, id: &str) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        match control.instance(id).await {
            Ok(instance) if matches!(instance.status.as_str(), "stopped" | "error") => {
                bail!("the instance '{id}' is gone: Fleet says '{}'", instance.status);
            }
            Err(error) if error.code() == Code::FleetInstanceGone => return Err(with_exit_code(error)),
            // A Fleet that cannot be asked just now has not ended it.
            _ => {}
        }
    }
}
