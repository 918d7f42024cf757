//! A worker: the process of one session at a time, with its socket, its output and its folders.
//!
//! Invariant: dropping a worker ends its process and what it started, and removes its folders.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::OutputLog;
use oxenv_process::child::Child;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::frames::FrameStream;
use crate::log_tail::LogTail;
use crate::places::{Place, Socket};
use crate::protocol::{Reply, SessionRequest};
use crate::template::{ExitWatch, Template};
use crate::worker_exit::WorkerExit;

/// How long a worker has to close its environment and to exit.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a report of how a process ended that has closed its socket.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The process of one session at a time.
pub(crate) struct Worker {
    pub(crate) connection: FrameStream,
    log: LogTail,
    process: WorkerProcess,
    place: Place,
    /// That of the host when it was made.
    generation: u64,
}

/// The surroundings of a worker.
pub(crate) enum WorkerProcess {
    /// A child that the template forked.
    Forked { number: u64, exit: ExitWatch, template: Arc<Template> },
    /// A thread of the template. Nothing can end it: it ends with its request, when it finds its socket
    /// closed.
    Thread { exit: ExitWatch, template: Arc<Template> },
    /// A Python that was started for it, where the template cannot be forked.
    Own(Arc<Child>),
}

impl Worker {
    pub(crate) fn new(
        stream: UnixStream,
        log: LogTail,
        process: WorkerProcess,
        place: Place,
        generation: u64,
    ) -> Self {
        Worker { connection: FrameStream::new(stream), log, process, place, generation }
    }

    /// Puts its output into the log of its session.
    pub(crate) fn log_to(&self, log: OutputLog) {
        self.log.copy_to(log);
    }

    /// The version of the environment's files that it runs.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The template whose child it is, and to whom a copy of it would belong.
    pub(crate) fn forked_by(&self) -> Option<&Arc<Template>> {
        match &self.process {
            WorkerProcess::Forked { template, .. } => Some(template),
            WorkerProcess::Thread { .. } | WorkerProcess::Own(_) => None,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether its process has ended already.
    pub(crate) fn has_ended(&self) -> bool {
        match &self.process {
            WorkerProcess::Forked { exit, .. } | WorkerProcess::Thread { exit, .. } => {
                exit.borrow().is_some()
            }
            WorkerProcess::Own(_) => false,
        }
    }

    /// Whether its process is there and runs.
    pub(crate) async fn answers(&mut self, within: Duration) -> bool {
        let asked = self.connection.exchange(&SessionRequest::Ping);
        matches!(timeout(within, asked).await, Ok(Ok(_)))
    }

    /// How its process ended, with the last lines of its output; for a caller that has lost the
    /// connection to it.
    pub(crate) async fn describe_end(mut self, error: &io::Error) -> String {
        let exit: Option<WorkerExit> = match &mut self.process {
            WorkerProcess::Forked { exit, .. } | WorkerProcess::Thread { exit, .. } => {
                let known = timeout(EXIT_TIMEOUT, exit.wait_for(Option::is_some)).await;
                known.ok().and_then(Result::ok).and_then(|exit| exit.clone())
            }
            WorkerProcess::Own(child) => {
                let status = timeout(EXIT_TIMEOUT, child.wait()).await;
                status.ok().map(WorkerExit::of_supervised)
            }
        };
        let lines = match &self.process {
            WorkerProcess::Thread { template, .. } => template.last_lines(),
            WorkerProcess::Forked { .. } | WorkerProcess::Own(_) => self.log.last_lines(),
        };
        let how = match &exit {
            Some(exit) => exit.to_string(),
            None => format!("closed its socket ({error})"),
        };
        let how = match self.place.limits.exceeded(exit.as_ref()) {
            Some(limit) => format!("{limit}: it {how}"),
            None => how,
        };
        if lines.is_empty() { how } else { format!("{how}; its last output:\n{lines}") }
    }

    /// Lets the environment close itself, and makes the process ready for another session in other folders.
    ///
    /// # Errors
    /// It cannot serve another session. It has ended, or ends now.
    pub(crate) async fn release(mut self, socket: Socket, place: Place) -> io::Result<Self> {
        let releasing = async {
            let request = SessionRequest::Release { log: &socket.path, place: place.request() };
            match serde_json::from_slice(self.connection.exchange(&request).await?)? {
                Reply::Ok(_) => Ok(Ok(LogTail::of(socket.accept().await?))),
                Reply::Error(error) => Ok(Err(error.message)),
                Reply::Exited(_) => Err(io::Error::other("its reply speaks of another process")),
            }
        };
        match timeout(CLOSE_TIMEOUT, releasing).await?? {
            Ok(log) => self.log = log,
            Err(why) => {
                self.close().await;
                return Err(io::Error::other(why));
            }
        }
        self.place.move_to(place);
        Ok(self)
    }

    /// Lets the environment close itself, and ends the process.
    pub(crate) async fn close(mut self) {
        let closing = async {
            self.connection.exchange(&SessionRequest::Close).await?;
            match &mut self.process {
                WorkerProcess::Forked { exit, .. } | WorkerProcess::Thread { exit, .. } => {
                    let _ = exit.wait_for(Option::is_some).await;
                }
                WorkerProcess::Own(child) => {
                    child.wait().await;
                }
            }
            io::Result::Ok(())
        };
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A process of its own ends with its `Child`, a thread with its socket.
        if let WorkerProcess::Forked { number, exit, template } = &self.process
            && exit.borrow().is_none()
        {
            template.kill(*number);
        }
    }
}
