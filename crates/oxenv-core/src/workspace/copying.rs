//! Copies a folder: its files with their modes, times and holes, its folders, its symbolic links as links.
//!
//! Invariant: no link is ever followed, so nothing outside of the folder is read; a failure leaves what
//! was copied so far to the owner of the target.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, Stat, symlinkat};
use rustix::io::Errno;

use super::WorkspaceLimits;
use super::marks::Marks;
use super::place::WorkspacePath;
use crate::folders::{
    EntryKind, FolderCursor, OpenFolder, RecordEntry, Walk, WalkError, WalkEvent, failed, named,
};

/// A folder being copied.
pub(super) struct Copying<'a> {
    from: &'a OpenFolder,
    to: &'a OpenFolder,
    limits: WorkspaceLimits,
    /// The session's place that it is the folder of: links into it are turned to the copy.
    session: Option<&'a WorkspacePath>,
    /// Set once the file system has refused to share blocks between files.
    cannot_share: &'a AtomicBool,
    bytes: u64,
    left_out: LeftOut,
}

/// Where the copy is made.
struct CopyTarget<'a> {
    position: FolderCursor<'a>,
    /// The metadata that the folders on the way to the position get when they are filled.
    marks: Vec<Marks>,
}

/// Entries that are no files, folders or links. A tool may make any number of them, so they are reported
/// once.
#[derive(Default)]
pub(super) struct LeftOut {
    count: u64,
    first: PathBuf,
}

impl<'a> Copying<'a> {
    /// The copy of a folder that the user named: all of it, each folder accessible to its owner, which
    /// has to be able to clear it.
    pub(super) fn of_source(from: &'a OpenFolder, to: &'a OpenFolder, cannot_share: &'a AtomicBool) -> Self {
        let limits = WorkspaceLimits { copied_bytes: u64::MAX, files: u64::MAX };
        Copying { from, to, limits, session: None, cannot_share, bytes: 0, left_out: LeftOut::default() }
    }

    /// The copy of a session's folder, which is in that place, for another session.
    pub(super) fn of_session(
        from: &'a OpenFolder,
        place: &'a WorkspacePath,
        to: &'a OpenFolder,
        limits: WorkspaceLimits,
        cannot_share: &'a AtomicBool,
    ) -> Self {
        Copying {
            from,
            to,
            limits,
            session: Some(place),
            cannot_share,
            bytes: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Copies what is in it into the target, which is empty.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit.
    pub(super) fn run(mut self) -> io::Result<()> {
        let top = self.folder_marks(&self.from.stat()?);
        let mut walk = Walk::new(self.from, self.limits.files).map_err(|error| self.stopped(error))?;
        let mut target = CopyTarget { position: FolderCursor::at(self.to), marks: Vec::new() };
        while let Some(event) = walk.next().map_err(|error| self.stopped(error))? {
            match event {
                WalkEvent::Entry(entry) => self.entry(&mut walk, &entry, &mut target)?,
                WalkEvent::Left => target.leave()?,
            }
        }
        self.left_out.warn("not copied");
        top.put_on(self.to).map_err(|errno| failed(errno, "cannot copy", self.to.path()))
    }

    /// Copies an entry; one that a program removes or replaces meanwhile is left out.
    fn entry(
        &mut self,
        walk: &mut Walk<'_>,
        entry: &RecordEntry,
        target: &mut CopyTarget<'_>,
    ) -> io::Result<()> {
        match entry.kind() {
            EntryKind::Folder => {
                if walk.enter(entry).map_err(|error| self.stopped(error))? {
                    make_folder(&mut target.position, &entry.name)?;
                    target.marks.push(self.folder_marks(&entry.stat));
                }
                Ok(())
            }
            EntryKind::File => {
                let Some(from) = walk.open_file(entry)? else { return Ok(()) };
                self.file(&from, target.position.folder(), &entry.name).map_err(|error| match error.kind() {
                    io::ErrorKind::QuotaExceeded => error,
                    _ => named(&error, "cannot copy", &walk.path_of(entry)),
                })
            }
            EntryKind::Link => {
                let Some(leads) = walk.read_link(entry)? else { return Ok(()) };
                let made = symlinkat(self.rebased(leads), target.position.folder(), &*entry.name);
                made.map_err(|errno| failed(errno, "cannot copy", &walk.path_of(entry)))
            }
            EntryKind::Special => {
                self.left_out.add(walk, entry);
                Ok(())
            }
        }
    }

    fn file(&mut self, from: &File, target: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let seen = rustix::fs::fstat(from)?;
        let to = create_file(target, name)?;
        if !self.shares(from, &to) {
            let room = self.limits.copied_bytes - self.bytes;
            self.bytes += copy_data(from, &to, &seen, room)?;
            within(self.from, "bytes", self.bytes, self.limits.copied_bytes, self.limits.files, "")?;
        }
        Ok(Marks::of(&seen).put_on(to)?)
    }

    /// Lets the copy have the same blocks until one of the two is written to, where the file system can.
    #[cfg(target_os = "linux")]
    fn shares(&self, from: &File, to: &File) -> bool {
        if self.cannot_share.load(Ordering::Relaxed) {
            return false;
        }
        let outcome = rustix::fs::ioctl_ficlone(to, from);
        if let Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::NOSYS) = outcome {
            self.cannot_share.store(true, Ordering::Relaxed);
        }
        outcome.is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn shares(&self, _from: &File, _to: &File) -> bool {
        self.cannot_share.store(true, Ordering::Relaxed);
        false
    }

    /// Where the copy of a link leads.
    fn rebased(&self, leads: PathBuf) -> PathBuf {
        let inside = self.session.and_then(|place| place.inside(&leads));
        inside.map_or(leads, |inside| self.to.path().join(inside))
    }

    fn folder_marks(&self, seen: &Stat) -> Marks {
        let marks = Marks::of(seen);
        let more = if self.session.is_some() { Mode::empty() } else { Mode::RWXU };
        Marks { mode: marks.mode | more, ..marks }
    }

    fn stopped(&self, error: WalkError) -> io::Error {
        too_large(self.from, error, self.limits)
    }
}

impl LeftOut {
    pub(super) fn add(&mut self, walk: &Walk<'_>, entry: &RecordEntry) {
        if self.count == 0 {
            self.first = walk.path_of(entry);
        }
        self.count += 1;
    }

    pub(super) fn warn(&self, what: &str) {
        if self.count > 0 {
            let (count, first) = (self.count, self.first.display());
            tracing::warn!(count, %first, "{what}: sockets, pipes and devices");
        }
    }
}

impl CopyTarget<'_> {
    /// Ends a folder. Filling it changes its time, and its mode may forbid to fill it.
    fn leave(&mut self) -> io::Result<()> {
        let (Some(left), Some(marks)) = (self.position.leave()?, self.marks.pop()) else { return Ok(()) };
        let put_on = marks.put_on(&left.folder);
        put_on.map_err(|errno| failed(errno, "cannot copy", &self.position.path_of(&left.name)))
    }
}

/// Makes a folder and goes into it.
///
/// # Errors
/// The file system's, with the path in it.
pub(super) fn make_folder(position: &mut FolderCursor<'_>, name: &CStr) -> io::Result<()> {
    let made = rustix::fs::mkdirat(position.folder(), name, Mode::RWXU);
    made.and_then(|()| position.enter(name))
        .map_err(|errno| failed(errno, "cannot make", &position.path_of(name)))
}

/// Makes a file that only its owner can open until its mode is set.
pub(super) fn create_file(folder: BorrowedFd<'_>, name: &CStr) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Refuses what is more than it may be.
///
/// # Errors
/// [`io::ErrorKind::QuotaExceeded`] with the folder, its size, the limit and what allows more.
pub(super) fn within(
    folder: &OpenFolder,
    what: &str,
    found: u64,
    limit: u64,
    max_files: u64,
    more: &str,
) -> io::Result<()> {
    if found <= limit {
        return Ok(());
    }
    let size = Size::of(folder, max_files.saturating_mul(2));
    let more = if more.is_empty() { String::new() } else { format!("; {more}") };
    let message = format!(
        "the workspace {} has {size}, and no more than {limit} {what} are taken along; remove what is not \
         needed, or keep it outside of the workspace{more}",
        folder.path().display()
    );
    Err(io::Error::new(io::ErrorKind::QuotaExceeded, message))
}

/// Why a walk stopped: the error of [`within`] if there were too many entries.
pub(super) fn too_large(folder: &OpenFolder, error: WalkError, limits: WorkspaceLimits) -> io::Error {
    match error {
        WalkError::Io(error) => error,
        WalkError::TooManyEntries => {
            let found = limits.files.saturating_add(1);
            within(folder, "files and folders", found, limits.files, limits.files, "")
                .err()
                .unwrap_or_else(|| error.into())
        }
    }
}

/// Copies what a file holds, and leaves its holes holes; returns the bytes that were copied. It ends soon
/// after more than `room` of them.
fn copy_data(from: &File, to: &File, seen: &Stat, room: u64) -> io::Result<u64> {
    let length = u64::try_from(seen.st_size).unwrap_or(0);
    #[cfg(target_os = "linux")]
    if u64::try_from(seen.st_blocks).unwrap_or(0) * 512 < length {
        return copy_parts(from, to, length, room);
    }
    io::copy(&mut from.take(length.min(room.saturating_add(1))), &mut &*to)
}

#[cfg(target_os = "linux")]
fn copy_parts(from: &File, to: &File, length: u64, room: u64) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    to.set_len(length)?;
    let (mut at, mut copied) = (0, 0);
    while at < length && copied <= room {
        let start = match seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = seek(from, SeekFrom::Hole(start)).unwrap_or(length).min(length);
        if start >= end {
            break;
        }
        seek(from, SeekFrom::Start(start))?;
        seek(to, SeekFrom::Start(start))?;
        let part = (end - start).min((room - copied).saturating_add(1));
        copied += io::copy(&mut from.take(part), &mut &*to)?;
        at = end;
    }
    Ok(copied)
}

/// How large a folder is.
pub(super) struct Size {
    /// Bytes of files, and of where links lead.
    pub(super) bytes: u64,
    entries: u64,
    /// Why it was not counted to its end.
    stopped: Option<WalkError>,
}

impl Size {
    /// Counts a folder, no further than to that many entries.
    pub(super) fn of(folder: &OpenFolder, max_entries: u64) -> Self {
        let mut size = Size { bytes: 0, entries: 0, stopped: None };
        size.stopped = size.count(folder, max_entries).err();
        size
    }

    fn count(&mut self, folder: &OpenFolder, max_entries: u64) -> Result<(), WalkError> {
        let mut walk = Walk::new(folder, max_entries)?;
        while let Some(event) = walk.next()? {
            let WalkEvent::Entry(entry) = event else { continue };
            self.entries += 1;
            if entry.kind() == EntryKind::Folder {
                walk.enter(&entry)?;
            } else {
                self.bytes = self.bytes.saturating_add(entry.len());
            }
        }
        Ok(())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size { bytes, entries, .. } = self;
        match &self.stopped {
            None => write!(f, "{bytes} bytes in {entries} files and folders"),
            Some(WalkError::TooManyEntries) => write!(f, "more than {entries} files and folders"),
            Some(WalkError::Io(_)) => write!(f, "at least {bytes} bytes in {entries} files and folders"),
        }
    }
}
