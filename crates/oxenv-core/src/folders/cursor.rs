//! A place in a folder: one goes down by a name, and up again to where one came from.
//!
//! Invariant: at most [`MAX_OPEN`] folders are open at a time. One that was closed is found again as the
//! parent of the one below it, and is taken only if it is the one that was closed.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;

use super::{OpenFolder, failed, open_folder, shown_path};

/// The folders that are kept open on the way down, so that the way up takes no calls in trees of usual depth.
const MAX_OPEN: usize = 8;

/// A place at or below an open folder.
pub(crate) struct FolderCursor<'a> {
    top: &'a OpenFolder,
    levels: Vec<CursorLevel>,
    /// The innermost of the levels, at least one if there is any.
    open: VecDeque<OwnedFd>,
}

/// A folder that was left.
pub(crate) struct LeftFolder {
    pub(crate) folder: OwnedFd,
    pub(crate) name: CString,
}

struct CursorLevel {
    name: CString,
    id: Id,
}

/// Identifies a folder among all that exist at the same time.
#[derive(PartialEq, Eq)]
struct Id {
    device: u64,
    inode: u64,
}

impl<'a> FolderCursor<'a> {
    pub(crate) fn at(top: &'a OpenFolder) -> Self {
        FolderCursor { top, levels: Vec::new(), open: VecDeque::new() }
    }

    /// The folder that this place is.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.open.back().map_or(self.top.as_fd(), AsFd::as_fd)
    }

    /// Its depth below the top.
    pub(crate) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Goes down.
    pub(crate) fn enter(&mut self, name: &CStr) -> Result<(), Errno> {
        let fd = open_folder(self.folder(), name)?;
        let id = Id::of(&fd)?;
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(fd);
        self.levels.push(CursorLevel { name: name.to_owned(), id });
        Ok(())
    }

    /// Goes up; returns the folder that it leaves, for final work on it, or nothing at the top.
    ///
    /// # Errors
    /// The file system's; [`io::ErrorKind::ResourceBusy`] if the folder has been moved into another
    /// one.
    pub(crate) fn leave(&mut self) -> io::Result<Option<LeftFolder>> {
        let Some(folder) = self.open.pop_back() else { return Ok(None) };
        if self.open.is_empty() && self.levels.len() > 1 {
            let parent = open_folder(&folder, c"..").and_then(|fd| Ok((Id::of(&fd)?, fd)));
            let (id, fd) = parent.map_err(|errno| failed(errno, "cannot go up from", &self.path()))?;
            if self.levels[self.levels.len() - 2].id != id {
                let message = format!("{} was moved meanwhile; try again", self.path().display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            self.open.push_back(fd);
        }
        Ok(self.levels.pop().map(|level| LeftFolder { folder, name: level.name }))
    }

    /// Its path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        shown_path(self.top.path(), self.levels.len(), |at| &self.levels[at].name)
    }

    /// The path of something in it, for messages.
    pub(crate) fn path_of(&self, name: &CStr) -> PathBuf {
        self.path().join(super::os_str(name))
    }
}

impl Id {
    fn of(folder: &OwnedFd) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(folder)?;
        // The types of the two differ between systems.
        #[allow(clippy::unnecessary_cast)]
        Ok(Id { device: stat.st_dev as u64, inode: stat.st_ino as u64 })
    }
}
