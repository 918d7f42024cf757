//! The end of what a worker writes to its stdout and stderr.
//!
//! Invariant: it is always drained, in bounded memory.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// Bytes that are kept of a session's output.
const MAX_LOG_BYTES: usize = 64 << 10;
/// Lines and bytes that an error repeats.
const MAX_TAIL_LINES: usize = 20;
const MAX_TAIL_BYTES: usize = 4 << 10;
/// Characters of a line that an error repeats.
const MAX_LINE_CHARS: usize = 200;

/// The last bytes that the processes of one session wrote.
#[derive(Clone, Default)]
pub(crate) struct LogTail(Arc<Mutex<Vec<u8>>>);

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
        let mut kept = self.0.lock();
        kept.extend_from_slice(chunk);
        let excess = kept.len().saturating_sub(MAX_LOG_BYTES);
        kept.drain(..excess);
    }

    /// The last lines, for an error.
    pub(crate) fn last_lines(&self) -> String {
        let kept = self.0.lock();
        let text = String::from_utf8_lossy(&kept[kept.len().saturating_sub(MAX_TAIL_BYTES)..]).into_owned();
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let last = lines[lines.len().saturating_sub(MAX_TAIL_LINES)..].iter();
        let cut = |line: &&str| match line.char_indices().nth(MAX_LINE_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => (*line).to_owned(),
        };
        last.map(cut).collect::<Vec<_>>().join("\n")
    }
}
