//! The template: the process that has imported the environment and forks a child for each session.
//!
//! Invariant: only the template ends its children, so that a process number is never another's; a lost
//! template has lost all its children, which the kernel ends with it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use oxenv_process::child::Child;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use crate::frames::{FrameReader, FrameStream, frame};
use crate::places::Place;
use crate::protocol::{Reply, TemplateRequest, WorkerPlace};
use crate::worker_exit::WorkerExit;

/// How a worker's process has ended; nothing while it lives.
pub(crate) type ExitWatch = watch::Receiver<Option<WorkerExit>>;

/// Where the ends of living children are reported, by their numbers; absent once the template is lost.
type Children = Arc<Mutex<Option<HashMap<u64, watch::Sender<Option<WorkerExit>>>>>>;

/// A running template.
pub(crate) struct Template {
    /// Frames to send.
    orders: mpsc::UnboundedSender<Vec<u8>>,
    children: Children,
    /// Dropping it ends the process and its children.
    process: Child,
    /// Where it runs, which goes with it.
    _place: Place,
}

impl Template {
    /// Takes over the connection of a template that has loaded its environment.
    pub(crate) fn run(process: Child, connection: FrameStream, place: Place) -> Self {
        let (reader, writer) = connection.into_stream().into_split();
        let (orders, queue) = mpsc::unbounded_channel();
        let children: Children = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(send(writer, queue));
        tokio::spawn(hear(reader, Arc::clone(&children)));
        Template { orders, children, process, _place: place }
    }

    /// Forks a child that connects to a socket; returns where its end will be reported.
    pub(crate) fn fork(&self, worker: u64, socket: &Path, place: WorkerPlace<'_>) -> io::Result<ExitWatch> {
        self.start(worker, &TemplateRequest::Fork { worker, socket, place })
    }

    /// Starts a thread that connects to a socket; returns where its end will be reported.
    pub(crate) fn start_thread(&self, worker: u64, socket: &Path) -> io::Result<ExitWatch> {
        self.start(worker, &TemplateRequest::Thread { worker, socket })
    }

    fn start(&self, worker: u64, request: &TemplateRequest<'_>) -> io::Result<ExitWatch> {
        let frame = frame(request, 0)?;
        let exit = self.expect(worker)?;
        self.orders.send(frame).map_err(|_| lost())?;
        Ok(exit)
    }

    /// Where the end of a child will be reported that another child forks.
    pub(crate) fn expect(&self, worker: u64) -> io::Result<ExitWatch> {
        let (ended, exit) = watch::channel(None);
        self.children.lock().as_mut().ok_or_else(lost)?.insert(worker, ended);
        Ok(exit)
    }

    /// Forgets a child that was expected and not forked.
    pub(crate) fn forget(&self, worker: u64) {
        self.children.lock().as_mut().and_then(|children| children.remove(&worker));
    }

    /// Ends a child and what it started; nothing waits.
    pub(crate) fn kill(&self, worker: u64) {
        if let Ok(frame) = frame(&TemplateRequest::Kill { worker }, 0) {
            let _ = self.orders.send(frame);
        }
    }

    /// Whether it can fork no more.
    pub(crate) fn is_lost(&self) -> bool {
        self.children.lock().is_none()
    }

    /// Ends it and its children, and waits for that.
    pub(crate) async fn close(&self) {
        if let Ok(frame) = frame(&TemplateRequest::End, 0) {
            let _ = self.orders.send(frame);
        }
        if let Err(error) = self.process.stop().await {
            tracing::warn!(%error, "a Python process does not end");
        }
    }

    /// The last lines that it wrote.
    pub(crate) fn last_lines(&self) -> String {
        self.process.output_tail()
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the template has ended")
}

/// Passes orders on until the template or its connection is gone.
async fn send(mut writer: OwnedWriteHalf, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Hears of children that ended, until the template has.
async fn hear(mut reader: OwnedReadHalf, children: Children) {
    let mut replies = FrameReader::default();
    while let Ok(reply) = replies.next(&mut reader).await {
        let Ok(Reply::Exited(exit)) = serde_json::from_slice(reply.json) else { continue };
        if let Some(ended) = children.lock().as_mut().and_then(|children| children.remove(&exit.worker)) {
            ended.send_replace(Some(WorkerExit::of(&exit)));
        }
    }
    for (_, ended) in children.lock().take().unwrap_or_default() {
        ended.send_replace(Some(WorkerExit::Lost));
    }
}
