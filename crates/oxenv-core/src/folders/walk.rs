//! Reads a folder and all that is in it, one entry after the other, in order of names.
//!
//! Invariant: what it holds in memory are the names of folders that are not read to their end, of which there
//! are no more than its caller allows.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::vec;

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{FolderCursor, OpenFolder, failed, kind_of, os_str, stat_in};

/// A folder being read. A folder in it is entered if the caller asks for that.
///
/// ```
/// use oxenv_core::folders::{OpenFolder, Walk, WalkEvent};
///
/// # fn main() -> std::io::Result<()> {
/// let folder = OpenFolder::open(std::path::Path::new("src"))?;
/// let mut walk = Walk::new(&folder, u64::MAX)?;
/// let mut bytes = 0;
/// while let Some(event) = walk.next()? {
///     if let WalkEvent::Entry(entry) = event {
///         bytes += entry.len();
///         walk.enter(&entry)?;
///     }
/// }
/// # assert!(bytes > 0);
/// # Ok(())
/// # }
/// ```
pub struct Walk<'a> {
    position: FolderCursor<'a>,
    /// The names that are left in each folder on the way to the present one.
    names: Vec<vec::IntoIter<CString>>,
    max_entries: u64,
    entries: u64,
}

/// An event of a walk.
pub enum WalkEvent {
    /// Something in the present folder.
    Entry(RecordEntry),
    /// The end of a folder that was entered.
    Left,
}

/// Something in a folder, as it was when the walk came to it.
pub struct RecordEntry {
    pub(crate) name: CString,
    pub(crate) stat: Stat,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A socket, a pipe or a device.
    Special,
}

/// Why a walk cannot go on.
#[derive(Debug)]
pub enum WalkError {
    /// There are more entries than its caller allows.
    TooManyEntries,
    /// The file system's error, with the path in it.
    Io(io::Error),
}

impl<'a> Walk<'a> {
    /// Begins to read a folder. No more than `max_entries` names are read in it and in all that is entered.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn new(folder: &'a OpenFolder, max_entries: u64) -> Result<Self, WalkError> {
        let mut walk =
            Walk { position: FolderCursor::at(folder), names: Vec::new(), max_entries, entries: 0 };
        walk.list()?;
        Ok(walk)
    }

    /// The next event; `None` at the end of the folder that the walk began with. Entries that others remove
    /// meanwhile may be left out.
    ///
    /// # Errors
    /// [`WalkError::Io`].
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<WalkEvent>, WalkError> {
        while let Some(names) = self.names.last_mut() {
            let Some(name) = names.next() else {
                self.names.pop();
                let left = self.position.leave().map_err(WalkError::Io)?;
                return Ok(left.map(|_| WalkEvent::Left));
            };
            match stat_in(self.position.folder(), &name) {
                Ok(stat) => return Ok(Some(WalkEvent::Entry(RecordEntry { name, stat }))),
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(self.unreadable(errno, &name)),
            }
        }
        Ok(None)
    }

    /// Goes into a folder that the walk came to, so that what is in it comes next. `false` if it is
    /// not a folder, or is not there any more.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn enter(&mut self, entry: &RecordEntry) -> Result<bool, WalkError> {
        if entry.kind() != EntryKind::Folder {
            return Ok(false);
        }
        match self.position.enter(&entry.name) {
            Ok(()) => self.list().map(|()| true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(self.unreadable(errno, &entry.name)),
        }
    }

    /// Opens a file that the walk came to; nothing if it is no longer a file.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub fn open_file(&self, entry: &RecordEntry) -> io::Result<Option<File>> {
        // Non-blocking: it may be a pipe by now, which is only known once it is open.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let unreadable = |errno| failed(errno, "cannot read", &self.path_of(entry));
        match rustix::fs::openat(self.position.folder(), &*entry.name, flags, Mode::empty()) {
            Ok(fd) => {
                let is_file = kind_of(&rustix::fs::fstat(&fd).map_err(unreadable)?) == FileType::RegularFile;
                Ok(is_file.then(|| fd.into()))
            }
            // Gone, a link, a socket, or a device without a driver.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV) => Ok(None),
            Err(errno) => Err(unreadable(errno)),
        }
    }

    /// Where a link leads that the walk came to; nothing if it is no longer a link.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub fn read_link(&self, entry: &RecordEntry) -> io::Result<Option<PathBuf>> {
        match rustix::fs::readlinkat(self.position.folder(), &*entry.name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(errno) => Err(failed(errno, "cannot read", &self.path_of(entry))),
        }
    }

    /// How many folders were entered and not left yet.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.position.depth()
    }

    /// The path of an entry for messages, in which the middle of a long one is left out.
    #[must_use]
    pub fn path_of(&self, entry: &RecordEntry) -> PathBuf {
        self.position.path_of(&entry.name)
    }

    /// The present folder.
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.position.folder()
    }

    /// Reads the names in the present folder.
    fn list(&mut self) -> Result<(), WalkError> {
        let unreadable = |errno| WalkError::Io(failed(errno, "cannot read", &self.position.path()));
        let mut names = Vec::new();
        for entry in Dir::read_from(self.position.folder()).map_err(unreadable)? {
            let name = entry.map_err(unreadable)?.file_name().to_owned();
            if is_dots(&name) {
                continue;
            }
            self.entries += 1;
            if self.entries > self.max_entries {
                return Err(WalkError::TooManyEntries);
            }
            names.push(name);
        }
        names.sort_unstable();
        self.names.push(names.into_iter());
        Ok(())
    }

    fn unreadable(&self, errno: Errno, name: &CStr) -> WalkError {
        WalkError::Io(failed(errno, "cannot read", &self.position.path_of(name)))
    }
}

impl RecordEntry {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        os_str(&self.name)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EntryKind {
        match kind_of(&self.stat) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Folder,
            FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Special,
        }
    }

    /// Its permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        // The type of a mode differs between systems.
        #[allow(clippy::useless_conversion)]
        u32::from(Mode::from_raw_mode(self.stat.st_mode).as_raw_mode())
    }

    /// Its length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }
}

impl fmt::Display for WalkError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalkError::TooManyEntries => write!(formatter, "there are too many files and folders"),
            WalkError::Io(error) => error.fmt(formatter),
        }
    }
}

impl std::error::Error for WalkError {}

impl From<WalkError> for io::Error {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::TooManyEntries => io::Error::new(io::ErrorKind::QuotaExceeded, error),
            WalkError::Io(error) => error,
        }
    }
}

/// Whether a name is that of a folder itself, or of its parent.
pub(super) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
