//! The command line of `oxenv bench`.
//!
//! Entry point: [`BenchArgs`]. No socket is opened here; `plan` turns the arguments into what is run.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, Subcommand};
use oxenv_wire::Seconds;

use crate::protocol::{ClientProtocol, McpProtocol};

/// The default of `--message`: a call of the echo environment's tool.
pub(crate) const ECHO_ACTION: &str =
    r#"{"type":"call_tool","tool_name":"echo_message","arguments":{"message":"hello"}}"#;

const EXAMPLES: &str = "\
Examples:
  oxenv bench ws                                  64 sessions, as fast as replies come
  oxenv bench ws --sessions 256 --pid 4242        with the server's CPU time and memory
  oxenv bench ws --depth 8                        8 requests in flight on each socket
  oxenv bench ws --message '{\"message\":\"hi\"}'     another action
  oxenv bench ws --batch 64                       one socket (oxenv.1), 64 steps in each frame
  oxenv bench ws --client                         through the Rust client
  oxenv bench http --rate 2000                    2,000 requests per second, open loop
  oxenv bench mcp --sessions 32 --json            tools/call, report as JSON
  oxenv bench mcp --protocol 2026-07-28           tools/call without sessions
  oxenv bench mcp --list --sessions 1             tools/list
  oxenv bench churn --sessions 16                 connect, reset, step, close
  oxenv bench idle --sessions 2000 --pid 4242     memory per idle session
  taskset -c 1 oxenv bench ws                     load generator on core 1 only

Closed loop (the default): each session has one request in flight, or --depth of them on a WebSocket, and \
sends the next when a reply arrives.
Open loop (--rate): requests are due on a fixed schedule, and latency counts from the time a request was \
due. A server that stalls therefore shows in the latencies. Requests that were due but never sent are \
reported as unsent.";

/// Measure an OpenEnv or MCP server under load.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub(crate) load: LoadCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LoadCommand {
    /// Step over WebSockets, one session per socket (default: 64 sessions)
    #[command(after_help = "Example:\n  oxenv bench ws --sessions 256 --pid 4242")]
    Ws {
        #[command(flatten)]
        steps: ActionArgs,
        /// Requests in flight on each socket
        #[arg(long, value_name = "N", default_value = "1")]
        depth: NonZeroUsize,
        /// Put the sessions of each thread on one socket (oxenv.1) and send N steps in each frame
        #[arg(long, value_name = "N", conflicts_with = "rate")]
        batch: Option<NonZeroUsize>,
        /// Put the sessions of each thread on one socket (oxenv.1) and send one step in each frame
        #[arg(long, conflicts_with_all = ["rate", "batch"])]
        multiplex: bool,
        /// Step through the Rust client instead of raw sockets; with --multiplex or --batch over one
        /// connection
        #[arg(long, value_enum, value_name = "PROTOCOL", num_args = 0..=1, require_equals = true)]
        #[arg(default_missing_value = "auto")]
        client: Option<ClientProtocol>,
    },
    /// Send POST /step over keep-alive connections (default: 32 connections)
    #[command(after_help = "Example:\n  oxenv bench http --rate 2000")]
    Http(ActionArgs),
    /// Send tools/call to POST /mcp over keep-alive connections (default: 32 connections)
    #[command(after_help = "Example:\n  oxenv bench mcp --protocol 2026-07-28 --sessions 32")]
    Mcp {
        #[command(flatten)]
        calls: ActionArgs,
        /// Revision of MCP to speak; 2025-11-25 opens a session on each connection before the measurement
        #[arg(long, value_enum, default_value = "openenv")]
        protocol: McpProtocol,
        /// Send tools/list instead of tools/call
        #[arg(long, conflicts_with = "message")]
        list: bool,
    },
    /// Send GET /tools over keep-alive connections (default: 32 connections)
    #[command(after_help = "Example:\n  oxenv bench tools --sessions 8")]
    Tools(LoadArgs),
    /// Connect to /ws, reset, step and close, repeatedly (default: 16 sessions at a time)
    #[command(after_help = "Example:\n  oxenv bench churn --sessions 16")]
    Churn(ActionArgs),
    /// Open sessions, leave them idle and measure the server's memory per session (needs --pid)
    #[command(after_help = "Example:\n  oxenv bench idle --sessions 2000 --pid 4242")]
    Idle(IdleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ActionArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// The action to send, as JSON; for mcp a call_tool action or the params of tools/call
    #[arg(long, value_name = "JSON", default_value = ECHO_ACTION)]
    pub(crate) message: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Number of concurrent sessions or connections
    #[arg(long, value_name = "N")]
    pub(crate) sessions: Option<NonZeroUsize>,
    /// Length of the measurement
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    pub(crate) duration: Duration,
    /// Length of the load before the measurement
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Requests per second in total, on a fixed schedule (open loop)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Threads of the load generator; more than one only helps if it has more than one core
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) threads: NonZeroUsize,
}

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Number of idle sessions
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) sessions: NonZeroUsize,
    /// How long the sessions are idle before the memory is read
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = positive_seconds)]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Base URL of the server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) url: String,
    /// Process id of the server, if it runs on this machine: adds its CPU time and memory to the report
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// Header of every request and handshake, such as 'Authorization: Bearer TOKEN' (may be repeated)
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl BenchArgs {
    /// Whether to print the report as JSON.
    pub(crate) fn json(&self) -> bool {
        match &self.load {
            LoadCommand::Ws { steps: actions, .. }
            | LoadCommand::Mcp { calls: actions, .. }
            | LoadCommand::Http(actions)
            | LoadCommand::Churn(actions) => actions.load.server.json,
            LoadCommand::Tools(load) => load.server.json,
            LoadCommand::Idle(idle) => idle.server.json,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    let time = Duration::try_from_secs_f64(number).map_err(|error| error.to_string())?;
    let longest = Seconds::MAX;
    if time > longest {
        return Err(format!("must be at most {} s", longest.as_secs()));
    }
    Ok(time)
}

fn positive_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration.is_zero() { Err("must be more than 0".to_owned()) } else { Ok(duration) }
}

fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("must be more than 0".to_owned()) }
}

/// Accepts `Name: value` without line breaks, which would start another header.
fn header(text: &str) -> Result<String, String> {
    let name = text.split_once(':').map(|(name, _)| name.trim()).unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) || text.contains(['\r', '\n']) {
        return Err("must look like `Name: value`".to_owned());
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for bad in ["--duration=0", "--duration=-1", "--rate=0", "--rate=nan", "--sessions=0", "--header=x"] {
            assert!(Cli::try_parse_from(["bench", "ws", bad]).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_socket_has_one_step_in_each_frame_or_many() {
        for good in [["--batch=64"].as_slice(), &["--multiplex", "--depth=2"]] {
            assert!(Cli::try_parse_from(["bench", "ws"].iter().chain(good)).is_ok(), "{good:?} was refused");
        }
        for good in [["--client"].as_slice(), &["--client=stock"], &["--client", "--multiplex"]] {
            assert!(Cli::try_parse_from(["bench", "ws"].iter().chain(good)).is_ok(), "{good:?} was refused");
        }
        for bad in [["--batch=0"].as_slice(), &["--batch=2", "--multiplex"], &["--batch=2", "--rate=1"]] {
            assert!(Cli::try_parse_from(["bench", "ws"].iter().chain(bad)).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_message_that_would_not_be_sent_is_refused() {
        for bad in [["tools", "--message={}"].as_slice(), &["mcp", "--list", "--message={}"]] {
            assert!(Cli::try_parse_from(["bench"].iter().chain(bad)).is_err(), "{bad:?} was taken");
        }
        assert!(Cli::try_parse_from(["bench", "mcp", "--list", "--protocol=2025-11-25"]).is_ok());
    }

    #[test]
    fn json_is_read_from_every_subcommand() {
        for load in ["ws", "http", "mcp", "tools", "churn", "idle"] {
            let cli = Cli::try_parse_from(["bench", load, "--json"]).unwrap();
            assert!(cli.bench.json());
        }
    }
}
