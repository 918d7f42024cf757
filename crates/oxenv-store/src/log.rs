//! The log: what sessions did, in files that are only ever appended to.
//!
//! Invariant: an entry whose work was done without a failure is in the log, whatever happens to the
//! process afterwards, and to the machine if so configured; an entry that failed is not.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxenv_core::{Failure, RecordEntry, Recorder, Redact, Work};

use crate::error::LogError;
pub use reader::LogReader;
pub(crate) use reader::{LogPosition, Reading, RecordCursor, checksum_at};
pub use retain::Retention;

pub(crate) mod blobs;
pub(crate) mod bounds;
pub(crate) mod frame;
mod group;
pub(crate) mod line;
mod reader;
mod retain;
pub(crate) mod segment;
pub(crate) mod unwritten;
mod writer;

/// What an acknowledged entry survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The end of the process, however it comes: the operating system has the entry. The default.
    #[default]
    Process,
    /// That, and the end of the machine but for the last while: what was written is brought to the
    /// disk once per interval, behind the replies.
    Interval(Duration),
    /// The end of the machine: the entry is on the disk before the reply is given.
    Machine,
}

/// How a log is written.
///
/// ```
/// use std::time::Duration;
///
/// use oxenv_store::{Durability, LogOptions, Retention};
///
/// let options = LogOptions {
///     durability: Durability::Interval(Duration::from_secs(1)),
///     retention: Retention { bytes: Some(10 << 30), ..Retention::default() },
///     ..LogOptions::default()
/// };
/// assert_eq!(options.segment_bytes, 256 << 20);
/// ```
#[derive(Clone)]
pub struct LogOptions {
    /// What an acknowledged entry survives.
    pub durability: Durability,
    /// Size in bytes at which a new segment is begun. Default: 256 MiB.
    pub segment_bytes: u64,
    /// Longer values are kept as blobs beside the log, in bytes. Default: 64 KiB.
    pub inline_bytes: usize,
    /// Maximum number of bytes that wait to be written; beyond it entries are refused. Default: 256 MiB.
    pub behind_bytes: usize,
    /// What is removed.
    pub retention: Retention,
    /// Takes secrets out of texts before they are written.
    pub redact: Option<Redact>,
    /// The writer: name and version of the server. Default: `oxenv` and its version.
    pub server: String,
}

/// Writes what sessions do to the log in a folder.
///
/// `append` writes into memory; one thread brings everything that has come together to the file in
/// one write. Dropping the recorder writes what is left and waits for it.
///
/// ```
/// use oxenv_core::{RecordEntry, RecordEvent, Recorder};
/// use oxenv_store::{LogOptions, LogReader, LogRecorder};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-recorder-{}", std::process::id()));
/// let recorder = LogRecorder::open(&folder, LogOptions::default())?;
/// let event = RecordEvent::Opened {
///     environment: "echo",
///     version: "1.0.0",
///     deterministic: true,
///     seed: 7,
///     episode_id: "e-0",
///     origin: None,
/// };
/// let entry = RecordEntry { session_id: "s-1", seq: 0, epoch: 0, time_us: 1_767_225_600_000_000, event };
/// // Sessions do this themselves, with a recorder that their store was given.
/// recorder.append(&entry).await?;
/// assert_eq!(LogReader::open(&folder)?.count(), 1);
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok(())
/// # }
/// ```
pub struct LogRecorder {
    group: group::Group,
    recovery: Recovery,
    /// Held as long as the log is written.
    _lock: File,
}

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The segment that was written last; none in a new folder.
    pub segment: Option<PathBuf>,
    /// How many bytes at its end are of a write that was never finished, and so never acknowledged.
    pub torn_bytes: u64,
    /// How many bytes of it were written whole and cannot be read any more.
    pub damaged_bytes: u64,
}

/// Entries that were accepted and are not in the log yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteLag {
    /// Entries.
    pub records: u64,
    /// Bytes, those of blobs included.
    pub bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            durability: Durability::default(),
            segment_bytes: 256 * 1024 * 1024,
            inline_bytes: 64 * 1024,
            behind_bytes: 256 * 1024 * 1024,
            retention: Retention::default(),
            redact: None,
            server: concat!("oxenv ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl LogRecorder {
    /// Opens the log in a folder, which is made if it is not there. What other writers left there stays
    /// as it is; a new segment is begun behind it.
    ///
    /// # Errors
    /// When the folder cannot be used, when another process writes to it, when a newer version
    /// wrote it.
    pub fn open(folder: impl Into<PathBuf>, options: LogOptions) -> Result<Self, LogError> {
        let folder = folder.into();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(LogError::io(&folder))?;
        let lock = lock(&folder)?;
        let (writer, recovery) = writer::Writer::open(&folder, &options)?;
        recovery.warn();
        let group = group::Group::start(writer, &folder, options)?;
        Ok(LogRecorder { group, recovery, _lock: lock })
    }

    /// What opening the log found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.group.folder()
    }

    /// Entries that were accepted and are not written yet.
    #[must_use]
    pub fn lag(&self) -> WriteLag {
        self.group.lag()
    }

    /// How many entries could not be written since the log was opened.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.group.failed()
    }
}

impl Recovery {
    fn warn(&self) {
        let Some(segment) = &self.segment else { return };
        let (segment, torn, damaged) = (segment.display(), self.torn_bytes, self.damaged_bytes);
        if torn > 0 {
            tracing::info!(%segment, bytes = torn, "the log ends with a write that was never finished");
        }
        if damaged > 0 {
            tracing::error!(%segment, bytes = damaged, "the log is damaged; what is whole is still read");
        }
    }
}

impl Recorder for LogRecorder {
    fn append(&self, entry: &RecordEntry<'_>) -> Work<'static, Result<(), Failure>> {
        self.group.append(entry)
    }
}

impl fmt::Debug for LogRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogRecorder").field("folder", &self.folder()).finish_non_exhaustive()
    }
}

/// One writer for each folder: the lock goes with the file, and so with the process.
fn lock(folder: &Path) -> Result<File, LogError> {
    let path = folder.join("lock");
    if fs::metadata(&path).is_ok_and(|about| !about.is_file()) {
        return Err(LogError::Io { path, source: no_file() });
    }
    let opened = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.map_err(LogError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LogError::Locked { folder: folder.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(LogError::Io { path, source }),
    }
}

/// Whether something was recorded in a folder, or a recording was begun.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn is_record(folder: &Path) -> Result<bool, LogError> {
    let begun = [bounds::path(folder), folder.join("lock")].iter().any(|path| path.exists());
    Ok(begun || !segment::list(folder)?.is_empty())
}

/// Opens a file for reading. Opening a named pipe would wait for a writer, and nothing here is one.
fn open_plain(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(no_file()) }
}

/// Reads a whole file.
fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_plain(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "it is no regular file")
}

/// Brings a folder's names to the disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
