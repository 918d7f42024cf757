//! The `oxenv` command.
//!
//! A table of contents: arguments are read in `cli`, settings are put together in `settings`, the
//! environment to serve is found in `registry`, and each subcommand has a file of its own.

mod check;
mod cli;
mod client;
mod commands;
mod env;
mod exit;
mod fleet;
mod health;
mod hosted;
mod image;
mod instances;
mod logging;
mod mcp;
mod observing;
mod policy_commands;
mod record;
mod registry;
mod replay;
mod rescore;
mod rubrics;
mod serve;
mod settings;
mod slow_steps;
mod snapshot_key;
mod tokens;
mod tools;
mod tools_commands;
mod traces;
mod trajectories;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Supervise { .. } = cli.command {
        return oxenv_upstream::supervise::main(&["supervise"]);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit::code(Err(error.into())),
    };
    let outcome = runtime.block_on(run(cli.command));
    // A thread that an environment blocks for ever must not keep the process from ending.
    runtime.shutdown_background();
    exit::code(outcome)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(*args).await,
        Command::Mcp(args) => mcp::run(args).await,
        Command::Envs(args) => commands::envs(&args),
        Command::Call(args) => commands::call(&args).await,
        Command::Step(args) => commands::step(&args).await,
        Command::Validate(args) => tools_commands::validate(&args),
        Command::Tools(args) => tools_commands::tools(&args),
        Command::Policy(args) => policy_commands::run(&args),
        Command::Up(args) => instances::up(*args).await,
        Command::Ps(args) => instances::ps(&args).await,
        Command::Down(args) => instances::down(&args).await,
        Command::Build(args) => image::run(&args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Health(args) => health::run(&args).await,
        Command::Bench(args) => oxenv_bench::run(args).await,
        Command::Trajectories(args) => trajectories::run(&args).await,
        Command::Replay(args) => replay::run(*args).await,
        Command::Rescore(args) => rescore::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Completions(args) => commands::completions(&args),
        // It runs before the runtime, on the main thread.
        Command::Supervise { .. } => Ok(()),
    }
}
