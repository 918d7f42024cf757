//! Reads a log, also while it is written.
//!
//! Invariant: only whole records are given, in the order in which they were written. Damage is told
//! with its place, and reading goes on behind it; the torn end of the newest segment is no damage.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{Frames, Piece};
use super::segment;
use crate::error::LogError;
use crate::stored::{self, StoredEntry};

/// Reads the entries of all segments in order. After its end it may be asked again, and gives what
/// has been written since; after an error it goes on behind what could not be read.
pub struct LogReader {
    folder: Arc<Path>,
    cursor: Cursor,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The number of the segment.
    pub segment: u64,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// Goes from record to record.
pub(crate) struct Cursor {
    folder: PathBuf,
    /// The segment that is read, or will be read next.
    segment: u64,
    current: Option<Current>,
}

struct Current {
    path: PathBuf,
    frames: Frames<File>,
}

/// A record that a cursor found.
pub(crate) struct Found {
    /// Where it begins.
    pub(crate) at: Position,
    text: Range<usize>,
}

impl LogReader {
    /// Reads a log from its beginning.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, LogError> {
        let folder = folder.as_ref();
        Ok(LogReader { folder: folder.into(), cursor: Cursor::open(folder)? })
    }

    /// Where the next record begins, or will.
    #[must_use]
    pub fn position(&self) -> Position {
        self.cursor.position()
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

impl Cursor {
    /// At the beginning of a log.
    pub(crate) fn open(folder: &Path) -> Result<Self, LogError> {
        let first = segment::list(folder)?.first().copied();
        Ok(Cursor { folder: folder.to_owned(), segment: first.unwrap_or(1), current: None })
    }

    /// At a place where a record begins, or where the log ended once. None if the log does not reach
    /// that far.
    pub(crate) fn open_at(folder: &Path, at: Position) -> Result<Option<Self>, LogError> {
        let path = segment::path(folder, at.segment);
        if at.offset == 0 {
            return Ok(Some(Cursor { folder: folder.to_owned(), segment: at.segment, current: None }));
        }
        let file = match segment::open_at(&path, at.offset) {
            Ok(file) => file,
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(file.map(|file| Cursor {
            folder: folder.to_owned(),
            segment: at.segment,
            current: Some(Current { path, frames: Frames::new(file, at.offset) }),
        }))
    }

    pub(crate) fn position(&self) -> Position {
        let offset = self.current.as_ref().map_or(0, |current| current.frames.offset());
        Position { segment: self.segment, offset }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Found>, LogError> {
        loop {
            if self.current.is_none() && !self.begin()? {
                return Ok(None);
            }
            match self.piece()? {
                Some(Piece::Frame { offset, text }) => {
                    return Ok(Some(Found { at: Position { segment: self.segment, offset }, text }));
                }
                Some(Piece::Damage { offset, bytes }) => return Err(self.damaged(offset, bytes)),
                None => {}
            }
            let Some(next) = self.later()? else { return Ok(None) };
            // Something may have been written between the end and the look at the folder.
            match self.piece()? {
                Some(Piece::Frame { offset, text }) => {
                    return Ok(Some(Found { at: Position { segment: self.segment, offset }, text }));
                }
                Some(Piece::Damage { offset, bytes }) => return Err(self.damaged(offset, bytes)),
                None => {}
            }
            let left = self.current.take();
            let torn = left.map_or((0, 0), |left| (left.frames.offset(), left.frames.rest()));
            let fault = (torn.1 > 0).then(|| self.damaged(torn.0, torn.1));
            self.segment = next;
            if let Some(fault) = fault {
                return Err(fault);
            }
        }
    }

    /// The text of the record that was found last.
    pub(crate) fn text(&self, found: &Found) -> &[u8] {
        self.current.as_ref().map_or(&[], |current| current.frames.text(found.text.clone()))
    }

    /// What is wrong with the record that was found last.
    pub(crate) fn unreadable(&self, found: &Found, reason: String) -> LogError {
        let path = segment::path(&self.folder, self.segment);
        LogError::Unreadable { path, offset: found.at.offset, reason }
    }

    fn damaged(&self, offset: u64, bytes: u64) -> LogError {
        LogError::Damaged { path: segment::path(&self.folder, self.segment), offset, bytes }
    }

    fn piece(&mut self) -> Result<Option<Piece>, LogError> {
        let Some(current) = &mut self.current else { return Ok(None) };
        current.frames.next().map_err(LogError::io(&current.path))
    }

    /// Opens the segment that is next; false while there is none.
    fn begin(&mut self) -> Result<bool, LogError> {
        let path = segment::path(&self.folder, self.segment);
        match segment::open(&path) {
            Ok(None) => Ok(false),
            Ok(Some(file)) => {
                self.current = Some(Current { path, frames: segment::frames(file) });
                Ok(true)
            }
            // It was removed because it was old, or the log is still to be begun.
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let Some(next) = self.later()? else { return Ok(false) };
                self.segment = next;
                self.begin()
            }
            Err(error) => Err(error),
        }
    }

    /// The number of the segment behind this one.
    fn later(&self) -> Result<Option<u64>, LogError> {
        Ok(segment::list(&self.folder)?.into_iter().find(|number| *number > self.segment))
    }
}
