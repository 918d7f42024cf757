//! MCP over a pipe: one client, one session, no HTTP.
//!
//! Invariant: the session is made at the start and ended with the input; nothing but messages is
//! written to the output.

use std::io;
use std::sync::Arc;

use oxenv_core::{EndReason, SessionOptions};
use rmcp::service::{ServerInitializeError, serve_server_with_ct};
use rmcp::transport::stdio;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::handler::ToolboxHandler;
use super::log_level::LogThreshold;
use super::pipe::Pipe;
use super::target::McpTarget;
use crate::app::App;

/// Serves MCP over standard input and output until the input ends or `stop` is ready; calls in
/// flight then have a few seconds to finish. The environment gets one session, which ends with it.
///
/// ```no_run
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{App, ServerConfig, serve_stdio};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
/// let app = App::new(store, ServerConfig::default());
/// serve_stdio(app, async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When the session cannot be made, or when the client's first message is not MCP.
pub async fn serve_stdio(app: Arc<App>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (input, output) = stdio();
    serve_pipe(app, input, output, stop).await
}

/// Serves MCP over any pipe until its input ends or `stop` is ready, as [`serve_stdio`] does.
///
/// ```
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{App, ServerConfig, serve_pipe};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default());
/// let app = App::new(store, ServerConfig::default());
/// // A client that says nothing and leaves.
/// serve_pipe(app, tokio::io::empty(), tokio::io::sink(), std::future::pending()).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`serve_stdio`].
pub async fn serve_pipe(
    app: Arc<App>,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let session = app.store.create(SessionOptions::default()).await.map_err(io::Error::other)?;
    let attachment = session.attach();
    let target = McpTarget::Named(Arc::clone(&session));
    let handler = ToolboxHandler::new(&app, target, LogThreshold::default()).await;
    let handler = handler.map_err(io::Error::other)?;
    let pipe = Pipe::new(input, output, app.config.stall);
    let stopped = CancellationToken::new();
    let served = async {
        match serve_server_with_ct(handler, pipe, stopped.clone()).await {
            Ok(running) => running.waiting().await.map(drop).map_err(io::Error::other),
            // A client that leaves without a message, or is cut off by a stop, has done nothing wrong.
            Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    };
    tokio::pin!(served);
    let outcome = tokio::select! {
        outcome = &mut served => outcome,
        () = stop => {
            stopped.cancel();
            served.await
        }
    };
    drop(attachment);
    session.end(EndReason::Closed);
    outcome
}
