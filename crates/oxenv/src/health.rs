//! `oxenv health`: whether a server is healthy, for images that have no other command.
//!
//! Invariant: it exits with 0 only for a server that answered `GET /health` with status 200.

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use reqwest::{Method, StatusCode};

use crate::client::Client;
use crate::output::print;
use crate::settings;
use crate::values::duration;

/// What to ask.
#[derive(Args)]
#[command(
    after_help = "Exit codes: 0 if it is healthy, 1 if it says that it is not, 4 if it cannot be reached.

Example:
  oxenv health http://127.0.0.1:8000"
)]
pub(crate) struct HealthArgs {
    /// The server [default: http://127.0.0.1:8000, or the port that OXENV_PORT names]
    #[arg(value_name = "URL")]
    pub(crate) url: Option<String>,

    /// How long to wait for its reply
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "3s")]
    pub(crate) timeout: Duration,
}

pub(crate) async fn run(args: &HealthArgs) -> anyhow::Result<()> {
    let url = settings::url_or_default(args.url.as_deref())?;
    let client = Client::new(&url, args.timeout, None)?;
    let (status, text) = client.send(Method::GET, "/health", None, String::new()).await?;
    if status != StatusCode::OK {
        bail!("the server is not healthy: {status}: {}", text.trim());
    }
    print("healthy")
}
