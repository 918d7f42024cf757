//! Starting a container.
//!
//! Invariant: from the moment that the daemon is asked to make a container, somebody removes it unless it becomes
//! healthy: this future, its drop, or the task that asked.

use std::sync::Arc;

use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio::sync::oneshot;

use super::background_stop::{Endpoint, abandon};
use super::config::{Network, Plan, whole_seconds};
use super::container::{self, Container};
use super::{DockerProvider, daemon_error, images};
use crate::error::{ProviderCode, ProviderError};
use crate::health::{self, Address};
use crate::instance::{Instance, InstanceInfo};
use crate::logs;
use crate::port_forward::Bridge;
use crate::process::{now_us, unhealthy};
use crate::spec::InstanceSpec;
use crate::validate::{self, invalid};

/// A container that was made and is not healthy yet. Dropped, it is removed.
struct Begun {
    endpoint: Endpoint,
    id: String,
    armed: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.armed {
            abandon(&self.endpoint, &self.id, None);
        }
    }
}

impl DockerProvider {
    /// Starts a container and waits until it is healthy; ends meanwhile what was left by others.
    pub(super) async fn begin(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let (swept, started) = tokio::join!(self.sweep_left(), self.healthy(spec));
        if let Err(error) = swept {
            tracing::debug!(%error, "what was left behind earlier could not be ended");
        }
        started
    }

    async fn healthy(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        validate::variables(spec)?;
        validate::limits(spec)?;
        let name = spec.image.as_deref().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid("a container is started from an image, and none is named"))?;
        let image = images::ensure(&self.docker, name, spec.pull).await?;
        let plan = Plan::of(spec, name, image.port, &self.endpoint)?;
        let (bridge, socket) = match &plan.network {
            Network::Socket(_) if spec.detached => {
                let why = "what is reached over a socket ends with the process that bridges it; use a port";
                return Err(invalid(why));
            }
            Network::Host(port) => {
                validate::is_free(*port)?;
                (None, None)
            }
            Network::Socket(path) => {
                let bridge = Bridge::open(path.clone()).await.map_err(|error| {
                    let says = format!("no port of the loopback address can be had: {error}");
                    ProviderError::new(ProviderCode::StartFailed, says)
                })?;
                (Some(bridge), Some(path.clone()))
            }
            Network::Published(_) => (None, None),
        };
        let (mut begun, port) = self.started(spec, &plan, bridge.as_ref().map(Bridge::port)).await?;
        let container = Container {
            provider: self.clone(),
            id: begun.id.clone(),
            name: plan.name.clone(),
            grace: whole_seconds(spec),
            redactor: logs::redactor(spec),
            bridge,
            socket: socket.clone(),
        };
        let address = socket.map_or(Address::Port(port), Address::Socket);
        let outcome = tokio::select! {
            biased;
            ended = container.over() => Err(ended.map_or_else(|error| error, |how| {
                let says = format!("'{}' {how} before it was healthy", plan.name);
                ProviderError::new(ProviderCode::InstanceExited, says)
            })),
            healthy = health::wait(&address, spec.start_deadline()) => {
                healthy.map_err(|last| unhealthy(&plan.name, spec, &last))
            }
        };
        if let Err(error) = outcome {
            let logs = container.last_words().await.unwrap_or_default();
            begun.remove(self, &plan.name).await;
            return Err(error.with_logs(logs));
        }
        begun.armed = false;
        let info = InstanceInfo {
            id: begun.id.clone(),
            name: plan.name.clone(),
            provider: "docker".to_owned(),
            url: format!("http://127.0.0.1:{port}"),
            source: plan.image.clone(),
            started_us: now_us(),
            detached: spec.detached,
        };
        Ok(Instance::new(info, Arc::new(container)))
    }

    /// Makes a container and starts it; gives the port where it is reached.
    async fn started(
        &self,
        spec: &InstanceSpec,
        plan: &Plan,
        bridged: Option<u16>,
    ) -> Result<(Begun, u16), ProviderError> {
        let known = match plan.network {
            Network::Host(port) => Some(port),
            _ => bridged,
        };
        for init in [true, false] {
            let mut begun = self.made(plan, &plan.body(spec, known, init)).await?;
            let port = match self.docker.start_container(&begun.id, None).await {
                Ok(()) => match known {
                    Some(port) => Ok(port),
                    None => self.published_port(plan, &begun.id).await,
                },
                // The machine lacks Docker's own first process; a container does without, if need be.
                Err(error) if init && error.to_string().contains("docker-init") => {
                    begun.remove(self, &plan.name).await;
                    continue;
                }
                Err(error) => Err(not_started(plan, spec, &error)),
            };
            match port {
                Ok(port) => return Ok((begun, port)),
                Err(error) => {
                    begun.remove(self, &plan.name).await;
                    return Err(error);
                }
            }
        }
        Err(ProviderError::new(ProviderCode::StartFailed, format!("'{}' cannot be started", plan.name)))
    }

    /// Makes a container. Its name may be held by one that has ended, which then makes room.
    async fn made(&self, plan: &Plan, body: &ContainerCreateBody) -> Result<Begun, ProviderError> {
        let mut made = self.create(plan.container(), body.clone()).await?;
        if matches!(&made, Err(error) if daemon_error::status(error) == Some(409))
            && self.make_room(&plan.name).await?
        {
            made = self.create(plan.container(), body.clone()).await?;
        }
        made.map_err(|error| match daemon_error::status(&error) {
            Some(404) => images::missing(&plan.image, "it was removed just now"),
            Some(409) => {
                invalid(format!("an instance called '{}' is there already; choose another name", plan.name))
            }
            Some(400) => {
                let what = format!("a container for '{}' cannot be made", plan.name);
                daemon_error::of(ProviderCode::InvalidSpec, &what, &error)
            }
            _ => {
                let what = format!("a container for '{}' cannot be made", plan.name);
                daemon_error::of(ProviderCode::StartFailed, &what, &error)
            }
        })
    }

    /// Asks for a container in a task of its own: if this future is dropped, the task removes what it gets.
    async fn create(
        &self,
        name: String,
        body: ContainerCreateBody,
    ) -> Result<Result<Begun, Error>, ProviderError> {
        let (tell, told) = oneshot::channel();
        let (docker, endpoint) = (self.docker.clone(), self.endpoint.clone());
        tokio::spawn(async move {
            let options = CreateContainerOptionsBuilder::default().name(&name).build();
            let created = docker.create_container(Some(options), body).await;
            // If nobody takes it, it is dropped here.
            let _ = tell.send(created.map(|created| Begun { endpoint, id: created.id, armed: true }));
        });
        told.await.map_err(|_| {
            ProviderError::new(ProviderCode::StartFailed, "the runtime ended while a container was made")
        })
    }

    async fn published_port(&self, plan: &Plan, id: &str) -> Result<u16, ProviderError> {
        let what = format!("the container of '{}' cannot be seen", plan.name);
        let found = self.docker.inspect_container(id, None).await;
        let found = found.map_err(|error| daemon_error::of(ProviderCode::StartFailed, &what, &error))?;
        let ports = found.network_settings.and_then(|network| network.ports).unwrap_or_default();
        let bound = ports.get(&plan.port_key()).cloned().flatten().unwrap_or_default();
        let port = bound.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok());
        // A container that has ended has no ports any more; what is told of its end is better than this.
        Ok(port.unwrap_or(0))
    }
}

impl Begun {
    /// Removes it now.
    async fn remove(&mut self, provider: &DockerProvider, name: &str) {
        if container::remove(&provider.docker, &self.id, name).await.is_ok() {
            self.armed = false;
        }
    }
}

fn not_started(plan: &Plan, spec: &InstanceSpec, error: &Error) -> ProviderError {
    let what = format!("the container of '{}' cannot be started", plan.name);
    let mut failed = daemon_error::of(ProviderCode::StartFailed, &what, error);
    failed.message = logs::redactor(spec).redact(&failed.message).into_owned();
    if failed.message.contains("network bridge not found") {
        failed.message.push_str("; this daemon has no network for containers: use the host's, or a socket");
    }
    failed
}
