//! Moves what is in one folder into another, entry by entry, while programs may still write into the first.
//!
//! Invariant: what is moved gets a number for a name, so it meets nothing in the folder that it comes to.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::AsFd as _;

use rustix::fs::{Dir, renameat};
use rustix::io::Errno;

use super::remove::{add_rights, make_accessible, remove_in};
use super::walk::is_dots;
use super::{OpenFolder, failed, os_str};

/// The most entries that are moved: programs may make new ones faster than they are moved.
const MAX_MOVED: u64 = 1 << 20;
/// How often an entry is put in its place, while a program puts something else there.
const MAX_ATTEMPTS: u32 = 16;

/// A folder that takes in what is in the way.
pub(crate) struct Aside<'a> {
    folder: &'a OpenFolder,
    moved: u64,
}

impl<'a> Aside<'a> {
    pub(crate) fn new(folder: &'a OpenFolder) -> Self {
        Aside { folder, moved: 0 }
    }

    /// Takes in every entry that is in a folder when this begins. One that cannot be moved is removed where
    /// it is.
    ///
    /// # Errors
    /// The file system's, with the path of the first entry that can be neither moved nor removed.
    pub(crate) fn take_all(&mut self, from: &OpenFolder) -> io::Result<()> {
        let mut failure = None;
        for entry in Dir::read_from(from).map_err(|errno| failed(errno, "cannot read", from.path()))? {
            let entry = entry.map_err(|errno| failed(errno, "cannot read", from.path()))?;
            if is_dots(entry.file_name()) {
                continue;
            }
            if let Err(error) = self.take(from, entry.file_name()) {
                failure.get_or_insert(error);
            }
            if self.moved > MAX_MOVED {
                break;
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Puts every entry of `made` into `to` under its own name, and takes in what a program has put there.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub(crate) fn replace_all(&mut self, made: &OpenFolder, to: &OpenFolder) -> io::Result<()> {
        for entry in Dir::read_from(made).map_err(|errno| failed(errno, "cannot read", made.path()))? {
            let entry = entry.map_err(|errno| failed(errno, "cannot read", made.path()))?;
            if !is_dots(entry.file_name()) {
                self.replace(made, to, entry.file_name())?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, made: &OpenFolder, to: &OpenFolder, name: &CStr) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            match renameat(made, name, to, name) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR)
                    if attempts < MAX_ATTEMPTS =>
                {
                    attempts += 1;
                    self.take(to, name)?;
                }
                Err(errno) => return Err(failed(errno, "cannot make", &to.path().join(os_str(name)))),
            }
        }
    }

    /// Takes in the entry of that name, if it is there.
    ///
    /// # Errors
    /// As [`Aside::take_all`].
    pub(crate) fn take(&mut self, from: &OpenFolder, name: &CStr) -> io::Result<()> {
        self.moved += 1;
        // A number holds no zero byte.
        let number = CString::new(self.moved.to_string())?;
        let mut taken = renameat(from, name, self.folder, &*number);
        if taken == Err(Errno::ACCESS) {
            // A folder has to be writable itself, because its entry for its parent changes.
            let given = add_rights(from.as_fd()).and_then(|()| make_accessible(from.as_fd(), name));
            taken = given.and_then(|()| renameat(from, name, self.folder, &*number));
        }
        match taken {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(_) => match remove_in(from, name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }
}
