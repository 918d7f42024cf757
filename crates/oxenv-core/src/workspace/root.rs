//! The folder that the workspaces of one server are in, and the place of each in it.
//!
//! Invariant: both are reached by the descriptors that were opened when the server started. So a tool that puts a link
//! in the place of a workspace, or of the root, turns nothing to where that link leads.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;

use crate::folders::{self, OpenFolder, c_name, failed, named};

/// What the folders of all roots are called, before a server's own part.
const ROOT_PREFIX: &str = "oxenv-workspaces-";
const LOCK: &std::ffi::CStr = c"lock";

/// The folder of one server.
#[derive(Debug)]
pub(super) struct Root {
    parent: OpenFolder,
    name: CString,
    folder: OpenFolder,
    /// Its path without links.
    real: PathBuf,
    /// Held while the server lives, which tells others that the folder is in use.
    _lock: File,
}

/// The folder of one workspace in a root, which may be missing or be something else if a tool did that.
#[derive(Debug)]
pub(super) struct Place {
    root: Arc<Root>,
    name: CString,
    path: PathBuf,
    /// Its path without links, as the operating system tells it to programs that work there.
    real: PathBuf,
}

impl Root {
    /// Makes a root in a folder, and removes roots there whose servers died without doing so.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        let parent = OpenFolder::open(parent)?;
        remove_abandoned(&parent);
        let name = format!("{ROOT_PREFIX}{}", uuid::Uuid::new_v4().simple());
        let (path, name) = (parent.path().join(&name), c_name(name.as_ref())?);
        // Sessions' files are nobody else's business.
        let made = rustix::fs::mkdirat(&parent, &*name, Mode::RWXU);
        let folder = made.and_then(|()| parent.open_in(&name));
        let folder = folder.map_err(|errno| failed(errno, "cannot make", &path))?;
        let lock = lock(&folder).map_err(|error| named(&error, "cannot lock", &path))?;
        let real = path.canonicalize().map_err(|error| named(&error, "cannot find", &path))?;
        Ok(Root { parent, name, folder, real, _lock: lock })
    }

    /// Removes it with all workspaces. If something stays, it is tried again by the next server that starts here.
    ///
    /// # Errors
    /// The file system's, with the path of what cannot be removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_root(&self.parent, &self.name, &self.folder)
    }
}

impl Place {
    /// A new folder in the root, and nowhere else, because it will be removed.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::InvalidInput`] for what is no name of a folder.
    pub(super) fn make(root: &Arc<Root>, name: &str) -> io::Result<Self> {
        if Path::new(name).components().ne([Component::Normal(name.as_ref())]) {
            let message = format!("'{name}' is no name of a workspace");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (path, real) = (root.folder.path().join(name), root.real.join(name));
        let made = Place { root: Arc::clone(root), name: c_name(name.as_ref())?, path, real };
        made.make_folder().map_err(|errno| failed(errno, "cannot make", &made.path))?;
        Ok(made)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an absolute link to somewhere in it leads to, as a path from it.
    pub(super) fn inside(&self, leads: &Path) -> Option<PathBuf> {
        let inside = leads.strip_prefix(&self.path).or_else(|_| leads.strip_prefix(&self.real));
        inside.ok().map(Path::to_owned)
    }

    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::NotADirectory`] if a tool has replaced it.
    pub(super) fn open(&self) -> io::Result<OpenFolder> {
        self.root.folder.open_in(&self.name).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => {
                let message = format!(
                    "the workspace {} is no folder any more, because a program has put something else in its \
                     place; reset the session",
                    self.path.display()
                );
                io::Error::new(io::ErrorKind::NotADirectory, message)
            }
            errno => failed(errno, "cannot read", &self.path),
        })
    }

    /// Removes what is in it, and opens it. The folder itself stays, because processes may have it as theirs; what
    /// somebody put in its place goes.
    ///
    /// # Errors
    /// The file system's, with the path of the first thing that cannot be removed.
    pub(super) fn clear(&self) -> io::Result<OpenFolder> {
        folders::clear_in(&self.root.folder, &self.name)?;
        match self.make_folder() {
            Ok(()) | Err(Errno::EXIST) => self.open(),
            Err(errno) => Err(failed(errno, "cannot make", &self.path)),
        }
    }

    /// # Errors
    /// The file system's, with the path of the first thing that cannot be removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        folders::remove_in(&self.root.folder, &self.name)
    }

    fn make_folder(&self) -> Result<(), Errno> {
        rustix::fs::mkdirat(&self.root.folder, &*self.name, Mode::RWXU | Mode::RWXG | Mode::RWXO)
    }
}

/// Makes the lock of a new root and takes it. It gets its name only when it is held, or another server
/// that starts at this moment would take the root for an abandoned one.
fn lock(root: &OpenFolder) -> io::Result<File> {
    const UNNAMED: &str = "lock.new";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = File::from(rustix::fs::openat(root, UNNAMED, flags, Mode::RUSR | Mode::WUSR)?);
    lock.lock()?;
    rustix::fs::renameat(root, UNNAMED, root, LOCK)?;
    Ok(lock)
}

/// Removes a root, its lock last: what has a lock that nobody holds is found by the next server.
fn remove_root(parent: &OpenFolder, name: &CString, root: &OpenFolder) -> io::Result<()> {
    folders::clear(root, Some(LOCK))?;
    let unlocked = rustix::fs::unlinkat(root, LOCK, AtFlags::empty());
    let removed = unlocked.and_then(|()| rustix::fs::unlinkat(parent, &**name, AtFlags::REMOVEDIR));
    removed.map_err(|errno| failed(errno, "cannot remove", root.path()))
}

/// Removes roots that no server holds the lock of.
fn remove_abandoned(parent: &OpenFolder) {
    for name in roots_in(parent).unwrap_or_default() {
        let Ok(root) = parent.open_in(&name) else { continue };
        let Ok(lock) = lock_of(&root) else { continue };
        if lock.try_lock().is_ok()
            && let Err(error) = remove_root(parent, &name, &root)
        {
            tracing::debug!(%error, root = %root.path().display(), "could not remove abandoned workspaces");
        }
    }
}

fn roots_in(parent: &OpenFolder) -> Result<Vec<CString>, Errno> {
    let names = rustix::fs::Dir::read_from(parent)?.flatten().map(|entry| entry.file_name().to_owned());
    Ok(names.filter(|name| name.to_bytes().starts_with(ROOT_PREFIX.as_bytes())).collect())
}

/// The lock of a root of this user's. The folder that it is in may be open to other users, so it is taken for nothing
/// that it may not be.
fn lock_of(root: &OpenFolder) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let user = rustix::process::geteuid().as_raw();
    let lock = rustix::fs::openat(root, LOCK, flags, Mode::empty())?;
    let is_file = |mode: RawMode| FileType::from_raw_mode(mode) == FileType::RegularFile;
    let (folder, found) = (rustix::fs::fstat(root.as_fd())?, rustix::fs::fstat(&lock)?);
    let is_ours = folder.st_uid == user && is_file(found.st_mode);
    is_ours.then(|| File::from(lock)).ok_or(Errno::ACCESS)
}
