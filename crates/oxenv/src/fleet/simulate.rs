//! `oxenv fleet simulate`: a Fleet on this machine.
//!
//! Invariant: it listens on loopback addresses only; a key that it made is printed once, one from a file
//! never.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use oxenv_fleet_simulator::{ApiKey, Fault, Framing, McpAuth, Simulator, SimulatorOptions};
use oxenv_server::{Shutdown, Tokens};
use serde_json::json;

use crate::exit::{self, Problem, usage};
use crate::logging::{self, LogFormat, LogLevel};
use crate::values::duration;

const HELP: &str = "A fault is PLACE:EFFECT, and *N after it if only the first N requests are to meet it.

Places:
  control                   all of the control plane; or create, get, list, delete, delete-all,
                            heartbeat, environments, regions, account, token
  instance                  all of an instance's host
  manager                   all of its manager; or reset, health, resources, describe, query,
                            verify, cdp
  mcp, api/v1/mcp, mcps     one MCP endpoint, the other, both; .initialize, .list or .call after it
                            for one method
Effects:
  STATUS                    503; 429~2 with Retry-After; 500={\"detail\": 1}, 500=\"text\" and
                            500=html\"<b>\" with a body of yours
  limit, 403-limit, 403-team, 403-environment, 403-permission, 400-region, 400-environment,
  400-version, 400-retryable, 400-retryable-text
                            Fleet's own reply for that case
  drop, hang                nothing is done, and nothing answered
  drop-after, hang-after, cut, garbage
                            it is done, and not answered, or not well
  slow=2s, slow=250ms       it is done later
  pending, pending-then-error, pending-then-stopped, pending-for-ever
                            at create: answered at once; the second get shows what it became
  refuse, expire            at instance: it does not listen; its time is over as the request comes
  lose-session, lose-session-in-call, empty-tools, is-error, null-image, mcp-image, json, sse,
  no-session                over MCP
  old-resources             at resources: the list is inside an object

The simulator has routes of its own beside Fleet's, for the same key:
  GET /simulator/requests              all requests
  GET, POST, DELETE /simulator/faults  list the faults left; add some, one a line; remove all
  POST /simulator/expire/ID            the time of an instance is over
  POST /simulator/advance/SECONDS      time passes at once

Environments: fira (both MCP endpoints), echo (/mcp alone), desk (/api/v1/mcp alone).

Examples:
  oxenv fleet simulate
  oxenv fleet simulate --delay 5s --gate
  oxenv fleet simulate --fault 'create:429~1*2' --fault 'mcp.call:lose-session-in-call*1'
  oxenv fleet simulate --fault 'create:503=\"try later\"*1' --fault 'create:drop-after*1'";

/// How to simulate.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct SimulateArgs {
    /// Port of the control plane; 0 takes a free one. Each instance takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,

    /// A file with API keys, one a line, as KEY or TEAM:KEY [default: one is made, and printed]
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// Maximum number of instances of one team at a time
    #[arg(long, value_name = "N", default_value_t = 10)]
    instance_limit: usize,

    /// How long an instance is pending before it runs: 500ms, 5s [default: not at all]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,

    /// Lifetime of an instance, unless its create request sets one
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1h")]
    ttl: Duration,

    /// Answer 404 to requests to an instance manager without the runner token
    #[arg(long)]
    gate: bool,

    /// What the MCP endpoints ask for: nothing, the API key, or the runner token
    #[arg(long, value_name = "WHAT", default_value = "nothing")]
    mcp_auth: Auth,

    /// Frame replies over MCP as server-sent events
    #[arg(long)]
    sse: bool,

    /// Run verifiers. They are Python that the caller sends, and it runs here, as you
    #[arg(long)]
    run_verifiers: bool,

    /// Something that goes wrong, such as `create:429*2` (may be repeated)
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Fault>,

    /// Number from which the ids of instances come
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Print one line of JSON instead of lines for a shell
    #[arg(long)]
    json: bool,

    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: LogLevel,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Auth {
    Nothing,
    Bearer,
    Runner,
}

pub(crate) async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    logging::start(args.log, LogFormat::Text);
    // Requests in flight are not waited for.
    let shutdown = Shutdown::on_signals(Duration::ZERO)?;
    let (keys, made) = keys(args.api_key_file.as_deref())?;
    let port = args.port;
    let options = SimulatorOptions {
        port,
        keys,
        instance_limit: args.instance_limit,
        provisioning_delay: args.delay.unwrap_or_default(),
        ttl: args.ttl,
        runner_gate: args.gate,
        runner_token: Tokens::generate()?,
        run_verifiers: args.run_verifiers,
        framing: if args.sse { Framing::Sse } else { Framing::Json },
        mcp_auth: match args.mcp_auth {
            Auth::Nothing => McpAuth::Open,
            Auth::Bearer => McpAuth::Bearer,
            Auth::Runner => McpAuth::Runner,
        },
        seed: args.seed,
        faults: args.faults,
        ..SimulatorOptions::default()
    };
    let simulator = Simulator::start(options).await.map_err(|error| {
        Problem::Listen(format!("cannot listen on 127.0.0.1:{port}: {error}; choose another"))
    })?;
    announce(simulator.control_url(), made.as_deref(), args.api_key_file.as_deref(), args.json)?;
    shutdown.requested().await;
    shutdown.finish(simulator.shutdown()).await;
    Ok(exit::in_time(&shutdown)?)
}

/// The keys of a file, or one that is made, which is given beside them.
fn keys(file: Option<&Path>) -> anyhow::Result<(Vec<ApiKey>, Option<String>)> {
    let Some(file) = file else {
        let key = format!("sk_{}", Tokens::generate()?);
        return Ok((vec![ApiKey::new(&key, "team-1")], Some(key)));
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| usage(format!("cannot read the API keys of {}: {error}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<ApiKey> = lines
        .map(|line| match line.split_once(':') {
            Some((team, key)) => ApiKey::new(key, team),
            None => ApiKey::new(line, "team-1"),
        })
        .collect();
    if keys.is_empty() {
        return Err(usage(format!("{} has no API key: write one a line", file.display())));
    }
    Ok((keys, None))
}

/// Prints its address. A reader that left is no reason not to serve.
fn announce(url: &str, made: Option<&str>, file: Option<&Path>, as_json: bool) -> std::io::Result<()> {
    let text = if as_json {
        format!("{}\n", json!({"base_url": url, "api_key": made}))
    } else {
        let key = match (made, file) {
            (Some(key), _) => format!("export FLEET_API_KEY={key}"),
            (None, Some(file)) => format!("# FLEET_API_KEY: one of {}", file.display()),
            (None, None) => String::new(),
        };
        format!("# oxenv: simulating Fleet on {url}\nexport FLEET_BASE_URL={url}\n{key}\n")
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}
