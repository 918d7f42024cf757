//! Finding, stopping and sweeping containers by their labels, whichever process started them.
//!
//! Invariant: only what carries our labels is listed, ended or removed.

use std::collections::HashMap;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use bollard::query_parameters::ListContainersOptionsBuilder;

use super::config::{DETACHED_LABEL, NAME_LABEL, OWNER_LABEL, PORT_LABEL, STARTED_LABEL};
use super::{DockerProvider, container, daemon_error};
use crate::error::{ProviderCode, ProviderError};
use crate::instance::InstanceInfo;
use crate::owner::OwnerProcess;
use crate::process::instance_not_found;

impl DockerProvider {
    /// The containers of ours that run.
    pub(super) async fn list_running(&self) -> Result<Vec<InstanceInfo>, ProviderError> {
        let found = self.labelled_containers(NAME_LABEL).await?;
        let mut running: Vec<InstanceInfo> =
            found.iter().filter(|one| is_running(one)).map(instance_info).collect();
        running.sort_by_key(|info| info.started_us);
        Ok(running)
    }

    /// Ends what has that id or name.
    pub(super) async fn stop_container(&self, id: &str) -> Result<(), ProviderError> {
        let found = self.labelled_containers(NAME_LABEL).await?;
        let is_it =
            |one: &&ContainerSummary| one.id.as_deref() == Some(id) || label(one, NAME_LABEL) == Some(id);
        match found.iter().find(is_it).and_then(|one| one.id.as_deref()) {
            Some(container) => container::end(&self.docker, container, id).await,
            None if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(()),
            None => Err(instance_not_found(id)),
        }
    }

    /// Removes what was left behind; of containers that ended by themselves, those that nothing
    /// else will remove.
    pub(super) async fn sweep_containers(&self) -> Result<Vec<String>, ProviderError> {
        let mut swept = Vec::new();
        for one in self.labelled_containers(NAME_LABEL).await? {
            let Some(id) = &one.id else { continue };
            let Some(owner) = label(&one, OWNER_LABEL).and_then(OwnerProcess::parse) else { continue };
            let detached = is_detached(&one);
            let left = owner.is_gone() && (!detached || one.state == Some(State::CREATED));
            let has_ended = matches!(one.state, Some(State::EXITED | State::DEAD));
            if left || (has_ended && (detached || owner.is_other_boot())) {
                container::remove(&self.docker, id, label(&one, NAME_LABEL).unwrap_or_default()).await?;
                swept.extend(left.then(|| id.clone()));
            }
        }
        Ok(swept)
    }

    /// Frees a name that is held by a container of ours that has ended or was left. Returns whether it is
    /// free.
    pub(super) async fn free_name(&self, name: &str) -> Result<bool, ProviderError> {
        let found = self.labelled_containers(&format!("{NAME_LABEL}={name}")).await?;
        for one in &found {
            let gone =
                label(one, OWNER_LABEL).and_then(OwnerProcess::parse).is_some_and(|owner| owner.is_gone());
            let ended = matches!(one.state, Some(State::EXITED | State::DEAD)) || (gone && !is_detached(one));
            let (true, Some(id)) = (ended, &one.id) else { return Ok(false) };
            container::remove(&self.docker, id, name).await?;
        }
        Ok(!found.is_empty())
    }

    async fn labelled_containers(&self, label: &str) -> Result<Vec<ContainerSummary>, ProviderError> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = self.docker.list_containers(Some(options)).await;
        listed.map_err(|error| {
            daemon_error::from_docker(
                ProviderCode::ProviderUnavailable,
                "containers cannot be listed",
                &error,
            )
        })
    }
}

fn is_running(one: &ContainerSummary) -> bool {
    matches!(one.state, Some(State::RUNNING | State::PAUSED | State::RESTARTING))
}

fn is_detached(one: &ContainerSummary) -> bool {
    label(one, DETACHED_LABEL) == Some("true")
}

fn label<'a>(one: &'a ContainerSummary, name: &str) -> Option<&'a str> {
    one.labels.as_ref()?.get(name).map(String::as_str)
}

fn instance_info(one: &ContainerSummary) -> InstanceInfo {
    let published = one.ports.as_ref().and_then(|ports| ports.iter().find_map(|port| port.public_port));
    let port = published.or_else(|| label(one, PORT_LABEL)?.parse().ok());
    InstanceInfo {
        id: one.id.clone().unwrap_or_default(),
        name: label(one, NAME_LABEL).unwrap_or_default().to_owned(),
        provider: "docker".to_owned(),
        url: port.map(|port| format!("http://127.0.0.1:{port}")).unwrap_or_default(),
        source: one.image.clone().unwrap_or_default(),
        started_us: label(one, STARTED_LABEL).and_then(|time| time.parse().ok()).unwrap_or_default(),
        detached: is_detached(one),
    }
}
