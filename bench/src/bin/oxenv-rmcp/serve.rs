//! The SDK's own servers: over stdio, and over HTTP in its two modes.
//!
//! Invariant: TCP_NODELAY is set; without it event streams wait for acknowledgements.

use axum::Router;
use axum::routing::get;
use axum::serve::ListenerExt;
use rmcp::ServiceExt;
use rmcp::transport::stdio_pipes;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;

use crate::echo::Echo;

/// How the HTTP service answers.
pub(crate) enum Mode {
    /// Stateless, with JSON replies.
    Json,
    /// With sessions and event streams, the SDK's default.
    Sessions,
}

/// Serves over stdin and stdout until stdin ends.
pub(crate) async fn stdio(echo: Echo) -> Result<(), String> {
    let serving = echo.serve(stdio_pipes()).await.map_err(|error| format!("no handshake: {error}"))?;
    serving.waiting().await.map(drop).map_err(|error| format!("the server broke: {error}"))
}

/// Serves `/mcp` until the process is ended.
pub(crate) async fn http(port: u16, mode: Mode) -> Result<(), String> {
    let config = StreamableHttpServerConfig::default();
    let config = match mode {
        Mode::Json => config.with_legacy_session_mode(false).with_json_response(true),
        Mode::Sessions => config,
    };
    let echo = Echo::one();
    let service =
        StreamableHttpService::new(move || Ok(echo.clone()), LocalSessionManager::default().into(), config);
    listen(port, Router::new().route_service("/mcp", service)).await
}

/// Answers every connection until the process is ended; `/health` too.
pub(crate) async fn listen(port: u16, router: Router) -> Result<(), String> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?
        .tap_io(|stream| {
            // A socket that refuses it still works.
            let _ = stream.set_nodelay(true);
        });
    let router = router.route("/health", get(async || "healthy"));
    axum::serve(listener, router).await.map_err(|error| format!("cannot accept connections: {error}"))
}
