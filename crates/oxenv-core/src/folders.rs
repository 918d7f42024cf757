//! Folders with content of unknown origin: read, filled and removed by descriptor, at any depth.
//!
//! Invariant: a name is resolved in an open folder only, and a link is never followed. So nothing outside of
//! the folder that the caller opened is read, changed or removed, whatever a program puts in the place of a
//! part of it meanwhile. No call needs more stack, or more than a few descriptors, for a deeper folder.
//!
//! [`Walk`] reads a folder, [`remove`] deletes one; `folders/position.rs` goes down and up in one,
//! `folders/moving.rs` empties one beside programs that go on writing.

mod cursor;
mod moving;
mod remove;
mod walk;

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub(crate) use cursor::FolderCursor;
pub(crate) use moving::Aside;
pub use remove::remove;
pub(crate) use remove::{clear, remove_in};
pub use walk::{EntryKind, RecordEntry, Walk, WalkError, WalkEvent};

/// How a folder is opened by its name in another.
const FOLDER_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The first and the last names of a long path that a message shows.
const MAX_SHOWN_NAMES: usize = 8;

/// A folder that is open, with the path that messages call it by.
#[derive(Debug)]
pub struct OpenFolder {
    fd: OwnedFd,
    path: PathBuf,
}

impl OpenFolder {
    /// Opens the folder at a path. Links in the path are followed, so it must be one of the caller's own.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = FOLDER_FLAGS.difference(OFlags::NOFOLLOW);
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let fd = opened.map_err(|errno| failed(errno, "cannot read", path))?;
        Ok(OpenFolder { fd, path: path.to_owned() })
    }

    /// Opens the folder of that name in this one.
    pub(crate) fn open_in(&self, name: &CStr) -> Result<Self, Errno> {
        Ok(OpenFolder { fd: open_folder(self, name)?, path: self.path.join(os_str(name)) })
    }

    /// The path that it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that this one is in.
    pub(crate) fn parent(&self) -> Result<Self, Errno> {
        Ok(OpenFolder { fd: open_folder(self, c"..")?, path: self.path.join("..") })
    }

    /// Whether that is what was found of this very folder, and of no other that is there at the same time.
    pub(crate) fn is(&self, found: &Stat) -> Result<bool, Errno> {
        let own = rustix::fs::fstat(&self.fd)?;
        Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        rustix::fs::fstat(&self.fd).map_err(|errno| failed(errno, "cannot read", &self.path))
    }
}

impl AsFd for OpenFolder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The folder of that name; [`Errno::NOTDIR`] or [`Errno::LOOP`] for anything else.
fn open_folder(folder: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(folder, name, FOLDER_FLAGS, Mode::empty())
}

/// The metadata of that name; of the link itself if it is one.
pub(crate) fn stat_in(folder: impl AsFd, name: &CStr) -> Result<Stat, Errno> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn os_str(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// A name for the file system's calls.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for one with a zero byte.
pub(crate) fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(io::Error::from)
}

/// The error of a call, with what was tried and where.
pub(crate) fn failed(errno: Errno, what: &str, path: &Path) -> io::Error {
    named(&errno.into(), what, path)
}

/// An error with what was tried and where.
pub(crate) fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// A path for a message: the given number of names below `top`, the middle left out where there are
/// many.
fn shown_path<'a>(top: &Path, count: usize, name: impl Fn(usize) -> &'a CStr) -> PathBuf {
    let mut path = top.to_owned();
    let left_out = count.saturating_sub(2 * MAX_SHOWN_NAMES);
    let first = if left_out == 0 { count } else { MAX_SHOWN_NAMES };
    (0..first).for_each(|at| path.push(os_str(name(at))));
    if left_out > 0 {
        path.push(format!("({left_out} folders)"));
    }
    (first + left_out..count).for_each(|at| path.push(os_str(name(at))));
    path
}
