//! The engine `monty`: a Python interpreter in Rust, one worker process per session.
//!
//! Invariant: this process never runs a program, and loads nothing that a worker has saved.

mod interpreter;
mod pool;
mod worker_process;

use std::path::PathBuf;
use std::sync::Arc;

use oxenv_core::{CodeAbilities, CodeContext, CodeEngine, Failure, Interpreter, Work};
use oxenv_process::child::Supervisor;

use interpreter::MontyInterpreter;
use pool::WorkerPool;

/// How the engine runs.
pub struct MontyOptions {
    /// The worker: the program `oxenv-monty`, which is installed beside `oxenv`.
    pub worker: PathBuf,
    /// What starts and ends processes.
    pub supervisor: Supervisor,
    /// Workers that are kept ready for the next sessions.
    pub spares: usize,
}

/// Why the engine cannot run: what happened, and what to do about it.
#[derive(Debug)]
pub struct StartError(String);

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// The engine: deterministic but for the clock, forkable and restorable, quick to start. It runs a subset of
/// Python.
pub struct Monty {
    pool: Arc<WorkerPool>,
    saved_format: String,
}

impl Monty {
    /// The file name of its worker.
    pub const WORKER: &str = "oxenv-monty";

    /// Starts the first worker, so that whatever is wrong with it is known at once.
    ///
    /// # Errors
    /// The worker is not there, cannot be started, or is of another version.
    pub async fn start(options: MontyOptions) -> Result<Self, StartError> {
        let worker = &options.worker;
        if !worker.is_file() {
            let (worker, name) = (worker.display(), Self::WORKER);
            return Err(StartError(format!(
                "the worker of the code engine 'monty' is not there: {worker} is no file. The program \
                 '{name}' is installed beside oxenv: install it again (cargo install builds both), or \
                 name it with --code-worker PATH"
            )));
        }
        let saved_format = format!("monty {}, dump {}", monty_types::MONTY_VERSION, monty::DUMP_VERSION);
        let pool = WorkerPool::new(options);
        pool.fill().await.map_err(StartError)?;
        Ok(Monty { pool, saved_format })
    }
}

impl CodeEngine for Monty {
    fn name(&self) -> &'static str {
        "monty"
    }

    fn abilities(&self) -> CodeAbilities {
        CodeAbilities { fork: true, snapshot: true }
    }

    fn saved_format(&self) -> &str {
        &self.saved_format
    }

    fn open(&self, context: CodeContext) -> Work<'_, Result<Box<dyn Interpreter>, Failure>> {
        Work::pending(async move {
            let interpreter = MontyInterpreter::open(Arc::clone(&self.pool), context).await?;
            Ok(Box::new(interpreter) as Box<dyn Interpreter>)
        })
    }

    fn restore<'a>(
        &'a self,
        context: CodeContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<Box<dyn Interpreter>, Failure>> {
        Work::pending(async move {
            let interpreter = MontyInterpreter::restore(Arc::clone(&self.pool), context, saved).await?;
            Ok(Box::new(interpreter) as Box<dyn Interpreter>)
        })
    }
}
