//! `oxenv serve`.
//!
//! Invariant: the first line on stdout names the address that is listened on, so a script that
//! asked for port 0 can read it; it is printed only once the server accepts.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use oxenv_core::{ActionSpace, EnvironmentSpec, SessionStore};
use oxenv_server::Server;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::ServeArgs;
use crate::exit::Problem;
use crate::settings::Settings;
use crate::{logging, tools};

pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let settings = Settings::gather(args)?;
    logging::start(settings.log, settings.log_format);
    let served = tools::assemble(settings.environment.as_deref(), &settings.tools)?;
    let mode = settings.server.mode;
    let store = SessionStore::new(Arc::clone(&served.factory), settings.limits);
    let server = Server::bind(settings.address, store, settings.server).await.map_err(|error| {
        Problem::Listen(format!("{error}; choose another with --port, or --port 0 for a free one"))
    })?;
    let address = server.address()?;
    let spec = server.app().store.spec().clone();
    // Both before the first line is printed: whoever reads it may signal at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    announce(&spec, address)?;
    tracing::info!(environment = %spec.name, %address, mode = mode.name(), "serving");
    server
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: calls in flight may finish");
        })
        .await;
    served.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Says what is served where. A reader that left, as `head -1` does, is no reason not to serve.
fn announce(spec: &EnvironmentSpec, address: SocketAddr) -> std::io::Result<()> {
    let try_it = match spec.action_space {
        ActionSpace::Tools => format!(
            "curl -X POST http://{address}/step -H 'Content-Type: application/json' \
             -d '{{\"action\": {{\"type\": \"list_tools\"}}}}'"
        ),
        ActionSpace::Typed => format!("curl -X POST http://{address}/reset"),
    };
    let mut stdout = std::io::stdout().lock();
    let said = writeln!(stdout, "oxenv: serving {} on http://{address}\ntry: {try_it}", spec.name);
    match said.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}
