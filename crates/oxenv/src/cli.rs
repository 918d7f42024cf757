//! The command line, as clap reads it.
//!
//! Invariant: no default of a setting stands here, because a flag that was not given must not hide
//! what the environment or the file says; `settings` has the defaults.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde::Deserialize;

use crate::bench::BenchArgs;
use crate::policy_commands::PolicyArgs;
use crate::tools_commands::{ToolsArgs, ValidateArgs};

const EXIT_CODES: &str = "Exit codes:
  0  success
  1  the operation failed
  2  wrong usage or configuration
  3  the address cannot be listened on
  4  the server cannot be reached";

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
    Serve(ServeArgs),
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
  oxenv serve --tools tools.yaml                 the tools of a manifest, as an environment
  oxenv serve echo --tools tools.yaml            an environment with more tools
  oxenv serve --tools tools.yaml --workspace data --audit calls.jsonl
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

    /// Which doors are open: control and agents, or agents only [default: simulation]
    #[arg(long)]
    pub(crate) mode: Option<ModeName>,

    /// Sessions at once, the default session aside [default: 256]
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions: Option<usize>,

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

    /// Allow an address that others can reach, although whoever reaches it has full control
    #[arg(long)]
    pub(crate) open: bool,

    /// A name by which this server may be reached beside those of its address; others are refused
    /// (may be repeated) [default: any, unless the address is a loopback one]
    #[arg(long = "allow-host", value_name = "HOST")]
    pub(crate) allowed_hosts: Vec<String>,

    /// An origin whose web pages may reach this server, such as `https://app.example` (may be repeated)
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub(crate) allowed_origins: Vec<String>,

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
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; write 90s, 15m or 2h")),
    }
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
    }
}
