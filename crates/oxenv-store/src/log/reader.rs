//! Reads a log, also while it is written.
//!
//! Invariant: only whole records are given, in the order in which they were written. Damage is reported
//! with its place, and reading goes on behind it; so are segments that are not as they were left. A
//! write that its writer never finished is no damage.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bounds::Bounds;
use super::frame::{Content, FramePiece, Frames, is_unfinished};
use super::segment::{self, Head, SegmentSummary};
use super::{open_plain, read_plain};
use crate::error::LogError;
use crate::stored::{self, StoredEntry};

/// Reads the entries of all segments in order. After its end it may be asked again, and gives what
/// has been written since; after an error it goes on behind what could not be read.
///
/// ```
/// use oxenv_store::{LogReader, StoredEvent};
///
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-reader-{}", std::process::id()));
/// # let opened = oxenv_core::RecordEvent::Opened {
/// #     environment: "echo",
/// #     version: "1.0.0",
/// #     deterministic: true,
/// #     seed: 7,
/// #     episode_id: "e-0",
/// #     origin: None,
/// # };
/// # let entry = oxenv_core::RecordEntry { session_id: "s-1", seq: 0, epoch: 0, time_us: 0, event: opened };
/// # let recorder = oxenv_store::LogRecorder::open(&folder, oxenv_store::LogOptions::default())?;
/// # let runtime = tokio::runtime::Runtime::new()?;
/// # runtime.block_on(oxenv_core::Recorder::append(&recorder, &entry)).unwrap();
///
/// for entry in LogReader::open(&folder)? {
///     let entry = entry?;
///     assert_eq!((entry.session_id.as_str(), entry.seq), ("s-1", 0));
///     assert!(matches!(entry.event, StoredEvent::Opened { seed: 7, .. }));
/// }
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LogReader {
    folder: Arc<Path>,
    cursor: RecordCursor,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct LogPosition {
    /// The number of the segment.
    pub(crate) segment: u64,
    /// Bytes from its beginning.
    pub(crate) offset: u64,
}

/// Goes from record to record.
pub(crate) struct RecordCursor {
    folder: PathBuf,
    reading: Reading,
    current: Option<Current>,
    /// Errors found between two segments and not returned yet.
    faults: VecDeque<LogError>,
}

/// The position up to which a log was read, for reading on later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// The segment that is read, or will be read next.
    pub(crate) segment: u64,
    /// What of it was read.
    pub(crate) content: Content,
    /// Whether any of that could not be.
    damaged: bool,
    /// Whether its own description names another segment, so that its records are passed over.
    misplaced: bool,
    /// The segment that the writer of this one began with, where that is known.
    pub(crate) run: Option<u64>,
    /// The segment before, until this one's description was read.
    left: Option<Left>,
}

/// A segment that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    written: SegmentSummary,
    damaged: bool,
    /// Whether it has more than a beginning that is not whole.
    begun: bool,
    /// How many bytes at its end are no whole line.
    rest: u64,
    /// Whether they can be a write that was never finished.
    unfinished: bool,
}

struct Current {
    path: PathBuf,
    frames: Frames<File>,
}

/// A record that a cursor found.
pub(crate) struct FoundRecord {
    /// Where it begins.
    pub(crate) at: LogPosition,
    text: Range<usize>,
}

impl LogReader {
    /// Reads a log from its beginning.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, LogError> {
        let folder = folder.as_ref();
        Ok(LogReader { folder: folder.into(), cursor: RecordCursor::open(folder)? })
    }

    fn step(&mut self) -> Result<Option<StoredEntry>, LogError> {
        while let Some(found) = self.cursor.next()? {
            let read = stored::read(self.cursor.text(&found));
            let entry = read.and_then(|brief| brief.map(|brief| brief.entry(&self.folder)).transpose());
            match entry {
                Ok(None) => {}
                Ok(entry) => return Ok(entry),
                Err(reason) => return Err(self.cursor.unreadable(&found, reason)),
            }
        }
        Ok(None)
    }
}

impl Iterator for LogReader {
    type Item = Result<StoredEntry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

impl RecordCursor {
    /// At the beginning of a log.
    pub(crate) fn open(folder: &Path) -> Result<Self, LogError> {
        let first = segment::list(folder)?.first().copied();
        Ok(Self::at(folder, Reading::from(first.unwrap_or(1))))
    }

    /// Reads on from there. `None` when the log does not reach that far.
    pub(crate) fn resume(folder: &Path, reading: Reading) -> Result<Option<Self>, LogError> {
        let mut cursor = Self::at(folder, reading);
        if cursor.reading.content == Content::NONE {
            return Ok(Some(cursor));
        }
        let path = segment::path(folder, cursor.reading.segment);
        match segment::open_behind(&path, cursor.reading.content) {
            Ok(Some(frames)) => cursor.current = Some(Current { path, frames }),
            Ok(None) => return Ok(None),
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(cursor))
    }

    fn at(folder: &Path, reading: Reading) -> Self {
        RecordCursor { folder: folder.to_owned(), reading, current: None, faults: VecDeque::new() }
    }

    pub(crate) fn position(&self) -> LogPosition {
        LogPosition { segment: self.reading.segment, offset: self.content().bytes }
    }

    /// Its position.
    pub(crate) fn reading(&self) -> Reading {
        Reading { content: self.content(), ..self.reading.clone() }
    }

    /// The segment that the writer of this one began with, where that is known.
    pub(crate) fn run(&self) -> Option<u64> {
        self.reading.run
    }

    /// Whether an error was found that is not returned yet.
    pub(crate) fn has_more_to_tell(&self) -> bool {
        !self.faults.is_empty()
    }

    pub(crate) fn next(&mut self) -> Result<Option<FoundRecord>, LogError> {
        loop {
            if let Some(fault) = self.faults.pop_front() {
                return Err(fault);
            }
            if self.current.is_none() && !self.begin()? {
                return Ok(None);
            }
            if let Some(found) = self.piece()? {
                return found.map(Some);
            }
            let Some(next) = self.later()? else { return Ok(None) };
            // Something may have been written between the end and the look at the folder.
            if let Some(found) = self.piece()? {
                return found.map(Some);
            }
            self.leave(next);
        }
    }

    /// At the end: what is wrong with it, by the bounds that were read before it.
    pub(crate) fn wrong_end(&self, known: Option<Bounds>) -> Option<LogError> {
        let path = self.path();
        if !path.is_file() {
            return None;
        }
        let rest = self.current.as_ref().map_or(&[][..], |current| current.frames.rest());
        let content = self.content().with(rest);
        let end = known.and_then(|known| known.end).filter(|end| end.segment == self.reading.segment);
        if let Some(was) = end.filter(|end| end.content != content) {
            let explained = self.reading.damaged && was.content.bytes == content.bytes;
            return (!explained).then(|| changed(path, was.content, content));
        }
        if !self.begun() && known.is_some_and(|known| known.last >= self.reading.segment) {
            return Some(no_beginning(path));
        }
        let whole = is_unfinished(rest);
        let bytes = rest.len() as u64;
        (!whole).then(|| LogError::Damaged { path, offset: content.bytes - bytes, bytes })
    }

    /// Whether anything was read of the segment behind its first line.
    fn begun(&self) -> bool {
        self.reading.damaged || self.content().bytes > segment::HEAD_OFFSET
    }

    /// The text of the record that was found last.
    pub(crate) fn text(&self, found: &FoundRecord) -> &[u8] {
        self.current.as_ref().map_or(&[], |current| current.frames.text(found.text.clone()))
    }

    /// What is wrong with the record found last.
    pub(crate) fn unreadable(&self, found: &FoundRecord, reason: String) -> LogError {
        LogError::Unreadable { path: self.path(), offset: found.at.offset, reason }
    }

    fn path(&self) -> PathBuf {
        segment::path(&self.folder, self.reading.segment)
    }

    fn content(&self) -> Content {
        self.current.as_ref().map_or(self.reading.content, |current| current.frames.content())
    }

    fn piece(&mut self) -> Result<Option<Result<FoundRecord, LogError>>, LogError> {
        while let Some(current) = &mut self.current
            && let Some(piece) = current.frames.next().map_err(LogError::io(&current.path))?
        {
            if !self.reading.misplaced {
                return Ok(Some(self.found(piece)));
            }
        }
        Ok(None)
    }

    fn found(&mut self, piece: FramePiece) -> Result<FoundRecord, LogError> {
        match piece {
            FramePiece::Damage { offset, bytes } => {
                self.reading.damaged = true;
                Err(LogError::Damaged { path: self.path(), offset, bytes })
            }
            FramePiece::Frame { offset, text } => {
                let found = FoundRecord { at: LogPosition { segment: self.reading.segment, offset }, text };
                if offset == segment::HEAD_OFFSET {
                    self.join(&found);
                }
                Ok(found)
            }
        }
    }

    /// Takes in a segment's description of itself and the one before it.
    fn join(&mut self, found: &FoundRecord) {
        let head = serde_json::from_slice::<Head>(self.text(found)).ok();
        let Some(head) = head.filter(|head| head.event == "segment") else {
            self.faults.push_back(no_beginning(self.path()));
            return;
        };
        if head.segment != self.reading.segment {
            let reason = format!("it says that it is segment {}", head.segment);
            self.faults.push_back(LogError::Changed { path: self.path(), reason });
            self.reading.misplaced = true;
            return;
        }
        if let Some(previous) = head.previous
            && previous.segment.checked_add(1) != Some(head.segment)
        {
            let reason = format!("it says that segment {} is the one before it", previous.segment);
            self.faults.push_back(LogError::Changed { path: self.path(), reason });
        }
        self.reading.run = head.run;
        let Some(left) = self.reading.left.take() else { return };
        let SegmentSummary { segment, content } = left.written;
        let path = segment::path(&self.folder, segment);
        let known = head.previous.filter(|was| was.segment == segment);
        // If a writer was killed while it began a segment, the next one describes it.
        if !left.begun && known.is_none() {
            self.faults.push_back(no_beginning(path));
            return;
        }
        let begins_a_run = head.run == Some(head.segment);
        let whole = left.rest == 0 || left.unfinished && begins_a_run;
        if !whole {
            let (offset, bytes) = (content.bytes - left.rest, left.rest);
            self.faults.push_back(LogError::Damaged { path, offset, bytes });
        } else if let Some(was) = known
            && was.content != content
            // Bytes that are damaged where they stand are reported already.
            && !(left.damaged && was.content.bytes == content.bytes)
        {
            self.faults.push_back(changed(path, was.content, content));
        }
    }

    /// Goes on to a later segment.
    fn leave(&mut self, next: u64) {
        let segment = self.reading.segment;
        let begun = self.begun();
        if let Some(current) = self.current.take()
            && !self.reading.misplaced
        {
            let rest = current.frames.rest();
            let content = current.frames.content().with(rest);
            let (unfinished, rest) = (is_unfinished(rest), rest.len() as u64);
            let (written, damaged) = (SegmentSummary { segment, content }, self.reading.damaged);
            self.reading.left = Some(Left { written, damaged, begun, rest, unfinished });
        }
        self.reading =
            Reading { left: self.reading.left.take(), run: self.reading.run, ..Reading::from(next) };
    }

    /// Opens the next segment; false while there is none.
    fn begin(&mut self) -> Result<bool, LogError> {
        let path = self.path();
        match segment::frames(&path) {
            Ok(Some(frames)) => {
                self.current = Some(Current { path, frames });
                Ok(true)
            }
            // It is still to be begun, unless a writer has gone on to the next one.
            Ok(None) => self.pass_over(&path),
            // It was removed because it was old, or the log has not begun.
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => self.skip(),
            Err(error) => Err(error),
        }
    }

    fn skip(&mut self) -> Result<bool, LogError> {
        let Some(next) = self.later()? else { return Ok(false) };
        self.reading = Reading::from(next);
        self.begin()
    }

    /// Goes on behind a segment with an incomplete first line, which the next one describes.
    fn pass_over(&mut self, path: &Path) -> Result<bool, LogError> {
        let segment = self.reading.segment;
        let Some(next) = self.later()? else { return Ok(false) };
        if let Some(frames) = segment::frames(path)? {
            // It was begun meanwhile.
            self.current = Some(Current { path: path.to_owned(), frames });
            return Ok(true);
        }
        let bytes = read_plain(path).map_err(LogError::io(path))?;
        let written = SegmentSummary { segment, content: Content::NONE.with(&bytes) };
        let rest = bytes.len() as u64;
        let left = Left { written, damaged: false, begun: false, rest, unfinished: true };
        self.reading = Reading { left: Some(left), ..Reading::from(next) };
        self.begin()
    }

    /// The number of the segment behind this one.
    fn later(&self) -> Result<Option<u64>, LogError> {
        Ok(segment::list(&self.folder)?.into_iter().find(|number| *number > self.reading.segment))
    }
}

/// The checksum of the text of the record that begins there, if one does.
pub(crate) fn checksum_at(folder: &Path, at: LogPosition) -> Result<Option<u32>, LogError> {
    let path = segment::path(folder, at.segment);
    let mut frames = match segment::open_behind(&path, Content { bytes: at.offset, ..Content::NONE }) {
        Ok(Some(frames)) => frames,
        Ok(None) => return Ok(None),
        Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match frames.next().map_err(LogError::io(&path))? {
        Some(FramePiece::Frame { offset, text }) if offset == at.offset => {
            Ok(Some(crc32fast::hash(frames.text(text))))
        }
        _ => Ok(None),
    }
}

fn changed(path: PathBuf, was: Content, is: Content) -> LogError {
    let reason = format!(
        "it had {} bytes with the CRC {:08x} and has {} with {:08x}",
        was.bytes, was.crc32, is.bytes, is.crc32
    );
    LogError::Changed { path, reason }
}

fn no_beginning(path: PathBuf) -> LogError {
    LogError::Changed { path, reason: "its beginning, which tells about it, is missing".to_owned() }
}

impl Reading {
    /// Nothing of that segment has been read.
    fn from(segment: u64) -> Self {
        Reading { segment, content: Content::NONE, damaged: false, misplaced: false, run: None, left: None }
    }

    /// Whether the segment still holds what was read of it.
    pub(crate) fn still_holds(&self, folder: &Path) -> Result<bool, LogError> {
        let path = segment::path(folder, self.segment);
        let file = open_plain(&path).map_err(LogError::io(&path))?;
        let mut checksum = crc32fast::Hasher::new();
        let mut pieces = BufReader::with_capacity(READ_PIECE_BYTES, file.take(self.content.bytes));
        loop {
            let piece = pieces.fill_buf().map_err(LogError::io(&path))?;
            if piece.is_empty() {
                return Ok(checksum.finalize() == self.content.crc32);
            }
            checksum.update(piece);
            let length = piece.len();
            pieces.consume(length);
        }
    }
}

/// Number of bytes that are read at once to see whether they are the same.
const READ_PIECE_BYTES: usize = 256 * 1024;
