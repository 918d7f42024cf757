//! `oxenv mcp`: tools for an MCP client over stdin and stdout.
//!
//! Invariant: stdout carries the protocol and nothing else; the end of stdin ends everything that
//! was started.

use std::sync::Arc;

use oxenv_core::{Limits, SessionStore};
use oxenv_server::{App, ServerConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{LogFormat, McpArgs};
use crate::{logging, tools};

pub(crate) async fn run(args: McpArgs) -> anyhow::Result<()> {
    logging::start(args.log, LogFormat::Text);
    let served = tools::assemble(args.environment.as_deref(), &args.tools)?;
    let store = SessionStore::new(Arc::clone(&served.factory), Limits::default());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let outcome = oxenv_server::serve_stdio(App::new(store, ServerConfig::default()), stop).await;
    served.close().await;
    outcome.map_err(Into::into)
}
