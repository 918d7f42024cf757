//! `oxenv fleet`: environments on Fleet, from a shell.
//!
//! Invariant: the API key is read from the environment or a file, never from an argument, and never shown. A
//! command that made an instance does not end before that is deleted, unless it was asked to leave it.

mod access;
mod down;
mod list;
mod shell;
mod simulate;
mod up;

use clap::{Args, Subcommand};

use down::DownArgs;
use list::ListArgs;
use shell::ShellArgs;
use simulate::SimulateArgs;
use up::UpArgs;

/// What to do.
#[derive(Args)]
#[command(after_help = "Examples:
  oxenv fleet up fira --ttl 2h
  oxenv fleet shell fira
  oxenv fleet simulate")]
pub(crate) struct FleetArgs {
    #[command(subcommand)]
    command: FleetCommand,
}

#[derive(Subcommand)]
enum FleetCommand {
    /// Make an instance of an environment, and keep it until Ctrl-C.
    Up(Box<UpArgs>),
    /// List the instances.
    List(ListArgs),
    /// End instances.
    Down(DownArgs),
    /// Use an instance by hand: reset it, list and call its tools.
    Shell(Box<ShellArgs>),
    /// Serve a Fleet on this machine, to try clients against.
    Simulate(SimulateArgs),
}

pub(crate) async fn run(args: FleetArgs) -> anyhow::Result<()> {
    match args.command {
        FleetCommand::Up(args) => up::run(*args).await,
        FleetCommand::List(args) => list::run(args).await,
        FleetCommand::Down(args) => down::run(args).await,
        FleetCommand::Shell(args) => shell::run(*args).await,
        FleetCommand::Simulate(args) => simulate::run(args).await,
    }
}
