//! Environments with a server that is started for the client: in a container, as a process.
//!
//! Invariant: the instance lives as long as the [`ProvidedEnv`], and ends with it.

use std::ffi::OsString;
use std::path::Path;

use oxenv_process::child::Supervisor;
use oxenv_providers::docker::DockerProvider;
use oxenv_providers::process::ProcessProvider;
use oxenv_providers::{Instance, InstanceSpec, Provider, SecretText};

use crate::env_client::EnvClient;
use crate::error::Result;
use crate::options::{ClientOptions, OpenOptions};

/// A session together with the instance that serves it.
///
/// ```no_run
/// # async fn run() -> oxenv_client::Result<()> {
/// use oxenv_client::{ProvidedEnv, ResetOptions};
///
/// let env = ProvidedEnv::from_docker_image("echo-env:latest", None, &[]).await?;
/// env.client().reset(&ResetOptions::default()).await?;
/// env.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct ProvidedEnv {
    // Before the instance, so that a drop closes the session first.
    client: EnvClient,
    instance: Instance,
}

impl ProvidedEnv {
    /// Starts an instance and opens a session in it.
    ///
    /// ```no_run
    /// # async fn run() -> oxenv_client::Result<()> {
    /// use oxenv_client::{ClientOptions, OpenOptions, ProvidedEnv};
    /// use oxenv_providers::docker::DockerProvider;
    /// use oxenv_providers::{InstanceSpec, ResourceLimits};
    ///
    /// let provider = DockerProvider::connect(None).await?;
    /// let spec = InstanceSpec {
    ///     image: Some("echo-env:latest".to_owned()),
    ///     limits: ResourceLimits { memory: Some(512 << 20), ..ResourceLimits::default() },
    ///     ..InstanceSpec::default()
    /// };
    /// let env =
    ///     ProvidedEnv::start(&provider, &spec, &ClientOptions::default(), &OpenOptions::default()).await?;
    /// env.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Why there is none; then nothing is left running.
    pub async fn start(
        provider: &dyn Provider,
        spec: &InstanceSpec,
        options: &ClientOptions,
        open: &OpenOptions,
    ) -> Result<Self> {
        let instance = provider.start(spec).await?;
        match EnvClient::connect_with(instance.url(), options, open).await {
            Ok(client) => Ok(ProvidedEnv { client, instance }),
            Err(error) => {
                // Why there is no session is what the caller has to know.
                let _ = instance.stop().await;
                Err(error)
            }
        }
    }

    /// Starts a container of an image with the machine's own Docker daemon, as the tools RFC has it: the
    /// directory is mounted at `/workspace`, and the variables are in the container's environment alone. For
    /// another daemon, limits or mounts, use [`ProvidedEnv::start`] with a [`DockerProvider`].
    ///
    /// # Errors
    /// As [`ProvidedEnv::start`].
    pub async fn from_docker_image(
        image: &str,
        workspace_dir: Option<&Path>,
        env_vars: &[(&str, &str)],
    ) -> Result<Self> {
        let spec = InstanceSpec {
            image: Some(image.to_owned()),
            workspace: workspace_dir.map(Path::to_owned),
            env: env_vars.iter().map(|(name, value)| ((*name).to_owned(), SecretText::new(*value))).collect(),
            ..InstanceSpec::default()
        };
        let provider = DockerProvider::connect(None).await?;
        Self::start(&provider, &spec, &ClientOptions::default(), &OpenOptions::default()).await
    }

    /// Starts a command as a process of this machine, such as `oxenv serve echo --port {port}` or
    /// `uvicorn module:app --port {port}`; `{port}` stands for a free port. The supervisor is the program
    /// that ends it: `oxenv` with the argument `supervise`. The command has the usual PATH and no other
    /// variable of ours; to give it more, start it by a `ProcessProvider` of your own.
    ///
    /// ```no_run
    /// # async fn run() -> oxenv_client::Result<()> {
    /// use oxenv_client::ProvidedEnv;
    /// use oxenv_process::child::Supervisor;
    ///
    /// let supervisor = Supervisor::new("oxenv", ["supervise"]);
    /// let command = ["oxenv", "serve", "echo", "--port", "{port}"];
    /// let env = ProvidedEnv::from_command(supervisor, command).await?;
    /// println!("{}", env.instance().url());
    /// env.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`ProvidedEnv::start`].
    pub async fn from_command(
        supervisor: Supervisor,
        command: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self> {
        let command = command.into_iter().map(Into::into).collect();
        let spec = InstanceSpec { command, ..InstanceSpec::default() };
        let provider = ProcessProvider::new(supervisor);
        Self::start(&provider, &spec, &ClientOptions::default(), &OpenOptions::default()).await
    }

    /// The session.
    #[must_use]
    pub fn client(&self) -> &EnvClient {
        &self.client
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Closes the session and ends the instance.
    ///
    /// # Errors
    /// If the instance may still run.
    pub async fn close(self) -> Result<()> {
        // The session ends with its server whatever the outcome.
        let _ = self.client.close().await;
        Ok(self.instance.stop().await?)
    }
}
