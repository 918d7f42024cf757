//! `oxenv mcp`: tools for an MCP client over stdin and stdout.
//!
//! Invariant: stdout carries the protocol and nothing else; the end of stdin ends everything that
//! was started.

use std::sync::Arc;

use clap::Args;
use oxenv_core::{SessionStore, StoreLimits};
use oxenv_server::{App, ServerConfig, Shutdown};

use crate::assemble::ToolArgs;
use crate::logging::{LogFormat, LogLevel};
use crate::{assemble, exit, logging};

#[derive(Args)]
#[command(after_help = "Logs go to stderr.

Examples:
  oxenv mcp --tools tools.yaml
  oxenv mcp echo
In a desktop client's configuration:
  {\"mcpServers\": {\"oxenv\": {\"command\": \"oxenv\", \
\"args\": [\"mcp\", \"--tools\", \"/path/to/tools.yaml\"]}}}")]
pub(crate) struct McpArgs {
    /// An environment whose tools are offered [default: none, if --tools is given; else echo]
    #[arg(value_name = "ENV")]
    pub(crate) environment: Option<String>,

    #[command(flatten)]
    pub(crate) tools: ToolArgs,

    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log: LogLevel,
}

pub(crate) async fn run(args: McpArgs) -> anyhow::Result<()> {
    logging::start(args.log, LogFormat::Text);
    let config = ServerConfig::default();
    let shutdown = Shutdown::on_signals(config.drain)?;
    let served = tokio::select! {
        served = assemble::environment(args.environment.as_deref(), &args.tools, config.mode) => served?,
        () = shutdown.requested() => return Ok(()),
    };
    let store = SessionStore::new(Arc::clone(&served.factory), StoreLimits::default());
    let outcome = tokio::select! {
        outcome = oxenv_server::serve_stdio(App::new(store, config), shutdown.requested()) => outcome,
        () = shutdown.give_up_time() => Ok(()),
    };
    shutdown.finish(served.close(shutdown.give_up_time())).await;
    exit::in_time(&shutdown)?;
    Ok(outcome?)
}
