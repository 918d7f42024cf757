//! `oxenv-rmcp`: servers and a client built with the official Rust SDK alone, to compare oxenv with.
//!
//! Invariant: each part uses the SDK in its fastest configuration and only echoes.

mod calls;
mod echo;
mod forward;
mod serve;

use std::process::ExitCode;
use std::time::Duration;

use rmcp::RoleClient;
use rmcp::ServiceExt;
use rmcp::service::RunningService;
use tokio::process::{Child, Command};

const USAGE: &str = "\
usage: oxenv-rmcp stdio [TOOLS PREFIX]            a stdio server of echo_message, or of TOOLS tools
       oxenv-rmcp json PORT                       the SDK's HTTP service, stateless with JSON replies
       oxenv-rmcp sse PORT                        the SDK's HTTP service, with sessions and event streams
       oxenv-rmcp forward PORT COMMAND…           an axum handler that forwards calls to an upstream
       oxenv-rmcp calls N WARMUP SECONDS COMMAND… calls an upstream, N in flight; prints a report";

/// An upstream that was started, and the client of it. Dropping both ends it.
struct Upstream {
    client: RunningService<RoleClient, ()>,
    _child: Child,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oxenv-rmcp: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        ["stdio"] => serve::stdio(echo::Echo::one()).await,
        ["stdio", tools, prefix] => serve::stdio(echo::Echo::many(number(tools)?, prefix)).await,
        ["json", port] => serve::http(number(port)?, serve::Mode::Json).await,
        ["sse", port] => serve::http(number(port)?, serve::Mode::Sessions).await,
        ["forward", port, command @ ..] => forward::serve(number(port)?, upstream(command).await?).await,
        ["calls", in_flight, warmup, seconds, command @ ..] => {
            let (warmup, measured) = (duration(warmup)?, duration(seconds)?);
            calls::run(upstream(command).await?, number(in_flight)?, warmup, measured).await
        }
        _ => Err(USAGE.to_owned()),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("`{text}` is not such a number; {USAGE}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(number(text)?).map_err(|error| format!("`{text}`: {error}"))
}

/// Starts an upstream and shakes hands with it.
async fn upstream(command: &[&str]) -> Result<Upstream, String> {
    let [program, arguments @ ..] = command else { return Err(USAGE.to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    let (Some(stdout), Some(stdin)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(format!("{program} has no pipes"));
    };
    let client = ().serve((stdout, stdin)).await.map_err(|error| format!("no handshake: {error}"))?;
    Ok(Upstream { client, _child: child })
}
