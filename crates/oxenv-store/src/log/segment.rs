//! Segments: the files of a log, numbered without gaps between those that are still there.
//!
//! Invariant: a segment begins with a line that tells the version of the format and a frame that
//! tells about itself; whatever is newer than this program knows is refused, never guessed at.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use oxenv_core::utc_micros;
use serde_json::json;

use super::frame::{self, Frames, Piece};
use crate::error::LogError;

/// The version of the format.
pub(crate) const FORMAT_VERSION: u64 = 1;
/// What the first line says before the version.
const MAGIC: &[u8] = b"oxenv-log ";
/// The first line of a segment of this version.
const FIRST_LINE: &[u8] = b"oxenv-log 1\n";

/// A file that records are appended to. Tests have one that fails.
pub(super) trait Sink: Send {
    /// Writes a part of the bytes at the end.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Brings what was written to the disk.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts off what stands behind that length.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// What was found at the end of a segment that is to be written on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct End {
    /// How long the whole part is.
    pub(super) length: u64,
    /// How many bytes stand behind it.
    pub(super) torn: u64,
    /// How many bytes before that cannot be read.
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
        let name = entry.map_err(LogError::io(folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("log-")?.strip_suffix(".oxl"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment for reading behind its first line. None: the line is not whole yet.
pub(crate) fn open(path: &Path) -> Result<Option<File>, LogError> {
    let mut file = File::open(path).map_err(LogError::io(path))?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(64).read_to_end(&mut head).map_err(LogError::io(path))?;
    let line = match head.iter().position(|byte| *byte == b'\n') {
        Some(end) => &head[..end],
        None if FIRST_LINE.starts_with(&head) => return Ok(None),
        None => return Err(LogError::NotALog { path: path.to_owned() }),
    };
    let version = line.strip_prefix(MAGIC).and_then(|version| std::str::from_utf8(version).ok());
    match version.and_then(|version| version.parse::<u64>().ok()) {
        Some(FORMAT_VERSION) => {}
        Some(found) if found > FORMAT_VERSION => {
            return Err(LogError::Newer { path: path.to_owned(), found, known: FORMAT_VERSION });
        }
        _ => return Err(LogError::NotALog { path: path.to_owned() }),
    }
    file.seek(SeekFrom::Start(FIRST_LINE.len() as u64)).map_err(LogError::io(path))?;
    Ok(Some(file))
}

/// Opens a segment for reading at a place. None: it does not reach that far.
pub(crate) fn open_at(path: &Path, offset: u64) -> Result<Option<File>, LogError> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let length = file.metadata().map_err(LogError::io(path))?.len();
    if length < offset {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(offset)).map_err(LogError::io(path))?;
    Ok(Some(file))
}

/// The frames of a segment.
pub(crate) fn frames(file: File) -> Frames<File> {
    Frames::new(file, FIRST_LINE.len() as u64)
}

/// Finds the end of a segment that was written before; `each` hears the text of each frame.
pub(super) fn end(path: &Path, mut each: impl FnMut(&[u8])) -> Result<End, LogError> {
    let Some(file) = open(path)? else {
        let torn = fs::metadata(path).map_err(LogError::io(path))?.len();
        return Ok(End { torn, ..End::default() });
    };
    let mut frames = frames(file);
    let mut damaged = 0;
    while let Some(piece) = frames.next().map_err(LogError::io(path))? {
        match piece {
            Piece::Frame { text, .. } => each(frames.text(text)),
            Piece::Damage { bytes, .. } => damaged += bytes,
        }
    }
    Ok(End { length: frames.offset(), torn: frames.rest(), damaged })
}

/// What a new segment begins with.
pub(super) fn head(number: u64, server: &str) -> Vec<u8> {
    let about = json!({
        "event": "segment", "segment": number, "created_us": utc_micros(SystemTime::now()), "server": server,
    });
    let mut head = FIRST_LINE.to_vec();
    frame::append(&mut head, |out| out.extend_from_slice(about.to_string().as_bytes()));
    head
}

/// Opens a segment for appending, or makes one that only its owner may read.
pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
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
