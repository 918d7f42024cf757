//! Segments: the files of a log, numbered without gaps between those that are still there.
//!
//! Invariant: a segment begins with a line that has the version of the format and a frame that
//! describes it and names the segment before it; whatever is newer than this program knows is
//! refused, never guessed at.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oxenv_core::utc_micros;
use serde::{Deserialize, Serialize};

use super::frame::{self, Content, FramePiece, Frames, is_unfinished};
use super::{open_plain, read_plain};
use crate::error::LogError;

/// The version of the format that is written.
pub(crate) const FORMAT_VERSION: u64 = 2;
/// The oldest version that is read.
const OLDEST_VERSION: u64 = 1;
/// No segment has a greater number.
pub(crate) const MAX_NUMBER: u64 = i64::MAX as u64 / 2;
/// The content of the first line before the version.
const MAGIC: &[u8] = b"oxenv-log ";
/// The first line of a segment of this version.
const FIRST_LINE: &[u8] = b"oxenv-log 2\n";

/// A file that records are appended to. Tests have one that fails.
pub(super) trait Sink: Send {
    /// Writes a part of the bytes at the end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Brings what was written to the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what stands behind that length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A segment's description of itself. Absent fields are absent in format 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) event: String,
    pub(crate) segment: u64,
    created_us: u64,
    server: String,
    /// The segment that its writer began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<u64>,
    /// The segment before it; absent in the first one, and where that segment was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<SegmentSummary>,
}

/// A segment that is not written any more, and what it held then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentSummary {
    pub(crate) segment: u64,
    #[serde(flatten)]
    pub(crate) content: Content,
}

/// The content of the segment that was written last.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentEnd {
    /// Everything in it.
    pub(super) content: Content,
    /// Whether the frame that describes it, or anything behind it, is there.
    pub(super) begun: bool,
    /// How many bytes at its end are a write that was not finished.
    pub(super) torn: u64,
    /// How many bytes cannot be read.
    pub(super) damaged: u64,
}

/// The file of that segment.
pub(crate) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("log-{number:06}.oxl"))
}

/// The numbers of the segments, in order.
pub(crate) fn list(folder: &Path) -> Result<Vec<u64>, LogError> {
    let entries = fs::read_dir(folder).map_err(LogError::io(folder))?;
    let mut numbers = Vec::new();
    for entry in entries {
        let entry = entry.map_err(LogError::io(folder))?;
        let path = entry.path();
        let Some(number) = number(&path) else { continue };
        // Anything that is not a file, such as a named pipe, is not a segment; a link counts as its
        // target.
        let kind = entry.file_type().map_err(LogError::io(&path))?;
        if kind.is_file() || kind.is_symlink() && path.is_file() {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the segment that a file is, if it is one.
pub(crate) fn number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_prefix("log-")?.strip_suffix(".oxl")?;
    let number = digits.parse().ok().filter(|number| *number <= MAX_NUMBER)?;
    // A number has one name.
    (format!("{number:06}") == digits).then_some(number)
}

/// A segment that is open for reading.
struct Opened {
    file: File,
    /// The line with the version; empty if it is damaged, so that it is read as what it is.
    first_line: Vec<u8>,
}

/// `None` when the line with the version is not whole yet.
fn open(path: &Path) -> Result<Option<Opened>, LogError> {
    let mut file = open_plain(path).map_err(LogError::io(path))?;
    let mut head = Vec::new();
    let length = FIRST_LINE.len() as u64;
    Read::by_ref(&mut file).take(length).read_to_end(&mut head).map_err(LogError::io(path))?;
    if head.len() < FIRST_LINE.len() && MAGIC.starts_with(&head[..head.len().min(MAGIC.len())]) {
        return Ok(None);
    }
    let version = head.strip_prefix(MAGIC).and_then(|rest| std::str::from_utf8(rest).ok());
    // A version of more digits has its line end behind.
    let whole = version.is_some_and(|version| version.ends_with('\n'));
    match version.and_then(|version| version.trim_end_matches('\n').parse::<u64>().ok()) {
        Some(found) if found > FORMAT_VERSION => {
            Err(LogError::Newer { path: path.to_owned(), found, known: FORMAT_VERSION })
        }
        Some(OLDEST_VERSION..=FORMAT_VERSION) if whole => Ok(Some(Opened { file, first_line: head })),
        _ => Ok(Some(Opened { file, first_line: Vec::new() })),
    }
}

/// That a program of this version may read a segment.
///
/// # Errors
/// When it is of a newer format, or cannot be read.
pub(super) fn check(path: &Path) -> Result<(), LogError> {
    open(path).map(drop)
}

/// Opens a segment for reading behind what was read before. `None` when it does not reach that far.
pub(crate) fn open_behind(path: &Path, before: Content) -> Result<Option<Frames<File>>, LogError> {
    let Some(Opened { mut file, .. }) = open(path)? else { return Ok(None) };
    let length = file.metadata().map_err(LogError::io(path))?.len();
    if length < before.bytes {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(before.bytes)).map_err(LogError::io(path))?;
    Ok(Some(Frames::new(file, before)))
}

/// The frames of a segment. None: its first line is not whole yet.
pub(crate) fn frames(path: &Path) -> Result<Option<Frames<File>>, LogError> {
    let Some(Opened { mut file, first_line }) = open(path)? else { return Ok(None) };
    file.seek(SeekFrom::Start(first_line.len() as u64)).map_err(LogError::io(path))?;
    Ok(Some(Frames::new(file, Content::NONE.with(&first_line))))
}

/// Where a segment's first frame begins, which describes the segment.
pub(crate) const HEAD_OFFSET: u64 = FIRST_LINE.len() as u64;

/// Looks through a segment that was written before; `each` is called with the text of each frame.
pub(super) fn end(path: &Path, mut each: impl FnMut(&[u8])) -> Result<SegmentEnd, LogError> {
    let Some(mut frames) = frames(path)? else {
        let rest = read_plain(path).map_err(LogError::io(path))?;
        let torn = rest.len() as u64;
        return Ok(SegmentEnd { content: Content::NONE.with(&rest), begun: false, torn, damaged: 0 });
    };
    let (mut damaged, mut begun) = (0, false);
    while let Some(piece) = frames.next().map_err(LogError::io(path))? {
        begun = true;
        match piece {
            FramePiece::Frame { text, .. } => each(frames.text(text)),
            FramePiece::Damage { bytes, .. } => damaged += bytes,
        }
    }
    let (rest, mut torn) = (frames.rest(), frames.rest().len() as u64);
    if !is_unfinished(rest) {
        damaged += std::mem::take(&mut torn);
        begun = true;
    }
    Ok(SegmentEnd { content: frames.content().with(rest), begun, torn, damaged })
}

impl Head {
    pub(super) fn new(segment: u64, run: u64, previous: Option<SegmentSummary>, server: &str) -> Self {
        let (event, server) = ("segment".to_owned(), server.to_owned());
        let created_us = utc_micros(SystemTime::now());
        Head { event, segment, created_us, server, run: Some(run), previous }
    }

    /// The beginning of a new segment.
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = FIRST_LINE.to_vec();
        // Writing to a vector cannot fail.
        frame::append(&mut text, |out| drop(serde_json::to_writer(out, self)));
        text
    }
}

/// Makes a segment that only its owner may read. What is there already is never written on.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

impl Sink for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(self, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}
