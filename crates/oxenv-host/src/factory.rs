//! Makes sessions of a hosted environment.
//!
//! Invariant: what is published without a session (schemas, tools, metadata) was reported by the
//! environment itself, once, at the start.

use std::any::Any;
use std::sync::Arc;

use oxenv_core::{
    ActionSpace, Capabilities, CopySource, EnvironmentContext, EnvironmentFactory, EnvironmentInstance,
    EnvironmentSpec, Execution, Failure, ForkMode, Toolbox, Work,
};
use oxenv_wire::{Schemas, Tool};

use crate::environment::HostedEnvironment;
use crate::host::{Host, Isolation};
use crate::host_error::HostError;
use crate::protocol::{Created, Loaded};
use crate::session::HostedSession;
use crate::tasks::HostedTasks;
use crate::toolset::{Callee, HostedToolset, tool};

/// Makes sessions of a hosted environment, each in a process of its own.
pub struct HostedFactory {
    host: Arc<Host>,
    spec: Arc<EnvironmentSpec>,
    tools: Arc<[Tool]>,
    all: Arc<Toolbox>,
}

impl HostedFactory {
    /// Makes one environment to read its description, and closes it.
    ///
    /// # Errors
    /// The environment cannot be made.
    pub async fn new(host: Arc<Host>, name: &str) -> Result<Self, HostError> {
        let context = EnvironmentContext::new("start", 0);
        let (session, created) = HostedSession::open(Arc::clone(&host), context)
            .await
            .map_err(|failure| HostError { message: cannot_be_made(&failure), missing_module: None })?;
        session.close();
        host.fill_up();
        let mut spec = spec(name, host.isolation(), host.loaded(), &created);
        if created.tasks {
            spec.tasks = Some(Arc::new(HostedTasks(Arc::clone(&host))));
        }
        let tools: Arc<[Tool]> = created.tools.into_iter().map(tool).collect();
        let all = Arc::new(toolbox(&spec.name, &tools, Callee::NewEnvironment(Arc::clone(&host))));
        Ok(HostedFactory { host, spec: Arc::new(spec), tools, all })
    }

    async fn copy(
        &self,
        context: EnvironmentContext,
        original: CopySource<'_>,
    ) -> Result<EnvironmentInstance, Failure> {
        let environment: &mut dyn Any = original.environment;
        let Some(HostedEnvironment(session)) = environment.downcast_ref() else {
            return Err(Failure::infrastructure("the session's environment is not a hosted one"));
        };
        let copy = session.copy(context).await?;
        let tools = original
            .toolbox
            .mounts()
            .first()
            .map_or_else(<Arc<[Tool]>>::default, |mount| mount.toolset.list());
        let toolbox = Arc::new(toolbox(&self.spec.name, &tools, Callee::Session(Arc::clone(&copy))));
        Ok(EnvironmentInstance::new(Box::new(HostedEnvironment(copy)), toolbox))
    }

    async fn boot(&self, context: EnvironmentContext) -> Result<EnvironmentInstance, Failure> {
        let (session, created) = HostedSession::open(Arc::clone(&self.host), context).await?;
        let environment = Box::new(HostedEnvironment(Arc::clone(&session)));
        let listed: Vec<Tool> = created.tools.into_iter().map(tool).collect();
        let tools = if *listed == *self.tools { Arc::clone(&self.tools) } else { listed.into() };
        let toolbox = Arc::new(toolbox(&self.spec.name, &tools, Callee::Session(session)));
        Ok(EnvironmentInstance::new(environment, toolbox))
    }
}

impl EnvironmentFactory for HostedFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, context: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::pending(self.boot(context))
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        let name = &self.spec.name;
        match self.host.isolation() {
            Isolation::Fork => Work::pending(self.copy(boot, original)),
            Isolation::Fresh => Work::done(Err(Failure::unsupported(format!(
                "environment '{name}' cannot be forked: each of its sessions is a Python of its own \
                 (--isolation fresh)"
            )))),
            Isolation::Thread => Work::done(Err(Failure::unsupported(format!(
                "environment '{name}' cannot be forked: its sessions are threads of one process \
                 (--isolation thread)"
            )))),
        }
    }

    fn save<'a>(&'a self, _: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        let name = &self.spec.name;
        let says = format!("environment '{name}' cannot be snapshotted: it runs in a process of its own");
        Work::done(Err(Failure::unsupported(says)))
    }

    fn problem(&self) -> Option<String> {
        self.host.problem()
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.all)
    }
}

fn cannot_be_made(failure: &Failure) -> String {
    let trace = failure.internal.as_deref().map(|trace| format!("\n{trace}")).unwrap_or_default();
    format!("the environment was imported, but cannot be made: {failure}{trace}")
}

fn toolbox(name: &str, tools: &Arc<[Tool]>, callee: Callee) -> Toolbox {
    if tools.is_empty() {
        return Toolbox::empty();
    }
    let toolset = HostedToolset { name: name.to_owned(), tools: Arc::clone(tools), callee };
    Toolbox::new(vec![oxenv_core::Mount::new(Arc::new(toolset))])
}

fn spec(name: &str, isolation: Isolation, loaded: &Loaded, created: &Created) -> EnvironmentSpec {
    let schemas = Schemas {
        action: loaded.schemas.action.clone(),
        observation: loaded.schemas.observation.clone(),
        state: loaded.schemas.state.clone(),
        reset_observation: loaded.schemas.reset_observation.clone(),
    };
    let name = loaded.name.as_deref().unwrap_or(name);
    let description = format!("{} environment", loaded.title);
    let mut spec = EnvironmentSpec {
        title: loaded.title.clone(),
        schemas,
        action_space: if created.takes_tool_calls { ActionSpace::Tools } else { ActionSpace::Own },
        capabilities: Capabilities {
            execution: Execution::Task,
            deterministic: false,
            fork: match isolation {
                Isolation::Fork => ForkMode::Process,
                Isolation::Fresh | Isolation::Thread => ForkMode::None,
            },
            snapshot: false,
            observes_calls: !created.tools.is_empty(),
            scored: false,
        },
        ..EnvironmentSpec::new(name, &description)
    };
    if let Some(metadata) = &created.metadata {
        spec.title.clone_from(&metadata.name);
        spec.description.clone_from(&metadata.description);
        spec.readme.clone_from(&metadata.readme_content);
        spec.author.clone_from(&metadata.author);
        spec.documentation_url.clone_from(&metadata.documentation_url);
        if let Some(version) = &metadata.version {
            spec.version.clone_from(version);
        }
    }
    spec
}
