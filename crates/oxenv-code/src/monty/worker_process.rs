//! [`WorkerProcess`]: a worker with its pipes.
//!
//! Invariant: dropping it ends the process. What it says is checked before it is used: a program may have
//! taken it over.

use std::io;
use std::path::Path;
use std::time::Duration;

use oxenv_core::Failure;
use oxenv_process::child::{Child, ChildSpec, Supervisor, describe_status};
use oxenv_process::secret::Redactor;
use oxenv_wire::Delivered;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::frames::{FrameReader, MAX_JSON_FRAME, json_frame, send};
use crate::protocol::{Hello, WorkerReply, WorkerRequest};

/// How long a worker has to say that it is there.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a report of how a worker ended that has closed its pipes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A running worker.
pub(crate) struct WorkerProcess {
    replies: FrameReader<ChildStdout>,
    requests: ChildStdin,
    child: Child,
}

impl WorkerProcess {
    /// Starts one, and waits until it is there.
    pub(crate) async fn start(worker: &Path, supervisor: &Supervisor) -> Result<Self, String> {
        let spec = ChildSpec {
            label: "monty".to_owned(),
            program: worker.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: None,
            grace: Duration::ZERO,
        };
        let cannot = |why: &dyn std::fmt::Display| {
            format!("the worker of the code engine 'monty', {}, cannot be started: {why}", worker.display())
        };
        let spawned = supervisor.spawn(spec, Redactor::default());
        let (child, requests, replies) = spawned.map_err(|error| cannot(&error))?;
        let mut process = WorkerProcess { replies: FrameReader::new(replies), requests, child };
        let hello = match timeout(HELLO_TIMEOUT, process.hello()).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => {
                let how = timeout(EXIT_TIMEOUT, process.child.describe_end()).await;
                let why = how.map_or_else(|_| error.to_string(), |how| format!("it {how}"));
                return Err(cannot(&why));
            }
            Err(_) => return Err(cannot(&format!("it said nothing for {} s", HELLO_TIMEOUT.as_secs()))),
        };
        match hello == Hello::own() {
            true => Ok(process),
            false => Err(cannot(&format!(
                "it is of another version than this program (monty {}, messages {}): install both together",
                hello.monty, hello.protocol
            ))),
        }
    }

    async fn hello(&mut self) -> io::Result<Hello> {
        match self.reply().await? {
            WorkerReply::Hello(hello) => Ok(hello),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn send(&mut self, request: &WorkerRequest<'_>) -> io::Result<()> {
        self.requests.write_all(&json_frame(request)?).await
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        send(&mut self.requests, bytes).await
    }

    /// The next reply.
    pub(crate) async fn reply(&mut self) -> io::Result<WorkerReply<'_>> {
        Ok(serde_json::from_slice(self.replies.next(MAX_JSON_FRAME).await?)?)
    }

    /// The bytes that follow a reply.
    pub(crate) async fn bytes(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        self.replies.next(limit).await.map(<[u8]>::to_vec)
    }

    /// The failure of a caller that has lost the connection: whose fault that is, and how the process ended.
    /// `memory` is its limit.
    pub(crate) async fn lost(self, error: &io::Error, memory: usize) -> Failure {
        let status = timeout(EXIT_TIMEOUT, self.child.wait()).await.ok();
        let failure = if status.and_then(|status| status.code()) == Some(monty_types::OOM_EXIT_CODE) {
            Failure::action(format!(
                "the program took more than {memory} bytes of memory at once, so its interpreter was ended \
                 and its variables are lost; reset the session to begin a new episode"
            ))
        } else {
            let how = match (status, error.kind()) {
                (Some(status), _) => describe_status(status),
                (None, _) => format!("does not answer as it should ({error})"),
            };
            let lines = self.child.output_tail();
            let lines = if lines.is_empty() { lines } else { format!("; its last output:\n{lines}") };
            Failure::infrastructure(format!(
                "the interpreter's process {how}{lines}\nreset the session to begin a new episode"
            ))
        };
        failure.with(|detail| detail.delivered = Delivered::Maybe)
    }
}

/// What a worker says that has not been asked for.
pub(crate) fn unexpected(reply: &WorkerReply<'_>) -> io::Error {
    let what = match reply {
        WorkerReply::Failed(why) => why.to_string(),
        WorkerReply::Hello(_)
        | WorkerReply::Ready
        | WorkerReply::Call(_)
        | WorkerReply::Done(_)
        | WorkerReply::Saved => "it says what it was not asked for".to_owned(),
    };
    io::Error::new(io::ErrorKind::InvalidData, what)
}
