//! The folder that the workspaces of one server are in, and the sweep of those that dead servers have left.
//!
//! Invariant: it is reached by the descriptors that were opened when the server started, so a tool that puts
//! a link in its place turns nothing to where that link leads. It is removed when its lock is no longer
//! held: the server holds it, and so do the supervisors of its tools, which outlive a server that is killed.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;

use crate::folders::{self, OpenFolder, c_name, failed, named, os_str};

/// The prefix of the folders of all roots, before a server's own part.
const ROOT_PREFIX: &str = "oxenv-workspaces-";
const LOCK_NAME: &std::ffi::CStr = c"lock";
/// How long to wait for the tools of a killed server; their supervisors end them within two seconds.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether they have ended.
const SWEEP_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the end of a server waits for the supervisors of its tools, which have been asked to end before.
const LOCK_TIMEOUT: Duration = Duration::from_millis(200);

/// The folder of one server.
#[derive(Debug)]
pub(super) struct Root {
    parent: OpenFolder,
    name: CString,
    folder: OpenFolder,
    /// Its path without links.
    real: PathBuf,
    /// Held while the server lives; it shows others that the folder is in use.
    lock: File,
    /// Dropped with it, which ends the sweep.
    _sweep: Option<Sender<()>>,
}

impl Root {
    /// Makes a root in a folder, and removes roots there whose servers died without doing so.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let parent = OpenFolder::open(parent)?;
        let sweep = (remove_abandoned(&parent) > 0).then(|| sweep(parent.path())).transpose()?;
        let name = format!("{ROOT_PREFIX}{}", uuid::Uuid::new_v4().simple());
        let (path, name) = (parent.path().join(&name), c_name(name.as_ref())?);
        // Sessions' files are private to their owner.
        let made = rustix::fs::mkdirat(&parent, &*name, Mode::RWXU);
        let folder = made.and_then(|()| parent.open_in(&name));
        let folder = folder.map_err(|errno| failed(errno, "cannot make", &path))?;
        let lock = lock(&folder).map_err(|error| named(&error, "cannot lock", &path))?;
        let real = path.canonicalize().map_err(|error| named(&error, "cannot find", &path))?;
        Ok(Root { parent, name, folder, real, lock, _sweep: sweep })
    }

    pub(super) fn folder(&self) -> &OpenFolder {
        &self.folder
    }

    /// Its path without links.
    pub(super) fn real(&self) -> &Path {
        &self.real
    }

    /// The file whose lock keeps others from removing it.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.real.join(os_str(LOCK_NAME))
    }

    /// Removes it with all workspaces. If something stays, it is tried again by the next server that starts
    /// here; the root itself stays while a supervisor of this server lives, whose tools could fill it again.
    ///
    /// # Errors
    /// The file system's, with the path of what cannot be removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        let began = Instant::now();
        while self.lock.try_lock().is_err() {
            if began.elapsed() > LOCK_TIMEOUT {
                return folders::clear(&self.folder, Some(LOCK_NAME));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        remove_root(&self.parent, &self.name, &self.folder)
    }
}

/// Makes the lock of a new root and takes it. It gets its name only when it is held, or another server
/// that starts at this moment would take the root for an abandoned one.
fn lock(root: &OpenFolder) -> io::Result<File> {
    const LOCK_BEFORE_RENAME: &str = "lock.new";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::openat(root, LOCK_BEFORE_RENAME, flags, Mode::RUSR | Mode::WUSR)?);
    // Shared with the supervisors of tools; a sweep needs it alone.
    lock.lock_shared()?;
    rustix::fs::renameat(root, LOCK_BEFORE_RENAME, root, LOCK_NAME)?;
    Ok(lock)
}

/// Removes a root, its lock last: a folder with an unheld lock is found by the next server.
fn remove_root(parent: &OpenFolder, name: &CString, root: &OpenFolder) -> io::Result<()> {
    folders::clear(root, Some(LOCK_NAME))?;
    let unlocked = rustix::fs::unlinkat(root, LOCK_NAME, AtFlags::empty());
    let removed = unlocked.and_then(|()| rustix::fs::unlinkat(parent, &**name, AtFlags::REMOVEDIR));
    removed.map_err(|errno| failed(errno, "cannot remove", root.path()))
}

/// Removes roots whose lock is not held; returns the number of roots whose lock is held.
fn remove_abandoned(parent: &OpenFolder) -> usize {
    let mut held = 0;
    for name in roots_in(parent).unwrap_or_default() {
        let Ok(root) = parent.open_in(&name) else { continue };
        let Ok(lock) = lock_of(&root) else { continue };
        if lock.try_lock().is_err() {
            held += 1;
        } else if let Err(error) = remove_root(parent, &name, &root) {
            tracing::debug!(%error, root = %root.path().display(), "could not remove abandoned workspaces");
        }
    }
    held
}

/// Removes abandoned roots once more while their tools end; over when the sender is dropped, or after a time.
fn sweep(parent: &Path) -> io::Result<Sender<()>> {
    let parent = OpenFolder::open(parent)?;
    let (sender, ended): (Sender<()>, Receiver<()>) = channel();
    let began = Instant::now();
    let sweeping = move || {
        // The root of this server itself is one of those that are held.
        while ended.recv_timeout(SWEEP_POLL_INTERVAL) == Err(RecvTimeoutError::Timeout)
            && began.elapsed() < SWEEP_TIMEOUT
            && remove_abandoned(&parent) > 1
        {}
    };
    std::thread::Builder::new().name("oxenv-sweep".to_owned()).spawn(sweeping)?;
    Ok(sender)
}

fn roots_in(parent: &OpenFolder) -> Result<Vec<CString>, Errno> {
    let names = rustix::fs::Dir::read_from(parent)?.flatten().map(|entry| entry.file_name().to_owned());
    Ok(names.filter(|name| name.to_bytes().starts_with(ROOT_PREFIX.as_bytes())).collect())
}

/// The lock of a root of this user's. The folder that it is in may be open to other users, so it is taken for
/// nothing that it may not be.
fn lock_of(root: &OpenFolder) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let user = rustix::process::geteuid().as_raw();
    let lock = rustix::fs::openat(root, LOCK_NAME, flags, Mode::empty())?;
    let is_file = |mode: RawMode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    let (folder, found) = (rustix::fs::fstat(root.as_fd())?, rustix::fs::fstat(&lock)?);
    let is_ours = folder.st_uid == user && is_file(found.st_mode);
    is_ours.then(|| File::from(lock)).ok_or(Errno::ACCESS)
}
