//! Environment servers in containers, over the API of Docker's daemon.
//!
//! Invariant: every container of ours carries our labels and no secret, and is removed when it has ended.

mod background_stop;
mod build;
mod config;
mod container;
mod context;
mod daemon_error;
mod dockerignore;
mod images;
mod list;
mod start;

use std::path::Path;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};

use crate::error::{ProviderCode, ProviderError};
use crate::instance::{Instance, InstanceInfo, Provider, ProviderFuture};
use crate::spec::InstanceSpec;
use crate::validate::invalid_spec;
use background_stop::DaemonAddress;

pub use build::BuildSpec;
pub use dockerignore::DockerIgnore;

/// The daemon's default socket.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long a daemon has to name its version.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of any other answer may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts containers.
///
/// They are named `oxenv-` and the instance's name. The workspace is mounted at `/workspace`, and the
/// container runs as the user and group that own it, so that neither side meets files that it may not touch;
/// nothing is changed or cleared there. Without a workspace there is a volume that goes with the container.
/// The rest of its files can only be read, but `/tmp`, which is also its `HOME`; it has no capabilities and
/// gains none. A server is expected on the one port that its image exposes, or on 8000.
#[derive(Debug, Clone)]
pub struct DockerProvider {
    docker: Docker,
    daemon: DaemonAddress,
}

impl DockerProvider {
    /// Connects to the daemon that `DOCKER_HOST` names, given as `host`, or to the machine's own. The daemon
    /// must be on this machine: ports are published on its loopback address, and folders are its folders.
    ///
    /// # Errors
    /// [`ProviderCode::ProviderUnavailable`], if none answers; [`ProviderCode::InvalidSpec`], if `host` is
    /// neither `unix://PATH` nor `tcp://HOST:PORT`.
    pub async fn connect(host: Option<&str>) -> Result<Self, ProviderError> {
        let endpoint = parse_daemon_address(host)?;
        let seconds = RESPONSE_TIMEOUT.as_secs();
        let connected = match &endpoint {
            DaemonAddress::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
            }
            DaemonAddress::Tcp(address) => Docker::connect_with_http(address, seconds, API_DEFAULT_VERSION),
        };
        let docker = connected.map_err(|error| daemon_error::unavailable(&endpoint, &error))?;
        match tokio::time::timeout(NEGOTIATION_TIMEOUT, docker.negotiate_version()).await {
            Ok(Ok(docker)) => Ok(DockerProvider { docker, daemon: endpoint }),
            Ok(Err(error)) => Err(daemon_error::unavailable(&endpoint, &error)),
            Err(_) => Err(ProviderError::new(
                ProviderCode::ProviderUnavailable,
                format!("the Docker daemon at {endpoint} does not answer; look at its log"),
            )),
        }
    }
}

impl Provider for DockerProvider {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn start<'a>(&'a self, spec: &'a InstanceSpec) -> ProviderFuture<'a, Instance> {
        Box::pin(self.start_instance(spec))
    }

    fn list(&self) -> ProviderFuture<'_, Vec<InstanceInfo>> {
        Box::pin(self.list_running())
    }

    fn stop<'a>(&'a self, id: &'a str) -> ProviderFuture<'a, ()> {
        Box::pin(self.stop_container(id))
    }

    fn sweep(&self) -> ProviderFuture<'_, Vec<String>> {
        Box::pin(self.sweep_containers())
    }
}

fn parse_daemon_address(host: Option<&str>) -> Result<DaemonAddress, ProviderError> {
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(DaemonAddress::Unix(Path::new(DEFAULT_SOCKET).to_owned()));
    };
    if let Some(path) = host.strip_prefix("unix://").or_else(|| host.starts_with('/').then_some(host)) {
        return Ok(DaemonAddress::Unix(path.into()));
    }
    match host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
        Some(address) => Ok(DaemonAddress::Tcp(address.trim_end_matches('/').to_owned())),
        None => Err(invalid_spec(format!(
            "'{host}' is no address of a Docker daemon that is spoken to here; \
             use unix://PATH or tcp://HOST:PORT"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_daemons() {
        let shown = |host| parse_daemon_address(host).map(|endpoint| endpoint.to_string());
        assert_eq!(shown(None).unwrap(), "unix:///var/run/docker.sock");
        assert_eq!(shown(Some("")).unwrap(), "unix:///var/run/docker.sock");
        assert_eq!(shown(Some("unix:///a/b")).unwrap(), "unix:///a/b");
        assert_eq!(shown(Some("/a/b")).unwrap(), "unix:///a/b");
        assert_eq!(shown(Some("tcp://127.0.0.1:2375/")).unwrap(), "tcp://127.0.0.1:2375");
        assert_eq!(shown(Some("ssh://host")).unwrap_err().code, ProviderCode::InvalidSpec);
    }
}
