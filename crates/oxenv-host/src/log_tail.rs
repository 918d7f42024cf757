//! The end of what a worker writes to its stdout and stderr.
//!
//! Invariant: it is always drained, in bounded memory.

use std::sync::Arc;

use oxenv_core::OutputLog;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Lines and bytes that an error repeats.
const MAX_TAIL_LINES: usize = 20;
const MAX_TAIL_BYTES: usize = 4 << 10;
/// Characters of a line that an error repeats.
const MAX_LINE_CHARS: usize = 200;

/// The last bytes that one worker wrote.
#[derive(Clone, Default)]
pub(crate) struct LogTail(Arc<Mutex<Tail>>);

#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    /// The log of the session that has the worker.
    session: Option<OutputLog>,
}

impl LogTail {
    /// The log of what comes over a connection.
    pub(crate) fn of(mut stream: UnixStream) -> Self {
        let log = LogTail::default();
        let kept = log.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0; 4 << 10];
            while let Ok(size @ 1..) = stream.read(&mut chunk).await {
                kept.push(&chunk[..size]);
            }
        });
        log
    }

    fn push(&self, chunk: &[u8]) {
        let kept = &mut *self.0.lock();
        kept.bytes.extend_from_slice(chunk);
        let excess = kept.bytes.len().saturating_sub(MAX_TAIL_BYTES);
        kept.bytes.drain(..excess);
        if let Some(log) = &kept.session {
            log.push(chunk);
        }
    }

    /// Puts what was written, and what will be, into the log of a session.
    pub(crate) fn copy_to(&self, log: OutputLog) {
        let kept = &mut *self.0.lock();
        log.push(&kept.bytes);
        kept.session = Some(log);
    }

    /// The last lines, for an error.
    pub(crate) fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.0.lock().bytes).into_owned();
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let last = lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].iter();
        let cut = |line: &&str| match line.char_indices().nth(MAX_LINE_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => (*line).to_owned(),
        };
        last.map(cut).collect::<Vec<_>>().join("\n")
    }
}
