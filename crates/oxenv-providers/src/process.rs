//! Environment servers as processes of this machine.
//!
//! Invariant: each runs under a supervisor of its own, so that its whole tree ends with it.

mod handle;
mod registry;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::SystemTime;

use oxenv_upstream::child::{ChildSpec, Supervisor, base_environment, in_words};
use oxenv_upstream::secret::Redactor;
use oxenv_upstream::supervise;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{ProviderCode, ProviderError};
use crate::health::{self, Address};
use crate::instance::{Instance, InstanceInfo, Provider, Running};
use crate::logs;
use crate::port_forward::Bridge;
use crate::spec::{Door, InstanceSpec};
use crate::validate::{self, invalid};
use handle::{Attached, Left, log_tail};
use registry::{Note, Noted, Notes, Supervised};

/// Where commands are looked for, if nothing else is said.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts commands.
///
/// A command gets [`base_environment`], the variables of its spec, and `HOST`, `PORT`, `OXENV_HOST` and `OXENV_PORT`
/// with the address to listen on (`OXENV_UDS` for a socket); it works in the workspace. Limits, mounts and images are
/// not its: a spec with those is refused.
pub struct ProcessProvider {
    supervisor: Supervisor,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

/// An instance about to be started.
struct Plan {
    noted: Noted,
    address: Address,
    bridge: Option<Bridge>,
    redactor: Redactor,
}

impl ProcessProvider {
    /// A provider whose commands run under that supervisor; instances are noted below the user's runtime folder
    /// (`/run/user/N`, else the temporary files).
    #[must_use]
    pub fn new(supervisor: Supervisor) -> Self {
        let path = |name: &str| (name == "PATH").then(|| USUAL_PATH.to_owned());
        ProcessProvider { supervisor, environment: base_environment(&path), folder: None }
    }

    /// The same, whose commands start from this environment.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(OsString, OsString)>) -> Self {
        self.environment = environment;
        self
    }

    /// The same, with its notes in this folder. Providers see each other's instances if they have the same.
    #[must_use]
    pub fn with_notes_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn notes(&self) -> Result<Notes, ProviderError> {
        Notes::open(self.folder.as_deref())
    }

    async fn begin(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        refuse(spec)?;
        let (plan, command) = self.plan(spec).await?;
        if spec.detached {
            self.leave(spec, plan, command).await
        } else {
            self.attach(spec, plan, command).await
        }
    }

    async fn plan(&self, spec: &InstanceSpec) -> Result<(Plan, ChildSpec), ProviderError> {
        let name = validate::name(spec)?;
        let folder = spec.workspace.as_deref().map(|path| validate::folder("workspace", path)).transpose()?;
        let (address, bridge) = match &spec.door {
            Door::FreePort => (Address::Port(free_port().map_err(|error| no_port(&error))?), None),
            Door::Port(port) => {
                validate::is_free(*port)?;
                (Address::Port(*port), None)
            }
            Door::Socket(folder) => {
                let socket = socket_in(&validate::folder("folder of the socket", folder)?, &name)?;
                let bridge = Bridge::open(socket.clone()).await.map_err(|error| no_port(&error))?;
                (Address::Socket(socket), Some(bridge))
            }
        };
        let port = match (&address, &bridge) {
            (Address::Port(port), _) => *port,
            (_, Some(bridge)) => bridge.port(),
            (Address::Socket(_), None) => 0,
        };
        let words = spec.command.iter().map(|word| fill(word, &address)).collect::<Vec<_>>();
        let info = InstanceInfo {
            id: Uuid::new_v4().to_string(),
            name: name.clone(),
            provider: "process".to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            source: source(&spec.command),
            started_us: now_us(),
            detached: spec.detached,
        };
        let noted = self.notes()?.reserve(Note::new(info, spec.grace()))?;
        let command = ChildSpec {
            label: name,
            program: words[0].clone(),
            arguments: words[1..].to_vec(),
            environment: self.variables(spec, &address),
            folder,
            grace: spec.grace(),
        };
        Ok((Plan { noted, address, bridge, redactor: logs::redactor(spec) }, command))
    }

    fn variables(&self, spec: &InstanceSpec, address: &Address) -> Vec<(OsString, OsString)> {
        let given = spec.env.iter().map(|(name, value)| (name.into(), value.expose().into()));
        let mut all: Vec<(OsString, OsString)> = self.environment.iter().cloned().chain(given).collect();
        let mut set = |name: &str, value: OsString| all.push((name.into(), value));
        match address {
            Address::Port(port) => {
                for name in ["HOST", "OXENV_HOST"] {
                    set(name, "127.0.0.1".into());
                }
                for name in ["PORT", "OXENV_PORT"] {
                    set(name, port.to_string().into());
                }
            }
            Address::Socket(path) => set("OXENV_UDS", path.into()),
        }
        all
    }

    /// Starts what ends with this process.
    async fn attach(
        &self,
        spec: &InstanceSpec,
        mut plan: Plan,
        command: ChildSpec,
    ) -> Result<Instance, ProviderError> {
        let redactor = plan.redactor.clone();
        let redact = Arc::new(move |text: &str| redactor.redact(text).into_owned());
        let child = self.supervisor.spawn_server(command, redact).map_err(|error| not_started(&error))?;
        plan.noted.update(|note| note.supervisor = Supervised::of(child.pid()))?;
        let name = &plan.noted.note.info.name;
        let ended = tokio::select! {
            biased;
            status = child.over() => Err(ended_early(name, status)),
            healthy = health::wait(&plan.address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(name, spec, &last))
            }
        };
        if let Err(error) = ended {
            // What it wrote until the end belongs to the story.
            let _ = child.finish().await;
            return Err(error.with_logs(child.stderr_tail()));
        }
        plan.noted.update(|note| note.ready = true)?;
        let info = plan.noted.note.info.clone();
        let held = Attached { child, noted: Mutex::new(Some(plan.noted)), bridge: plan.bridge };
        Ok(Instance::new(info, Arc::new(held)))
    }

    /// Starts what goes on without this process.
    async fn leave(
        &self,
        spec: &InstanceSpec,
        mut plan: Plan,
        command: ChildSpec,
    ) -> Result<Instance, ProviderError> {
        let info = plan.noted.note.info.clone();
        let log = plan.noted.notes().log(&info.name);
        let mut process =
            self.supervisor.spawn_detached(command, &log).map_err(|error| not_started(&error))?;
        let supervisor = Supervised::of(process.pid());
        let mut unfinished = Unfinished(supervisor);
        plan.noted.update(|note| note.supervisor = supervisor)?;
        let outcome = tokio::select! {
            biased;
            status = process.wait() => Err(ended_early(&info.name, status)),
            healthy = health::wait(&plan.address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(&info.name, spec, &last))
            }
        };
        let (Some(supervisor), Ok(())) = (supervisor, &outcome) else {
            if let Some(supervisor) = supervisor {
                supervisor.end(&info.name, spec.grace()).await?;
            }
            let error = outcome.err().unwrap_or_else(|| not_started(&io::Error::other("it ended at once")));
            return Err(error.with_logs(log_tail(&log, &plan.redactor)));
        };
        plan.noted.update(|note| note.ready = true)?;
        plan.noted.keep();
        unfinished.0 = None;
        let process = tokio::sync::Mutex::new(process);
        let held = Left { process, supervisor, noted: plan.noted, redactor: plan.redactor };
        Ok(Instance::new(info, Arc::new(held)))
    }
}

impl Provider for ProcessProvider {
    fn name(&self) -> &'static str {
        "process"
    }

    fn start<'a>(&'a self, spec: &'a InstanceSpec) -> Running<'a, Instance> {
        Box::pin(self.begin(spec))
    }

    fn list(&self) -> Running<'_, Vec<InstanceInfo>> {
        Box::pin(async {
            let running = self.notes()?.all().into_iter().filter(|note| note.ready && note.is_alive());
            Ok(running.map(|note| note.info).collect())
        })
    }

    fn stop<'a>(&'a self, id: &'a str) -> Running<'a, ()> {
        Box::pin(async move {
            let notes = self.notes()?;
            let found = notes.all().into_iter().find(|note| note.info.id == id || note.info.name == id);
            let Some(note) = found else {
                return if Uuid::parse_str(id).is_ok() { Ok(()) } else { Err(unknown(id)) };
            };
            if let Some(supervisor) = note.supervisor {
                supervisor.end(&note.info.name, note.grace()).await?;
            }
            notes.remove(&note.info.name);
            Ok(())
        })
    }

    fn sweep(&self) -> Running<'_, Vec<String>> {
        Box::pin(async {
            let notes = self.notes()?;
            let mut swept = Vec::new();
            for note in notes.all() {
                let left = note.is_left();
                if let (true, Some(supervisor)) = (left, note.supervisor) {
                    supervisor.end(&note.info.name, note.grace()).await?;
                }
                // Of what has ended by itself only the note is left.
                if left || !note.is_alive() {
                    notes.remove(&note.info.name);
                }
                swept.extend(left.then_some(note.info.id));
            }
            Ok(swept)
        })
    }
}

/// A detached instance that is not healthy yet: dropped, it ends.
struct Unfinished(Option<Supervised>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(supervisor) = self.0 {
            supervisor.ask_to_end();
        }
    }
}

/// Refuses what a process cannot have.
fn refuse(spec: &InstanceSpec) -> Result<(), ProviderError> {
    validate::variables(spec)?;
    let docker = "use the docker provider for that";
    if spec.image.is_some() {
        return Err(invalid(format!("a process is started from a command, not from an image; {docker}")));
    }
    if spec.command.is_empty() {
        return Err(invalid("no command is given"));
    }
    let limits = spec.limits;
    if limits.memory.is_some() || limits.cpus.is_some() || limits.pids.is_some() {
        return Err(invalid(format!("a process of this machine cannot be limited; {docker}")));
    }
    if !spec.mounts.is_empty() {
        return Err(invalid(format!("a process sees this machine's folders where they are; {docker}")));
    }
    if spec.detached && matches!(spec.door, Door::Socket(_)) {
        return Err(invalid(
            "what is reached over a socket ends with the process that bridges it; use a port",
        ));
    }
    Ok(())
}

/// The socket's path in a folder; what an earlier instance left there is removed.
pub(crate) fn socket_in(folder: &std::path::Path, name: &str) -> Result<PathBuf, ProviderError> {
    let path = folder.join(format!("{name}.sock"));
    // sun_path has 108 bytes with its end.
    if path.as_os_str().len() > 107 {
        return Err(invalid(format!(
            "the path '{}' is too long for a socket; use a shorter folder",
            path.display()
        )));
    }
    let _ = std::fs::remove_file(&path);
    Ok(path)
}

fn fill(word: &OsString, address: &Address) -> OsString {
    let Some(text) = word.to_str() else { return word.clone() };
    match address {
        Address::Port(port) => text.replace("{port}", &port.to_string()).into(),
        Address::Socket(path) => text.replace("{socket}", &path.to_string_lossy()).into(),
    }
}

/// A port that is free now.
fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn source(command: &[OsString]) -> String {
    command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn no_port(error: &io::Error) -> ProviderError {
    ProviderError::new(
        ProviderCode::StartFailed,
        format!("no port of the loopback address can be had: {error}"),
    )
}

fn not_started(error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::StartFailed, error.to_string())
}

fn ended_early(name: &str, status: ExitStatus) -> ProviderError {
    let unusable = [supervise::NOT_FOUND, supervise::NOT_RUNNABLE].map(i32::from);
    if status.code().is_some_and(|code| unusable.contains(&code)) {
        return ProviderError::new(ProviderCode::StartFailed, format!("'{name}' cannot be started"));
    }
    let says = format!("'{name}' {} before it was healthy", in_words(status));
    ProviderError::new(ProviderCode::InstanceExited, says)
}

pub(crate) fn unhealthy(name: &str, spec: &InstanceSpec, last: &str) -> ProviderError {
    let time = spec.start_deadline().as_secs_f64();
    let says = format!("'{name}' was not healthy within {time} s and was ended: {last}");
    ProviderError::new(ProviderCode::InstanceUnhealthy, says)
}

pub(crate) fn unknown(name: &str) -> ProviderError {
    ProviderError::new(
        ProviderCode::InstanceNotFound,
        format!("no instance is called '{name}'; see oxenv ps"),
    )
}
