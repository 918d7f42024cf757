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
use crate::instance::{Instance, InstanceInfo, Provider, Running};
use crate::spec::InstanceSpec;
use crate::validate::invalid;
use background_stop::Endpoint;

pub use build::BuildSpec;
pub use dockerignore::Ignored;

/// The daemon's socket, where nothing else is said.
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// How long a daemon has to say who it is.
const GREETING: Duration = Duration::from_secs(10);
/// How long the head of any other answer may take.
const ANSWER: Duration = Duration::from_secs(120);

/// Starts containers.
///
/// They are named `oxenv-` and the instance's name. The workspace is mounted at `/workspace`, and the container runs as
/// the user and group that own it, so that neither side meets files that it may not touch; nothing is changed or
/// cleared there. Without a workspace there is a volume that goes with the container. The rest of its files can only
/// be read, but `/tmp`, which is also its `HOME`; it has no capabilities and gains none. A server is expected on the
/// one port that its image exposes, or on 8000.
#[derive(Debug, Clone)]
pub struct DockerProvider {
    docker: Docker,
    endpoint: Endpoint,
}

impl DockerProvider {
    /// Connects to the daemon that `DOCKER_HOST` names, given as `host`, or to the machine's own. The daemon must be
    /// on this machine: ports are published on its loopback address, and folders are its folders.
    ///
    /// # Errors
    /// [`ProviderCode::ProviderUnavailable`], if none answers; [`ProviderCode::InvalidSpec`], if `host` is neither
    /// `unix://PATH` nor `tcp://HOST:PORT`.
    pub async fn connect(host: Option<&str>) -> Result<Self, ProviderError> {
        let endpoint = endpoint(host)?;
        let seconds = ANSWER.as_secs();
        let connected = match &endpoint {
            Endpoint::Unix(path) => {
                Docker::connect_with_unix(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
            }
            Endpoint::Tcp(address) => Docker::connect_with_http(address, seconds, API_DEFAULT_VERSION),
        };
        let docker = connected.map_err(|error| daemon_error::unavailable(&endpoint, &error))?;
        match tokio::time::timeout(GREETING, docker.negotiate_version()).await {
            Ok(Ok(docker)) => Ok(DockerProvider { docker, endpoint }),
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

    fn start<'a>(&'a self, spec: &'a InstanceSpec) -> Running<'a, Instance> {
        Box::pin(self.begin(spec))
    }

    fn list(&self) -> Running<'_, Vec<InstanceInfo>> {
        Box::pin(self.running())
    }

    fn stop<'a>(&'a self, id: &'a str) -> Running<'a, ()> {
        Box::pin(self.stop_found(id))
    }

    fn sweep(&self) -> Running<'_, Vec<String>> {
        Box::pin(self.sweep_left())
    }
}

fn endpoint(host: Option<&str>) -> Result<Endpoint, ProviderError> {
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(Endpoint::Unix(Path::new(USUAL_SOCKET).to_owned()));
    };
    if let Some(path) = host.strip_prefix("unix://").or_else(|| host.starts_with('/').then_some(host)) {
        return Ok(Endpoint::Unix(path.into()));
    }
    match host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://")) {
        Some(address) => Ok(Endpoint::Tcp(address.trim_end_matches('/').to_owned())),
        None => Err(invalid(format!(
            "'{host}' is no address of a Docker daemon that is spoken to here; use unix://PATH or tcp://HOST:PORT"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_daemons() {
        let shown = |host| endpoint(host).map(|endpoint| endpoint.to_string());
        assert_eq!(shown(None).unwrap(), "unix:///var/run/docker.sock");
        assert_eq!(shown(Some("")).unwrap(), "unix:///var/run/docker.sock");
        assert_eq!(shown(Some("unix:///a/b")).unwrap(), "unix:///a/b");
        assert_eq!(shown(Some("/a/b")).unwrap(), "unix:///a/b");
        assert_eq!(shown(Some("tcp://127.0.0.1:2375/")).unwrap(), "tcp://127.0.0.1:2375");
        assert_eq!(shown(Some("ssh://host")).unwrap_err().code, ProviderCode::InvalidSpec);
    }
}
