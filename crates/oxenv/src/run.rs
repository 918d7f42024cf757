//! `oxenv run`: one program against the tools of a manifest.
//!
//! Invariant: the program is one code action of a session, as if an agent had sent it to a server.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use oxenv_core::{ResetOptions, SessionOptions, SessionRequest, SessionStore, StepReply, StoreLimits};
use oxenv_server::{ServerConfig, Shutdown};
use oxenv_wire::{Action, CodeOutcome};

use crate::assemble::ToolArgs;
use crate::code::{EngineArgs, EngineName, StartedEngine};
use crate::exit::{Problem, usage};
use crate::logging::{LogFormat, LogLevel};
use crate::{assemble, code, exit, logging};

#[derive(Args)]
#[command(after_help = "The tools are functions of the program; list_tools() has their names, help(tool) \
explains one.
What it prints goes to stdout, the traceback of an exception to stderr. The exit code is the
program's: 0, 1 after an exception, or that of exit(code). Code 2 is wrong usage as well.

Examples:
  oxenv run count.py --tools tools.yaml
  oxenv run count.py --tools tools.yaml --workspace data --audit calls.jsonl
  echo 'print(list_tools())' | oxenv run - --tools tools.yaml")]
pub(crate) struct RunArgs {
    /// The program; `-` reads it from stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What runs it
    #[arg(long, value_name = "ENGINE", default_value = "monty")]
    engine: EngineName,

    #[command(flatten)]
    options: EngineArgs,

    #[command(flatten)]
    tools: ToolArgs,

    /// Seed of the program's randomness [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// What to log on stderr: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "error")]
    log: LogLevel,
}

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    if args.tools.manifest.is_none() {
        return Err(usage("a program needs tools: name a manifest with --tools FILE"));
    }
    let code = read(&args)?;
    logging::start(args.log, LogFormat::Text);
    let config = ServerConfig::default();
    let shutdown = Shutdown::on_signals(config.drain)?;
    let engine = code::start_engine(args.engine, &args.options).await?;
    let served = assemble::environment(None, &args.tools, config.mode).await?;
    let store = SessionStore::new(Arc::clone(&served.factory), StoreLimits::default());
    let outcome = tokio::select! {
        outcome = run_in(store, engine, args.seed, code) => outcome,
        () = shutdown.requested() => Err(Problem::Interrupted.into()),
    };
    shutdown.finish(served.close(shutdown.give_up_time())).await;
    exit::in_time(&shutdown)?;
    show(&outcome?)
}

fn read(args: &RunArgs) -> anyhow::Result<String> {
    let shown = args.file.display();
    if args.file.as_os_str() == "-" {
        let mut code = String::new();
        std::io::stdin().read_to_string(&mut code).context("cannot read the program from stdin")?;
        return Ok(code);
    }
    std::fs::read_to_string(&args.file)
        .map_err(|error| usage(format!("cannot read the program {shown}: {error}")))
}

/// Runs the program as the first step of a new session.
async fn run_in(
    store: SessionStore,
    engine: StartedEngine,
    seed: Option<u64>,
    code: String,
) -> anyhow::Result<CodeOutcome> {
    let store = store.with_code_engine(engine.engine, engine.limits);
    let failed = |failure: oxenv_core::Failure| anyhow::anyhow!("{failure}");
    let session = store.create(SessionOptions { seed, ..SessionOptions::default() }).await.map_err(failed)?;
    let reset = SessionRequest::reset(ResetOptions { seed, ..ResetOptions::default() });
    session.submit(reset).await.into_outcome().map_err(failed)?;
    let step = SessionRequest::step(Action::Code(code.into()));
    match session.submit(step).await.into_outcome().map_err(failed)? {
        StepReply::Code(reply) => Ok(reply.outcome),
        other => anyhow::bail!("the program was answered with something else: {other:?}"),
    }
}

/// Passes on what the program wrote, and how it ended.
fn show(outcome: &CodeOutcome) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(outcome.stdout.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot write to stdout");
        }
        _ => {}
    }
    // A closed stderr cannot be reported anywhere.
    let _ = std::io::stderr().write_all(outcome.stderr.as_bytes());
    if !outcome.truncated.is_empty() {
        let _ = writeln!(std::io::stderr(), "oxenv: more than the limit was printed, and is left out");
    }
    match outcome.exit_code {
        0 => Ok(()),
        code => Err(Problem::Program(u8::try_from(code & 0xff).unwrap_or(1)).into()),
    }
}
