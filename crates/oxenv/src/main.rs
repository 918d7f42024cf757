//! The `oxenv` command.
//!
//! A table of contents: arguments are read in `cli`, settings are put together in `settings`, the
//! environment to serve is found in `registry`, and each subcommand has a file of its own.

mod bench;
mod cli;
mod client;
mod commands;
mod env;
mod exit;
mod logging;
mod registry;
mod serve;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Envs(args) => commands::envs(&args),
        Command::Call(args) => commands::call(&args).await,
        Command::Step(args) => commands::step(&args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Completions(args) => commands::completions(&args),
    };
    exit::code(outcome)
}
