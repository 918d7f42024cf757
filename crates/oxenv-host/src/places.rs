//! Where processes run: their folders, their sockets, and what they may use.
//!
//! Invariant: a place goes with its process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxenv_core::{Workspace, WorkspaceSource, Workspaces};
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};

use crate::directory;
use crate::limits::{AppliedLimits, Limiter};
use crate::protocol::{ShownFolder, WorkerLimits, WorkerPlace};

/// The script that every worker runs.
const WORKER_SCRIPT: &str = include_str!("worker.py");

/// Makes places.
pub(crate) struct Places {
    /// The script and the sockets.
    shared: Workspace,
    temporaries: Workspaces,
    /// Working directories, where sessions have their own.
    directories: Mutex<Option<Arc<Directories>>>,
    limiter: Limiter,
    /// Whether each process has a network of its own, with loopback only.
    without_network: bool,
}

/// Where working directories come from.
struct Directories {
    /// The template's, which holds what the import writes as well.
    base: Arc<Workspace>,
    copies: Workspaces,
}

/// Where one process runs.
pub(crate) struct Place {
    /// For temporary files, and then its working directory if it has its own.
    folders: Vec<Arc<Workspace>>,
    /// Those of the process that it was copied from first, at whose paths it sees its own.
    first: Vec<Arc<Workspace>>,
    without_network: bool,
    pub(crate) limits: AppliedLimits,
}

/// A socket that one worker connects to; its file goes with it.
pub(crate) struct Socket {
    pub(crate) path: PathBuf,
    listener: UnixListener,
}

impl Places {
    /// Places whose working directories are copies of a folder; absent: the present one.
    ///
    /// # Errors
    /// The folder cannot be copied, or a limit cannot be set.
    pub(crate) fn new(
        folder: Option<&Path>,
        limits: WorkerLimits,
        without_network: bool,
    ) -> io::Result<Self> {
        let temporaries = Workspaces::new(&std::env::temp_dir(), WorkspaceSource::Empty)?;
        let shared = temporaries.open("host")?;
        std::fs::write(shared.path().join("worker.py"), WORKER_SCRIPT)?;
        let directories = folder.map(|folder| Directories::copy(folder, temporaries.open("folder")?));
        let directories = Mutex::new(directories.transpose()?);
        Ok(Places { shared, temporaries, directories, limiter: Limiter::new(limits)?, without_network })
    }

    /// Copies a folder again, for processes that are started from now on.
    pub(crate) fn renew(&self, folder: &Path, generation: u64) -> io::Result<()> {
        let base = self.temporaries.open(&format!("folder-{generation}"))?;
        let renewed = Directories::copy(folder, base)?;
        *self.directories.lock() = Some(renewed);
        Ok(())
    }

    pub(crate) fn script(&self) -> PathBuf {
        self.shared.path().join("worker.py")
    }

    /// What each worker may use, for people.
    pub(crate) fn limits(&self) -> Option<String> {
        self.limiter.describe()
    }

    pub(crate) fn socket(&self, worker: u64) -> io::Result<Socket> {
        let path = self.shared.path().join(format!("{worker}.socket"));
        let listener = UnixListener::bind(&path)?;
        Ok(Socket { path, listener })
    }

    /// The place of a worker. A copy takes as long as it takes, so no thread that serves others makes it.
    pub(crate) async fn worker(self: &Arc<Self>, number: u64) -> io::Result<Place> {
        let mut place = self.folders(number).await?;
        place.limits = self.limiter.apply(number)?;
        place.without_network = self.without_network;
        Ok(place)
    }

    /// Folders for a worker that is in a place already, whose limits and network stay.
    pub(crate) async fn folders(self: &Arc<Self>, number: u64) -> io::Result<Place> {
        let places = Arc::clone(self);
        let making = move || {
            let name = number.to_string();
            let mut folders = vec![Arc::new(places.temporaries.open(&name)?)];
            if let Some(directories) = places.directories.lock().clone() {
                folders.push(Arc::new(directories.copies.open(&name)?));
            }
            Ok(Place { folders, first: Vec::new(), without_network: false, limits: AppliedLimits::default() })
        };
        tokio::task::spawn_blocking(making).await.map_err(io::Error::other)?
    }

    /// The place of a worker that goes on from the present state of another, whose folders it gets copies
    /// of.
    pub(crate) async fn copy(self: &Arc<Self>, number: u64, original: &Place) -> io::Result<Place> {
        let places = Arc::clone(self);
        let folders = original.folders.clone();
        let first = if original.first.is_empty() { folders.clone() } else { original.first.clone() };
        let making = move || {
            let name = number.to_string();
            let mut copies = Vec::with_capacity(folders.len());
            if let Some(temporary) = folders.first() {
                copies.push(Arc::new(temporary.fork(&places.temporaries, &name)?));
            }
            if let (Some(directory), Some(directories)) = (folders.get(1), places.directories.lock().clone())
            {
                copies.push(Arc::new(directory.fork(&directories.copies, &name)?));
            }
            Ok(Place {
                folders: copies,
                first,
                without_network: false,
                limits: places.limiter.apply(number)?,
            })
        };
        tokio::task::spawn_blocking(making).await.map_err(io::Error::other)?
    }

    /// The place of a template; the working directories of workers are copies of its own.
    pub(crate) fn template(&self, number: u64) -> io::Result<Place> {
        let mut folders = vec![Arc::new(self.temporaries.open(&format!("template-{number}"))?)];
        folders.extend(self.directories.lock().as_ref().map(|directories| Arc::clone(&directories.base)));
        Ok(Place {
            folders,
            first: Vec::new(),
            without_network: self.without_network,
            limits: AppliedLimits::default(),
        })
    }
}

impl Directories {
    fn copy(folder: &Path, base: Workspace) -> io::Result<Arc<Self>> {
        directory::copy(folder, base.path())?;
        let source = WorkspaceSource::CopyOf(base.path().to_owned());
        let copies = Workspaces::new(&std::env::temp_dir(), source)?;
        Ok(Arc::new(Directories { base: Arc::new(base), copies }))
    }
}

impl Place {
    /// The place of a session that has none of its own: that of its template.
    pub(crate) fn shared() -> Self {
        Place {
            folders: Vec::new(),
            first: Vec::new(),
            without_network: false,
            limits: AppliedLimits::default(),
        }
    }

    /// Whether its process sees its folders at the paths of others.
    pub(crate) fn is_copy(&self) -> bool {
        !self.first.is_empty()
    }

    /// The folders of a copy, with the paths at which it sees them.
    pub(crate) fn shown_folders(&self) -> Vec<ShownFolder> {
        let pairs = self.folders.iter().zip(&self.first);
        pairs
            .map(|(own, first)| ShownFolder {
                path: own.path().to_owned(),
                shown_at: first.path().to_owned(),
            })
            .collect()
    }

    /// Moves to other folders, and keeps limits and network.
    pub(crate) fn move_to(&mut self, other: Place) {
        self.folders = other.folders;
    }

    /// The part of a request that names it.
    pub(crate) fn request(&self) -> WorkerPlace<'_> {
        WorkerPlace {
            temporary: self.folders.first().map(|folder| folder.path()),
            directory: self.folders.get(1).map(|folder| folder.path()),
            without_network: self.without_network,
            limits: self.limits.rlimits,
            groups: &self.limits.groups,
        }
    }
}

impl Socket {
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
