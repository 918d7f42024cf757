//! `oxenv fleet list`: what runs there.
//!
//! Invariant: stdout holds the table, or the JSON, and nothing else.

use clap::Args;
use oxenv_client::fleet::FleetInstance;

use super::access::{FleetAccess, stoppable, with_exit_code};
use crate::output::print;

/// What to list.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv fleet list
  oxenv fleet list --run-id r1 --json")]
pub(super) struct ListArgs {
    /// Only the instances of this run
    #[arg(long, value_name = "RUN")]
    run_id: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    access: FleetAccess,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let control = args.access.control()?;
    let listed = stoppable(async { control.instances(args.run_id.as_deref()).await.map_err(with_exit_code) });
    let Some(instances) = listed.await? else { return Ok(()) };
    if args.json {
        return print(&serde_json::to_string_pretty(&instances)?);
    }
    if instances.is_empty() {
        eprintln!("no instances");
        return Ok(());
    }
    print(&table(&instances))
}

fn table(instances: &[FleetInstance]) -> String {
    let head = ["INSTANCE", "ENVIRONMENT", "VERSION", "STATUS", "REGION", "RUN", "MADE"].map(str::to_owned);
    let rows = instances.iter().map(|instance| {
        let run = instance.run_id.as_deref().unwrap_or("-");
        let made = instance.created_at.split('.').next().unwrap_or_default();
        let cells = [
            instance.instance_id.as_str(),
            &instance.env_key,
            &instance.version,
            &instance.status,
            &instance.region,
            run,
            made,
        ];
        cells.map(str::to_owned)
    });
    let rows: Vec<[String; 7]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
