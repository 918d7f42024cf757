//! The `oxenv` command.
//!
//! `cli` lists the commands; each has a file with its arguments and its `run` function. What
//! several commands share imports none of them.

mod assemble;
mod byte_size;
mod call;
mod check;
mod cli;
mod client;
mod code;
mod completions;
mod env;
mod env_commands;
mod envs;
mod exit;
mod fleet;
mod health;
mod hosted;
mod image;
mod instances;
mod logging;
mod logs;
mod mcp;
mod observing;
mod output;
mod policy_commands;
mod record;
mod recorded_tools;
mod registry;
mod replay;
mod requirements;
mod rescore;
mod rubrics;
mod run;
mod serve;
mod settings;
mod shown_command;
mod signals;
mod slow_steps;
mod snapshot_key;
mod step;
mod tokens;
mod tools_commands;
mod traces;
mod trajectories;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Supervise { .. } = cli.command {
        return oxenv_process::supervise::main(&["supervise"]);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit::code(Err(error.into())),
    };
    let outcome = runtime.block_on(run(cli.command));
    // A thread that an environment blocks without end must not keep the process from ending.
    runtime.shutdown_background();
    exit::code(outcome)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Mcp(args) => mcp::run(args).await,
        Command::Envs(args) => envs::run(&args),
        Command::Env(args) => env_commands::run(&args).await,
        Command::Run(args) => run::run(*args).await,
        Command::Call(args) => call::run(&args).await,
        Command::Step(args) => step::run(&args).await,
        Command::Validate(args) => tools_commands::validate(&args),
        Command::Tools(args) => tools_commands::tools(&args),
        Command::Policy(args) => policy_commands::run(&args),
        Command::Up(args) => instances::up(*args).await,
        Command::Ps(args) => instances::ps(&args).await,
        Command::Down(args) => instances::down(&args).await,
        Command::Build(args) => image::run(&args).await,
        Command::Fleet(args) => fleet::run(args).await,
        Command::Health(args) => health::run(&args).await,
        Command::Logs(args) => logs::run(&args).await,
        Command::Bench(args) => oxenv_bench::run(args).await,
        Command::Trajectories(args) => trajectories::run(&args).await,
        Command::Replay(args) => replay::run(*args).await,
        Command::Rescore(args) => rescore::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Completions(args) => completions::run(&args, Cli::command()),
        // It runs before the runtime, on the main thread.
        Command::Supervise { .. } => Ok(()),
    }
}
