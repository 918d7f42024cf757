//! Removes what is in a folder, however deep, wide or shut it is, while programs may still write into it.
//!
//! Invariant: what cannot be removed does not keep the rest, and is named. Memory and descriptors do not grow
//! with the folder: what is too deep is moved to the top first. Another file system that is mounted in it is
//! left alone.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::walk::is_dots;
use super::{FOLDER_FLAGS, OpenFolder, c_name, failed, kind_of, open_folder, os_str, shown_path, stat_in};

/// The depth from which folders are moved to the top.
const MAX_DEPTH: usize = 16;
/// The depth that is gone into where a folder cannot be moved, because it is immutable.
const MAX_UNMOVABLE_DEPTH: usize = 64;
/// Moved folders whose names are kept in memory; others are found when the top is read again.
const MAX_REMEMBERED: usize = 1024;
/// How often the removal of a folder is begun again because something was put into it, or in its place.
const MAX_ATTEMPTS: u32 = 16;
/// How often folders are read again because something was put into them meanwhile. A file system always
/// lists every name that is there, so this is for programs that still write.
const MAX_RESCANS: u32 = 1000;

/// Removes a folder with everything in it. Links in the path to it are followed, none in the folder are.
/// Blocks for as long as it takes.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if it is not there. Else the file system's, with the path of the first thing
/// that could not be removed and the number of others; all the rest is removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let message = format!("cannot remove {}: it is no path of a folder", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    remove_in(&OpenFolder::open(parent)?, &c_name(name)?)
}

/// Removes that name from a folder: a folder with everything in it, a link without its target.
///
/// # Errors
/// Those of [`remove`].
pub(crate) fn remove_in(parent: &OpenFolder, name: &CStr) -> io::Result<()> {
    let path = parent.path.join(os_str(name));
    for _ in 0..MAX_ATTEMPTS {
        match open_for_removal(parent.as_fd(), name) {
            Ok(fd) => clear(&OpenFolder { fd, path: path.clone() }, None)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(cannot_remove(errno, &path, 0)),
        }
        let is_gone = match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTDIR) => rustix::fs::unlinkat(parent, name, AtFlags::empty()),
            removed => removed,
        };
        match is_gone {
            // Something was put into it, or in its place, since it was read.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) => {}
            Err(errno) => return Err(cannot_remove(errno, &path, 0)),
            Ok(()) => return Ok(()),
        }
    }
    Err(cannot_remove(Errno::NOTEMPTY, &path, 0))
}

/// Removes everything in a folder but the entry of that name.
///
/// # Errors
/// Those of [`remove`].
pub(crate) fn clear(folder: &OpenFolder, kept: Option<&CStr>) -> io::Result<()> {
    let dir = match Dir::read_from(folder) {
        Err(Errno::ACCESS) => add_rights(folder.as_fd()).and_then(|()| Dir::read_from(folder)),
        read => read,
    };
    let dir = dir.map_err(|errno| failed(errno, "cannot read", &folder.path))?;
    let top = RemovalLevel::new(CString::default(), dir);
    let mut removal = Removal {
        top: &folder.path,
        kept,
        levels: vec![top],
        moved: VecDeque::new(),
        top_changed: false,
        failure: None,
        rescans: 0,
    };
    while !removal.levels.is_empty() {
        removal.advance();
    }
    match removal.failure {
        None => Ok(()),
        Some(RemovalFailure { errno, path, others }) => Err(cannot_remove(errno, &path, others)),
    }
}

struct Removal<'a> {
    top: &'a Path,
    kept: Option<&'a CStr>,
    /// The folders on the way to the present one, all open.
    levels: Vec<RemovalLevel>,
    /// Folders that were moved to the top, by their names there.
    moved: VecDeque<CString>,
    /// Whether something came to the top, or went from there, since the top was last read from its beginning.
    top_changed: bool,
    failure: Option<RemovalFailure>,
    rescans: u32,
}

struct RemovalLevel {
    name: CString,
    dir: Dir,
    /// Whether something in it cannot be removed.
    stays: bool,
    /// Whether it was tried to give its owner all rights to it.
    access_tried: bool,
}

/// The first thing that cannot be removed, and the number of others.
struct RemovalFailure {
    errno: Errno,
    path: PathBuf,
    others: u64,
}

impl Removal<'_> {
    /// Removes one entry of the innermost folder, or the folder itself when it has been read to its end.
    fn advance(&mut self) {
        let is_top = self.levels.len() == 1;
        if is_top && let Some(name) = self.moved.pop_front() {
            return self.folder(&name);
        }
        let Some(level) = self.levels.last_mut() else { return };
        match level.dir.read() {
            None if is_top => self.end_of_top(),
            None => self.end_of_level(),
            Some(Ok(entry)) => self.entry(&entry),
            Some(Err(errno)) => {
                self.fail(errno, None);
                self.levels.pop();
            }
        }
    }

    fn entry(&mut self, entry: &DirEntry) {
        let name = entry.file_name();
        if is_dots(name) || (self.levels.len() == 1 && self.kept == Some(name)) {
            return;
        }
        if entry.file_type() == FileType::Directory {
            return self.folder(name);
        }
        match self.with_access(|folder| rustix::fs::unlinkat(folder, name, AtFlags::empty())) {
            Ok(()) => self.change(),
            Err(Errno::NOENT) => {}
            // The error of a refusal to unlink a folder differs between systems.
            Err(errno @ (Errno::ISDIR | Errno::PERM)) => match self.with_access(|it| stat_in(it, name)) {
                Ok(stat) if kind_of(&stat) == FileType::Directory => self.folder(name),
                _ => self.fail(errno, Some(name)),
            },
            Err(errno) => self.fail(errno, Some(name)),
        }
    }

    /// Goes into a folder, or moves it to the top.
    fn folder(&mut self, name: &CStr) {
        let depth = self.levels.len();
        if depth >= MAX_DEPTH {
            match self.move_to_top(name) {
                Err(errno) if depth >= MAX_UNMOVABLE_DEPTH => return self.fail(errno, Some(name)),
                // It is immutable perhaps; what is in it need not be.
                Err(_) => {}
                Ok(()) => return,
            }
        }
        match self.with_access(|folder| open_for_removal(folder, name)).and_then(Dir::new) {
            Ok(dir) => self.levels.push(RemovalLevel::new(name.to_owned(), dir)),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => {
                // Something else has been put in its place.
                match self.with_access(|folder| rustix::fs::unlinkat(folder, name, AtFlags::empty())) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => self.change(),
                    Err(errno) => self.fail(errno, Some(name)),
                }
            }
            Err(Errno::MFILE | Errno::NFILE) if depth > 1 && self.move_to_top(name).is_ok() => {}
            Err(errno) => self.fail(errno, Some(name)),
        }
    }

    /// Moves a folder from the innermost one to the top, under a name that cannot be predicted.
    fn move_to_top(&mut self, name: &CStr) -> Result<(), Errno> {
        let new = uuid::Uuid::new_v4().simple().to_string();
        let rename = |removal: &Self| {
            let [top, .., level] = &*removal.levels else { return Err(Errno::INVAL) };
            rustix::fs::renameat(level.dir.fd()?, name, top.dir.fd()?, &*new)
        };
        let mut renamed = rename(self);
        if renamed == Err(Errno::ACCESS) {
            let innermost = self.levels.len() - 1;
            self.levels[0].give_access();
            self.levels[innermost].give_access();
            // It must be writable too, because its entry for its parent changes.
            let _ = self.levels[innermost].dir.fd().and_then(|folder| make_accessible(folder, name));
            renamed = rename(self);
        }
        renamed?;
        self.top_changed = true;
        if self.moved.len() < MAX_REMEMBERED
            && let Ok(new) = CString::new(new)
        {
            self.moved.push_back(new);
        }
        Ok(())
    }

    fn end_of_top(&mut self) {
        if self.top_changed && self.rescans < MAX_RESCANS {
            self.rescans += 1;
            self.top_changed = false;
            // What stays is found again.
            self.failure = None;
            let top = &mut self.levels[0];
            top.stays = false;
            top.dir.rewind();
            return;
        }
        if self.top_changed {
            self.fail(Errno::NOTEMPTY, None);
        }
        self.levels.pop();
    }

    fn end_of_level(&mut self) {
        let Some(mut level) = self.levels.pop() else { return };
        match self.with_access(|parent| rustix::fs::unlinkat(parent, &*level.name, AtFlags::REMOVEDIR)) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => self.change(),
            // What is in it has been noted.
            Err(_) if level.stays => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.rescans < MAX_RESCANS => {
                self.rescans += 1;
                level.dir.rewind();
                self.levels.push(level);
            }
            Err(errno) => self.fail(errno, Some(&level.name)),
        }
    }

    /// Does something in the innermost folder; once more if it was forbidden and the owner can be given the
    /// right.
    fn with_access<T>(&mut self, act: impl Fn(BorrowedFd<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        let Some(level) = self.levels.last_mut() else { return Err(Errno::NOENT) };
        match act(level.dir.fd()?) {
            Err(Errno::ACCESS) if level.give_access() => act(level.dir.fd()?),
            done => done,
        }
    }

    /// Notes that something has gone from the innermost folder.
    fn change(&mut self) {
        self.top_changed |= self.levels.len() == 1;
    }

    /// Notes that something in the innermost folder, or that folder itself, cannot be removed.
    fn fail(&mut self, errno: Errno, name: Option<&CStr>) {
        for level in &mut self.levels {
            level.stays = true;
        }
        if let Some(failure) = &mut self.failure {
            failure.others += 1;
            return;
        }
        let mut path = shown_path(self.top, self.levels.len() - 1, |at| &self.levels[at + 1].name);
        path.extend(name.map(os_str));
        self.failure = Some(RemovalFailure { errno, path, others: 0 });
    }
}

impl RemovalLevel {
    fn new(name: CString, dir: Dir) -> Self {
        RemovalLevel { name, dir, stays: false, access_tried: false }
    }

    /// Gives the folder's owner all rights to it; `false` if that has been tried already, or cannot be done.
    fn give_access(&mut self) -> bool {
        let given = !self.access_tried && self.dir.fd().and_then(add_rights).is_ok();
        self.access_tried = true;
        given
    }
}

/// Gives the owner of an open folder all rights to it.
pub(super) fn add_rights(folder: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(rustix::fs::fstat(folder)?.st_mode);
    rustix::fs::fchmod(folder, mode | Mode::RWXU)
}

/// Opens a folder for [`clear`], which its owner may lack the right to; [`Errno::XDEV`] if it is another file
/// system.
fn open_for_removal(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    match open_on_same_mount(folder, name) {
        Err(Errno::ACCESS) => {
            make_accessible(folder, name)?;
            open_on_same_mount(folder, name)
        }
        opened => opened,
    }
}

#[cfg(target_os = "linux")]
fn open_on_same_mount(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    match openat2(folder, name, FOLDER_FLAGS, Mode::empty(), ResolveFlags::NO_XDEV) {
        // Linux before 5.6, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_on_same_device(folder, name),
        opened => opened,
    }
}

#[cfg(not(target_os = "linux"))]
use open_on_same_device as open_on_same_mount;

fn open_on_same_device(folder: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let opened = open_folder(folder, name)?;
    let is_same = rustix::fs::fstat(folder)?.st_dev == rustix::fs::fstat(&opened)?.st_dev;
    is_same.then_some(opened).ok_or(Errno::XDEV)
}

/// Gives the owner of a folder all rights to it. It need not be readable for that, and a link is not
/// followed.
pub(super) fn make_accessible(folder: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        // A descriptor that needs no rights to the folder cannot change its mode, but names it.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::RWXU)
    }
    #[cfg(not(target_os = "linux"))]
    rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)
}

/// What cannot be removed, why, and what can be done about it.
fn cannot_remove(errno: Errno, path: &Path, others: u64) -> io::Error {
    let advice = match errno {
        Errno::PERM => "; if it is immutable or append-only, take that away (chattr -i -a)",
        Errno::NOTEMPTY | Errno::EXIST => "; a program still writes into it, end it first",
        Errno::XDEV | Errno::BUSY => "; another file system is mounted there, unmount it",
        _ => "",
    };
    let others = if others == 0 { String::new() } else { format!(" (and {others} others)") };
    let error = io::Error::from(errno);
    let message = format!("cannot remove {}{others}: {error}{advice}", path.display());
    io::Error::new(error.kind(), message)
}
