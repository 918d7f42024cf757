//! `oxenv logs`: what the processes of a session wrote.
//!
//! Invariant: stdout holds what they wrote and nothing else; control characters are escaped there.

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use crate::client::ConnectionArgs;
use crate::output::{print, printable};
use crate::settings;

/// Whose output to print.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv logs 0b7c5f0e-4a5e-4d0f-9a53-6a3ed4a9b1c2
  oxenv logs ID --url http://127.0.0.1:8000 --json")]
pub(crate) struct LogsArgs {
    /// The session's id, as GET /sessions lists it
    #[arg(value_name = "SESSION")]
    pub(crate) session: String,
    /// The server [default: http://127.0.0.1:8000, or the port that OXENV_PORT names]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Print the server's reply as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

pub(crate) async fn run(args: &LogsArgs) -> anyhow::Result<()> {
    let url = settings::url_or_default(args.url.as_deref())?;
    let client = args.connection.client(&url)?;
    let text = client.get(&format!("/sessions/{}/logs", args.session)).await?;
    let log: Value = serde_json::from_str(&text).with_context(|| format!("the reply is not JSON: {text}"))?;
    if args.json {
        return print(&serde_json::to_string_pretty(&log)?);
    }
    if let Some(dropped @ 1..) = log["dropped_bytes"].as_u64() {
        eprintln!("{dropped} bytes before this are not kept");
    }
    match log["text"].as_str().unwrap_or_default() {
        "" => Ok(()),
        text => print(&printable(text.strip_suffix('\n').unwrap_or(text))),
    }
}
