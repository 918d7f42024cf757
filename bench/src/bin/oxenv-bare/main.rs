//! `oxenv-bare`: a minimal server with the same replies as oxenv, as the limit to compare with.
//!
//! Invariant: it parses each request as JSON and formats each reply. It has no sessions, validation or
//! policy, and only what the echo tool needs.

mod http;
mod payload;
mod ws;

use std::process::ExitCode;

use tokio::net::TcpListener;

const USAGE: &str = "usage: oxenv-bare ws|http|mcp --port PORT";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oxenv-bare: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), String> {
    let [protocol, flag, port] = arguments else { return Err(USAGE.to_owned()) };
    if flag != "--port" {
        return Err(USAGE.to_owned());
    }
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port; {USAGE}"))?;
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    match protocol.as_str() {
        "ws" => ws::serve(listener).await,
        "http" => http::serve(listener, http::dialect()).await,
        "mcp" => http::serve(listener, http::mcp()).await,
        other => return Err(format!("unknown protocol `{other}`; {USAGE}")),
    }
    .map_err(|error| format!("cannot accept connections: {error}"))
}
