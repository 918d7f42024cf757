//! A session's folder: what `${workspace}` in a manifest means.
//!
//! Invariant: only folders that were made here are ever cleared or deleted. A folder that the user
//! names is copied from, or shared as it is.
//!
//! `workspace/root.rs` has the folder that all are in, `workspace/place.rs` holds that of one;
//! `workspace/copying.rs` copies folders, `workspace/archive.rs` makes bytes of them.

mod archive;
mod copying;
mod marks;
mod place;
mod root;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::folders::{OpenFolder, named};
use crate::snapshot_room::SnapshotRoom;
use copying::Copying;
use place::WorkspacePath;
use root::Root;

/// How long the end of what runs in a workspace is waited for before the workspace is deleted.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a folder that could not be removed is tried again: at first, and at most.
const MIN_REMOVE_PAUSE: Duration = Duration::from_millis(50);
const MAX_REMOVE_PAUSE: Duration = Duration::from_secs(4);

/// The content of a fresh workspace.
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
}

impl Default for WorkspaceLimits {
    fn default() -> Self {
        WorkspaceLimits { copied_bytes: 1 << 30, files: 100_000 }
    }
}

/// Where the workspaces of one server are; dropping it deletes those that were made.
#[derive(Debug)]
pub struct Workspaces {
    root: Arc<Root>,
    source: WorkspaceSource,
    limits: WorkspaceLimits,
    /// Set once the file system has refused to share blocks between files.
    cannot_share: Arc<AtomicBool>,
}

/// One session's folder; dropping it deletes it, unless it is shared, as soon as what runs in it has ended.
/// It holds one descriptor.
#[derive(Debug)]
pub struct Workspace {
    path: PathBuf,
    /// Where it was made; nothing if it is one that sessions share.
    place: Option<WorkspacePath>,
    /// The path of the first that it goes back to, which its agents know it by.
    known_as: PathBuf,
    source: WorkspaceSource,
    limits: WorkspaceLimits,
    cannot_share: Arc<AtomicBool>,
    running: TaskTracker,
    /// Held while it is made fresh: a refresh without a waiting caller still has to end first.
    renewing: Mutex<()>,
}

impl Workspaces {
    /// Makes a root below `parent`, and deletes roots there whose servers died without doing so.
    ///
    /// # Errors
    /// The file system's, with the path in it; also when a named folder is not a folder, or when it
    /// would be copied into itself.
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
        let root = Arc::new(Root::new(parent)?);
        Ok(Workspaces { root, source, limits: WorkspaceLimits::default(), cannot_share: Arc::default() })
    }

    /// Changes how much is taken along when a session is forked or saved.
    #[must_use]
    pub fn with_limits(mut self, limits: WorkspaceLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The file whose lock marks their folder as in use. A supervisor that runs programs in workspaces,
    /// and may outlive this process, holds a shared lock of it while they run.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.root.lock_path()
    }

    /// A workspace for one session, named after it. Blocks for as long as copying takes.
    ///
    /// # Errors
    /// The file system's, with the path in it; also for a name that is taken, or is more than the name
    /// of a folder.
    pub fn open(&self, name: &str) -> io::Result<Workspace> {
        if let WorkspaceSource::Shared(folder) = &self.source {
            let path = folder.canonicalize().map_err(|error| named(&error, "cannot find", folder))?;
            return Ok(self.own(path.clone(), None, path, self.source.clone()));
        }
        let place = WorkspacePath::make(&self.root, name)?;
        let known_as = place.path().to_owned();
        let workspace = self.with_source(place, known_as, self.source.clone());
        let folder = workspace.owned_path()?.open()?;
        workspace.fill(&folder)?;
        Ok(workspace)
    }

    /// A workspace for one session, named after it, with what [`Workspace::save`] has saved; `known_as` is
    /// what the saved one was known as. A reset makes it what resets make of any other here. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::InvalidData`] for bytes that are no saved
    /// workspace; then nothing has changed; [`io::ErrorKind::QuotaExceeded`] past a limit;
    /// [`io::ErrorKind::Unsupported`] where all sessions share one folder.
    pub fn restore(&self, name: &str, known_as: PathBuf, archive: &[u8]) -> io::Result<Workspace> {
        if let WorkspaceSource::Shared(folder) = &self.source {
            return Err(shared(folder));
        }
        let workspace =
            self.with_source(WorkspacePath::make(&self.root, name)?, known_as, self.source.clone());
        let folder = workspace.owned_path()?.open()?;
        archive::unpack(archive, &folder, self.limits)?;
        Ok(workspace)
    }

    /// Whether all sessions have one and the same folder.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.source, WorkspaceSource::Shared(_))
    }

    fn with_source(&self, place: WorkspacePath, known_as: PathBuf, source: WorkspaceSource) -> Workspace {
        self.own(place.path().to_owned(), Some(place), known_as, source)
    }

    fn own(
        &self,
        path: PathBuf,
        place: Option<WorkspacePath>,
        known_as: PathBuf,
        source: WorkspaceSource,
    ) -> Workspace {
        let (limits, cannot_share) = (self.limits, Arc::clone(&self.cannot_share));
        Workspace {
            path,
            place,
            known_as,
            source,
            limits,
            cannot_share,
            running: TaskTracker::new(),
            renewing: Mutex::default(),
        }
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        if let Err(error) = self.root.remove() {
            tracing::warn!(%error, "could not remove the workspaces");
        }
    }
}

impl Workspace {
    /// Where it is. The same path for the whole session.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path that its agents know it by: its own, or that of the one it was forked or saved from. What
    /// they have read before the fork names that one.
    #[must_use]
    pub fn known_as(&self) -> &Path {
        &self.known_as
    }

    /// What runs in it: it is deleted when all of that has ended, or 10 seconds after it was dropped.
    #[must_use]
    pub fn running(&self) -> &TaskTracker {
        &self.running
    }

    /// A new workspace with the present contents of this one, for a session of that name; a reset makes it
    /// what a reset makes of this one. Files share their blocks until one of the two is written to where the
    /// file system can do that, else they are copied. Modes and times are kept, links are copied and never
    /// followed, and those into this folder lead into the new one. What is neither file, folder nor link is
    /// left out with a warning. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit;
    /// [`io::ErrorKind::Unsupported`] for one that sessions share. Nothing half-made stays.
    pub fn fork(&self, workspaces: &Workspaces, name: &str) -> io::Result<Workspace> {
        let place = self.owned_path()?;
        let _alone = self.renewing.lock();
        let from = place.open()?;
        let made = WorkspacePath::make(&workspaces.root, name)?;
        let fork = workspaces.with_source(made, self.known_as.clone(), self.source.clone());
        let to = fork.owned_path()?.open()?;
        Copying::of_session(&from, place, &to, workspaces.limits, &workspaces.cannot_share).run()?;
        Ok(fork)
    }

    /// Its present contents as bytes for [`Workspaces::restore`]: the same contents give the same bytes.
    /// Blocks.
    ///
    /// # Errors
    /// The file system's, with the path in it; [`io::ErrorKind::QuotaExceeded`] past a limit, before anything
    /// is read; [`io::ErrorKind::Unsupported`] for one that sessions share, and for links that lead out of
    /// it.
    pub fn save(&self) -> io::Result<Vec<u8>> {
        self.save_onto(Vec::new(), SnapshotRoom::default())
    }

    /// Saves the folder behind bytes that are there already, all of which together have that room.
    ///
    /// # Errors
    /// As [`Workspace::save`].
    pub fn save_onto(&self, begun: Vec<u8>, room: SnapshotRoom) -> io::Result<Vec<u8>> {
        let place = self.owned_path()?;
        let _alone = self.renewing.lock();
        archive::pack(place, begun, self.limits, room)
    }

    /// Makes it what it was at first, for a new episode; a shared one stays as it is. Programs that go on
    /// writing into it do not make this fail; what they write meanwhile may be in it. Blocks.
    ///
    /// # Errors
    /// The file system's, with the path of the first thing that cannot be removed; all the rest is removed.
    pub fn renew(&self) -> io::Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let _alone = self.renewing.lock();
        match &self.source {
            WorkspaceSource::CopyOf(_) => place.refilled(|folder| self.fill(folder)),
            WorkspaceSource::Empty | WorkspaceSource::Shared(_) => place.emptied().map(drop),
        }
    }

    /// Puts into it what it holds at first.
    fn fill(&self, own: &OpenFolder) -> io::Result<()> {
        match &self.source {
            WorkspaceSource::Shared(_) | WorkspaceSource::Empty => Ok(()),
            WorkspaceSource::CopyOf(folder) => {
                Copying::of_source(&OpenFolder::open(folder)?, own, &self.cannot_share).run()
            }
        }
    }

    fn owned_path(&self) -> io::Result<&WorkspacePath> {
        self.place.as_ref().ok_or_else(|| shared(&self.path))
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let running = self.running.clone();
        running.close();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                // What has not ended by then cannot be ended.
                let _ = timeout(END_TIMEOUT, running.wait()).await;
                remove(place).await;
            })),
            Err(_) => drop(place.remove().inspect_err(cannot_remove)),
        }
    }
}

/// Deletes a workspace. What cannot be removed now, because the process has no descriptors left for instance,
/// is tried again a few times.
async fn remove(place: WorkspacePath) {
    let place = Arc::new(place);
    let mut pause = MIN_REMOVE_PAUSE;
    loop {
        let folder = Arc::clone(&place);
        // Deleting a folder takes as long as it takes, which is not for a thread that serves others.
        match tokio::task::spawn_blocking(move || folder.remove()).await {
            Ok(Err(error)) if pause > MAX_REMOVE_PAUSE => return cannot_remove(&error),
            Ok(Err(_)) => tokio::time::sleep(pause).await,
            Ok(Ok(())) | Err(_) => return,
        }
        pause *= 2;
    }
}

fn cannot_remove(error: &io::Error) {
    tracing::warn!(%error, "could not remove a workspace");
}

/// Why a folder that all sessions share has no copies.
fn shared(folder: &Path) -> io::Error {
    let message = format!(
        "all sessions share the workspace {}, so it can be neither forked nor saved; let each session have \
         a copy of it (without --share-workspace)",
        folder.display()
    );
    io::Error::new(io::ErrorKind::Unsupported, message)
}
