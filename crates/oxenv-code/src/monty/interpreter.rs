//! [`MontyInterpreter`]: a session's worker.
//!
//! Invariant: the worker is out of its place while it is asked something, so dropping a request ends it.
//! A program that does not stop when its time is over is ended with its worker [`STOP_TIMEOUT`] later.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{CodeContext, CodeLimits, Failure, Interpreter, Program, Work};
use oxenv_wire::{
    CallOutcome, CodeCall, CodeException, CodeOutcome, Delivered, ErrorCode, Tool, ToolError, ToolErrorType,
    ToolResult,
};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use super::pool::WorkerPool;
use super::worker_process::{WorkerProcess, unexpected};
use crate::frames::MAX_JSON_FRAME;
use crate::protocol::{OpenRequest, ProgramEnd, RestoreRequest, RunRequest, WorkerReply, WorkerRequest};
use crate::signature::Signature;

/// How long a program has to stop once it was interrupted.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a worker has to open, save or load variables.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes of saved variables.
const MAX_SAVED: u64 = 1 << 30;

/// A session's interpreter.
pub(crate) struct MontyInterpreter {
    pool: Arc<WorkerPool>,
    limits: CodeLimits,
    /// Absent once it was lost.
    worker: Option<WorkerProcess>,
    /// The tools that the worker knows.
    tools: Option<Arc<[Tool]>>,
}

/// A program that runs in its worker.
struct Running<'a> {
    worker: &'a mut WorkerProcess,
    program: Program<'a>,
    limits: &'a CodeLimits,
    /// When its worker is ended, if it does not stop by itself. Tool calls end by themselves.
    kill_at: Instant,
    calls: Vec<CodeCall>,
}

/// When a program is interrupted, and what it is told.
struct Interruption {
    after: Duration,
    message: String,
}

/// Why a worker is of no use any more.
enum Broken {
    /// Its pipes, or what it says.
    Pipe(io::Error),
    /// It does not stop.
    TooLate,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Pipe(error)
    }
}

impl MontyInterpreter {
    pub(crate) async fn open(pool: Arc<WorkerPool>, context: CodeContext) -> Result<Self, Failure> {
        let CodeContext { seed, limits } = context;
        let open = OpenRequest { seed, memory: limits.memory, recursion: limits.recursion };
        Self::begin(pool, limits, &WorkerRequest::Open(open), &[]).await
    }

    pub(crate) async fn restore(
        pool: Arc<WorkerPool>,
        context: CodeContext,
        saved: &[u8],
    ) -> Result<Self, Failure> {
        let request = WorkerRequest::Restore(RestoreRequest { bytes: saved.len() });
        Self::begin(pool, context.limits, &request, saved).await
    }

    /// Takes a worker that does what is asked. A spare that does not was ended by somebody, and is replaced.
    async fn begin(
        pool: Arc<WorkerPool>,
        limits: CodeLimits,
        request: &WorkerRequest<'_>,
        saved: &[u8],
    ) -> Result<Self, Failure> {
        while let Some(spare) = pool.spare() {
            match ready(spare, request, saved, limits.memory).await {
                Ok(worker) => {
                    return Ok(MontyInterpreter { pool, limits, worker: Some(worker), tools: None });
                }
                Err(failure) => tracing::warn!("a spare worker is replaced: {failure}"),
            }
        }
        let made = pool.make().await.map_err(|why| Failure::infrastructure(why).undelivered())?;
        let worker = ready(made, request, saved, limits.memory).await.map_err(Failure::undelivered)?;
        Ok(MontyInterpreter { pool, limits, worker: Some(worker), tools: None })
    }

    fn take(&mut self) -> Result<WorkerProcess, Failure> {
        self.worker.take().ok_or_else(|| {
            let message = "the interpreter was ended; reset the session to begin a new episode";
            Failure::infrastructure(message).undelivered()
        })
    }

    async fn run_program(&mut self, program: Program<'_>) -> Result<CodeOutcome, Failure> {
        let mut worker = self.take()?;
        let list = program.tools.list();
        let known = self.tools.replace(Arc::clone(&list));
        let same = known.is_some_and(|known| Arc::ptr_eq(&known, &list));
        let tools = (!same).then(|| list.iter().map(Signature::of).collect());
        let Interruption { after, message } = interruption(&program, &self.limits);
        let request = WorkerRequest::Run(RunRequest {
            code: program.code.into(),
            time_us: u64::try_from(after.as_micros()).unwrap_or(u64::MAX),
            too_late: message.into(),
            output: self.limits.output,
            tools,
        });
        let kill_at = oxenv_wire::after(Instant::now(), after.saturating_add(STOP_TIMEOUT));
        let mut running =
            Running { worker: &mut worker, program, limits: &self.limits, kill_at, calls: Vec::new() };
        let ended = running.run(&request).await;
        let calls = std::mem::take(&mut running.calls);
        match ended {
            Ok(end) => {
                self.worker = Some(worker);
                Ok(outcome(end, calls))
            }
            Err(Broken::Pipe(error)) => Err(worker.lost(&error, self.limits.memory).await),
            Err(Broken::TooLate) => {
                let message = format!(
                    "the program did not stop {} s after it was interrupted, so its interpreter was ended \
                     and its variables are lost; reset the session to begin a new episode",
                    STOP_TIMEOUT.as_secs()
                );
                Err(Failure::new(ErrorCode::DeadlineExceeded, message))
            }
        }
    }

    /// Its variables as bytes.
    async fn save(&mut self, room: u64) -> Result<Vec<u8>, Failure> {
        let mut worker = self.take()?;
        let room = room.min(MAX_SAVED);
        let saving = async {
            worker.send(&WorkerRequest::Save { room }).await?;
            match worker.reply().await? {
                WorkerReply::Saved => {}
                WorkerReply::Failed(why) => return Ok(Err(Failure::unsupported(why))),
                other => return Err(unexpected(&other)),
            }
            worker.bytes(usize::try_from(room).unwrap_or(usize::MAX)).await.map(Ok)
        };
        match timeout(LOAD_TIMEOUT, saving).await {
            Ok(Ok(saved)) => {
                self.worker = Some(worker);
                saved
            }
            Ok(Err(error)) => Err(worker.lost(&error, self.limits.memory).await),
            Err(_) => Err(too_slow("save")),
        }
    }

    async fn fork_worker(&mut self) -> Result<MontyInterpreter, Failure> {
        let saved = self.save(MAX_SAVED).await?;
        let request = WorkerRequest::Restore(RestoreRequest { bytes: saved.len() });
        Self::begin(Arc::clone(&self.pool), self.limits, &request, &saved).await
    }
}

/// A worker that has opened its interpreter.
async fn ready(
    mut worker: WorkerProcess,
    request: &WorkerRequest<'_>,
    saved: &[u8],
    memory: usize,
) -> Result<WorkerProcess, Failure> {
    let opening = async {
        worker.send(request).await?;
        if matches!(request, WorkerRequest::Restore(_)) {
            worker.send_bytes(saved).await?;
        }
        match worker.reply().await? {
            WorkerReply::Ready => Ok(()),
            other => Err(unexpected(&other)),
        }
    };
    match timeout(LOAD_TIMEOUT, opening).await {
        Ok(Ok(())) => Ok(worker),
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Failure::infrastructure(format!("the interpreter cannot be opened: {error}")))
        }
        Ok(Err(error)) => Err(worker.lost(&error, memory).await),
        Err(_) => Err(too_slow("open")),
    }
}

fn too_slow(what: &str) -> Failure {
    let seconds = LOAD_TIMEOUT.as_secs();
    Failure::infrastructure(format!("the interpreter did not {what} its variables within {seconds} s"))
        .with(|detail| detail.delivered = Delivered::Maybe)
}

/// When a program is interrupted: at the deadline of its step, or when its own time is over.
fn interruption(program: &Program<'_>, limits: &CodeLimits) -> Interruption {
    let until = program.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    match until {
        Some(until) if until < limits.time => Interruption {
            after: until,
            message: format!(
                "the program was interrupted after {:.3} s, at the deadline of its step; the variables that \
                 it has set are kept",
                until.as_secs_f64()
            ),
        },
        _ => Interruption {
            after: limits.time,
            message: format!(
                "the program was interrupted after {} s, the most that an action may take; the variables \
                 that it has set are kept",
                limits.time.as_secs_f64()
            ),
        },
    }
}

impl Running<'_> {
    async fn run(&mut self, request: &WorkerRequest<'_>) -> Result<ProgramEnd, Broken> {
        self.in_time(request).await?;
        loop {
            let reply =
                timeout_at(self.kill_at, self.worker.reply()).await.map_err(|_| Broken::TooLate)??;
            let (tool, arguments) = match reply {
                WorkerReply::Done(end) => return Ok(*end),
                WorkerReply::Call(call) => (call.tool.into_owned(), call.arguments.to_owned()),
                other => return Err(unexpected(&other).into()),
            };
            if !arguments.get().starts_with('{') {
                let says = "it calls a tool with arguments that are no object";
                return Err(io::Error::new(io::ErrorKind::InvalidData, says).into());
            }
            if self.calls.len() >= self.limits.calls {
                let most = self.limits.calls;
                let message = format!("the program made more than {most} tool calls, the most of an action");
                self.in_time(&WorkerRequest::Refuse(message.into())).await?;
                continue;
            }
            let outcome = tokio::select! {
                biased;
                outcome = self.program.tools.call(&tool, arguments) => outcome,
                // It has to wait for the answer, so whatever it says is wrong, or that it has ended.
                reply = self.worker.reply() => return Err(unexpected(&reply?).into()),
            };
            // A call may have taken until the program's end, and its score longer.
            let stop = oxenv_wire::after(Instant::now(), STOP_TIMEOUT);
            self.kill_at = self.kill_at.max(stop);
            self.answer(tool, &outcome).await?;
        }
    }

    /// Tells the program what became of its call.
    async fn answer(&mut self, tool: String, outcome: &Result<ToolResult, ToolError>) -> Result<(), Broken> {
        let outcome = CallOutcome::new(outcome.as_ref());
        let value = outcome.result().map(ToolResult::value);
        let answer = match &value {
            Ok(value) => returned(value),
            Err(error) => Err(Cow::Borrowed(*error)),
        };
        let error = match answer {
            Ok(request) => {
                self.in_time(&request).await?;
                None
            }
            Err(error) => {
                let says = format!("{}: {}", type_name(error.error_type), error.message);
                self.in_time(&WorkerRequest::Raise(says.into())).await?;
                Some(error.into_owned())
            }
        };
        self.calls.push(CodeCall { tool_name: tool, error });
        Ok(())
    }

    async fn in_time(&mut self, request: &WorkerRequest<'_>) -> Result<(), Broken> {
        Ok(timeout_at(self.kill_at, self.worker.send(request)).await.map_err(|_| Broken::TooLate)??)
    }
}

/// The request that returns a value.
fn returned(value: &str) -> Result<WorkerRequest<'_>, Cow<'static, ToolError>> {
    let unfit = |why: String| Cow::Owned(ToolError::new(ToolErrorType::ExecutionError, why));
    // A frame has a little more than the value.
    if value.len() > MAX_JSON_FRAME - 1024 {
        return Err(unfit(format!("the result has {} bytes, too many for a program", value.len())));
    }
    let value: Result<&RawValue, _> = serde_json::from_str(value);
    value.map(WorkerRequest::Return).map_err(|error| unfit(format!("the result is no JSON: {error}")))
}

fn type_name(error_type: ToolErrorType) -> &'static str {
    match error_type {
        ToolErrorType::ExecutionError => "execution_error",
        ToolErrorType::InvalidArgs => "invalid_args",
        ToolErrorType::TransportError => "transport_error",
        ToolErrorType::ToolNotFound => "tool_not_found",
        ToolErrorType::Timeout => "timeout",
    }
}

fn outcome(end: ProgramEnd, calls: Vec<CodeCall>) -> CodeOutcome {
    let error = end.error.map(CodeException::from);
    CodeOutcome {
        stdout: end.stdout,
        stderr: error.as_ref().map(|error| error.traceback.clone()).unwrap_or_default(),
        exit_code: end.exit_code,
        result: end.result,
        error,
        calls,
        truncated: end.truncated.into_iter().map(Into::into).collect(),
    }
}

impl Interpreter for MontyInterpreter {
    fn run<'a>(&'a mut self, program: Program<'a>) -> Work<'a, Result<CodeOutcome, Failure>> {
        Work::pending(self.run_program(program))
    }

    fn fork(&mut self) -> Work<'_, Result<Box<dyn Interpreter>, Failure>> {
        Work::pending(async move {
            let forked = self.fork_worker().await?;
            Ok(Box::new(forked) as Box<dyn Interpreter>)
        })
    }

    fn snapshot(&mut self, room: u64) -> Work<'_, Result<Vec<u8>, Failure>> {
        Work::pending(self.save(room))
    }
}
