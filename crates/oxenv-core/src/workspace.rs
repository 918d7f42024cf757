//! A session's folder: what `${workspace}` in a manifest means.
//!
//! Invariant: only folders that were made here are ever cleared or deleted. A folder that the user
//! names is copied from, or shared as it is.
//!
//! `workspace/copying.rs` copies folders, `workspace/archive.rs` makes bytes of them.

mod archive;
mod copying;

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use copying::Copying;

/// What the folders of all roots are called, before a server's own part.
const ROOT_PREFIX: &str = "oxenv-workspaces-";
const LOCK: &str = "lock";

/// What a fresh workspace holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WorkspaceSource {
    /// Nothing.
    #[default]
    Empty,
    /// A copy of a folder.
    CopyOf(PathBuf),
    /// The folder itself, which all sessions share.
    Shared(PathBuf),
}

/// How much of a workspace is taken along when its session is forked or saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceLimits {
    /// Bytes that a fork copies; those that the two folders can share until one is written to are not
    /// counted. Default 1 GiB.
    pub copied_bytes: u64,
    /// Files, folders and links of a fork or an archive. Default 100,000.
    pub files: u64,
    /// Bytes of an archive. Default 256 MiB.
    pub saved_bytes: u64,
}

impl Default for WorkspaceLimits {
    fn default() -> Self {
        WorkspaceLimits { copied_bytes: 1 << 30, files: 100_000, saved_bytes: 256 << 20 }
    }
}

/// Where the workspaces of one server are; dropping it deletes those that were made.
#[derive(Debug)]
pub struct Workspaces {
    root: PathBuf,
    source: WorkspaceSource,
    limits: WorkspaceLimits,
    /// Set once the file system has refused to share blocks between files.
    cannot_share: Arc<AtomicBool>,
    /// Held while the server lives, which tells others that the folder is in use.
    _lock: File,
}

/// One session's folder; dropping it deletes it, unless it is shared.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    /// The path of the first that it goes back to, which its agents know it by.
    known_as: PathBuf,
    source: WorkspaceSource,
    limits: WorkspaceLimits,
    cannot_share: Arc<AtomicBool>,
    /// Held while it is made fresh: one that nobody waits for any more still has to end first.
    renewing: Mutex<()>,
}

impl Workspaces {
    /// Makes a root below `parent`, and deletes roots there whose servers died without doing so.
    ///
    /// # Errors
    /// The file system's, with the path in it; also when a named folder is none, or when it would be
    /// copied into itself.
    pub fn new(parent: &Path, source: WorkspaceSource) -> io::Result<Self> {
        if let WorkspaceSource::CopyOf(folder) | WorkspaceSource::Shared(folder) = &source
            && !folder.is_dir()
        {
            let message = format!("the workspace {} is not a folder", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
        }
        fs::create_dir_all(parent).map_err(|error| named(&error, "cannot make", parent))?;
        if let WorkspaceSource::CopyOf(folder) = &source
            && parent.canonicalize()?.starts_with(folder.canonicalize()?)
        {
            let (folder, parent) = (folder.display(), parent.display());
            let message =
                format!("copies of the workspace {folder} cannot be in {parent}, which is part of it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        remove_abandoned(parent);
        let root = parent.join(format!("{ROOT_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        make_private(&root).map_err(|error| named(&error, "cannot make", &root))?;
        let lock = lock(&root).map_err(|error| named(&error, "cannot lock", &root))?;
        let (limits, cannot_share) = (WorkspaceLimits::default(), Arc::default());
        Ok(Workspaces { root, source, limits, cannot_share, _lock: lock })
    }

    /// Changes how much is taken along when a session is forked or saved.
    #[must_use]
    pub fn with_limits(mut self, limits: WorkspaceLimits) -> Self {
        self.limits = limits;
        self
    }

    /// A workspace for one session, named after it. Blocks for as long as copying takes.
    ///
    /// # Errors
    /// The file system's, with the path in it; also for a name that is taken, or is more than the name
    /// of a folder.
    pub fn open(&self, name: &str) -> io::Result<Workspace> {
        let path = match &self.source {
            WorkspaceSource::Shared(folder) => {
                folder.canonicalize().map_err(|error| named(&error, "cannot find", folder))?
            }
            WorkspaceSource::Empty | WorkspaceSource::CopyOf(_) => self.make(name)?,
        };
        let workspace = self.own(path.clone(), path, self.source.clone());
        workspace.fill()?;
        Ok(workspace)
    }

    /// A workspace for one session, named after it, with what [`Workspace::save`] has saved; `known_as` is what
    /// the saved one was known as. A reset makes it what resets make of any other here. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::InvalidData`] for bytes that nobody saved, which
    /// then have changed nothing; [`io::ErrorKind::QuotaExceeded`] past a limit; [`io::ErrorKind::Unsupported`]
    /// where all sessions share one folder.
    pub fn restore(&self, name: &str, known_as: PathBuf, archive: &[u8]) -> io::Result<Workspace> {
        if let WorkspaceSource::Shared(folder) = &self.source {
            return Err(shared(folder));
        }
        let workspace = self.own(self.make(name)?, known_as, self.source.clone());
        archive::unpack(archive, &workspace.path, self.limits)?;
        Ok(workspace)
    }

    /// Whether all sessions have one and the same folder.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.source, WorkspaceSource::Shared(_))
    }

    fn own(&self, path: PathBuf, known_as: PathBuf, source: WorkspaceSource) -> Workspace {
        let (limits, cannot_share) = (self.limits, Arc::clone(&self.cannot_share));
        Workspace { path, known_as, source, limits, cannot_share, renewing: Mutex::default() }
    }

    /// A new folder below the root, and nowhere else, because it will be deleted.
    fn make(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.root.join(name);
        if Path::new(name).components().ne([Component::Normal(name.as_ref())]) {
            let message = format!("'{name}' is no name of a workspace");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        fs::create_dir(&path).map_err(|error| named(&error, "cannot make", &path))?;
        Ok(path)
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            tracing::warn!(%error, root = %self.root.display(), "could not delete the workspaces");
        }
    }
}

impl Workspace {
    /// Where it is. The same path for the whole session.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path that its agents know it by: its own, or that of the one it was forked or saved from. What they
    /// have read before the fork names that one.
    #[must_use]
    pub fn known_as(&self) -> &Path {
        &self.known_as
    }

    /// A new workspace with the present contents of this one, for a session of that name; a reset makes it
    /// what a reset makes of this one. Files share their blocks until one of the two is written to where the
    /// file system can do that, else they are copied. Modes and times are kept, links are copied and never
    /// followed, and those into this folder lead into the new one. What is neither file, folder nor link is left
    /// out with a warning. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit;
    /// [`io::ErrorKind::Unsupported`] for one that sessions share. Nothing half-made stays.
    pub fn fork(&self, workspaces: &Workspaces, name: &str) -> io::Result<Workspace> {
        self.refuse_shared()?;
        let _alone = self.renewing.lock();
        let fork = workspaces.own(workspaces.make(name)?, self.known_as.clone(), self.source.clone());
        Copying::of_session(&self.path, &fork.path, workspaces.limits, &workspaces.cannot_share).run()?;
        Ok(fork)
    }

    /// Its present contents as bytes for [`Workspaces::restore`]: the same contents give the same bytes. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit;
    /// [`io::ErrorKind::Unsupported`] for one that sessions share, and for links that lead out of it.
    pub fn save(&self) -> io::Result<Vec<u8>> {
        self.refuse_shared()?;
        let _alone = self.renewing.lock();
        archive::pack(&self.path, self.limits)
    }

    /// Makes it what it was at first, for a new episode; a shared one stays as it is. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it.
    pub fn renew(&self) -> io::Result<()> {
        if matches!(self.source, WorkspaceSource::Shared(_)) {
            return Ok(());
        }
        let _alone = self.renewing.lock();
        match self.path.symlink_metadata() {
            // The folder itself stays, because processes may have it as theirs.
            Ok(found) if found.is_dir() => self.clear()?,
            // Something else in its place, a link to elsewhere perhaps, goes as it is.
            Ok(_) => gone(fs::remove_file(&self.path), &self.path)?,
            Err(error) => gone(Err(error), &self.path)?,
        }
        self.fill()
    }

    fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path).map_err(|error| named(&error, "cannot read", &self.path))? {
            let entry = entry.map_err(|error| named(&error, "cannot read", &self.path))?;
            let path = entry.path();
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            gone(removed, &path)?;
        }
        Ok(())
    }

    fn fill(&self) -> io::Result<()> {
        match &self.source {
            WorkspaceSource::Shared(_) => Ok(()),
            WorkspaceSource::Empty => {
                fs::create_dir_all(&self.path).map_err(|error| named(&error, "cannot make", &self.path))
            }
            WorkspaceSource::CopyOf(folder) => {
                fs::create_dir_all(&self.path).map_err(|error| named(&error, "cannot make", &self.path))?;
                Copying::of_source(folder, &self.path, &self.cannot_share).run()
            }
        }
    }

    fn refuse_shared(&self) -> io::Result<()> {
        match &self.source {
            WorkspaceSource::Shared(folder) => Err(shared(folder)),
            WorkspaceSource::Empty | WorkspaceSource::CopyOf(_) => Ok(()),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if matches!(self.source, WorkspaceSource::Shared(_)) {
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, workspace = %self.path.display(), "could not delete a workspace");
        }
    }
}

/// Makes the lock of a new root and takes it. It gets its name only when it is held, or another server
/// that starts at this moment would take the root for an abandoned one.
fn lock(root: &Path) -> io::Result<File> {
    let unnamed = root.join("lock.new");
    let lock = File::create(&unnamed)?;
    lock.lock()?;
    fs::rename(unnamed, root.join(LOCK))?;
    Ok(lock)
}

/// What was to be removed may have been removed by its own program already.
fn gone(removed: io::Result<()>, path: &Path) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(&error, "cannot clear", path)),
        _ => Ok(()),
    }
}

/// Makes a folder that only its owner may look into: sessions' files are nobody else's business.
#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(path)
}

#[cfg(not(unix))]
fn make_private(path: &Path) -> io::Result<()> {
    fs::create_dir(path)
}

/// Why a folder that all sessions share has no copies.
fn shared(folder: &Path) -> io::Error {
    let message = format!(
        "all sessions share the workspace {}, so it can be neither forked nor saved; let each session have a copy \
         of it (without --share-workspace)",
        folder.display()
    );
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// Deletes roots that no server holds the lock of.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(ROOT_PREFIX));
        if !ours || path.is_symlink() {
            continue;
        }
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if lock.try_lock().is_ok()
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::debug!(%error, root = %path.display(), "could not delete abandoned workspaces");
        }
    }
}

fn named(error: &io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}
