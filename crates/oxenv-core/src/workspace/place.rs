//! The folder of one workspace: held by descriptor from when it is made to when it is deleted.
//!
//! Invariant: what is read, emptied or deleted is the folder that was made, wherever its path leads now.
//! One that a program has moved out of the root is left to that program; what has been put in its place
//! goes with the root, and a link there is removed by itself.

use std::ffi::CString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Dir, Mode};
use rustix::io::Errno;

use super::marks::Marks;
use super::root::Root;
use crate::folders::{self, Aside, OpenFolder, c_name, failed, stat_in};

/// The pauses between attempts to delete a folder into which a program still writes.
const DELETE_RETRY_PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
    Duration::from_millis(1000),
];

/// How often a folder is made again in the place of one that was replaced, while a program does the same.
const MAX_ATTEMPTS: u32 = 16;
/// The mode of a workspace, less what the process's mask takes.
const OPEN_TO_ALL: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// The folder of one workspace in a root, which may be gone or be somewhere else if a tool did that.
#[derive(Debug)]
pub(super) struct WorkspacePath {
    root: Arc<Root>,
    name: CString,
    path: PathBuf,
    /// Its path without links, as the operating system gives it to programs that work there.
    real: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    folder: Arc<OpenFolder>,
    /// Folders in the root that took in what could not be deleted at a reset.
    aside: Vec<CString>,
}

impl WorkspacePath {
    /// A new folder in the root, and nowhere else, because it will be removed.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::InvalidInput`] for what is no name of a
    /// folder.
    pub(super) fn make(root: &Arc<Root>, name: &str) -> io::Result<Self> {
        if Path::new(name).components().ne([Component::Normal(name.as_ref())]) {
            let message = format!("'{name}' is no name of a workspace");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let (path, real) = (root.folder().path().join(name), root.real().join(name));
        let name = c_name(name.as_ref())?;
        let folder = Arc::new(make_folder(root, &name, OPEN_TO_ALL)?);
        let held = Mutex::new(Held { folder, aside: Vec::new() });
        Ok(WorkspacePath { root: Arc::clone(root), name, path, real, held })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What an absolute link to somewhere in it leads to, as a path from it.
    pub(super) fn inside(&self, leads: &Path) -> Option<PathBuf> {
        let inside = leads.strip_prefix(&self.path).or_else(|_| leads.strip_prefix(&self.real));
        inside.ok().map(Path::to_owned)
    }

    /// The folder, for callers that read or fill it.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::NotADirectory`] if a tool has replaced it.
    pub(super) fn open(&self) -> io::Result<Arc<OpenFolder>> {
        let folder = Arc::clone(&self.held.lock().folder);
        if self.has_in_place(&folder)? {
            return Ok(folder);
        }
        let message = format!(
            "the workspace {} is not the folder any more that was made for its session, because a program \
             has removed it or put something else in its place; reset the session",
            self.path.display()
        );
        Err(io::Error::new(io::ErrorKind::NotADirectory, message))
    }

    /// Makes it empty. It stays the same folder, because processes may have it as theirs, unless it was
    /// replaced. Programs that go on writing cannot make this fail: what they keep from being deleted is
    /// moved aside.
    ///
    /// # Errors
    /// The file system's, with the path of the first thing that cannot be removed.
    pub(super) fn emptied(&self) -> io::Result<Arc<OpenFolder>> {
        let folder = Arc::clone(&self.held.lock().folder);
        if !self.has_in_place(&folder)? {
            return self.remade(&folder);
        }
        match folders::clear(&folder, None) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                Aside::new(&Temporary::new(self)?.folder).take_all(&folder)?;
            }
            cleared => cleared?,
        }
        Ok(folder)
    }

    /// Makes another folder in the place of one that was replaced.
    fn remade(&self, folder: &OpenFolder) -> io::Result<Arc<OpenFolder>> {
        let in_the_way = Temporary::new(self)?;
        let mut aside = Aside::new(&in_the_way.folder);
        if let Ok(Some(name)) = self.other_name(folder) {
            aside.take(self.root.folder(), &name)?;
        }
        let mut attempts = 0;
        let made = loop {
            aside.take(self.root.folder(), &self.name)?;
            match make_folder(&self.root, &self.name, OPEN_TO_ALL) {
                // A program has made it again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                }
                made => break Arc::new(made?),
            }
        };
        self.held.lock().folder = Arc::clone(&made);
        Ok(made)
    }

    /// Makes it empty, and puts into it what `fill` puts into a folder, also beside programs that go on
    /// writing.
    ///
    /// # Errors
    /// As [`WorkspacePath::emptied`]; and those of `fill`.
    pub(super) fn refilled(&self, fill: impl FnOnce(&OpenFolder) -> io::Result<()>) -> io::Result<()> {
        let folder = self.emptied()?;
        // Nothing else refers to this folder yet, so nothing interferes while it is filled.
        let made = Temporary::new(self)?;
        fill(&made.folder)?;
        let in_the_way = Temporary::new(self)?;
        Aside::new(&in_the_way.folder).replace_all(&made.folder, &folder)?;
        let marks = Marks::of(&made.folder.stat()?);
        marks.put_on(&*folder).map_err(|errno| failed(errno, "cannot make", &self.path))
    }

    /// Deletes it with everything in it. While a program still writes into it this is tried again, a few
    /// times. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path of the first thing that cannot be removed; it is tried again when the
    /// server ends, and when the next one starts.
    pub(super) fn remove(&self) -> io::Result<()> {
        let folder = Arc::clone(&self.held.lock().folder);
        let mut pauses = DELETE_RETRY_PAUSES.into_iter();
        loop {
            let removed = self.remove_from_root(&folder).and_then(|()| self.remove_aside());
            match (removed, pauses.next()) {
                (Err(error), Some(pause)) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(pause);
                }
                (removed, _) => return removed,
            }
        }
    }

    /// Deletes what has its name in the root, and the folder itself if it is in the root under another one.
    fn remove_from_root(&self, folder: &OpenFolder) -> io::Result<()> {
        match folders::remove_in(self.root.folder(), &self.name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match self.other_name(folder) {
            Ok(Some(name)) => folders::remove_in(self.root.folder(), &name),
            // It was deleted, by this or by a program, or is somewhere else.
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// The present name of the folder in the root.
    fn other_name(&self, folder: &OpenFolder) -> Result<Option<CString>, Errno> {
        let root = self.root.folder();
        // One that was deleted still names its parent.
        if rustix::fs::fstat(folder)?.st_nlink == 0 || !folder.parent()?.is(&rustix::fs::fstat(root)?)? {
            return Ok(None);
        }
        let mut names = Dir::read_from(root)?.flatten().map(|entry| entry.file_name().to_owned());
        Ok(names.find(|name| stat_in(root, name).and_then(|found| folder.is(&found)).unwrap_or(false)))
    }

    fn remove_aside(&self) -> io::Result<()> {
        let aside = self.held.lock().aside.clone();
        for name in aside {
            match folders::remove_in(self.root.folder(), &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether its name in the root is that of the folder.
    fn has_in_place(&self, folder: &OpenFolder) -> io::Result<bool> {
        let found = match stat_in(self.root.folder(), &self.name) {
            Err(Errno::NOENT) => return Ok(false),
            found => found,
        };
        found.and_then(|found| folder.is(&found)).map_err(|errno| failed(errno, "cannot read", &self.path))
    }
}

/// A folder of ours in the root; deleted with everything in it when it is dropped. What cannot be deleted
/// then is when the workspace is.
struct Temporary<'a> {
    place: &'a WorkspacePath,
    name: CString,
    folder: OpenFolder,
}

impl<'a> Temporary<'a> {
    fn new(place: &'a WorkspacePath) -> io::Result<Self> {
        let name = c_name(format!("aside-{}", uuid::Uuid::new_v4().simple()).as_ref())?;
        let folder = make_folder(&place.root, &name, Mode::RWXU)?;
        Ok(Temporary { place, name, folder })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if let Err(error) = folders::remove_in(self.place.root.folder(), &self.name) {
            tracing::debug!(%error, "what a reset has moved aside is deleted later");
            self.place.held.lock().aside.push(std::mem::take(&mut self.name));
        }
    }
}

fn make_folder(root: &Root, name: &CString, mode: Mode) -> io::Result<OpenFolder> {
    let made = rustix::fs::mkdirat(root.folder(), &**name, mode).and_then(|()| root.folder().open_in(name));
    made.map_err(|errno| failed(errno, "cannot make", &root.folder().path().join(folders::os_str(name))))
}
