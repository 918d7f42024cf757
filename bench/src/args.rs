//! The command line of `oxenv bench`.
//!
//! Entry point: [`BenchArgs`]. Nothing here opens a socket; `plan` turns these into what is run.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, Subcommand};
use oxenv_wire::Seconds;

use crate::client_steps::ClientProtocol;
use crate::mcp::McpProtocol;

/// What an echo server is asked unless `--message` says otherwise.
pub(crate) const ECHO_ACTION: &str =
    r#"{"type":"call_tool","tool_name":"echo_message","arguments":{"message":"hello"}}"#;

const EXAMPLES: &str = "\
Examples:
  oxenv bench ws                                  64 sessions, as fast as they can
  oxenv bench ws --sessions 256 --pid 4242        also the server's CPU and memory
  oxenv bench ws --depth 8                        8 requests ahead on each socket
  oxenv bench ws --message '{\"message\":\"hi\"}'     any action
  oxenv bench ws --batch 64                       64 steps in each frame of one socket (oxenv.1)
  oxenv bench ws --client                         through the Rust client
  oxenv bench http --rate 2000                    2,000 requests/s, open loop
  oxenv bench mcp --sessions 32 --json            tools/call, one JSON object
  oxenv bench mcp --protocol 2026-07-28           the same as MCP's newest clients ask
  oxenv bench mcp --list --sessions 1             tools/list
  oxenv bench churn --sessions 16                 connect, reset, step, close
  oxenv bench held --sessions 2000 --pid 4242     memory of each idle session
  taskset -c 1 oxenv bench ws                     load on core 1 only

In the closed loop each session has one request in flight (--depth of them on a socket) and sends the next when \
the reply is there. With --rate, latency counts from the instant a request was due, sent or not, so that a server \
which stalls cannot hide the requests that waited for it; those never sent are reported as unsent.";

/// Measures an OpenEnv server under load.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Which door is measured, and how.
    #[command(subcommand)]
    pub(crate) load: LoadCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LoadCommand {
    /// Step over WebSockets: one session for each socket (64 unless --sessions says otherwise)
    Ws {
        #[command(flatten)]
        steps: ActionArgs,
        /// Requests that are sent ahead on each socket
        #[arg(long, value_name = "N", default_value = "1")]
        depth: NonZeroUsize,
        /// All sessions on one socket of oxenv.1 for each thread, with N steps in each frame
        #[arg(long, value_name = "N", conflicts_with = "rate")]
        batch: Option<NonZeroUsize>,
        /// All sessions on one socket of oxenv.1 for each thread, with one step in each frame
        #[arg(long, conflicts_with_all = ["rate", "batch"])]
        multiplex: bool,
        /// Step through the Rust client instead of raw sockets; with --multiplex or --batch over one connection
        #[arg(long, value_enum, value_name = "PROTOCOL", num_args = 0..=1, require_equals = true)]
        #[arg(default_missing_value = "auto")]
        client: Option<ClientProtocol>,
    },
    /// POST /step over kept-alive connections (32 unless --sessions says otherwise)
    Http(ActionArgs),
    /// POST /mcp with tools/call over kept-alive connections (32 unless --sessions says otherwise)
    Mcp {
        #[command(flatten)]
        calls: ActionArgs,
        /// How MCP is spoken; 2025-11-25 opens a session on each connection before anything is measured
        #[arg(long, value_enum, default_value = "openenv")]
        protocol: McpProtocol,
        /// Ask for tools/list instead of calling a tool
        #[arg(long, conflicts_with = "message")]
        list: bool,
    },
    /// GET /tools over kept-alive connections (32 unless --sessions says otherwise)
    Tools(LoadArgs),
    /// Connect, reset, step and close over /ws, again and again (16 at a time unless --sessions says otherwise)
    Churn(ActionArgs),
    /// Open idle sessions, hold them, and say what memory each costs the server (needs --pid)
    Held(IdleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ActionArgs {
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    /// The action to send as JSON; for mcp a call_tool action or the params of tools/call
    #[arg(long, value_name = "JSON", default_value = ECHO_ACTION)]
    pub(crate) message: String,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Concurrent sessions or connections
    #[arg(long, value_name = "N")]
    pub(crate) sessions: Option<NonZeroUsize>,
    /// How long is measured
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = positive_seconds)]
    pub(crate) duration: Duration,
    /// How long the load runs before anything is counted
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Requests per second in total on a fixed schedule (open loop) instead of as fast as replies come
    #[arg(long, value_name = "R", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Threads of the load generator; more than one only helps where it has more than one core
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) threads: NonZeroUsize,
}

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// How many sessions are held
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) sessions: NonZeroUsize,
    /// How long they are held before the memory is read
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = positive_seconds)]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Where the server is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub(crate) url: String,
    /// The server's process id on this machine: adds its CPU time and memory to the report
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// A header for every request and handshake, such as 'Authorization: Bearer TOKEN'; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl BenchArgs {
    /// Whether the report is wanted as JSON.
    pub(crate) fn json(&self) -> bool {
        match &self.load {
            LoadCommand::Ws { steps: actions, .. }
            | LoadCommand::Mcp { calls: actions, .. }
            | LoadCommand::Http(actions)
            | LoadCommand::Churn(actions) => actions.load.server.json,
            LoadCommand::Tools(load) => load.server.json,
            LoadCommand::Held(held) => held.server.json,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    let time = Duration::try_from_secs_f64(number).map_err(|error| error.to_string())?;
    let longest = Seconds::LONGEST;
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

/// Takes `Name: value` and refuses what would end the header early.
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
        for load in ["ws", "http", "mcp", "tools", "churn", "held"] {
            let cli = Cli::try_parse_from(["bench", load, "--json"]).unwrap();
            assert!(cli.bench.json());
        }
    }
}
