//! Copies a folder: its files with their modes, times and holes, its folders, its symbolic links as links.
//!
//! Invariant: no link is ever followed, so nothing outside of the folder is read; what fails leaves what
//! was copied so far to whoever owns the target.

use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{WorkspaceLimits, named};

/// A folder being copied.
pub(super) struct Copying<'a> {
    from: &'a Path,
    to: &'a Path,
    limits: WorkspaceLimits,
    /// Whether it is a session's own: then links into it are turned to the copy.
    of_session: bool,
    /// Set once the file system has refused to share blocks between files.
    cannot_share: &'a AtomicBool,
    bytes: u64,
    files: u64,
}

impl<'a> Copying<'a> {
    /// The copy of a folder that the user named: all of it, each folder open to its owner, who has to be
    /// able to clear it.
    pub(super) fn of_source(from: &'a Path, to: &'a Path, cannot_share: &'a AtomicBool) -> Self {
        let limits = WorkspaceLimits { copied_bytes: u64::MAX, files: u64::MAX, saved_bytes: u64::MAX };
        Copying { from, to, limits, of_session: false, cannot_share, bytes: 0, files: 0 }
    }

    /// The copy of a session's folder for another session.
    pub(super) fn of_session(
        from: &'a Path,
        to: &'a Path,
        limits: WorkspaceLimits,
        cannot_share: &'a AtomicBool,
    ) -> Self {
        Copying { from, to, limits, of_session: true, cannot_share, bytes: 0, files: 0 }
    }

    /// Copies what is in it into the target, which is there.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit.
    pub(super) fn run(mut self) -> io::Result<()> {
        let (from, to) = (self.from, self.to);
        let seen = fs::symlink_metadata(from).map_err(|error| named(&error, "cannot read", from))?;
        self.contents(from, to)?;
        self.finish_folder(to, &seen)
    }

    fn contents(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        for entry in fs::read_dir(from).map_err(|error| named(&error, "cannot read", from))? {
            let entry = entry.map_err(|error| named(&error, "cannot read", from))?;
            let source = entry.path();
            match self.entry(&source, &to.join(entry.file_name())) {
                // Programs that still run may remove their temporary files meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && to.is_dir() => {}
                copied => copied?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, source: &Path, target: &Path) -> io::Result<()> {
        let seen = fs::symlink_metadata(source).map_err(|error| named(&error, "cannot read", source))?;
        self.files += 1;
        within(self.from, "files and folders", self.files, self.limits.files)?;
        let kind = seen.file_type();
        if kind.is_dir() {
            fs::create_dir(target).map_err(|error| named(&error, "cannot make", target))?;
            self.contents(source, target)?;
            self.finish_folder(target, &seen)
        } else if kind.is_symlink() {
            self.link(source, target).map_err(|error| named(&error, "cannot copy", source))
        } else if kind.is_file() {
            self.file(source, target, &seen)
        } else {
            tracing::warn!(path = %source.display(), "not copied: it is no file, folder or link");
            Ok(())
        }
    }

    fn file(&mut self, source: &Path, target: &Path, seen: &Metadata) -> io::Result<()> {
        let failed = |error: io::Error| named(&error, "cannot copy", source);
        let (from, to) = (open(source).map_err(failed)?, create(target).map_err(failed)?);
        if !self.shares(&from, &to) {
            let room = self.limits.copied_bytes - self.bytes;
            self.bytes += copy_data(&from, &to, seen, room).map_err(failed)?;
            within(self.from, "bytes", self.bytes, self.limits.copied_bytes)?;
        }
        to.set_permissions(seen.permissions()).map_err(failed)?;
        to.set_times(FileTimes::new().set_modified(seen.modified()?)).map_err(failed)
    }

    /// Lets the copy have the same blocks until one of the two is written to, where the file system can.
    #[cfg(target_os = "linux")]
    fn shares(&self, from: &File, to: &File) -> bool {
        use rustix::io::Errno;
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

    fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        let mut leads = fs::read_link(source)?;
        if self.of_session
            && let Some(inside) = inside(self.from, &leads)
        {
            leads = self.to.join(inside);
        }
        symlink(leads, target)
    }

    /// Once it is filled, because filling it changes its time, and its mode may forbid it.
    fn finish_folder(&self, target: &Path, seen: &Metadata) -> io::Result<()> {
        let failed = |error: io::Error| named(&error, "cannot copy", target);
        let folder = File::open(target).map_err(failed)?;
        let mut permissions = seen.permissions();
        if !self.of_session {
            permissions.set_mode(permissions.mode() | 0o700);
        }
        folder.set_permissions(permissions).map_err(failed)?;
        folder.set_times(FileTimes::new().set_modified(seen.modified()?)).map_err(failed)
    }
}

/// Refuses what is more than it may be.
///
/// # Errors
/// [`io::ErrorKind::QuotaExceeded`] with the folder, its size and the limit.
pub(super) fn within(folder: &Path, what: &str, found: u64, limit: u64) -> io::Result<()> {
    if found <= limit {
        return Ok(());
    }
    let (folder, whole) = (folder.display(), measure(folder));
    let message = format!(
        "the workspace {folder} has {} bytes in {} files and folders, and no more than {limit} {what} are \
         taken along; remove what is not needed, or keep it outside of the workspace",
        whole.0, whole.1
    );
    Err(io::Error::new(io::ErrorKind::QuotaExceeded, message))
}

/// The path of a link's target within a folder, if it is an absolute one into it.
pub(super) fn inside(folder: &Path, leads: &Path) -> Option<PathBuf> {
    if let Ok(inside) = leads.strip_prefix(folder) {
        return Some(inside.to_owned());
    }
    let real = folder.canonicalize().ok()?;
    leads.strip_prefix(real).ok().map(Path::to_owned)
}

/// Opens a file for reading: neither a link nor anything that would wait for somebody.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Makes a file that only its owner can open until its mode is set.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Copies what a file holds, and leaves its holes holes; gives the bytes that were copied. It ends soon after more
/// than `room` of them.
fn copy_data(from: &File, to: &File, seen: &Metadata, room: u64) -> io::Result<u64> {
    let length = seen.len();
    #[cfg(target_os = "linux")]
    if seen.blocks() * 512 < length {
        return copy_parts(from, to, length, room);
    }
    io::copy(&mut from.take(length.min(room.saturating_add(1))), &mut &*to)
}

#[cfg(target_os = "linux")]
fn copy_parts(from: &File, to: &File, length: u64, room: u64) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
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

/// The bytes and the entries of a folder, as far as they can be told.
fn measure(folder: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        files += 1;
        match entry.metadata() {
            Ok(found) if found.is_dir() => {
                let (inner_bytes, inner_files) = measure(&entry.path());
                bytes += inner_bytes;
                files += inner_files;
            }
            Ok(found) => bytes += found.len(),
            Err(_) => {}
        }
    }
    (bytes, files)
}
