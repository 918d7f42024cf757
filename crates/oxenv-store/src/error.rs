//! [`LogError`]: why the log, its index or a blob cannot be used.
//!
//! Invariant: each message names the file and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a log cannot be opened, read or indexed.
///
/// ```
/// use oxenv_store::{LogError, LogReader};
///
/// let error = LogReader::open("/no/such/folder").err().expect("there is no such folder");
/// assert!(matches!(error, LogError::Io { .. } | LogError::NoRecord { .. }));
/// assert_eq!(error.path(), std::path::Path::new("/no/such/folder"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its message.
        source: io::Error,
    },
    /// Another process writes to the folder, or this one does already.
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// Nothing has been recorded in the folder.
    NoRecord {
        /// The folder.
        folder: PathBuf,
    },
    /// A segment was written by a newer version.
    Newer {
        /// The segment's file.
        path: PathBuf,
        /// The version of its format.
        found: u64,
        /// The newest version that is understood here.
        known: u64,
    },
    /// Bytes in the middle of a segment are damaged. What follows them can still be read.
    Damaged {
        /// The segment's file.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// How many bytes cannot be read.
        bytes: u64,
    },
    /// A record is whole, and yet not one that is understood.
    Unreadable {
        /// The segment's file.
        path: PathBuf,
        /// Where the record begins, in bytes.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Segments are missing that neither retention nor this library removed.
    Missing {
        /// The first one's file.
        path: PathBuf,
        /// The last one's file.
        last: PathBuf,
    },
    /// A segment is not as it was when its writer left it.
    Changed {
        /// The segment's file.
        path: PathBuf,
        /// In which way.
        reason: String,
    },
    /// A segment is there that is not within the bounds of the log.
    Unlisted {
        /// The segment's file.
        path: PathBuf,
        /// In which way.
        reason: Unlisted,
    },
    /// The file with the bounds of the log is missing or cannot be read.
    NoBounds {
        /// The file.
        path: PathBuf,
    },
    /// A session is in the log, and the entry that opened it is not.
    NoOpening {
        /// The file of the first segment that has an entry of it.
        path: PathBuf,
        /// Where that entry begins, in bytes.
        offset: u64,
        /// The session.
        session: String,
        /// How many of its entries are missing before that one.
        entries: u64,
    },
    /// A blob is missing or damaged.
    Blob {
        /// The blob's file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The index cannot be used.
    Index {
        /// Its file.
        path: PathBuf,
        /// SQLite's message.
        reason: String,
    },
}

/// Where a segment stands that does not belong to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// Before its first one.
    Before,
    /// Behind its last one.
    Behind,
}

impl LogError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> LogError {
        move |source| LogError::Io { path: path.into(), source }
    }

    /// Whether it is about something that the log should have and does not, rather than about reaching it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            LogError::Damaged { .. }
            | LogError::Unreadable { .. }
            | LogError::Missing { .. }
            | LogError::Changed { .. }
            | LogError::Unlisted { .. }
            | LogError::NoBounds { .. }
            | LogError::NoOpening { .. }
            | LogError::Blob { .. } => true,
            LogError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound)
            }
            LogError::Locked { .. }
            | LogError::NoRecord { .. }
            | LogError::Newer { .. }
            | LogError::Index { .. } => false,
        }
    }

    /// The file or folder that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            LogError::Locked { folder } | LogError::NoRecord { folder } => folder,
            LogError::Io { path, .. }
            | LogError::Newer { path, .. }
            | LogError::Damaged { path, .. }
            | LogError::Missing { path, .. }
            | LogError::Changed { path, .. }
            | LogError::Unlisted { path, .. }
            | LogError::NoBounds { path }
            | LogError::NoOpening { path, .. }
            | LogError::Unreadable { path, .. }
            | LogError::Blob { path, .. }
            | LogError::Index { path, .. } => path,
        }
    }
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            LogError::Io { source, .. } => write!(f, "cannot use '{path}': {source}"),
            LogError::Locked { .. } => {
                write!(
                    f,
                    "the record folder '{path}' is being written by another process: stop it, \
                     or name another folder"
                )
            }
            LogError::NoRecord { .. } => {
                write!(f, "no record is in '{path}'; name the folder that was given to --record")
            }
            LogError::Newer { found, known, .. } => write!(
                f,
                "'{path}' has version {found} of the log format and this program knows \
                 up to {known}: use a newer program"
            ),
            LogError::Damaged { offset, bytes, .. } => write!(
                f,
                "'{path}' is damaged: {} from byte {offset} on cannot be read; restore the file from a copy",
                counted(*bytes, "byte", "bytes")
            ),
            LogError::Unreadable { offset, reason, .. } => {
                write!(f, "the record at byte {offset} of '{path}' is not understood: {reason}")
            }
            LogError::Missing { last, .. } if last == self.path() => {
                write!(f, "the segment '{path}' is missing; restore the file from a copy")
            }
            LogError::Missing { last, .. } => write!(
                f,
                "the segments from '{path}' to '{}' are missing; restore the files from a copy",
                last.display()
            ),
            LogError::Changed { reason, .. } => {
                write!(f, "'{path}' is not the file that was written: {reason}; restore the file from a copy")
            }
            LogError::Unlisted { reason, .. } => write!(
                f,
                "the segment '{path}' stands {} that 'log-bounds.json' names; move it \
                 away if it is of another record",
                match reason {
                    Unlisted::Before => "before the first one",
                    Unlisted::Behind => "behind the last one",
                }
            ),
            LogError::NoBounds { .. } => write!(
                f,
                "'{path}' is missing or cannot be read as what a server writes, so nobody knows \
                 whether segments are \
                 missing; the next server that records something here makes it anew"
            ),
            LogError::NoOpening { offset, session, entries, .. } => write!(
                f,
                "the first {} of session '{session}' {} missing before byte {offset} of '{path}', \
                 so it is not listed",
                counted(*entries, "entry", "entries"),
                if *entries == 1 { "is" } else { "are" }
            ),
            LogError::Blob { reason, .. } => {
                write!(f, "the blob '{path}' cannot be used: {reason}; restore the file from a copy")
            }
            LogError::Index { reason, .. } => {
                write!(f, "the index '{path}' cannot be used: {reason}; delete it, and it is made anew")
            }
        }
    }
}

/// A number of things.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
