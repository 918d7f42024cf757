//! The host: starts the template, keeps spare workers, and starts all of it again when it is lost.
//!
//! Invariant: a spare has imported the environment and made nothing of it, so it is new to any session
//! that takes it; no worker serves two sessions.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oxenv_core::{Workspace, WorkspaceSource, Workspaces};
use oxenv_process::child::{Child, ChildSpec, Supervisor};
use oxenv_process::secret::Redactor;
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::directory;
use crate::frames::FrameStream;
use crate::limits::{AppliedLimits, Limiter};
use crate::log_tail::LogTail;
use crate::protocol::{
    ErrorKind, HostSource, Loaded, Reply, TemplateRequest, WorkerError, WorkerLimits, WorkerPlace,
};
use crate::template::{Template, WorkerExit};
use crate::worker::{Worker, WorkerProcess};

/// The script that every worker runs.
const WORKER_SCRIPT: &str = include_str!("worker.py");
/// How long a Python has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// How long a forked process has to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Threads of a template that can be forked safely.
const MAX_FORKABLE_THREADS: usize = 1;
/// Libraries that start threads when they are imported are configured to start one.
const ONE_THREAD: [&str; 4] =
    ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

/// In what sessions are kept apart from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each session is a forked child of a process that has imported the environment.
    Fork,
    /// Each session is a Python that imports the environment itself: slower to start, and right for what
    /// cannot be forked.
    Fresh,
}

/// How an environment is run.
pub struct HostOptions {
    /// The served environment.
    pub source: HostSource,
    /// The Python to run it with.
    pub python: PathBuf,
    /// The whole environment of its processes: nothing is inherited.
    pub environment: Vec<(OsString, OsString)>,
    /// How sessions are kept apart; absent: forked where that is safe.
    pub isolation: Option<Isolation>,
    /// Workers that are kept ready for the next sessions.
    pub spares: usize,
    /// The folder of which each session gets a copy as its working directory; absent: all share the present.
    pub directory: Option<PathBuf>,
    /// `simulation` or `production`, which the environment finds in `OPENENV_MODE`.
    pub mode: &'static str,
    /// What each worker may use.
    pub limits: WorkerLimits,
    /// How long importing may take.
    pub import_timeout: Duration,
    /// What starts and ends processes.
    pub supervisor: Supervisor,
}

/// Why an environment cannot be served.
#[derive(Debug)]
pub struct HostError {
    /// What happened and what to do about it.
    pub message: String,
    /// The module that is not installed, if that is why.
    pub missing_module: Option<String>,
}

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for HostError {}

impl HostError {
    fn new(message: impl Into<String>) -> Self {
        HostError { message: message.into(), missing_module: None }
    }

    fn import(error: WorkerError, lines: &str) -> Self {
        let shown = match error.kind {
            ErrorKind::Host => error.message,
            _ => match error.trace {
                Some(trace) => format!("the environment cannot be imported: {}\n{trace}", error.message),
                None => format!("the environment cannot be imported: {}", error.message),
            },
        };
        let message = if lines.is_empty() { shown } else { format!("{shown}\nits output:\n{lines}") };
        HostError { message, missing_module: error.module }
    }
}

impl From<io::Error> for HostError {
    fn from(error: io::Error) -> Self {
        HostError::new(error.to_string())
    }
}

/// An imported environment, and what makes workers of it.
pub struct Host {
    options: HostOptions,
    isolation: Isolation,
    loaded: Loaded,
    /// The script and the sockets.
    place: Arc<Workspace>,
    limiter: Limiter,
    /// Working directories, where sessions have their own.
    directories: Option<Directories>,
    temporaries: Workspaces,
    template: AsyncMutex<Option<Arc<Template>>>,
    spares: Mutex<VecDeque<Worker>>,
    /// Held by the one task that makes spares.
    filling: AsyncMutex<()>,
    numbers: AtomicU64,
    /// Workers that close their environments.
    closing: TaskTracker,
}

impl Host {
    /// Imports the environment.
    ///
    /// # Errors
    /// Python cannot be started, or the environment cannot be imported: explains why and what to
    /// do.
    pub async fn start(options: HostOptions) -> Result<Arc<Self>, HostError> {
        let temporaries = Workspaces::new(&std::env::temp_dir(), WorkspaceSource::Empty)?;
        let place = Arc::new(temporaries.open("host")?);
        std::fs::write(place.path().join("worker.py"), WORKER_SCRIPT)?;
        let directories = match &options.directory {
            None => None,
            Some(folder) => {
                let base = Arc::new(temporaries.open("folder")?);
                directory::copy(folder, base.path())?;
                let source = WorkspaceSource::CopyOf(base.path().to_owned());
                Some(Directories { base, copies: Workspaces::new(&std::env::temp_dir(), source)? })
            }
        };
        let mut host = Host {
            isolation: options.isolation.unwrap_or(Isolation::Fork),
            loaded: Loaded::default(),
            limiter: Limiter::new(options.limits)?,
            options,
            place,
            directories,
            temporaries,
            template: AsyncMutex::new(None),
            spares: Mutex::default(),
            filling: AsyncMutex::new(()),
            numbers: AtomicU64::new(0),
            closing: TaskTracker::new(),
        };
        let (template, loaded) = host.load_template().await?;
        let forkable = loaded.threads <= MAX_FORKABLE_THREADS && !loaded.cuda;
        if host.options.isolation.is_none() && !forkable {
            host.isolation = Isolation::Fresh;
        }
        host.loaded = loaded;
        if host.isolation == Isolation::Fork {
            host.template = AsyncMutex::new(Some(template));
        }
        Ok(Arc::new(host))
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    pub(crate) fn mode(&self) -> &'static str {
        self.options.mode
    }

    /// How sessions are kept apart.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// What each worker may use, and what enforces that, for people; absent without limits.
    #[must_use]
    pub fn limits(&self) -> Option<String> {
        self.limiter.describe()
    }

    /// Notes to print at the start, for people.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.loaded.notes.iter().map(String::as_str)
    }

    /// The version of Python that runs the environment.
    #[must_use]
    pub fn python_version(&self) -> &str {
        &self.loaded.python
    }

    /// A worker that has imported the environment, and has no session so far.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Worker, HostError> {
        let spare = std::iter::from_fn(|| self.spares.lock().pop_front()).find(|worker| !worker.has_ended());
        let worker = match spare {
            Some(worker) => worker,
            None => self.make().await?,
        };
        self.fill_up();
        Ok(worker)
    }

    /// Lets a worker close its environment; nothing waits.
    pub(crate) fn dismiss(&self, worker: Worker) {
        self.closing.spawn(worker.close());
    }

    /// Waits until the workers of ended sessions are gone, and ends what is left. No session is made any
    /// more.
    pub async fn close(&self) {
        self.closing.close();
        self.closing.wait().await;
        let template = self.template.lock().await.take();
        drop(std::mem::take(&mut *self.spares.lock()));
        if let Some(template) = template {
            template.close().await;
        }
    }

    /// Makes the spares that are missing, without waiting.
    pub(crate) fn fill_up(self: &Arc<Self>) {
        let host = Arc::clone(self);
        if self.closing.is_closed() {
            return;
        }
        self.closing.spawn(async move {
            let Ok(_alone) = host.filling.try_lock() else { return };
            while host.spares.lock().len() < host.options.spares && !host.closing.is_closed() {
                match host.make().await {
                    Ok(worker) => host.spares.lock().push_back(worker),
                    Err(error) => return tracing::warn!(%error, "no spare worker could be made"),
                }
            }
        });
    }

    async fn make(self: &Arc<Self>) -> Result<Worker, HostError> {
        match self.isolation {
            Isolation::Fork => match self.fork().await {
                // It was lost just now: the next one imports the environment again.
                Err(_) if self.template_is_lost().await => self.fork().await,
                made => made,
            },
            Isolation::Fresh => self.start_fresh().await,
        }
    }

    async fn fork(self: &Arc<Self>) -> Result<Worker, HostError> {
        let template = self.live_template().await?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let folders = self.folders(number).await?;
        let socket = Socket::bind(self.place.path(), number)?;
        let mut exit = template.fork(number, &socket.path, folders.place())?;
        let connecting = async {
            let stream = socket.accept().await?;
            io::Result::Ok((stream, LogTail::of(socket.accept().await?)))
        };
        let (stream, log) = tokio::select! {
            connected = timeout(CONNECT_TIMEOUT, connecting) => connected.map_err(|_| HostError::new(
                "a forked process does not connect; does the import leave locks or threads behind? \
                 --isolation fresh does without forks"
            ))??,
            ended = exit.wait_for(Option::is_some) => {
                let how = ended.ok().and_then(|ended| ended.clone()).unwrap_or(WorkerExit::Lost);
                return Err(HostError::new(format!("a forked process {how}")));
            }
        };
        let process = WorkerProcess::Forked { number, exit, template };
        Ok(Worker::new(stream, log, process, folders.all, folders.limits))
    }

    async fn start_fresh(self: &Arc<Self>) -> Result<Worker, HostError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let folders = self.folders(number).await?;
        let (child, connection, _) = self.load("session", folders.place()).await?;
        let process = WorkerProcess::Own(child);
        Ok(Worker::new(connection.into_stream(), LogTail::default(), process, folders.all, folders.limits))
    }

    async fn template_is_lost(&self) -> bool {
        self.template.lock().await.as_ref().is_some_and(|template| template.is_lost())
    }

    /// The template, started again if it was lost.
    async fn live_template(&self) -> Result<Arc<Template>, HostError> {
        if self.closing.is_closed() {
            return Err(HostError::new("the server is ending"));
        }
        let mut template = self.template.lock().await;
        if let Some(template) = template.as_ref().filter(|template| !template.is_lost()) {
            return Ok(Arc::clone(template));
        }
        if let Some(lost) = template.take() {
            tracing::error!(
                output = lost.last_lines(),
                "the process that imported the environment has ended"
            );
        }
        let (started, _) = self.load_template().await?;
        *template = Some(Arc::clone(&started));
        Ok(started)
    }

    async fn load_template(&self) -> Result<(Arc<Template>, Loaded), HostError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let folders = self.template_folders(number)?;
        let (child, connection, loaded) = self.load("template", folders.place()).await?;
        Ok((Arc::new(Template::run(child, connection, folders.all)), loaded))
    }

    /// Starts a Python in a role and lets it import the environment.
    async fn load(
        &self,
        role: &str,
        place: WorkerPlace<'_>,
    ) -> Result<(Child, FrameStream, Loaded), HostError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut connection = FrameStream::new(UnixStream::from_std(ours)?);
        let spec = self.child_spec(role);
        let child = self.options.supervisor.spawn_with_socket(spec, theirs, Redactor::default())?;
        let loading = async {
            let request = TemplateRequest::Load { source: &self.options.source, place };
            let reply = match serde_json::from_slice(connection.exchange(&request).await?) {
                Ok(Reply::Ok(success)) => Ok(success.loaded),
                Ok(Reply::Error(error)) => Err(error),
                Ok(Reply::Exited(_)) => Ok(None),
                Err(error) => {
                    return Err(HostError::new(format!("the worker's reply cannot be read: {error}")));
                }
            };
            Ok(reply)
        };
        let loaded = tokio::select! {
            loaded = timeout(self.options.import_timeout, loading) => loaded,
            how = child.describe_end() => {
                let python = self.options.python.display();
                return Err(HostError::new(format!(
                    "{python} ended before it had imported the environment: it {how}"
                )));
            }
        };
        match loaded {
            Ok(Ok(Ok(Some(loaded)))) => Ok((child, connection, *loaded)),
            Ok(Ok(Ok(None))) => Err(HostError::new("the worker answered without what it has loaded")),
            Ok(Ok(Err(error))) => Err(HostError::import(error, &child.output_tail())),
            Ok(Err(error)) => match timeout(GRACE, child.describe_end()).await {
                Ok(how) => Err(HostError::new(format!("the environment's Python {how}"))),
                Err(_) => Err(HostError::new(format!(
                    "the environment's Python cannot be reached any more: {error}; does its import close or \
                     write to descriptors that it did not open?"
                ))),
            },
            Err(_) => Err(HostError::new(format!(
                "importing the environment took longer than {} s; its output:\n{}",
                self.options.import_timeout.as_secs(),
                child.output_tail(),
            ))),
        }
    }

    fn child_spec(&self, role: &str) -> ChildSpec {
        let script = self.place.path().join("worker.py");
        let set = |name: &&str| !self.options.environment.iter().any(|(known, _)| known == name);
        let ours = ONE_THREAD.iter().filter(|name| set(name)).map(|name| (name.into(), "1".into()));
        let fixed = [("PYTHONUNBUFFERED", "1"), ("OPENENV_MODE", self.options.mode)];
        let fixed = fixed.into_iter().map(|(name, value)| (name.into(), value.into()));
        ChildSpec {
            label: "python".to_owned(),
            program: self.options.python.clone().into_os_string(),
            arguments: vec![script.into_os_string(), role.into()],
            environment: self.options.environment.iter().cloned().chain(ours).chain(fixed).collect(),
            folder: self.options.source.folder.clone().or_else(|| self.options.source.path.clone()),
            grace: GRACE,
        }
    }

    /// The folders of a worker. A copy takes as long as it takes, so no thread that serves others makes it.
    async fn folders(self: &Arc<Self>, number: u64) -> io::Result<Folders> {
        let host = Arc::clone(self);
        let making = move || {
            let name = number.to_string();
            let mut all = vec![Arc::new(host.temporaries.open(&name)?)];
            if let Some(directories) = &host.directories {
                all.push(Arc::new(directories.copies.open(&name)?));
            }
            Ok(Folders { all, limits: host.limiter.apply(number)? })
        };
        tokio::task::spawn_blocking(making).await.map_err(io::Error::other)?
    }

    /// The folders of a template; the working directories of workers are copies of its own.
    fn template_folders(&self, number: u64) -> io::Result<Folders> {
        let mut all = vec![Arc::new(self.temporaries.open(&format!("template-{number}"))?)];
        all.extend(self.directories.as_ref().map(|directories| Arc::clone(&directories.base)));
        Ok(Folders { all, limits: AppliedLimits::default() })
    }
}

/// Where working directories come from.
struct Directories {
    /// The template's, which holds what the import writes as well.
    base: Arc<Workspace>,
    copies: Workspaces,
}

/// A socket that one worker connects to; its file goes with it.
struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    fn bind(folder: &Path, number: u64) -> io::Result<Self> {
        let path = folder.join(format!("{number}.socket"));
        let listener = UnixListener::bind(&path)?;
        Ok(Socket { path, listener })
    }

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Where one worker runs, and what it may use.
struct Folders {
    /// For temporary files, and then its working directory if it has its own.
    all: Vec<Arc<Workspace>>,
    limits: AppliedLimits,
}

impl Folders {
    fn place(&self) -> WorkerPlace<'_> {
        WorkerPlace {
            temporary: self.all.first().map(|folder| folder.path()),
            directory: self.all.get(1).map(|folder| folder.path()),
            limits: self.limits.rlimits,
            groups: &self.limits.groups,
        }
    }
}
