//! The configuration of a container.
//!
//! Invariant: values of variables go into the container's environment and nowhere else.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount as Mounted, MountType, PortBinding,
};

use super::background_stop::DaemonAddress;
use crate::error::ProviderError;
use crate::owner::OwnerProcess;
use crate::process::{now_us, socket_in};
use crate::spec::{InstanceSpec, ListenAddress};
use crate::validate::{self, invalid_spec};

/// Our labels: the instance's name, its owner, whether it outlives that, where it is reached if no port
/// is published, and when it was made.
pub(super) const NAME_LABEL: &str = "dev.oxenv.name";
pub(super) const OWNER_LABEL: &str = "dev.oxenv.owner";
pub(super) const DETACHED_LABEL: &str = "dev.oxenv.detached";
pub(super) const PORT_LABEL: &str = "dev.oxenv.port";
pub(super) const STARTED_LABEL: &str = "dev.oxenv.started_us";

/// Where the workspace is seen.
const WORKSPACE_PATH: &str = "/workspace";
/// Where the folder of the socket is seen.
const SOCKET_FOLDER: &str = "/run/oxenv";
/// The default size of `/tmp`, in bytes.
const DEFAULT_TMP_BYTES: u64 = 1 << 30;
/// How much a container's log may take on the daemon's disk: this twice.
const MAX_LOG_SIZE: &str = "10m";

/// The checked configuration of a container.
pub(super) struct ContainerConfig {
    pub(super) name: String,
    pub(super) image: String,
    folders: Vec<BoundFolder>,
    has_workspace: bool,
    user: Option<String>,
    pub(super) network: ContainerNetwork,
    /// The port that the server listens on.
    port: u16,
}

/// A folder of this machine that the container sees.
struct BoundFolder {
    host: PathBuf,
    target: String,
    read_only: bool,
}

/// How the server is reached.
pub(super) enum ContainerNetwork {
    /// A port of the loopback address; 0: a free one.
    Published(u16),
    /// The same network as this machine's, on that port.
    Host(u16),
    /// A socket here.
    Socket(PathBuf),
}

impl ContainerConfig {
    /// Judges a spec. `port` is what the image's server listens on.
    pub(super) fn new(
        spec: &InstanceSpec,
        image: &str,
        port: u16,
        daemon: &DaemonAddress,
    ) -> Result<Self, ProviderError> {
        let name = validate::instance_name(spec)?;
        let mut folders = Vec::new();
        let mut owner = None;
        if let Some(workspace) = &spec.workspace {
            let folder = validate::resolve_folder("workspace", workspace)?;
            owner = Some(folder.clone());
            folders.push(BoundFolder { host: folder, target: WORKSPACE_PATH.to_owned(), read_only: false });
        }
        for mount in &spec.mounts {
            if !mount.to.is_absolute() {
                return Err(invalid_spec(format!(
                    "'{}' is no place in a container; begin with '/'",
                    mount.to.display()
                )));
            }
            let folder = validate::resolve_folder("folder", &mount.from)?;
            let target = mount.to.to_string_lossy().into_owned();
            folders.push(BoundFolder { host: folder, target, read_only: mount.read_only });
        }
        let network = match &spec.listen {
            ListenAddress::Socket(folder) => {
                let folder = validate::resolve_folder("folder of the socket", folder)?;
                let socket = socket_in(&folder, &name)?;
                let (host, target) = (folder.clone(), SOCKET_FOLDER.to_owned());
                folders.push(BoundFolder { host, target, read_only: false });
                owner.get_or_insert(folder);
                ContainerNetwork::Socket(socket)
            }
            ListenAddress::Port(wanted) if spec.host_network => ContainerNetwork::Host(*wanted),
            ListenAddress::FreePort if spec.host_network => ContainerNetwork::Host(port),
            ListenAddress::Port(wanted) => ContainerNetwork::Published(*wanted),
            ListenAddress::FreePort => ContainerNetwork::Published(0),
        };
        let port = if let ContainerNetwork::Host(port) = network { port } else { port };
        let user = owner
            .filter(|_| !spec.privileged_root)
            .map(|folder| container_user(&folder, daemon))
            .transpose()?;
        let has_workspace = spec.workspace.is_some();
        Ok(ContainerConfig { name, image: image.to_owned(), folders, has_workspace, user, network, port })
    }

    /// The container's own name.
    pub(super) fn container_name(&self) -> String {
        format!("oxenv-{}", self.name)
    }

    /// The port as the daemon's tables have it.
    pub(super) fn port_key(&self) -> String {
        format!("{}/tcp", self.port)
    }

    /// The request body for the daemon. `reached_at` is the port of this machine, where it is known before;
    /// `init`: whether a process of Docker's is the container's first.
    pub(super) fn body(
        &self,
        spec: &InstanceSpec,
        reached_at: Option<u16>,
        init: bool,
    ) -> ContainerCreateBody {
        let command: Vec<String> =
            spec.command.iter().map(|word| self.fill_placeholders(&word.to_string_lossy())).collect();
        let grace = i64::try_from(grace_seconds(spec)).unwrap_or(i64::MAX);
        ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(command).filter(|command| !command.is_empty()),
            env: Some(self.environment(spec)),
            user: self.user.clone(),
            labels: Some(self.labels(spec, reached_at)),
            exposed_ports: Some(vec![self.port_key()]),
            stop_timeout: Some(grace),
            host_config: Some(self.host_config(spec, init)),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self, spec: &InstanceSpec, init: bool) -> HostConfig {
        let limits = spec.limits;
        let memory = limits.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let closed = !spec.privileged_root;
        let tmp = if spec.tmp_bytes == 0 { DEFAULT_TMP_BYTES } else { spec.tmp_bytes };
        let (network, ports) = match &self.network {
            ContainerNetwork::Published(port) => (None, Some(self.port_bindings(*port))),
            ContainerNetwork::Host(_) => (Some("host"), None),
            ContainerNetwork::Socket(_) => (Some("none"), None),
        };
        HostConfig {
            memory,
            // Without this a container may swap as much again.
            memory_swap: memory,
            nano_cpus: limits.cpus.map(|cpus| (cpus * 1e9) as i64),
            pids_limit: limits.pids.map(i64::from),
            mounts: Some(self.mounts()),
            // Programs that a package manager unpacks there are run from there.
            tmpfs: Some(HashMap::from([(
                "/tmp".to_owned(),
                format!("rw,exec,nosuid,nodev,mode=1777,size={tmp}"),
            )])),
            network_mode: network.map(str::to_owned),
            port_bindings: ports,
            readonly_rootfs: Some(closed),
            cap_drop: closed.then(|| vec!["ALL".to_owned()]),
            security_opt: closed.then(|| vec!["no-new-privileges".to_owned()]),
            init: Some(init),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), MAX_LOG_SIZE.to_owned()),
                    ("max-file".to_owned(), "2".to_owned()),
                ])),
            }),
            ..HostConfig::default()
        }
    }

    fn port_bindings(&self, port: u16) -> HashMap<String, Option<Vec<PortBinding>>> {
        let host_port = if port == 0 { String::new() } else { port.to_string() };
        let binding = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(host_port) };
        HashMap::from([(self.port_key(), Some(vec![binding]))])
    }

    fn mounts(&self) -> Vec<Mounted> {
        let mut mounts: Vec<Mounted> = self
            .folders
            .iter()
            .map(|folder| Mounted {
                source: Some(folder.host.to_string_lossy().into_owned()),
                target: Some(folder.target.clone()),
                typ: Some(MountType::BIND),
                read_only: Some(folder.read_only),
                ..Mounted::default()
            })
            .collect();
        if !self.has_workspace && !self.folders.iter().any(|folder| folder.target == WORKSPACE_PATH) {
            mounts.push(Mounted {
                target: Some(WORKSPACE_PATH.to_owned()),
                typ: Some(MountType::VOLUME),
                ..Mounted::default()
            });
        }
        mounts
    }

    fn environment(&self, spec: &InstanceSpec) -> Vec<String> {
        let mut all: Vec<String> =
            spec.env.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect();
        let given = |name: &str| spec.env.iter().any(|(given, _)| given == name);
        if !spec.privileged_root && !given("HOME") {
            all.push("HOME=/tmp".to_owned());
        }
        match &self.network {
            ContainerNetwork::Published(_) => {}
            ContainerNetwork::Host(port) => {
                all.extend([format!("PORT={port}"), format!("OXENV_PORT={port}")]);
            }
            ContainerNetwork::Socket(_) => all.push(format!("OXENV_UDS={SOCKET_FOLDER}/{}.sock", self.name)),
        }
        all
    }

    fn labels(&self, spec: &InstanceSpec, reached_at: Option<u16>) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (NAME_LABEL.to_owned(), self.name.clone()),
            (OWNER_LABEL.to_owned(), OwnerProcess::current().to_string()),
            (DETACHED_LABEL.to_owned(), spec.detached.to_string()),
            (STARTED_LABEL.to_owned(), now_us().to_string()),
        ]);
        if let Some(port) = reached_at {
            labels.insert(PORT_LABEL.to_owned(), port.to_string());
        }
        labels
    }

    fn fill_placeholders(&self, word: &str) -> String {
        let word = word.replace("{port}", &self.port.to_string());
        match &self.network {
            ContainerNetwork::Socket(_) => {
                word.replace("{socket}", &format!("{SOCKET_FOLDER}/{}.sock", self.name))
            }
            _ => word,
        }
    }
}

/// The grace in whole seconds, as the daemon counts it.
pub(super) fn grace_seconds(spec: &InstanceSpec) -> u64 {
    spec.grace().as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}

/// The user of a container, so that it and the folder's owner can use each other's files.
fn container_user(folder: &Path, daemon: &DaemonAddress) -> Result<String, ProviderError> {
    let found = std::fs::metadata(folder).map_err(|error| {
        invalid_spec(format!("the folder '{}' cannot be read: {error}", folder.display()))
    })?;
    // A daemon of a user, not of root, shows that user's files as root's within its containers.
    let daemon_user = match daemon {
        DaemonAddress::Unix(path) => std::fs::metadata(path).map_or(0, |socket| socket.uid()),
        DaemonAddress::Tcp(_) => 0,
    };
    if daemon_user != 0 && daemon_user == found.uid() {
        return Ok("0:0".to_owned());
    }
    Ok(format!("{}:{}", found.uid(), found.gid()))
}
