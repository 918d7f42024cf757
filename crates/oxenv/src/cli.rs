//! The command line, as clap reads it.
//!
//! Entry point: [`Cli`]. It lists the commands; the arguments of each are declared in its own file.

use clap::{Parser, Subcommand};
use oxenv_bench::BenchArgs;

use crate::call::CallArgs;
use crate::check::CheckArgs;
use crate::completions::CompletionsArgs;
use crate::env_commands::EnvArgs;
use crate::envs::EnvsArgs;
use crate::fleet::FleetArgs;
use crate::health::HealthArgs;
use crate::image::BuildArgs;
use crate::instances::{DownArgs, PsArgs, UpArgs};
use crate::logs::LogsArgs;
use crate::mcp::McpArgs;
use crate::policy_commands::PolicyArgs;
use crate::replay::ReplayArgs;
use crate::rescore::RescoreArgs;
use crate::run::RunArgs;
use crate::settings::ServeArgs;
use crate::step::StepArgs;
use crate::tools_commands::{ToolsArgs, ValidateArgs};
use crate::trajectories::TrajectoriesArgs;

const HELP: &str = "Examples:
  oxenv serve echo                 serve an environment on http://127.0.0.1:8000
  oxenv serve --tools tools.yaml   serve the tools of a manifest
  oxenv help serve                 every option of a command

Exit codes:
  0  success
  1  the operation failed
  2  wrong usage or configuration
  3  the address cannot be listened on
  4  the server cannot be reached
  5  ended by a signal before everything in it had ended
  6  a record is incomplete or damaged";

/// Serve reinforcement-learning environments over HTTP, WebSocket and MCP, and use them.
#[derive(Parser)]
#[command(version, after_help = HELP)]
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
    /// Install what an environment written in Python needs.
    Env(EnvArgs),
    /// Run a program that calls the tools of a manifest.
    Run(Box<RunArgs>),
    /// Call a tool of a running environment.
    Call(CallArgs),
    /// Take one step in a running environment's default session.
    Step(StepArgs),
    /// List every problem of manifests (tools.yaml).
    Validate(ValidateArgs),
    /// Import manifests, and print their JSON Schema.
    Tools(ToolsArgs),
    /// Explain what the rules of a manifest allow.
    Policy(PolicyArgs),
    /// List, show and export recorded sessions.
    Trajectories(TrajectoriesArgs),
    /// Run recorded sessions again and compare every byte.
    Replay(Box<ReplayArgs>),
    /// Score recorded episodes by another rubric.
    Rescore(RescoreArgs),
    /// Check that an environment behaves as it declares.
    Check(CheckArgs),
    /// Start an environment's server in a container or as a process, and leave it running.
    Up(Box<UpArgs>),
    /// List the environments that are running.
    Ps(PsArgs),
    /// End running environments.
    Down(DownArgs),
    /// Build an image of an environment.
    Build(BuildArgs),
    /// Use environments on Fleet, or simulate a Fleet.
    Fleet(FleetArgs),
    /// Ask a server whether it is healthy.
    Health(HealthArgs),
    /// Print what the processes of a session wrote to stdout and stderr.
    Logs(LogsArgs),
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
