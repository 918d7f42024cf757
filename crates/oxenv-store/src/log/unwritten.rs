//! Entries that could not be written, which the log names as soon as there is room again.
//!
//! Invariant: a reader of a gap in a session's numbers can distinguish an entry that failed, and was never
//! acknowledged, from one that was removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::frame::{self, Content, FramePiece, Frames};
use crate::stored::{self, MAX_SEQ};

/// Maximum number of runs of entries that are remembered while nothing can be written.
const MAX_RANGES: usize = 10_000;

/// The event of the record that names them, and how the record begins.
const EVENT: &str = "unwritten";
const BEGINNING: &[u8] = b"{\"event\":\"unwritten\"";

/// By session and number of the first of them, the number of the last.
#[derive(Debug, Default)]
pub(super) struct Unwritten(BTreeMap<(String, u64), u64>);

/// Entries of one session that could not be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) session: String,
    /// The number of the first one.
    pub(crate) first: u64,
    /// And of the last one.
    pub(crate) last: u64,
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UnwrittenMark {
    event: String,
    pub(crate) entries: Vec<Range>,
}

impl UnwrittenMark {
    /// The record, if that is what the text is: its event is its first member.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let mark: Self = text.starts_with(BEGINNING).then(|| serde_json::from_slice(text).ok()).flatten()?;
        let fits = |range: &Range| range.first <= range.last && range.last <= MAX_SEQ;
        mark.entries.iter().all(fits).then_some(mark)
    }
}

impl Unwritten {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, session: &str, seq: u64) {
        let upto = (session.to_owned(), seq);
        if let Some(((before, _), last)) = self.0.range_mut(..&upto).next_back()
            && *before == upto.0
            && *last + 1 == seq
        {
            *last = seq;
        } else if self.0.len() < MAX_RANGES {
            self.0.insert(upto, seq);
        }
    }

    /// Adds the entries of a batch.
    pub(super) fn add_batch(&mut self, frames: &[u8]) {
        let mut frames = Frames::new(frames, Content::NONE);
        // Reading from memory cannot fail.
        while let Ok(Some(piece)) = frames.next() {
            if let FramePiece::Frame { text, .. } = piece
                && let Ok(Some(brief)) = stored::read(frames.text(text))
            {
                self.add(&brief.session, brief.seq);
            }
        }
    }

    pub(super) fn append(&mut self, mut other: Unwritten) {
        self.0.append(&mut other.0);
    }

    /// The frame that names them.
    pub(super) fn frame(&self) -> Vec<u8> {
        let range = |((session, first), last): (&(String, u64), &u64)| Range {
            session: session.clone(),
            first: *first,
            last: *last,
        };
        let mark = UnwrittenMark { event: EVENT.to_owned(), entries: self.0.iter().map(range).collect() };
        let mut out = Vec::new();
        // Writing to a vector cannot fail.
        frame::append(&mut out, |out| drop(serde_json::to_writer(out, &mark)));
        out
    }
}
