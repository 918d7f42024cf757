//! Starting a container.
//!
//! Invariant: from the moment that the daemon is asked to make a container, it is removed unless it
//! becomes healthy: by this future, its drop, or the task that asked.

use std::sync::Arc;

use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::sync::oneshot;

use super::background_stop::{DaemonAddress, stop_in_background};
use super::config::{ContainerConfig, ContainerNetwork, grace_seconds};
use super::container::{self, Container};
use super::{DockerProvider, daemon_error, images};
use crate::error::{ProviderCode, ProviderError};
use crate::health::{self, LocalAddress};
use crate::instance::{Instance, InstanceInfo};
use crate::logs;
use crate::port_forward::PortForward;
use crate::process::{now_us, unhealthy};
use crate::spec::InstanceSpec;
use crate::validate::{self, invalid_spec};

/// A container that was created and is not healthy yet. Its drop removes it.
struct UnreadyContainer {
    endpoint: DaemonAddress,
    id: String,
    armed: bool,
}

/// A container that runs and is not healthy yet, and the port of this machine that reaches it.
struct StartedContainer {
    container: UnreadyContainer,
    port: u16,
}

/// The daemon's answer to a request for a container.
enum ContainerCreation {
    Created(UnreadyContainer),
    Refused(Error),
}

impl Drop for UnreadyContainer {
    fn drop(&mut self) {
        if self.armed {
            stop_in_background(&self.endpoint, &self.id, None);
        }
    }
}

impl DockerProvider {
    /// Starts a container and waits until it is healthy; ends meanwhile what was left by others.
    pub(super) async fn start_instance(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let (swept, started) = tokio::join!(self.sweep_containers(), self.start_container(spec));
        if let Err(error) = swept {
            tracing::debug!(%error, "what was left behind earlier could not be ended");
        }
        started
    }

    async fn start_container(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        validate::check_variables(spec)?;
        validate::check_limits(spec)?;
        let name = spec.image.as_deref().filter(|name| !name.is_empty());
        let name =
            name.ok_or_else(|| invalid_spec("a container is started from an image, and none is named"))?;
        let image = images::ensure(&self.docker, name, spec.pull).await?;
        let config = ContainerConfig::new(spec, name, image.port, &self.daemon)?;
        let (port_forward, socket) = match &config.network {
            ContainerNetwork::Socket(_) if spec.detached => {
                let why = "what is reached over a socket ends with the process that bridges it; use a port";
                return Err(invalid_spec(why));
            }
            ContainerNetwork::Host(port) => {
                validate::check_port_free(*port)?;
                (None, None)
            }
            ContainerNetwork::Socket(path) => {
                let port_forward = PortForward::open(path.clone()).await.map_err(|error| {
                    let message = format!("no port of the loopback address can be had: {error}");
                    ProviderError::new(ProviderCode::StartFailed, message)
                })?;
                (Some(port_forward), Some(path.clone()))
            }
            ContainerNetwork::Published(_) => (None, None),
        };
        let StartedContainer { container: mut unready, port } =
            self.create_and_start(spec, &config, port_forward.as_ref().map(PortForward::port)).await?;
        let container = Container {
            provider: self.clone(),
            id: unready.id.clone(),
            name: config.name.clone(),
            grace: grace_seconds(spec),
            redactor: logs::redactor(spec),
            port_forward,
            socket: socket.clone(),
        };
        let address = socket.map_or(LocalAddress::Port(port), LocalAddress::Socket);
        let outcome = tokio::select! {
            biased;
            ended = container.wait_for_exit() => Err(ended.map_or_else(|error| error, |how| {
                let message = format!("'{}' {how} before it was healthy", config.name);
                ProviderError::new(ProviderCode::InstanceExited, message)
            })),
            healthy = health::wait_until_healthy(&address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(&config.name, spec, &last))
            }
        };
        if let Err(error) = outcome {
            let logs = container.last_lines().await.unwrap_or_default();
            unready.remove(self, &config.name).await;
            return Err(error.with_logs(logs));
        }
        unready.armed = false;
        let info = InstanceInfo {
            id: unready.id.clone(),
            name: config.name.clone(),
            provider: "docker".to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            source: config.image.clone(),
            started_us: now_us(),
            detached: spec.detached,
        };
        Ok(Instance::new(info, Arc::new(container)))
    }

    /// Creates a container and starts it.
    async fn create_and_start(
        &self,
        spec: &InstanceSpec,
        config: &ContainerConfig,
        bridged: Option<u16>,
    ) -> Result<StartedContainer, ProviderError> {
        let known = match config.network {
            ContainerNetwork::Host(port) => Some(port),
            _ => bridged,
        };
        for init in [true, false] {
            let mut unready = self.create_named(config, &config.body(spec, known, init)).await?;
            let port = match self.docker.start_container(&unready.id, None).await {
                Ok(()) => match known {
                    Some(port) => Ok(port),
                    None => self.published_port(config, &unready.id).await,
                },
                // The machine lacks Docker's own first process; a container does without, if need be.
                Err(error) if init && error.to_string().contains("docker-init") => {
                    unready.remove(self, &config.name).await;
                    continue;
                }
                Err(error) => Err(start_failed(config, spec, &error)),
            };
            match port {
                Ok(port) => return Ok(StartedContainer { container: unready, port }),
                Err(error) => {
                    unready.remove(self, &config.name).await;
                    return Err(error);
                }
            }
        }
        Err(ProviderError::new(ProviderCode::StartFailed, format!("'{}' cannot be started", config.name)))
    }

    /// Creates a container, and removes one of the same name that has ended.
    async fn create_named(
        &self,
        config: &ContainerConfig,
        body: &ContainerCreateBody,
    ) -> Result<UnreadyContainer, ProviderError> {
        let mut made = self.create(config.container_name(), body.clone()).await?;
        if matches!(&made, ContainerCreation::Refused(error) if daemon_error::status(error) == Some(409))
            && self.free_name(&config.name).await?
        {
            made = self.create(config.container_name(), body.clone()).await?;
        }
        let error = match made {
            ContainerCreation::Created(container) => return Ok(container),
            ContainerCreation::Refused(error) => error,
        };
        Err(match daemon_error::status(&error) {
            Some(404) => images::image_not_found(&config.image, "it was removed just now"),
            Some(409) => invalid_spec(format!(
                "an instance called '{}' is there already; choose another name",
                config.name
            )),
            Some(400) => {
                let what = format!("a container for '{}' cannot be made", config.name);
                daemon_error::from_docker(ProviderCode::InvalidSpec, &what, &error)
            }
            _ => {
                let what = format!("a container for '{}' cannot be made", config.name);
                daemon_error::from_docker(ProviderCode::StartFailed, &what, &error)
            }
        })
    }

    /// Asks for a container in a task of its own: if this future is dropped, the task removes what it gets.
    async fn create(
        &self,
        name: String,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreation, ProviderError> {
        let (sender, receiver) = oneshot::channel();
        let (docker, endpoint) = (self.docker.clone(), self.daemon.clone());
        tokio::spawn(async move {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            let created = docker.create_container(Some(options), body).await;
            // If it is not taken, it is dropped here.
            let _ = sender.send(match created {
                Ok(created) => {
                    ContainerCreation::Created(UnreadyContainer { endpoint, id: created.id, armed: true })
                }
                Err(error) => ContainerCreation::Refused(error),
            });
        });
        receiver.await.map_err(|_| {
            ProviderError::new(ProviderCode::StartFailed, "the runtime ended while a container was made")
        })
    }

    async fn published_port(&self, config: &ContainerConfig, id: &str) -> Result<u16, ProviderError> {
        let what = format!("the container of '{}' cannot be seen", config.name);
        let found = self.docker.inspect_container(id, None).await;
        let found =
            found.map_err(|error| daemon_error::from_docker(ProviderCode::StartFailed, &what, &error))?;
        let ports = found.network_settings.and_then(|network| network.ports).unwrap_or_default();
        let bound = ports.get(&config.port_key()).cloned().flatten().unwrap_or_default();
        let port = bound.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok());
        // A container that has ended has no ports any more; the description of its end explains more than
        // this.
        Ok(port.unwrap_or(0))
    }
}

impl UnreadyContainer {
    /// Removes it now.
    async fn remove(&mut self, provider: &DockerProvider, name: &str) {
        if container::remove(&provider.docker, &self.id, name).await.is_ok() {
            self.armed = false;
        }
    }
}

fn start_failed(config: &ContainerConfig, spec: &InstanceSpec, error: &Error) -> ProviderError {
    let what = format!("the container of '{}' cannot be started", config.name);
    let mut failed = daemon_error::from_docker(ProviderCode::StartFailed, &what, error);
    failed.message = logs::redactor(spec).redact(&failed.message).into_owned();
    if failed.message.contains("network bridge not found") {
        failed.message.push_str("; this daemon has no network for containers: use the host's, or a socket");
    }
    failed
}
