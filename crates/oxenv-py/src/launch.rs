//! Where a session's server is: at an address, or in an instance that is started for it.
//!
//! Invariant: an instance that was started for a session ends with it, also if the session could not be
//! made.

use std::path::PathBuf;
use std::time::Duration;

use oxenv_client::{ClientError, ClientOptions, EnvClient, OpenOptions};
use oxenv_process::child::Supervisor;
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{
    Instance, InstanceSpec, ListenAddress, Mount, Provider, PullPolicy, ResourceLimits, SecretText,
};
use serde::Deserialize;

use crate::options::{invalid_options, parse_seconds};

/// Where the server is.
pub(crate) enum ServerSource {
    Url(String),
    /// A container, started by the daemon at that address.
    Docker(InstanceSpec, Option<String>),
    /// A process, under our own binary as its supervisor.
    Process(InstanceSpec, PathBuf),
}

/// A server to start, as Python describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LaunchArguments {
    image: Option<String>,
    command: Vec<String>,
    name: Option<String>,
    env: Vec<(String, String)>,
    workspace: Option<PathBuf>,
    mounts: Vec<(PathBuf, PathBuf, bool)>,
    memory: Option<u64>,
    cpus: Option<f64>,
    pids: Option<u32>,
    port: Option<u16>,
    pull: String,
    privileged_root: bool,
    start_timeout_s: f64,
    stop_grace_s: f64,
    docker_host: Option<String>,
    supervisor: Option<PathBuf>,
}

impl LaunchArguments {
    /// The source that this is.
    pub(crate) fn into_source(self) -> Result<ServerSource, ClientError> {
        let pull = match self.pull.as_str() {
            "never" => PullPolicy::Never,
            "missing" => PullPolicy::Missing,
            "always" => PullPolicy::Always,
            other => {
                return Err(invalid_options(format!("pull {other:?}: use 'never', 'missing' or 'always'")));
            }
        };
        let mount = |(from, to, read_only)| Mount { from, to, read_only };
        let spec = InstanceSpec {
            image: self.image,
            command: self.command.into_iter().map(Into::into).collect(),
            name: self.name,
            env: self.env.into_iter().map(|(name, value)| (name, SecretText::new(value))).collect(),
            workspace: self.workspace,
            mounts: self.mounts.into_iter().map(mount).collect(),
            listen: self.port.map_or(ListenAddress::FreePort, ListenAddress::Port),
            limits: ResourceLimits { memory: self.memory, cpus: self.cpus, pids: self.pids },
            pull,
            privileged_root: self.privileged_root,
            start_timeout: parse_seconds("start_timeout_s", self.start_timeout_s)?,
            stop_grace: parse_seconds("stop_grace_s", self.stop_grace_s)?,
            ..InstanceSpec::default()
        };
        Ok(match self.supervisor {
            Some(program) => ServerSource::Process(spec, program),
            None => ServerSource::Docker(spec, self.docker_host),
        })
    }
}

impl ServerSource {
    /// Opens a session, in an instance of its own if that is the source.
    pub(crate) async fn open(
        &self,
        options: &ClientOptions,
        open: &OpenOptions,
    ) -> Result<(EnvClient, Option<Instance>), ClientError> {
        let instance = match self {
            ServerSource::Url(url) => return Ok((EnvClient::connect_with(url, options, open).await?, None)),
            ServerSource::Docker(spec, host) => {
                DockerProvider::connect(host.as_deref()).await?.start(spec).await?
            }
            ServerSource::Process(spec, program) => {
                let supervisor = Supervisor::new(program.clone(), ["supervise"]);
                ProcessProvider::new(supervisor).start(spec).await?
            }
        };
        match EnvClient::connect_with(instance.url(), options, open).await {
            Ok(client) => Ok((client, Some(instance))),
            Err(error) => {
                // The failure to connect is what the caller has to know.
                let _ = instance.stop().await;
                Err(error)
            }
        }
    }
}

/// How long the end of an instance may take at the exit of a process, beyond the grace that it has.
pub(crate) const INSTANCE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the goodbye of a session may take at that time.
pub(crate) const SESSION_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
