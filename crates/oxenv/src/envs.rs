//! `oxenv envs`: the environments that can be served by name.
//!
//! Entry point: [`run`].

use clap::Args;
use serde_json::{Value, json};

use crate::output::print;

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv envs
  oxenv envs --json")]
pub(crate) struct EnvsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &EnvsArgs) -> anyhow::Result<()> {
    let environments = oxenv_envs::all();
    if args.json {
        let list: Vec<Value> = environments
            .iter()
            .map(|factory| {
                let spec = factory.spec();
                json!({
                    "name": spec.name, "description": spec.description, "version": spec.version,
                    "action_space": spec.action_space, "capabilities": spec.capabilities,
                })
            })
            .collect();
        return print(&serde_json::to_string_pretty(&list)?);
    }
    let width = environments.iter().map(|factory| factory.spec().name.len()).max().unwrap_or(0);
    let lines: Vec<String> = environments
        .iter()
        .map(|factory| format!("{:width$}  {}", factory.spec().name, factory.spec().description))
        .collect();
    print(&lines.join("\n"))
}
