//! The host: starts the template, keeps spare workers, and starts all of it again when it is lost.
//!
//! Invariant: a spare has imported the environment and made nothing of it, so it is new to any session
//! that takes it; no worker serves two sessions, unless [`HostOptions::reuse`] allows it.

mod copy;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use oxenv_process::child::{Child, ChildSpec, Supervisor};
use oxenv_process::secret::Redactor;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::copy::CopyError;
use crate::frames::FrameStream;
use crate::host_error::HostError;
use crate::log_tail::LogTail;
use crate::places::{Place, Places};
use crate::protocol::{HostSource, Loaded, Reply, TemplateRequest, WorkerLimits, WorkerPlace};
use crate::readiness::Readiness;
use crate::reload::WatchedFolder;
use crate::template::{ExitWatch, Template};
use crate::worker::{Worker, WorkerProcess};
use crate::worker_exit::WorkerExit;

/// How long a Python has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
/// How long processes are waited for once the end of the server is due.
const HURRIED_GRACE: Duration = Duration::from_millis(100);
/// How long a spare has to answer that it is there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a forked process has to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// Each session is a thread of the process that has imported the environment: the fastest, and none is
    /// protected from the others.
    Thread,
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
    /// Whether a worker whose session has ended serves another one: what its modules hold stays.
    pub reuse: bool,
    /// The folder of which each session gets a copy as its working directory; absent: all share the present.
    pub directory: Option<PathBuf>,
    /// `simulation` or `production`, which the environment finds in `OPENENV_MODE`.
    pub mode: &'static str,
    /// What each worker may use.
    pub limits: WorkerLimits,
    /// Whether each of its processes has a network of its own, with loopback only.
    pub without_network: bool,
    /// How long importing may take.
    pub import_timeout: Duration,
    /// Whether a change of a file of its folder ends all sessions and imports it again.
    pub reload: bool,
    /// What starts and ends processes.
    pub supervisor: Supervisor,
}

/// An imported environment, and what makes workers of it.
pub struct Host {
    options: HostOptions,
    isolation: Isolation,
    loaded: Loaded,
    places: Arc<Places>,
    template: AsyncMutex<Option<Arc<Template>>>,
    spares: Mutex<VecDeque<Worker>>,
    /// Held by the one task that makes spares.
    filling: AsyncMutex<()>,
    numbers: AtomicU64,
    /// Workers that close their environments, and the making of spares.
    closing: TaskTracker,
    /// Cancelled when no worker is made any more.
    ending: CancellationToken,
    /// The changes of the environment's files so far, with the file of the last one.
    changes: Mutex<(u64, String)>,
    readiness: Readiness,
    /// Processes that no template ends.
    fresh: Mutex<Vec<Weak<Child>>>,
}

impl Host {
    /// Imports the environment.
    ///
    /// # Errors
    /// Python cannot be started, or the environment cannot be imported: explains why and what to
    /// do.
    pub async fn start(options: HostOptions) -> Result<Arc<Self>, HostError> {
        let HostSource { folder, path, .. } = &options.source;
        let folder = folder.as_deref().or(path.as_deref()).filter(|_| options.reload);
        let watched = folder.map(WatchedFolder::new).transpose()?;
        let places =
            Arc::new(Places::new(options.directory.as_deref(), options.limits, options.without_network)?);
        let mut host = Host {
            isolation: options.isolation.unwrap_or(Isolation::Fork),
            loaded: Loaded::default(),
            options,
            places,
            template: AsyncMutex::new(None),
            spares: Mutex::default(),
            filling: AsyncMutex::new(()),
            numbers: AtomicU64::new(0),
            closing: TaskTracker::new(),
            ending: CancellationToken::new(),
            changes: Mutex::default(),
            readiness: Readiness::default(),
            fresh: Mutex::default(),
        };
        let (template, loaded) = host.load_template().await?;
        let forkable = loaded.threads <= MAX_FORKABLE_THREADS && !loaded.cuda;
        if host.options.isolation.is_none() && !forkable {
            host.isolation = Isolation::Fresh;
        }
        host.loaded = loaded;
        if host.isolation != Isolation::Fresh {
            host.template = AsyncMutex::new(Some(template));
        }
        let host = Arc::new(host);
        if let Some(watched) = watched {
            host.reload_on_changes(watched);
        }
        Ok(host)
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
        self.places.limits()
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
        loop {
            let worker = match self.spare().await {
                Some(worker) => worker,
                None => self.make().await?,
            };
            // The files may have changed while it was made.
            if self.change_since(&worker).is_none() {
                self.fill_up();
                return Ok(worker);
            }
        }
    }

    /// The next spare that answers. One that does not has been stopped, and ends here.
    async fn spare(&self) -> Option<Worker> {
        loop {
            let mut worker = self.spares.lock().pop_front()?;
            if worker.answers(ANSWER_TIMEOUT).await {
                return Some(worker);
            }
            tracing::warn!("a spare worker did not answer, and is replaced");
        }
    }

    /// Ends all sessions and imports the environment again whenever a file of its folder has changed.
    fn reload_on_changes(self: &Arc<Self>, mut watched: WatchedFolder) {
        let host = Arc::clone(self);
        self.closing.spawn(async move {
            let reloading = async {
                loop {
                    let file = watched.change().await;
                    host.reload(&file).await;
                }
            };
            host.ending.run_until_cancelled(reloading).await;
        });
    }

    /// Ends all workers and imports the environment again.
    async fn reload(self: &Arc<Self>, file: &Path) {
        tracing::info!(file = %file.display(), "the environment has changed: its sessions end");
        let mut template = self.template.lock().await;
        let generation = {
            let mut changes = self.changes.lock();
            *changes = (changes.0 + 1, file.display().to_string());
            changes.0
        };
        drop(std::mem::take(&mut *self.spares.lock()));
        for child in self.fresh.lock().iter().filter_map(Weak::upgrade) {
            child.begin_stop();
        }
        if let Some(template) = template.take() {
            template.close().await;
        }
        drop(template);
        match self.renew(generation).await {
            Ok(()) => tracing::info!("imported the environment again"),
            Err(error) => return tracing::error!("{error}"),
        }
        self.fill_up();
    }

    /// Imports what has changed, and makes a worker of it.
    async fn renew(self: &Arc<Self>, generation: u64) -> Result<(), HostError> {
        if let Some(folder) = self.options.directory.clone() {
            let places = Arc::clone(&self.places);
            let copying = tokio::task::spawn_blocking(move || places.renew(&folder, generation));
            copying.await.map_err(io::Error::other)??;
        }
        let worker = self.make().await?;
        self.spares.lock().push_back(worker);
        Ok(())
    }

    /// The file whose change ended a worker, if one did.
    pub(crate) fn change_since(&self, worker: &Worker) -> Option<String> {
        let changes = self.changes.lock();
        (changes.0 != worker.generation()).then(|| changes.1.clone())
    }

    fn generation(&self) -> u64 {
        self.changes.lock().0
    }

    /// Lets a worker close its environment; nothing waits.
    pub(crate) fn dismiss(self: &Arc<Self>, worker: Worker) {
        if self.options.reuse {
            let host = Arc::clone(self);
            self.closing.spawn(async move { host.keep(worker).await });
        } else {
            self.closing.spawn(worker.close());
        }
    }

    /// Makes the worker of an ended session ready for the next one, or lets it end.
    async fn keep(&self, worker: Worker) {
        let is_of_use = !worker.place().is_copy() && self.change_since(&worker).is_none();
        if self.ending.is_cancelled() || !is_of_use {
            return worker.close().await;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let released = async {
            let place = self.places.folders(number).await?;
            worker.release(self.places.socket(number)?, place).await
        };
        match released.await {
            Ok(worker) => self.spares.lock().push_back(worker),
            Err(error) => tracing::warn!("a worker ends with its session, although --reuse is set: {error}"),
        }
    }

    /// Waits until the workers of ended sessions are gone, and ends what is left. No session is made any
    /// more. After `hurry` it waits for a moment only, and leaves the rest to the
    /// processes' supervisors.
    pub async fn close(&self, hurry: impl Future<Output = ()>) {
        self.ending.cancel();
        self.closing.close();
        let mut hurry = pin!(hurry);
        let hurried = tokio::select! {
            () = self.closing.wait() => false,
            () = &mut hurry => true,
        };
        drop(std::mem::take(&mut *self.spares.lock()));
        let Some(template) = self.template.lock().await.take() else { return };
        let given_up = async {
            if !hurried {
                hurry.await;
            }
            sleep(HURRIED_GRACE).await;
        };
        tokio::select! {
            () = template.close() => {}
            () = given_up => {}
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
            host.ending.run_until_cancelled(host.make_spares()).await;
        });
    }

    async fn make_spares(self: &Arc<Self>) {
        while self.spares.lock().len() < self.options.spares {
            match self.make().await {
                Ok(worker) => self.spares.lock().push_back(worker),
                Err(error) => return tracing::warn!(%error, "no spare worker could be made"),
            }
        }
    }

    async fn make(self: &Arc<Self>) -> Result<Worker, HostError> {
        let made = match self.isolation {
            Isolation::Fresh => self.start_fresh().await,
            Isolation::Fork | Isolation::Thread => match self.start_in_template().await {
                // It was lost just now: the next one imports the environment again.
                Err(_) if self.template_is_lost().await => self.start_in_template().await,
                made => made,
            },
        };
        self.readiness.note(&made);
        made
    }

    /// Why no worker can be made, as far as is known. A lost template is started again, and what has failed
    /// is tried again, without waiting.
    pub(crate) fn problem(self: &Arc<Self>) -> Option<String> {
        let template = self.template.try_lock();
        let is_lost = template.is_ok_and(|template| template.as_ref().is_none_or(|each| each.is_lost()));
        if is_lost && self.isolation != Isolation::Fresh && self.readiness.problem().is_none() {
            let lost =
                HostError::new("the process that imported the environment has ended; it is started again");
            self.readiness.note::<()>(&Err(lost));
            self.try_again();
        } else if self.readiness.is_retry_due() {
            self.try_again();
        }
        self.readiness.problem()
    }

    /// Makes a worker, which is kept as a spare.
    fn try_again(self: &Arc<Self>) {
        let host = Arc::clone(self);
        if self.closing.is_closed() {
            return;
        }
        self.closing.spawn(async move {
            let Ok(_alone) = host.filling.try_lock() else { return };
            match host.ending.run_until_cancelled(host.make()).await {
                Some(Ok(worker)) => host.spares.lock().push_back(worker),
                Some(Err(error)) => tracing::warn!(%error, "no worker can be made"),
                None => {}
            }
        });
    }

    async fn start_in_template(self: &Arc<Self>) -> Result<Worker, HostError> {
        let generation = self.generation();
        let template = self.live_template().await?;
        if self.isolation == Isolation::Thread {
            self.start_thread(template, generation).await
        } else {
            self.fork(template, generation).await
        }
    }

    async fn start_thread(&self, template: Arc<Template>, generation: u64) -> Result<Worker, HostError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let socket = self.places.socket(number)?;
        let mut exit = template.start_thread(number, &socket.path)?;
        let Some(stream) = connected(&mut exit, socket.accept()).await? else {
            self.give_up(&template).await;
            return Err(HostError::new("a thread of the environment's process does not connect"));
        };
        let process = WorkerProcess::Thread { exit, template };
        Ok(Worker::new(stream, LogTail::default(), process, Place::shared(), generation))
    }

    async fn fork(self: &Arc<Self>, template: Arc<Template>, generation: u64) -> Result<Worker, HostError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let place = self.places.worker(number).await?;
        let socket = self.places.socket(number)?;
        let mut exit = template.fork(number, &socket.path, place.request())?;
        let connecting = async {
            let stream = socket.accept().await?;
            io::Result::Ok((stream, LogTail::of(socket.accept().await?)))
        };
        let Some((stream, log)) = connected(&mut exit, connecting).await? else {
            template.kill(number);
            self.give_up(&template).await;
            return Err(HostError::new(
                "a forked process does not connect; does the import leave locks or threads behind? \
                 --isolation fresh does without forks",
            ));
        };
        let process = WorkerProcess::Forked { number, exit, template };
        Ok(Worker::new(stream, log, process, place, generation))
    }

    async fn start_fresh(self: &Arc<Self>) -> Result<Worker, HostError> {
        let generation = self.generation();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let place = self.places.worker(number).await?;
        let socket = self.places.socket(number)?;
        let (child, connection, _) = self.load("session", place.request(), Some(&socket.path)).await?;
        let log = LogTail::of(socket.accept().await?);
        let child = Arc::new(child);
        let mut fresh = self.fresh.lock();
        fresh.retain(|child| child.strong_count() > 0);
        fresh.push(Arc::downgrade(&child));
        drop(fresh);
        Ok(Worker::new(connection.into_stream(), log, WorkerProcess::Own(child), place, generation))
    }

    async fn template_is_lost(&self) -> bool {
        self.template.lock().await.as_ref().is_none_or(|template| template.is_lost())
    }

    /// Lets the next worker come from another template. This one, which may have been stopped, ends with its
    /// last worker.
    async fn give_up(&self, template: &Arc<Template>) {
        let mut present = self.template.lock().await;
        if present.as_ref().is_some_and(|present| Arc::ptr_eq(present, template)) {
            *present = None;
        }
    }

    /// The template, started again if it was lost.
    async fn live_template(&self) -> Result<Arc<Template>, HostError> {
        if self.ending.is_cancelled() {
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
        let place = self.places.template(number)?;
        let (child, connection, loaded) = self.load("template", place.request(), None).await?;
        Ok((Arc::new(Template::run(child, connection, place)), loaded))
    }

    /// Starts a Python in a role and lets it import the environment.
    async fn load(
        &self,
        role: &str,
        place: WorkerPlace<'_>,
        log: Option<&Path>,
    ) -> Result<(Child, FrameStream, Loaded), HostError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut connection = FrameStream::new(UnixStream::from_std(ours)?);
        let spec = self.child_spec(role);
        let child = self.options.supervisor.spawn_with_socket(spec, theirs, Redactor::default())?;
        let loading = async {
            let request = TemplateRequest::Load { source: &self.options.source, log, place };
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
        let script = self.places.script();
        let set = |name: &&str| !self.options.environment.iter().any(|(known, _)| known == name);
        let ours = ONE_THREAD.iter().filter(|name| set(name)).map(|name| (name.into(), "1".into()));
        // Python takes a file for unchanged if it has the same length and was changed in the same second.
        let no_cache = self.options.reload.then_some(("PYTHONDONTWRITEBYTECODE", "1"));
        let fixed = [("PYTHONUNBUFFERED", "1"), ("OPENENV_MODE", self.options.mode)];
        let fixed = fixed.into_iter().chain(no_cache).map(|(name, value)| (name.into(), value.into()));
        ChildSpec {
            label: "python".to_owned(),
            program: self.options.python.clone().into_os_string(),
            arguments: vec![script.into_os_string(), role.into()],
            environment: self.options.environment.iter().cloned().chain(ours).chain(fixed).collect(),
            folder: self.options.source.folder.clone().or_else(|| self.options.source.path.clone()),
            grace: GRACE,
        }
    }
}

/// What a process or a thread has connected; nothing if it has not in time.
async fn connected<T>(
    exit: &mut ExitWatch,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<Option<T>, HostError> {
    tokio::select! {
        connected = timeout(CONNECT_TIMEOUT, connecting) => Ok(connected.ok().transpose()?),
        how = ended(exit) => Err(HostError::new(format!("a forked process {how}"))),
    }
}

/// How a process has ended, once it has.
async fn ended(exit: &mut ExitWatch) -> WorkerExit {
    let known = exit.wait_for(Option::is_some).await;
    known.ok().and_then(|exit| exit.clone()).unwrap_or(WorkerExit::Lost)
}
