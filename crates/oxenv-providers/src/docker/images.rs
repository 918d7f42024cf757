//! The image that a container is made of: here, or fetched.
//!
//! Invariant: nothing is fetched that the policy does not allow.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt;

use super::daemon_error;
use crate::error::{ProviderCode, ProviderError};
use crate::spec::PullPolicy;

/// Where a server listens if its image sets no port.
const DEFAULT_PORT: u16 = 8000;

/// An image's description of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    /// The port that its server listens on.
    pub(super) port: u16,
}

/// Finds an image, or fetches it.
pub(super) async fn ensure(docker: &Docker, name: &str, policy: PullPolicy) -> Result<Image, ProviderError> {
    if policy == PullPolicy::Always {
        let found = inspect(docker, name).await?;
        pull(docker, name).await.map_err(|why| pull_failed(name, &why, found.is_some()))?;
    }
    if let Some(found) = inspect(docker, name).await? {
        return Ok(found);
    }
    if policy == PullPolicy::Missing {
        pull(docker, name).await.map_err(|why| pull_failed(name, &why, false))?;
        if let Some(found) = inspect(docker, name).await? {
            return Ok(found);
        }
    }
    Err(image_not_found(name, "it may not be fetched; build or fetch it, or allow that"))
}

/// The error for a missing image.
pub(super) fn image_not_found(name: &str, why: &str) -> ProviderError {
    ProviderError::new(ProviderCode::ImageNotFound, format!("there is no image '{name}' here, and {why}"))
}

async fn inspect(docker: &Docker, name: &str) -> Result<Option<Image>, ProviderError> {
    match docker.inspect_image(name).await {
        Ok(found) => Ok(Some(Image { port: exposed_port(&found) })),
        Err(error) if daemon_error::status(&error) == Some(404) => Ok(None),
        Err(error) => Err(daemon_error::from_docker(
            ProviderCode::InvalidSpec,
            &format!("the image '{name}' cannot be used"),
            &error,
        )),
    }
}

fn exposed_port(image: &ImageInspect) -> u16 {
    let exposed =
        image.config.as_ref().and_then(|config| config.exposed_ports.as_deref()).unwrap_or_default();
    let mut ports = exposed.iter().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(port), None) => port,
        _ => DEFAULT_PORT,
    }
}

async fn pull(docker: &Docker, name: &str) -> Result<(), Error> {
    tracing::info!(image = name, "fetching an image");
    let (image, tag) = split_tag(name);
    let options = CreateImageOptionsBuilder::default().from_image(image).tag(tag).build();
    docker.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) }).await
}

fn pull_failed(name: &str, error: &Error, is_here: bool) -> ProviderError {
    if is_here {
        return daemon_error::from_docker(
            ProviderCode::ImageFailed,
            &format!("the image '{name}' cannot be fetched again; start the one that is here without that"),
            error,
        );
    }
    let what = format!("there is no image '{name}' here, and it cannot be fetched");
    daemon_error::from_docker(ProviderCode::ImageNotFound, &what, error)
}

/// A name and its tag, which is `latest` if there is none; a digest stays where it is.
fn split_tag(name: &str) -> (&str, &str) {
    if name.contains('@') {
        return (name, "");
    }
    match name.rsplit_once(':') {
        // Else it is the port of a registry.
        Some((image, tag)) if !tag.contains('/') => (image, tag),
        _ => (name, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ImageConfig;

    use super::*;

    #[test]
    fn names_have_tags() {
        assert_eq!(split_tag("echo-env"), ("echo-env", "latest"));
        assert_eq!(split_tag("host:5000/echo-env"), ("host:5000/echo-env", "latest"));
        assert_eq!(split_tag("host:5000/echo-env:1"), ("host:5000/echo-env", "1"));
        assert_eq!(split_tag("echo@sha256:00"), ("echo@sha256:00", ""));
    }

    #[test]
    fn one_exposed_port_is_the_server_s() {
        let exposing = |ports: &[&str]| {
            let exposed_ports = Some(ports.iter().map(|port| (*port).to_owned()).collect());
            let config = Some(ImageConfig { exposed_ports, ..ImageConfig::default() });
            exposed_port(&ImageInspect { config, ..ImageInspect::default() })
        };
        assert_eq!(exposed_port(&ImageInspect::default()), 8000);
        assert_eq!(exposing(&["9000/tcp"]), 9000);
        assert_eq!(exposing(&["9000/tcp", "53/udp"]), 9000);
        assert_eq!(exposing(&["9000/tcp", "9001/tcp"]), 8000);
    }
}
