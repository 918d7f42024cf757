//! What the processes of one session wrote to stdout and stderr, as far as it is kept.
//!
//! Invariant: at most [`OutputLog::MAX_BYTES`] are kept; what was dropped is counted.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// The end of a session's output. Clones are the same log.
#[derive(Debug, Clone, Default)]
pub struct OutputLog(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    dropped: u64,
}

/// A log as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What is kept; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// How many bytes came before it.
    pub dropped: u64,
}

impl OutputLog {
    /// The most that is kept.
    pub const MAX_BYTES: usize = 64 << 10;

    /// Adds what was written; the oldest bytes make room.
    pub fn push(&self, written: &[u8]) {
        let kept = &mut *self.0.lock();
        kept.bytes.extend(written);
        let excess = kept.bytes.len().saturating_sub(Self::MAX_BYTES);
        kept.bytes.drain(..excess);
        kept.dropped = kept.dropped.saturating_add(excess as u64);
    }

    /// What is kept now.
    #[must_use]
    pub fn read(&self) -> Output {
        let kept = &mut *self.0.lock();
        let text = String::from_utf8_lossy(kept.bytes.make_contiguous()).into_owned();
        Output { text, dropped: kept.dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bytes_are_dropped_and_counted() {
        let log = OutputLog::default();
        assert_eq!(log.read(), Output { text: String::new(), dropped: 0 });
        log.push(b"first\n");
        log.push(&vec![b'x'; OutputLog::MAX_BYTES - 6]);
        assert_eq!(log.read().dropped, 0);
        log.push(b"last\xff");
        let output = log.read();
        assert_eq!(output.dropped, 5);
        assert!(output.text.starts_with("\nxx") && output.text.ends_with("xlast\u{fffd}"));
    }
}
