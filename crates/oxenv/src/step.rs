//! `oxenv step`: takes one step in a running environment.
//!
//! Invariant: stdout holds the reply and nothing else.

use clap::Args;
use serde_json::json;

use crate::client::ConnectionArgs;
use crate::output::print;
use crate::values::object;

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv step http://127.0.0.1:8000 '{\"type\": \"list_tools\"}'
  oxenv step http://127.0.0.1:8000 '{\"column\": 3}'
  oxenv step http://127.0.0.1:8000/sessions/ID '{\"column\": 3}'
  oxenv step http://127.0.0.1:8000 '{\"column\": 3}' --reset --seed 7")]
pub(crate) struct StepArgs {
    /// The server, or the URL of one of its sessions
    pub(crate) url: String,
    /// The action, a JSON object
    pub(crate) action: String,
    /// Reset first
    #[arg(long)]
    pub(crate) reset: bool,
    /// Seed of that reset
    #[arg(long, value_name = "N", requires = "reset")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

pub(crate) async fn run(args: &StepArgs) -> anyhow::Result<()> {
    let action = object("the action", &args.action)?;
    let client = args.connection.client(&args.url)?;
    if args.reset {
        let seed = args.seed.map_or(json!({}), |seed| json!({ "seed": seed }));
        client.post("/reset", &seed).await?;
    }
    let reply = client.post("/step", &json!({ "action": action })).await?;
    print(&serde_json::to_string_pretty(&reply)?)
}
