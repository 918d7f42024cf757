//! The handle of a running container.
//!
//! Invariant: what a container wrote is shown without the values of its variables.

use std::path::PathBuf;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::ContainerState;
use bollard::query_parameters::{
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use oxenv_process::child::describe_signal;
use oxenv_process::secret::Redactor;

use super::background_stop::stop_in_background;
use super::{DockerProvider, daemon_error};
use crate::error::{ProviderCode, ProviderError};
use crate::instance::{InstanceBackend, ProviderFuture};
use crate::logs::{MAX_READ_BYTES, last_lines};
use crate::port_forward::PortForward;

/// Number of lines of a log that are read.
const MAX_LOG_LINES: &str = "200";
/// The pause before a container is checked again when the daemon does not report its end.
const POLL_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// A container that this process started.
pub(super) struct Container {
    pub(super) provider: DockerProvider,
    pub(super) id: String,
    pub(super) name: String,
    /// How long it has to end by itself, in seconds.
    pub(super) grace: u64,
    pub(super) redactor: Redactor,
    #[expect(dead_code, reason = "it is held for its drop")]
    pub(super) port_forward: Option<PortForward>,
    pub(super) socket: Option<PathBuf>,
}

impl Container {
    /// Waits until it does not run; returns how it ended.
    pub(super) async fn wait_for_exit(&self) -> Result<String, ProviderError> {
        let docker = &self.provider.docker;
        loop {
            // The next request reads its status; a daemon that breaks off is asked again.
            let mut waits = std::pin::pin!(docker.wait_container(&self.id, None));
            let waited = waits.next().await;
            let what = format!("the container of '{}' cannot be seen", self.name);
            let found = match docker.inspect_container(&self.id, None).await {
                Ok(found) => found.state.unwrap_or_default(),
                Err(error) if daemon_error::status(&error) == Some(404) => {
                    return Ok("was removed".to_owned());
                }
                Err(error) => {
                    return Err(daemon_error::from_docker(ProviderCode::InstanceNotFound, &what, &error));
                }
            };
            if found.running != Some(true) {
                return Ok(describe_exit(&found));
            }
            tracing::debug!(name = self.name, ?waited, "a container runs still");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// The last lines of its output.
    pub(super) async fn last_lines(&self) -> Result<String, ProviderError> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(MAX_LOG_LINES).build();
        let mut parts = self.provider.docker.logs(&self.id, Some(options));
        let (mut raw, mut cut) = (Vec::new(), false);
        loop {
            match parts.try_next().await {
                Ok(Some(part)) => raw.extend_from_slice(&LogOutput::into_bytes(part)),
                Ok(None) => break,
                Err(error) => {
                    let what = format!("the log of '{}' cannot be read", self.name);
                    return Err(daemon_error::from_docker(ProviderCode::InstanceNotFound, &what, &error));
                }
            }
            if raw.len() > 2 * MAX_READ_BYTES {
                raw.drain(..raw.len() - MAX_READ_BYTES);
                cut = true;
            }
        }
        cut |= raw.iter().filter(|byte| **byte == b'\n').count() >= 200;
        Ok(last_lines(&raw, cut, &self.redactor))
    }
}

impl InstanceBackend for Container {
    fn stop(&self) -> ProviderFuture<'_, ()> {
        let (docker, id, name) = (self.provider.docker.clone(), self.id.clone(), self.name.clone());
        let ending = tokio::spawn(async move { end(&docker, &id, &name).await });
        Box::pin(async move {
            let ended = ending.await;
            self.remove_socket();
            ended.unwrap_or_else(|error| Err(ProviderError::new(ProviderCode::StopFailed, error.to_string())))
        })
    }

    fn begin_stop(&self) {
        stop_in_background(&self.provider.daemon, &self.id, Some(self.grace));
        self.remove_socket();
    }

    fn logs(&self) -> ProviderFuture<'_, String> {
        Box::pin(self.last_lines())
    }

    fn ended(&self) -> ProviderFuture<'_, String> {
        Box::pin(self.wait_for_exit())
    }
}

impl Container {
    fn remove_socket(&self) {
        if let Some(socket) = &self.socket {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// Asks a container to end, waits for its grace, ends it, and removes it with its volumes.
pub(super) async fn end(docker: &Docker, id: &str, name: &str) -> Result<(), ProviderError> {
    let what = format!("the container of '{name}' cannot be ended");
    let fine = |error: &bollard::errors::Error| matches!(daemon_error::status(error), Some(304 | 404));
    // Without a time it is the one that it was made with.
    match docker.stop_container(id, Some(StopContainerOptionsBuilder::default().build())).await {
        Ok(()) => {}
        Err(error) if fine(&error) => {}
        Err(error) => return Err(daemon_error::from_docker(ProviderCode::StopFailed, &what, &error)),
    }
    remove(docker, id, name).await
}

/// Removes a container with its volumes, and ends it at once if it runs.
pub(super) async fn remove(docker: &Docker, id: &str, name: &str) -> Result<(), ProviderError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match docker.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        // It is gone, or is being removed right now.
        Err(error) if matches!(daemon_error::status(&error), Some(404 | 409)) => Ok(()),
        Err(error) => {
            let what = format!("the container of '{name}' cannot be removed");
            Err(daemon_error::from_docker(ProviderCode::StopFailed, &what, &error))
        }
    }
}

/// How a container ended.
fn describe_exit(state: &ContainerState) -> String {
    let code = state.exit_code.unwrap_or_default();
    let problem = state.error.as_deref().filter(|error| !error.is_empty());
    match (state.oom_killed, code, problem) {
        (Some(true), _, _) => format!("was ended because it needed more memory than it may (code {code})"),
        (_, code, Some(problem)) => format!("exited with code {code}: {problem}"),
        (_, 129..=192, None) => describe_signal((code - 128) as i32),
        (_, code, None) => format!("exited with code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        let state = |oom_killed, exit_code| ContainerState {
            oom_killed: Some(oom_killed),
            exit_code: Some(exit_code),
            ..ContainerState::default()
        };
        assert_eq!(describe_exit(&state(false, 0)), "exited with code 0");
        assert_eq!(describe_exit(&state(false, 137)), "was ended by signal 9 (SIGKILL)");
        assert!(describe_exit(&state(true, 137)).contains("more memory"));
    }
}
