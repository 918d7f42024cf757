//! The worker of the engine `monty`: one interpreter, spoken to over stdin and stdout.
//!
//! The program that calls [`main`] has to have [`LimitedAllocator`] as its global allocator: without it the
//! limit of memory does nothing, and the worker refuses to start.
//!
//! Invariant: it reads and writes its two pipes, and touches nothing else of the machine but the clock.

mod functions;
mod output;
mod program;
mod session;
mod values;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::frames::{self, MAX_JSON_FRAME};
use crate::protocol::{Hello, PROTOCOL, WorkerReply, WorkerRequest};
use session::Session;

pub use monty_alloc::LimitedAllocator;

/// Bytes of the interpreter's stack: more than the deepest recursion that is allowed takes.
const STACK_BYTES: usize = 512 << 20;
/// The exit code of a worker that cannot start.
const CANNOT_START: u8 = 2;

/// The server's ends of the pipes.
pub(crate) struct Channel {
    input: io::StdinLock<'static>,
    output: io::StdoutLock<'static>,
}

impl Channel {
    /// The next request, as JSON.
    fn receive(&mut self) -> io::Result<Vec<u8>> {
        frames::read(&mut self.input, MAX_JSON_FRAME)
    }

    /// The bytes that follow a request.
    fn receive_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        frames::read(&mut self.input, count)
    }

    fn send(&mut self, reply: &WorkerReply<'_>) -> io::Result<()> {
        self.output.write_all(&frames::json_frame(reply)?)?;
        self.output.flush()
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        frames::write(&mut self.output, bytes)
    }
}

/// Runs the worker until the server is gone, as the whole `main` of its program.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(why) = monty_alloc::set_limit(None, false) {
        return refuse(why);
    }
    let serving = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(serve);
    let served = serving.map(std::thread::JoinHandle::join);
    match served {
        // The server has closed its end.
        Ok(Ok(Err(error))) if error.kind() == io::ErrorKind::UnexpectedEof => ExitCode::SUCCESS,
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(error))) | Err(error) => refuse(&error.to_string()),
        // A panic has told its own story.
        Ok(Err(_)) => ExitCode::from(CANNOT_START),
    }
}

fn refuse(why: &str) -> ExitCode {
    // The reader may be gone.
    let _ = writeln!(io::stderr(), "oxenv-monty: {why}; it is started by oxenv, and of no use by itself");
    ExitCode::from(CANNOT_START)
}

fn serve() -> io::Result<()> {
    let mut channel = Channel { input: io::stdin().lock(), output: io::stdout().lock() };
    channel.send(&WorkerReply::Hello(Hello::own()))?;
    let mut session: Option<Session> = None;
    loop {
        let frame = channel.receive()?;
        let request: WorkerRequest<'_> = serde_json::from_slice(&frame)?;
        match (request, session.take()) {
            (WorkerRequest::Open(open), _) => {
                session = Some(Session::open(&open));
                channel.send(&WorkerReply::Ready)?;
            }
            (WorkerRequest::Restore(restore), _) => {
                let saved = channel.receive_bytes(restore.bytes)?;
                match Session::restore(&saved) {
                    Ok(restored) => {
                        session = Some(restored);
                        channel.send(&WorkerReply::Ready)?;
                    }
                    Err(why) => channel.send(&WorkerReply::Failed(why.into()))?,
                }
            }
            (WorkerRequest::Run(request), Some(open)) => {
                let ran = program::run(open, request, &mut channel)?;
                session = Some(ran.session);
                channel.send(&WorkerReply::Done(Box::new(ran.end)))?;
            }
            (WorkerRequest::Save { room }, Some(open)) => {
                match open.save(room) {
                    Ok(saved) => {
                        channel.send(&WorkerReply::Saved)?;
                        channel.send_bytes(&saved)?;
                    }
                    Err(why) => channel.send(&WorkerReply::Failed(why.into()))?,
                }
                session = Some(open);
            }
            (_, open) => {
                session = open;
                channel
                    .send(&WorkerReply::Failed("there is no interpreter, or no program that waits".into()))?;
            }
        }
    }
}

impl Hello {
    /// That of this program.
    pub(crate) fn own() -> Self {
        Hello { protocol: PROTOCOL, monty: monty_types::MONTY_VERSION.to_owned() }
    }
}
