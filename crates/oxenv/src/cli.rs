//! The command line, as clap reads it.
//!
//! Invariant: no default of a setting stands here, because a flag that was not given must not hide
//! what the environment or the file says; `settings` has the defaults.

use oxenv_wire::{ByteSize, Seconds};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use oxenv_bench::BenchArgs;
use serde::Deserialize;

use crate::check::CheckArgs;
use crate::fleet::FleetArgs;
use crate::health::HealthArgs;
use crate::hosted::HostArgs;
use crate::image::BuildArgs;
use crate::instances::{DownArgs, PsArgs, UpArgs};
use crate::policy_commands::PolicyArgs;
use crate::record::RecordArgs;
use crate::replay::ReplayArgs;
use crate::rescore::RescoreArgs;
use crate::rubrics::RubricArgs;
use crate::tools_commands::{ToolsArgs, ValidateArgs};
use crate::traces::Endpoint;
use crate::trajectories::TrajectoriesArgs;

const EXIT_CODES: &str = "Exit codes:
  0  success
  1  the operation failed
  2  wrong usage or configuration
  3  the address cannot be listened on
  4  the server cannot be reached
  5  ended by a signal before everything in it had ended
  6  a record is incomplete or damaged";

/// Serve environments for agents that learn, and talk to them.
#[derive(Parser)]
#[command(version, about, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve an environment over HTTP, WebSocket and MCP.
    Serve(Box<ServeArgs>),
    /// Offer the tools of a manifest, or of an environment, to an MCP client over stdin and stdout.
    Mcp(McpArgs),
    /// List the environments that can be served by name.
    Envs(EnvsArgs),
    /// Call a tool of a running environment.
    Call(CallArgs),
    /// Take one step in a running environment's default session.
    Step(StepArgs),
    /// Tell every problem of manifests (tools.yaml).
    Validate(ValidateArgs),
    /// Make manifests, and help to write them.
    Tools(ToolsArgs),
    /// Ask the rules of a manifest.
    Policy(PolicyArgs),
    /// List, show and export recorded sessions.
    Trajectories(TrajectoriesArgs),
    /// Do recorded sessions again and compare every byte.
    Replay(Box<ReplayArgs>),
    /// Apply another rubric to recorded episodes.
    Rescore(RescoreArgs),
    /// Find out whether an environment keeps its promises.
    Check(CheckArgs),
    /// Start an environment's server in a container or as a process, and leave it running.
    Up(Box<UpArgs>),
    /// List the environments that were started.
    Ps(PsArgs),
    /// End environments that were started.
    Down(DownArgs),
    /// Make an image of an environment.
    Build(BuildArgs),
    /// Use environments on Fleet, or simulate a Fleet.
    Fleet(FleetArgs),
    /// Ask a server whether it is healthy; exits with 0 if so.
    Health(HealthArgs),
    /// Measure a running server.
    Bench(BenchArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Run a command and end its whole tree with the parent; used for tool servers.
    #[command(hide = true, disable_help_flag = true)]
    Supervise {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
        arguments: Vec<std::ffi::OsString>,
    },
}

const SERVE_HELP: &str = "Settings come from flags, then OXENV_* variables, then OPENENV_MODE and
MAX_CONCURRENT_ENVS, then the file given by --config, then defaults.

Examples:
  oxenv serve                                    echo on http://127.0.0.1:8000
  oxenv serve connect4 --port 0 --seed 7         a free port, reproducible episodes
  oxenv serve grid_world --max-sessions 2048
  oxenv serve echo --host 0.0.0.0 --open         reachable from elsewhere, for everybody
  oxenv serve echo --host 0.0.0.0 --generate-tokens   the same, for who has a token
  oxenv serve --tools tools.yaml                 the tools of a manifest, as an environment
  oxenv serve echo --tools tools.yaml            an environment with more tools
  oxenv serve --tools tools.yaml --workspace data --audit calls.jsonl
  oxenv serve connect4 --record records          what every session does, in a folder
  oxenv serve --config oxenv.toml";

#[derive(Args, Default)]
#[command(after_help = SERVE_HELP)]
pub(crate) struct ServeArgs {
    /// What to serve: a bundled environment's name, a manifest, or a folder with a tools.yaml
    /// [default: echo, or the tools alone if --tools is given]
    #[arg(value_name = "ENV")]
    pub(crate) environment: Option<String>,

    #[command(flatten)]
    pub(crate) tools: ToolArgs,

    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    pub(crate) host: Option<IpAddr>,

    /// Port to listen on; 0 takes a free one [default: 8000]
    #[arg(long)]
    pub(crate) port: Option<u16>,

    /// Listen on a Unix socket of this path as well, for this user alone
    #[arg(long, value_name = "PATH")]
    pub(crate) uds: Option<PathBuf>,

    /// Which doors are open: control and agents, or agents only [default: simulation]
    #[arg(long)]
    pub(crate) mode: Option<ModeName>,

    /// Sessions at once, the default session aside [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions: Option<usize>,

    /// How long a new session waits for a free slot before it is refused; 0s: not at all [default: 20s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    pub(crate) queue_timeout: Option<Duration>,

    /// Make no more sessions while the process uses that much memory: 512MiB, 4GiB [default: no bound]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_budget: Option<ByteSize>,

    /// How long a session lives without a socket and without a call: 90s, 15m, 2h. If given, it
    /// holds for the default session too, which otherwise lives as long as the server [default: 15m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle_timeout: Option<Duration>,

    /// How long calls in flight may go on after SIGTERM or Ctrl-C [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) drain_timeout: Option<Duration>,

    /// Seed from which the seeds of sessions and episodes come [default: random]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    #[command(flatten)]
    pub(crate) tokens: TokenArgs,

    /// Allow an address that others can reach without tokens, although whoever reaches it has full control
    #[arg(long)]
    pub(crate) open: bool,

    /// A name by which this server may be reached beside those of its address; others are refused
    /// (may be repeated) [default: any, unless the address is a loopback one]
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(crate) allowed_hosts: Vec<String>,

    /// An origin whose web pages may reach this server, such as `https://app.example` (may be repeated)
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub(crate) allowed_origins: Vec<String>,

    #[command(flatten)]
    pub(crate) rubric: RubricArgs,

    #[command(flatten)]
    pub(crate) record: RecordArgs,

    /// A file with the key that snapshots are made with, at least 32 random bytes: servers with the same one
    /// restore each other's snapshots; see docs/forks.md [default: snapshot.key beside the record, which
    /// is made; without --record a key of this process]
    #[arg(long, value_name = "FILE")]
    pub(crate) snapshot_key_file: Option<PathBuf>,

    /// The most that a snapshot holds of a session's state and files: 512MiB, 4GiB; more is refused before it
    /// is made [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_snapshot: Option<ByteSize>,

    #[command(flatten)]
    pub(crate) observing: ObservingArgs,

    /// A TOML file with settings of the same names
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// What to log on stderr: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<LogLevel>,

    /// How to log [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// Where tools come from, and who keeps book on their calls.
#[derive(Args, Default)]
pub(crate) struct ToolArgs {
    /// A manifest (tools.yaml) whose tools are offered; see oxenv validate
    #[arg(long = "tools", value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,

    /// What `${workspace}` holds at the beginning of each episode: a copy of this folder, which is
    /// itself never changed [default: an empty folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,

    /// Let all sessions work in the folder of --workspace itself; it is never cleared
    #[arg(long, requires = "workspace")]
    pub(crate) share_workspace: bool,

    /// Append one JSON line per tool call to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) audit: Option<PathBuf>,

    /// Put the arguments of calls into that file as well, without secrets
    #[arg(long)]
    pub(crate) audit_arguments: bool,

    #[command(flatten)]
    pub(crate) host: HostArgs,
}

/// Who may do what.
#[derive(Args, Default)]
pub(crate) struct TokenArgs {
    /// A file with the tokens of control, one a line, as TOKEN or NAME:TOKEN. The variable
    /// OXENV_CONTROL_TOKEN adds one. With a token for control, nobody gets in without one
    #[arg(long, value_name = "FILE")]
    pub(crate) control_token_file: Option<PathBuf>,

    /// The same for observers, who see everything and change nothing; also OXENV_OBSERVER_TOKEN
    #[arg(long, value_name = "FILE")]
    pub(crate) observer_token_file: Option<PathBuf>,

    /// Make a token for control and one for observers, where none is given, and print them once
    #[arg(long)]
    pub(crate) generate_tokens: bool,

    /// Sessions at once of all tokens of one name together [default: as many as of all]
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions_per_token: Option<usize>,

    /// From the environment alone: an argument can be read by everybody on the machine.
    #[arg(skip)]
    pub(crate) control_token: Option<String>,

    #[arg(skip)]
    pub(crate) observer_token: Option<String>,
}

/// What is told of the server's work; see docs/observability.md.
#[derive(Args, Default)]
pub(crate) struct ObservingArgs {
    /// Count and measure, and show the numbers at /metrics for Prometheus
    #[arg(long)]
    pub(crate) metrics: bool,

    /// Log a warning for each step, reset or call that took that long: 250ms, 1s [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) slow_step: Option<Duration>,

    /// Send traces to a receiver of OTLP over HTTP, such as http://127.0.0.1:4318 [default: none]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp: Option<Endpoint>,

    /// Which part of the traces is recorded that no caller began, from 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub(crate) otlp_sample: Option<f64>,
}

#[derive(Args)]
#[command(after_help = "Logs go to stderr. Examples:
  oxenv mcp --tools tools.yaml
  oxenv mcp echo
In a desktop client's configuration:
  {\"mcpServers\": {\"oxenv\": {\"command\": \"oxenv\", \"args\": [\"mcp\", \"--tools\", \"/path/to/tools.yaml\"]}}}")]
pub(crate) struct McpArgs {
    /// An environment whose tools are offered [default: none, if --tools is given; else echo]
    #[arg(value_name = "ENV")]
    pub(crate) environment: Option<String>,

    #[command(flatten)]
    pub(crate) tools: ToolArgs,

    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    /// Control and agents.
    Simulation,
    /// Agents only.
    Production,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per event.
    Json,
}

#[derive(Args)]
pub(crate) struct EnvsArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv call http://127.0.0.1:8000 echo_message '{\"message\": \"hi\"}'
  oxenv call http://127.0.0.1:8000/sessions/ID/mcp echo_with_length '{\"message\": \"hi\"}' --json")]
pub(crate) struct CallArgs {
    /// The server, or the full URL of an MCP endpoint
    pub(crate) url: String,
    /// The tool's name
    pub(crate) tool: String,
    /// The arguments, a JSON object
    #[arg(default_value = "{}")]
    pub(crate) arguments: String,
    /// Print the whole result, not only its data
    #[arg(long)]
    pub(crate) json: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
    /// The token, if the server wants one; otherwise the one in the URL, `http://oxenv:TOKEN@HOST`, or
    /// OXENV_TOKEN
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

#[derive(Args)]
#[command(after_help = "Examples:
  oxenv step http://127.0.0.1:8000 '{\"type\": \"list_tools\"}'
  oxenv step http://127.0.0.1:8000 '{\"column\": 3}'
  oxenv step http://127.0.0.1:8000/sessions/ID '{\"column\": 3}'
  oxenv step http://127.0.0.1:8000 '{\"column\": 3}' --reset --seed 7")]
pub(crate) struct StepArgs {
    /// The server, or the URL of one of its sessions
    pub(crate) url: String,
    /// The action, a JSON object
    pub(crate) action: String,
    /// Reset first
    #[arg(long)]
    pub(crate) reset: bool,
    /// Seed of that reset
    #[arg(long, value_name = "N", requires = "reset")]
    pub(crate) seed: Option<u64>,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
    /// The token, if the server wants one; otherwise the one in the URL, `http://oxenv:TOKEN@HOST`, or
    /// OXENV_TOKEN
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

#[derive(Args)]
#[command(after_help = "Example:
  oxenv completions bash > ~/.local/share/bash-completion/completions/oxenv")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

/// A length of time: `90s`, `15m`, `1h 30m`, or a plain number of seconds. It is above zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    match parsed {
        Ok(Duration::ZERO) => Err("must be longer than 0".to_owned()),
        Ok(time) => bounded(time),
        Err(error) => Err(format!("{error}; write 90s, 15m or 2h")),
    }
}

/// That time, if a clock can hold it.
pub(crate) fn bounded(time: Duration) -> Result<Duration, String> {
    let longest = Seconds::MAX;
    if time > longest {
        Err(format!("must be at most {}s, which is 136 years", longest.as_secs()))
    } else {
        Ok(time)
    }
}

/// The same, where nothing at all is a length too.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    if matches!(text.trim(), "0" | "0s") { Ok(Duration::ZERO) } else { duration(text) }
}

/// A part of a whole, from 0 to 1.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let ratio: Option<f64> = text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("'{text}' is no part of a whole; write a number from 0 to 1, such as 0.01"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("2.5"), Ok(Duration::from_millis(2500)));
        assert!(duration("0").is_err());
        assert!(duration("-1").is_err());
        assert!(duration("soon").is_err());
        assert_eq!(duration("4294967296s"), Ok(Seconds::MAX));
        for endless in ["4294967297s", "18446744073709551615s", "1e19", "1000years", "inf"] {
            assert!(duration(endless).is_err() && patience(endless).is_err(), "{endless}");
        }
        assert_eq!(patience("0s"), Ok(Duration::ZERO));
    }
}
