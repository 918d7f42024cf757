//! The load generator of `oxenv bench`. Entry point: [`run`].
//!
//! It measures any OpenEnv server and any MCP server; only many sessions on one socket need a server that
//! speaks `oxenv.1`.
//!
//! Invariant: the generator must cost less than the server. Each request is built once, a reply that equals
//! the last one is not parsed again, and a thread shares nothing with others while the load runs.

mod args;
mod churn;
mod client_steps;
mod frame;
mod http;
mod http_response;
mod idle;
mod load_kind;
mod mcp;
mod multiplexed;
mod open;
mod pacing;
mod plan;
mod procfs;
mod protocol;
mod reply_checker;
mod report;
mod request;
mod runner;
mod sse;
mod statistics;
mod table;
mod target;
mod websocket;
mod websocket_steps;

pub use args::BenchArgs;

use std::io::Write;

use anyhow::Context;
use serde_json::Value;

use args::LoadCommand;
use load_kind::LoadKind;
use plan::LoadPlan;

/// Runs one measurement and prints its report on stdout.
///
/// # Errors
/// If the arguments contradict each other, no session can be opened, or no request succeeds. If only some
/// requests fail, the run succeeds; the report has their number and the first error.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let json = args.json();
    let plan = match args.load {
        LoadCommand::Ws { steps, depth, batch, multiplex, client } => {
            let steps_per_frame = batch.map(std::num::NonZero::get).or(multiplex.then_some(1));
            let kind = match (client, steps_per_frame) {
                (Some(_), Some(steps)) => LoadKind::ClientMany(steps),
                (Some(protocol), None) => LoadKind::Client(protocol),
                (None, Some(_)) if multiplex => LoadKind::Multiplex,
                (None, Some(steps)) => LoadKind::Batch(steps),
                (None, None) => LoadKind::Ws,
            };
            LoadPlan { depth: depth.get(), ..LoadPlan::with_action(kind, steps)? }
        }
        LoadCommand::Http(steps) => LoadPlan::with_action(LoadKind::Http, steps)?,
        LoadCommand::Mcp { calls, protocol, list: false } => {
            LoadPlan::with_action(LoadKind::Call(protocol), calls)?
        }
        LoadCommand::Mcp { calls, protocol, list: true } => {
            LoadPlan::with_action(LoadKind::List(protocol), calls)?
        }
        LoadCommand::Tools(load) => LoadPlan::new(LoadKind::Tools, load, &Value::Null)?,
        LoadCommand::Churn(steps) => LoadPlan::with_action(LoadKind::Churn, steps)?,
        LoadCommand::Idle(args) => {
            let report = idle::run(&args).await?;
            return print(json, &report, table::idle_table);
        }
    };
    // The load has runtimes of its own, one per thread; the caller's must not be blocked meanwhile.
    let report = tokio::task::spawn_blocking(move || runner::run(&plan))
        .await
        .context("the load generator panicked")??;
    print(json, &report, table::load_table)?;
    anyhow::ensure!(
        report.requests > 0,
        "no request succeeded: {}",
        report.first_error.as_deref().unwrap_or("no reply arrived during the measurement")
    );
    Ok(())
}

/// Prints the report as one line of JSON or as a table.
fn print<R: serde::Serialize>(json: bool, report: &R, table: fn(&R) -> String) -> anyhow::Result<()> {
    let mut text = if json { serde_json::to_string(report)? } else { table(report) };
    if json {
        text.push('\n');
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).context("cannot write the report")?;
    out.flush().context("cannot write the report")
}
