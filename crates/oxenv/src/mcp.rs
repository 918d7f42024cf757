//! `oxenv mcp`: tools for an MCP client over stdin and stdout.
//!
//! Invariant: stdout carries the protocol and nothing else; the end of stdin ends everything that
//! was started.

use std::sync::Arc;

use oxenv_core::{SessionStore, StoreLimits};
use oxenv_server::{App, ServerConfig, Shutdown};

use crate::cli::{LogFormat, McpArgs};
use crate::{exit, logging, tools};

pub(crate) async fn run(args: McpArgs) -> anyhow::Result<()> {
    logging::start(args.log, LogFormat::Text);
    let config = ServerConfig::default();
    let shutdown = Shutdown::on_signals(config.drain)?;
    let served = tools::assemble(args.environment.as_deref(), &args.tools, config.mode).await?;
    let store = SessionStore::new(Arc::clone(&served.factory), StoreLimits::default());
    let outcome = tokio::select! {
        outcome = oxenv_server::serve_stdio(App::new(store, config), shutdown.requested()) => outcome,
        () = shutdown.give_up_time() => Ok(()),
    };
    shutdown.finish(served.close()).await;
    exit::in_time(&shutdown)?;
    Ok(outcome?)
}
