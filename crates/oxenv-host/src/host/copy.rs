//! Copies of workers: processes that go on from the present state of another.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::{Host, HostError, connected};
use crate::log_tail::LogTail;
use crate::protocol::{ErrorKind, Reply, SessionRequest, WorkerError};
use crate::worker::{Worker, WorkerProcess};

/// How long a worker has to fork, and its copy to enter its folders.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a worker was not copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The environment has what two processes cannot both have.
    Refused(String),
    /// It could not be made.
    Failed(HostError),
    /// The worker that was asked does not answer any more.
    Lost(io::Error),
}

impl From<HostError> for CopyError {
    fn from(error: HostError) -> Self {
        CopyError::Failed(error)
    }
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        CopyError::Failed(error.into())
    }
}

impl Host {
    /// A worker that goes on from the present state of another. Until it is there, the other is of no use to
    /// anybody else.
    pub(crate) async fn copy(&self, original: &mut Worker) -> Result<Worker, CopyError> {
        let Some(template) = original.forked_by().cloned() else {
            return Err(CopyError::Refused("its sessions are not forked processes".to_owned()));
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let place = self.places.copy(number, original.place()).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CopyError::Refused(format!("a folder of its own is gone: {error}")),
            _ => error.into(),
        })?;
        let socket = self.places.socket(number)?;
        let mut exit = template.expect(number)?;
        let request = SessionRequest::Copy { worker: number, socket: &socket.path };
        if let Err(error) = ask(original, &request).await {
            template.forget(number);
            return Err(error);
        }
        let connecting = async {
            let stream = socket.accept().await?;
            io::Result::Ok((stream, LogTail::of(socket.accept().await?)))
        };
        let Some((stream, log)) = connected(&mut exit, connecting).await? else {
            template.kill(number);
            return Err(HostError::new("the copy of the environment's process does not connect").into());
        };
        let process = WorkerProcess::Forked { number, exit, template };
        let mut worker = Worker::new(stream, log, process, place, original.generation());
        let (groups, folders) = (worker.place().limits.groups.clone(), worker.place().shown_folders());
        match ask(&mut worker, &SessionRequest::Enter { groups: &groups, folders: &folders }).await {
            Ok(()) => Ok(worker),
            Err(CopyError::Lost(error)) => {
                let how = worker.describe_end(&error).await;
                Err(HostError::new(format!("the copy of the environment's process {how}")).into())
            }
            Err(error) => Err(error),
        }
    }
}

/// Makes a request that has no result.
async fn ask(worker: &mut Worker, request: &SessionRequest<'_>) -> Result<(), CopyError> {
    let reply = timeout(COPY_TIMEOUT, worker.connection.exchange(request)).await;
    let reply = reply.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match serde_json::from_slice(reply.map_err(CopyError::Lost)?) {
        Ok(Reply::Ok(_)) => Ok(()),
        Ok(Reply::Error(WorkerError { kind: ErrorKind::Unsupported, message, .. })) => {
            Err(CopyError::Refused(message))
        }
        Ok(Reply::Error(error)) => Err(HostError::new(error.message).into()),
        Ok(Reply::Exited(_)) => Err(HostError::new("the worker speaks of another process").into()),
        Err(error) => Err(HostError::new(format!("the worker's reply cannot be read: {error}")).into()),
    }
}
