//! Environment servers as processes of this machine.
//!
//! Invariant: each runs under a supervisor of its own, so that its whole tree ends with it.

mod handle;
mod registry;

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::SystemTime;

use oxenv_process::child::{ChildSpec, Supervisor, base_environment, describe_status};
use oxenv_process::secret::Redactor;
use oxenv_process::supervise;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{ProviderCode, ProviderError};
use crate::health::{self, LocalAddress};
use crate::instance::{Instance, InstanceInfo, Provider, ProviderFuture};
use crate::logs;
use crate::port_forward::PortForward;
use crate::spec::{InstanceSpec, ListenAddress};
use crate::validate::{self, invalid_spec};
use handle::{AttachedProcess, DetachedProcess, log_tail};
use registry::{InstanceRecord, InstanceRegistry, RecordGuard, SupervisorId};

/// Ports below those that Linux assigns by itself (ip_local_port_range).
const UNASSIGNED_PORTS: Range<u16> = 20_000..32_768;
/// Ports that are tried before the kernel is asked for one.
const MAX_TRIED_PORTS: usize = 64;

/// Where commands are looked for by default.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts commands.
///
/// A command gets [`base_environment`], the variables of its spec, and `HOST`, `PORT`, `OXENV_HOST` and
/// `OXENV_PORT` with the address to listen on (`OXENV_UDS` for a socket); it works in the workspace. Limits,
/// mounts and images are not its: a spec with those is refused.
pub struct ProcessProvider {
    supervisor: Supervisor,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

/// What is needed to start a process.
struct PreparedProcess {
    guard: RecordGuard,
    address: LocalAddress,
    port_forward: Option<PortForward>,
    redactor: Redactor,
}

impl ProcessProvider {
    /// A provider whose commands run under that supervisor; instances are noted below the user's runtime
    /// folder (`/run/user/N`, else the temporary files).
    #[must_use]
    pub fn new(supervisor: Supervisor) -> Self {
        let path = |name: &str| (name == "PATH").then(|| DEFAULT_PATH.to_owned());
        ProcessProvider { supervisor, environment: base_environment(&path), folder: None }
    }

    /// Sets the environment that commands start from.
    #[must_use]
    pub fn with_environment(mut self, environment: Vec<(OsString, OsString)>) -> Self {
        self.environment = environment;
        self
    }

    /// Keeps the registry in this folder. Providers with the same folder see each other's instances.
    #[must_use]
    pub fn with_registry(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn registry(&self) -> Result<InstanceRegistry, ProviderError> {
        InstanceRegistry::open(self.folder.as_deref())
    }

    async fn start_instance(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        check_spec(spec)?;
        let (prepared, command) = self.prepare(spec).await?;
        if spec.detached {
            self.start_detached(spec, prepared, command).await
        } else {
            self.start_attached(spec, prepared, command).await
        }
    }

    async fn prepare(&self, spec: &InstanceSpec) -> Result<(PreparedProcess, ChildSpec), ProviderError> {
        let name = validate::instance_name(spec)?;
        let folder =
            spec.workspace.as_deref().map(|path| validate::resolve_folder("workspace", path)).transpose()?;
        let (address, port_forward) = match &spec.listen {
            ListenAddress::FreePort => {
                (LocalAddress::Port(free_port().map_err(|error| port_unavailable(&error))?), None)
            }
            ListenAddress::Port(port) => {
                validate::check_port_free(*port)?;
                (LocalAddress::Port(*port), None)
            }
            ListenAddress::Socket(folder) => {
                let socket = socket_in(&validate::resolve_folder("folder of the socket", folder)?, &name)?;
                let port_forward =
                    PortForward::open(socket.clone()).await.map_err(|error| port_unavailable(&error))?;
                (LocalAddress::Socket(socket), Some(port_forward))
            }
        };
        let port = match (&address, &port_forward) {
            (LocalAddress::Port(port), _) => *port,
            (_, Some(port_forward)) => port_forward.port(),
            (LocalAddress::Socket(_), None) => 0,
        };
        let words = spec.command.iter().map(|word| fill_placeholders(word, &address)).collect::<Vec<_>>();
        let info = InstanceInfo {
            id: Uuid::new_v4().to_string(),
            name: name.clone(),
            provider: "process".to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            source: command_line(&spec.command),
            started_us: now_us(),
            detached: spec.detached,
        };
        let guard = self.registry()?.reserve(InstanceRecord::new(info, spec.grace()))?;
        let command = ChildSpec {
            label: name,
            program: words[0].clone(),
            arguments: words[1..].to_vec(),
            environment: self.variables(spec, &address),
            folder,
            grace: spec.grace(),
        };
        Ok((PreparedProcess { guard, address, port_forward, redactor: logs::redactor(spec) }, command))
    }

    fn variables(&self, spec: &InstanceSpec, address: &LocalAddress) -> Vec<(OsString, OsString)> {
        let given = spec.env.iter().map(|(name, value)| (name.into(), value.expose().into()));
        let mut all: Vec<(OsString, OsString)> = self.environment.iter().cloned().chain(given).collect();
        let mut set = |name: &str, value: OsString| all.push((name.into(), value));
        match address {
            LocalAddress::Port(port) => {
                for name in ["HOST", "OXENV_HOST"] {
                    set(name, "127.0.0.1".into());
                }
                for name in ["PORT", "OXENV_PORT"] {
                    set(name, port.to_string().into());
                }
            }
            LocalAddress::Socket(path) => set("OXENV_UDS", path.into()),
        }
        all
    }

    /// Starts a process that ends with this one.
    async fn start_attached(
        &self,
        spec: &InstanceSpec,
        mut prepared: PreparedProcess,
        command: ChildSpec,
    ) -> Result<Instance, ProviderError> {
        let redactor = prepared.redactor.clone();
        let child = self.supervisor.spawn_server(command, redactor).map_err(|error| start_failed(&error))?;
        prepared.guard.update(|record| record.supervisor = SupervisorId::for_process(child.pid()))?;
        let name = &prepared.guard.record.info.name;
        let ended = tokio::select! {
            biased;
            status = child.wait() => Err(exited_early(name, status)),
            healthy = health::wait_until_healthy(&prepared.address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(name, spec, &last))
            }
        };
        if let Err(error) = ended {
            // Its output up to the end belongs to the description.
            let _ = child.stop().await;
            return Err(error.with_logs(child.output_tail()));
        }
        prepared.guard.update(|record| record.ready = true)?;
        let info = prepared.guard.record.info.clone();
        let backend = AttachedProcess {
            child,
            guard: Mutex::new(Some(prepared.guard)),
            port_forward: prepared.port_forward,
        };
        Ok(Instance::new(info, Arc::new(backend)))
    }

    /// Starts a process that outlives this one.
    async fn start_detached(
        &self,
        spec: &InstanceSpec,
        mut prepared: PreparedProcess,
        command: ChildSpec,
    ) -> Result<Instance, ProviderError> {
        let info = prepared.guard.record.info.clone();
        let log = prepared.guard.registry().log_path(&info.name);
        let mut process =
            self.supervisor.spawn_detached(command, &log).map_err(|error| start_failed(&error))?;
        let supervisor = SupervisorId::for_process(process.pid());
        let mut unfinished = StopOnDrop(supervisor);
        prepared.guard.update(|record| record.supervisor = supervisor)?;
        let outcome = tokio::select! {
            biased;
            status = process.wait() => Err(exited_early(&info.name, status)),
            healthy = health::wait_until_healthy(&prepared.address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(&info.name, spec, &last))
            }
        };
        let (Some(supervisor), Ok(())) = (supervisor, &outcome) else {
            if let Some(supervisor) = supervisor {
                supervisor.end(&info.name, spec.grace()).await?;
            }
            let error = outcome.err().unwrap_or_else(|| start_failed(&io::Error::other("it ended at once")));
            return Err(error.with_logs(log_tail(&log, &prepared.redactor)));
        };
        prepared.guard.update(|record| record.ready = true)?;
        prepared.guard.keep();
        unfinished.0 = None;
        let process = tokio::sync::Mutex::new(process);
        let backend =
            DetachedProcess { process, supervisor, guard: prepared.guard, redactor: prepared.redactor };
        Ok(Instance::new(info, Arc::new(backend)))
    }
}

impl Provider for ProcessProvider {
    fn name(&self) -> &'static str {
        "process"
    }

    fn start<'a>(&'a self, spec: &'a InstanceSpec) -> ProviderFuture<'a, Instance> {
        Box::pin(self.start_instance(spec))
    }

    fn list(&self) -> ProviderFuture<'_, Vec<InstanceInfo>> {
        Box::pin(async {
            let running =
                self.registry()?.all().into_iter().filter(|record| record.ready && record.is_alive());
            Ok(running.map(|record| record.info).collect())
        })
    }

    fn stop<'a>(&'a self, id: &'a str) -> ProviderFuture<'a, ()> {
        Box::pin(async move {
            let registry = self.registry()?;
            let found =
                registry.all().into_iter().find(|record| record.info.id == id || record.info.name == id);
            let Some(record) = found else {
                return if Uuid::parse_str(id).is_ok() { Ok(()) } else { Err(instance_not_found(id)) };
            };
            if let Some(supervisor) = record.supervisor {
                supervisor.end(&record.info.name, record.grace()).await?;
            }
            registry.remove(&record.info.name);
            Ok(())
        })
    }

    fn sweep(&self) -> ProviderFuture<'_, Vec<String>> {
        Box::pin(async {
            let registry = self.registry()?;
            let mut swept = Vec::new();
            for record in registry.all() {
                let left = record.is_orphaned();
                if let (true, Some(supervisor)) = (left, record.supervisor) {
                    supervisor.end(&record.info.name, record.grace()).await?;
                }
                // Of an instance that ended by itself only the note is left.
                if left || !record.is_alive() {
                    registry.remove(&record.info.name);
                }
                swept.extend(left.then_some(record.info.id));
            }
            Ok(swept)
        })
    }
}

/// A detached instance that is not healthy yet: dropped, it ends.
struct StopOnDrop(Option<SupervisorId>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(supervisor) = self.0 {
            supervisor.request_end();
        }
    }
}

/// Refuses a spec that a process cannot meet.
fn check_spec(spec: &InstanceSpec) -> Result<(), ProviderError> {
    validate::check_variables(spec)?;
    let docker = "use the docker provider for that";
    if spec.image.is_some() {
        return Err(invalid_spec(format!(
            "a process is started from a command, not from an image; {docker}"
        )));
    }
    if spec.command.is_empty() {
        return Err(invalid_spec("no command is given"));
    }
    let limits = spec.limits;
    if limits.memory.is_some() || limits.cpus.is_some() || limits.pids.is_some() {
        return Err(invalid_spec(format!("a process of this machine cannot be limited; {docker}")));
    }
    if !spec.mounts.is_empty() {
        return Err(invalid_spec(format!("a process sees this machine's folders where they are; {docker}")));
    }
    if spec.detached && matches!(spec.listen, ListenAddress::Socket(_)) {
        return Err(invalid_spec(
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
        return Err(invalid_spec(format!(
            "the path '{}' is too long for a socket; use a shorter folder",
            path.display()
        )));
    }
    let _ = std::fs::remove_file(&path);
    Ok(path)
}

fn fill_placeholders(word: &OsString, address: &LocalAddress) -> OsString {
    let Some(text) = word.to_str() else { return word.clone() };
    match address {
        LocalAddress::Port(port) => text.replace("{port}", &port.to_string()).into(),
        LocalAddress::Socket(path) => text.replace("{socket}", &path.to_string_lossy()).into(),
    }
}

/// A port that is free now. The kernel gives those of [`UNASSIGNED_PORTS`] only to who names one, so that
/// none of the many connections of a machine takes it before the server does.
fn free_port() -> io::Result<u16> {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let count = u128::from(UNASSIGNED_PORTS.end - UNASSIGNED_PORTS.start);
    let first = u16::try_from(Uuid::new_v4().as_u128() % count).unwrap_or_default();
    let mut tried = (UNASSIGNED_PORTS.start + first..UNASSIGNED_PORTS.end).take(MAX_TRIED_PORTS);
    match tried.find(is_free) {
        Some(port) => Ok(port),
        None => Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port()),
    }
}

fn command_line(command: &[OsString]) -> String {
    command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

fn port_unavailable(error: &io::Error) -> ProviderError {
    ProviderError::new(
        ProviderCode::StartFailed,
        format!("no port of the loopback address can be had: {error}"),
    )
}

fn start_failed(error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::StartFailed, error.to_string())
}

fn exited_early(name: &str, status: ExitStatus) -> ProviderError {
    let unusable = [supervise::NOT_FOUND, supervise::NOT_RUNNABLE].map(i32::from);
    if status.code().is_some_and(|code| unusable.contains(&code)) {
        return ProviderError::new(ProviderCode::StartFailed, format!("'{name}' cannot be started"));
    }
    let message = format!("'{name}' {} before it was healthy", describe_status(status));
    ProviderError::new(ProviderCode::InstanceExited, message)
}

pub(crate) fn unhealthy(name: &str, spec: &InstanceSpec, last: &str) -> ProviderError {
    let time = spec.start_deadline().as_secs_f64();
    let message = format!("'{name}' was not healthy within {time} s and was ended: {last}");
    ProviderError::new(ProviderCode::InstanceUnhealthy, message)
}

pub(crate) fn instance_not_found(name: &str) -> ProviderError {
    ProviderError::new(
        ProviderCode::InstanceNotFound,
        format!("no instance is called '{name}'; see oxenv ps"),
    )
}
