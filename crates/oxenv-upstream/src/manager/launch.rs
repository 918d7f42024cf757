//! How an instance of an upstream is made: its command or address, filled in for a place.
//!
//! Invariant: an instance that was made for no session knows nothing of one, so any session may have it.

use oxenv_wire::after;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::Scope;
use parking_lot::Mutex;
use serde_json::{Map, json};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SessionContext;
use super::instance::{Instance, InstanceParts};
use super::temp_folder::TempFolder;
use crate::client::{
    Connection, Endpoint, Era, HandshakeError, Lists, QuestionPolicy, RawRequest, UpstreamError,
};
use crate::manifest::{Text, ToolsetEntry, Transport};
use oxenv_process::child::{Child, ChildSpec, Supervisor};
use oxenv_process::secret::{Redactor, Secret};

/// How long a server has to end on its own when its input closes.
const STDIN_CLOSE_GRACE: Duration = Duration::from_millis(500);
/// How long connecting to a host may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the reason of a failed start is waited for.
const FAILURE_REASON_TIMEOUT: Duration = Duration::from_secs(1);

/// The worker that offers a Python file's functions.
const PYTHON_TOOLS: &str = include_str!("../python_tools.py");

/// What instances of all upstreams are made with.
pub(super) struct LaunchContext {
    pub(super) supervisor: Supervisor,
    pub(super) base_environment: Vec<(OsString, OsString)>,
    /// The manifest's folder.
    pub(super) folder: PathBuf,
    /// Whether Python files are imported again when they have changed.
    pub(super) reload: bool,
    pub(super) redactor: Redactor,
    pub(super) tracker: TaskTracker,
    /// Cancelled when everything ends.
    pub(super) stop: CancellationToken,
}

impl LaunchContext {
    /// Where temporary folders are made.
    fn temporary(&self) -> &Path {
        let variable = self.base_environment.iter().find(|(name, _)| name == "TMPDIR");
        variable.map_or(Path::new("/tmp"), |(_, value)| Path::new(value))
    }

    /// Removes, in the background, the temporary folders that servers have left which were killed.
    pub(super) fn sweep(&self) {
        let within = self.temporary().to_owned();
        self.tracker.spawn_blocking(move || TempFolder::sweep(&within));
    }
}

/// How instances of one upstream are made.
pub(super) struct LaunchSpec {
    launch: Arc<LaunchContext>,
    entry: ToolsetEntry,
    /// How the server was greeted with success.
    era: Mutex<Era>,
}

/// Where an instance is made.
struct LaunchSite {
    /// What `${workspace}` is.
    workspace: PathBuf,
    /// What `${seed}` is.
    seed: u64,
    /// Where it runs unless it sets its own folder.
    folder: PathBuf,
    /// That folder, if it is the instance's own.
    scratch: Option<Arc<TempFolder>>,
    /// What counts the session's processes.
    running: Option<TaskTracker>,
}

/// A process that is being greeted. If it is given up, its end is still seen to, as a task of the manager.
struct StartingProcess {
    child: Option<Child>,
    scratch: Option<Arc<TempFolder>>,
    tracker: TaskTracker,
    running: Option<TaskTracker>,
}

/// A server that was started and greeted.
struct StartedServer {
    connection: Connection,
    child: Option<Child>,
}

impl LaunchSpec {
    pub(super) fn new(launch: Arc<LaunchContext>, entry: ToolsetEntry) -> Self {
        LaunchSpec { launch, entry, era: Mutex::new(Era::Handshake) }
    }

    /// Whether an instance can be made before its session is known.
    pub(super) fn is_portable(&self) -> bool {
        !self.names_workspace() && !self.entry.needs_seed()
    }

    /// Whether an instance has to do with the files of its session. Functions of a Python file always do.
    pub(super) fn runs_in_workspace(&self) -> bool {
        self.names_workspace() || matches!(self.entry.transport, Transport::Python { .. })
    }

    fn names_workspace(&self) -> bool {
        self.entry.transport.texts().iter().any(|text| text.needs_workspace())
    }

    /// Whether instances are processes.
    pub(super) fn is_process(&self) -> bool {
        matches!(self.entry.transport, Transport::Stdio { .. } | Transport::Python { .. })
    }

    /// Makes an instance: for a session; or, without one, for any session, or for the whole server.
    ///
    /// # Errors
    /// Why it did not start. The text holds no secret.
    pub(super) async fn make(
        &self,
        place: Option<&SessionContext>,
        known: Option<Lists>,
    ) -> Result<Instance, String> {
        let deadline = after(Instant::now(), self.entry.start_timeout);
        let site = self.site(place).map_err(|error| error.to_string())?;
        let era = *self.era.lock();
        let started = match self.start(era, &site, deadline).await {
            Err(greeting) if greeting.answered && era == Era::Handshake => {
                let started = self.start(Era::Discovery, &site, deadline).await;
                let started = started.map_err(|_| greeting.message)?;
                *self.era.lock() = Era::Discovery;
                started
            }
            started => started.map_err(|greeting| greeting.message)?,
        };
        let instance = Instance::new(
            InstanceParts {
                connection: started.connection,
                child: started.child,
                scratch: site.scratch,
                known,
                label: self.entry.name.clone(),
                list_timeout: self.entry.start_timeout,
            },
            &self.launch.tracker,
            self.launch.stop.child_token(),
        );
        if let Some(place) = place {
            instance.counts_in(&place.running);
            self.settle(&instance, place).await?;
        }
        Ok(instance)
    }

    /// Brings an instance that was made for any session into one.
    ///
    /// # Errors
    /// When it cannot be moved there.
    pub(super) async fn settle(&self, instance: &Instance, place: &SessionContext) -> Result<(), String> {
        if !matches!(self.entry.transport, Transport::Python { .. }) {
            return Ok(());
        }
        // Python functions see the session's files; the worker is ours and can be sent there.
        let parameters = oxenv_wire::raw(&json!({ "folder": place.workspace.to_string_lossy() }));
        let parameters = parameters.map_err(|error| error.to_string())?;
        let request = RawRequest { method: "oxenv/enter", parameters, meta: Map::new() };
        match instance.request(request, None).await {
            Ok(_) => Ok(()),
            Err(UpstreamError::Refused(fault)) => Err(fault.message),
            Err(UpstreamError::Unavailable(why) | UpstreamError::Lost(why)) => Err(why),
        }
    }

    /// Where an instance is made. One that does not ask for the workspace gets a folder of its own, as does
    /// one that asks for it when there is no session.
    fn site(&self, place: Option<&SessionContext>) -> io::Result<LaunchSite> {
        let seed = place.map_or(0, |place| place.seeds.present);
        let running = place.map(|place| place.running.clone());
        let per_session = self.is_process() && self.entry.scope == Scope::Session;
        if !per_session || (place.is_some() && self.names_workspace()) {
            let workspace = place.map_or(&self.launch.folder, |place| &place.workspace).clone();
            return Ok(LaunchSite { folder: workspace.clone(), workspace, seed, scratch: None, running });
        }
        let scratch = TempFolder::new(self.launch.temporary())?;
        let folder = scratch.path().to_owned();
        let workspace = place.map_or(&folder, |place| &place.workspace).clone();
        Ok(LaunchSite { folder, workspace, seed, scratch: Some(Arc::new(scratch)), running })
    }

    async fn start(
        &self,
        era: Era,
        site: &LaunchSite,
        deadline: Instant,
    ) -> Result<StartedServer, HandshakeError> {
        let (label, redactor) = (&*self.entry.name, self.launch.redactor.clone());
        if let Transport::Http { url, headers } = &self.entry.transport {
            let headers = headers.iter().map(|(name, value)| (name.clone(), site.fill(value)));
            let headers: Vec<(String, Secret)> = headers.collect();
            let connect_timeout = CONNECT_TIMEOUT.min(self.entry.start_timeout);
            let endpoint = Endpoint::new(&site.fill(url), &headers, connect_timeout);
            let endpoint =
                endpoint.map_err(|why| HandshakeError::failed(redactor.redact(&why).into_owned()))?;
            let greeted = Connection::over_http(&endpoint, era, label, redactor, QuestionPolicy::Passed);
            let greeted = timeout_at(deadline, greeted).await;
            let connection = greeted.unwrap_or_else(|_| Err(self.too_late()))?;
            return Ok(StartedServer { connection, child: None });
        }
        let spawned = self.launch.supervisor.spawn(self.command(site), redactor.clone());
        let (child, stdin, stdout) = spawned.map_err(|error| HandshakeError::failed(error.to_string()))?;
        let (scratch, tracker) = (site.scratch.clone(), self.launch.tracker.clone());
        let running = site.running.clone();
        let mut starting = StartingProcess { child: Some(child), scratch, tracker, running };
        let greeted =
            timeout_at(deadline, Connection::over_pipes((stdin, stdout), era, label, redactor)).await;
        match greeted.unwrap_or_else(|_| Err(self.too_late())) {
            Ok(connection) => Ok(StartedServer { connection, child: starting.child.take() }),
            Err(greeting) if greeting.answered => Err(greeting),
            Err(greeting) => Err(HandshakeError::failed(starting.failure_reason(greeting).await)),
        }
    }

    fn too_late(&self) -> HandshakeError {
        let limit = self.entry.start_timeout.as_secs_f64();
        HandshakeError::failed(format!(
            "it did not answer its greeting within {limit} s; raise start_timeout_s if it is slow"
        ))
    }

    /// The command of an instance that is a process.
    fn command(&self, site: &LaunchSite) -> ChildSpec {
        let text = |text: &Text| OsString::from(site.fill(text).expose());
        let mut environment = self.launch.base_environment.clone();
        let (program, arguments, own, cwd) = match &self.entry.transport {
            Transport::Stdio { command, args, env, cwd } => {
                let arguments = args.iter().map(text).collect();
                let folder = cwd.as_ref().map(|cwd| self.launch.folder.join(text(cwd)));
                (self.program(text(command)), arguments, Some(env), folder)
            }
            Transport::Python { path, env } => {
                let mut arguments = vec!["-c".into(), PYTHON_TOOLS.into(), path.into()];
                arguments.extend(self.launch.reload.then(|| "--reload".into()));
                ("python3".into(), arguments, Some(env), None)
            }
            Transport::Http { .. } | Transport::Builtin { .. } => (OsString::new(), Vec::new(), None, None),
        };
        for (name, value) in own.into_iter().flatten() {
            environment.retain(|(other, _)| other != name.as_str());
            environment.push((name.into(), text(value)));
        }
        let folder = Some(cwd.unwrap_or_else(|| site.folder.clone()));
        ChildSpec {
            label: self.entry.name.clone(),
            program,
            arguments,
            environment,
            folder,
            grace: STDIN_CLOSE_GRACE,
        }
    }

    /// A program that is a path is taken from the manifest's folder.
    fn program(&self, command: OsString) -> OsString {
        if command.as_encoded_bytes().contains(&b'/') {
            return self.launch.folder.join(command).into();
        }
        command
    }
}

impl LaunchSite {
    fn fill(&self, text: &Text) -> Secret {
        text.resolve(&self.workspace, self.seed)
    }
}

impl StartingProcess {
    /// Why the start failed: how the process ended, or what it wrote so far.
    async fn failure_reason(&self, greeting: HandshakeError) -> String {
        let Some(child) = &self.child else { return greeting.message };
        if greeting.by_server
            && let Ok(ending) = tokio::time::timeout(FAILURE_REASON_TIMEOUT, child.describe_end()).await
        {
            return ending;
        }
        match child.output_tail() {
            tail if tail.is_empty() => greeting.message,
            tail => format!("{}; it wrote to stderr: {tail}", greeting.message),
        }
    }
}

impl Drop for StartingProcess {
    fn drop(&mut self) {
        if let (Some(child), Ok(runtime)) = (self.child.take(), Handle::try_current()) {
            let scratch = self.scratch.take();
            let counted = self.running.as_ref().map(TaskTracker::token);
            let end = async move {
                let _ = child.stop().await;
                drop(counted);
                TempFolder::release(scratch).await;
            };
            self.tracker.spawn_on(end, &runtime);
        }
    }
}
