//! The code engine of a command: whether programs are run, by what, and within which limits.
//!
//! Invariant: an engine that is asked for has started before anything is served, or the command says why not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use oxenv_code::{Monty, MontyOptions};
use oxenv_core::{CodeEngine, CodeLimits};
use serde::Deserialize;

use crate::assemble::supervisor;
use crate::byte_size::ByteSize;
use crate::exit::usage;
use crate::values::{byte_size_setting, duration, duration_setting};

/// Workers that are kept ready for the next sessions of a server.
const SPARE_WORKERS: usize = 2;

/// A code engine by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EngineName {
    /// A Python interpreter in Rust, without packages.
    Monty,
}

/// What runs programs, and what they may use.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CodeArgs {
    /// Run the programs of code actions with this engine; see docs/code.md [default: they are refused]
    #[arg(long, value_name = "ENGINE")]
    pub(crate) code: Option<EngineName>,

    #[command(flatten)]
    #[serde(skip)]
    pub(crate) options: EngineArgs,
}

/// How an engine runs.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EngineArgs {
    /// The program that is the worker of monty [default: oxenv-monty beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) code_worker: Option<PathBuf>,

    /// How long a program may run, with its tool calls, before it is interrupted: 5s, 2m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    #[serde(deserialize_with = "duration_setting")]
    pub(crate) code_timeout: Option<Duration>,

    /// How much memory the values of a session's programs may take: 64MiB, 1GiB [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    #[serde(deserialize_with = "byte_size_setting")]
    pub(crate) code_memory: Option<ByteSize>,

    /// How many tools a program may call [default: 1000]
    #[arg(long, value_name = "N")]
    pub(crate) code_calls: Option<usize>,
}

/// A started engine.
pub(crate) struct StartedEngine {
    pub(crate) engine: Arc<dyn CodeEngine>,
    pub(crate) limits: CodeLimits,
}

/// Starts the engine that was asked for, if one was.
///
/// # Errors
/// When it cannot run: says why and what to do.
pub(crate) async fn start(args: &CodeArgs) -> anyhow::Result<Option<StartedEngine>> {
    match args.code {
        Some(engine) => start_engine(engine, &args.options).await.map(Some),
        None => Ok(None),
    }
}

/// Starts an engine.
///
/// # Errors
/// When it cannot run: says why and what to do.
pub(crate) async fn start_engine(name: EngineName, args: &EngineArgs) -> anyhow::Result<StartedEngine> {
    let EngineName::Monty = name;
    let worker = match &args.code_worker {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name(Monty::WORKER),
    };
    let options = MontyOptions { worker, supervisor: supervisor()?, spares: SPARE_WORKERS };
    let engine = Monty::start(options).await.map_err(|error| usage(error.to_string()))?;
    let limits = CodeLimits::default();
    let limits = CodeLimits {
        time: args.code_timeout.unwrap_or(limits.time),
        memory: args
            .code_memory
            .map_or(limits.memory, |size| usize::try_from(size.get()).unwrap_or(usize::MAX)),
        calls: args.code_calls.unwrap_or(limits.calls),
        ..limits
    };
    Ok(StartedEngine { engine: Arc::new(engine), limits })
}
