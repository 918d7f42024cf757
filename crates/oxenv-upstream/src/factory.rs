//! Environments with the tools of a manifest: an environment of tools alone, or any other one with
//! tools added.
//!
//! Invariant: every session has toolsets, a workspace and a toolbox of its own; what sessions share
//! (server-scoped toolsets, names, rate limits of the server) is made once.
//!
//! `factory/forks.rs` copies a session, `factory/saved.rs` makes bytes of one, `factory/repeat.rs` repeats
//! actions and calls, `factory/modes.rs` decides what can be copied at all.

mod forks;
mod modes;
mod repeat;
mod saved;

use std::io;
use std::sync::Arc;

use oxenv_core::{
    Auditor, Buckets, Capabilities, CatalogueCache, CopySource, Environment, EnvironmentContext,
    EnvironmentFactory, EnvironmentInstance, EnvironmentSpec, Failure, Mount, Naming, Policy, PolicyError,
    ToolEnvironment, Toolbox, Toolset, Work, Workspace, Workspaces,
};
use oxenv_wire::ErrorCode;

use crate::manager::{SessionContext, UpstreamManager};
use crate::manifest::{Manifest, Prefix, PrefixRule, ToolsetEntry};

/// The parts of a factory besides the manifest's toolsets.
pub struct FactoryOptions {
    /// The environment that gets the tools; absent: one of tools alone.
    pub base: Option<Arc<dyn EnvironmentFactory>>,
    /// The name of an environment of tools alone.
    pub name: String,
    /// Where sessions have their folders.
    pub workspaces: Arc<Workspaces>,
    /// The receiver of audit records of calls.
    pub auditor: Option<Arc<Auditor>>,
}

/// Makes environments with the tools of a manifest.
pub struct ToolFactory {
    spec: Arc<EnvironmentSpec>,
    /// The environment's capabilities without the tools.
    own: Capabilities,
    options: FactoryOptions,
    manager: Arc<UpstreamManager>,
    /// The rules of each enabled entry, in order.
    rules: Vec<MountRules>,
    cache: Arc<CatalogueCache>,
    all: Arc<Toolbox>,
    server: Arc<Toolbox>,
}

/// What holds for a toolset wherever it is mounted.
struct MountRules {
    naming: Naming,
    prefix: Option<String>,
    policy: Arc<Policy>,
    server_buckets: Arc<Buckets>,
    deadline: std::time::Duration,
    required: bool,
}

impl ToolFactory {
    /// A factory over a manager that was made of the same manifest.
    ///
    /// # Errors
    /// The first rule that cannot be kept, with its toolset.
    pub fn new(
        manifest: &Manifest,
        manager: Arc<UpstreamManager>,
        options: FactoryOptions,
    ) -> Result<Self, (String, PolicyError)> {
        let enabled = manifest.toolsets.iter().filter(|entry| entry.enabled);
        let rules =
            enabled.map(|entry| MountRules::new(entry, manifest.prefix)).collect::<Result<Vec<_>, _>>()?;
        let own = match &options.base {
            Some(base) => EnvironmentSpec::clone(base.spec()),
            None => {
                let description = "An environment of tools, declared in a manifest";
                ToolEnvironment::spec(&options.name, description)
            }
        };
        let base_mounts =
            options.base.as_ref().map(|base| base.all_tools().mounts().to_vec()).unwrap_or_default();
        let toolsets = manager.server_toolsets();
        let capabilities = modes::union(own.capabilities, &toolsets, &options.workspaces);
        let (own, spec) = (own.capabilities, Arc::new(EnvironmentSpec { capabilities, ..own }));
        let mounts = mounts(base_mounts, toolsets, &rules);
        let all = Toolbox::new(mounts).with_auditor(options.auditor.clone());
        let server = Arc::new(all.server_scoped());
        let (all, cache) = (Arc::new(all), Arc::default());
        Ok(ToolFactory { spec, own, options, manager, rules, cache, all, server })
    }

    async fn boot(&self, boot: EnvironmentContext) -> Result<EnvironmentInstance, Failure> {
        let name = boot.session_id.clone();
        let workspace = self.blocking(move |workspaces| workspaces.open(&name)).await?;
        let (environment, base_mounts) = match &self.options.base {
            Some(base) => {
                let instance = base.create(boot.clone()).await?;
                (instance.environment, instance.toolbox.mounts().to_vec())
            }
            None => (Box::new(ToolEnvironment) as Box<_>, Vec::new()),
        };
        let toolsets = self.open_toolsets(&boot, &workspace);
        self.with_mounts(environment, workspace, base_mounts, toolsets).await
    }

    fn open_toolsets(&self, boot: &EnvironmentContext, workspace: &Workspace) -> Vec<Arc<dyn Toolset>> {
        self.manager.open_session(SessionContext {
            session_id: boot.session_id.clone(),
            seeds: boot.episode,
            workspace: workspace.path().to_owned(),
            known_as: workspace.known_as().to_owned(),
            running: workspace.running().clone(),
        })
    }

    /// The environment with its workspace and its tools, if those that are required work.
    async fn with_mounts(
        &self,
        environment: Box<dyn Environment>,
        workspace: Workspace,
        base_mounts: Vec<Mount>,
        toolsets: Vec<Arc<dyn Toolset>>,
    ) -> Result<EnvironmentInstance, Failure> {
        let mounts = mounts(base_mounts, toolsets, &self.rules);
        let toolbox =
            Toolbox::sharing(mounts, Arc::clone(&self.cache)).with_auditor(self.options.auditor.clone());
        let instance = EnvironmentInstance {
            environment,
            toolbox: Arc::new(toolbox),
            workspace: Some(Arc::new(workspace)),
        };
        require(&instance.toolbox).await?;
        Ok(instance)
    }

    /// Works on folders, which may be slow and must not run on a thread that serves others. If the
    /// result is no longer awaited, what it made is deleted again.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Workspaces) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let workspaces = Arc::clone(&self.options.workspaces);
        let done = tokio::task::spawn_blocking(move || work(&workspaces)).await;
        let done = done.map_err(|error| Failure::infrastructure(error.to_string()))?;
        done.map_err(|error| workspace_failed(&error))
    }
}

impl EnvironmentFactory for ToolFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, boot: EnvironmentContext) -> Work<'_, Result<EnvironmentInstance, Failure>> {
        Work::pending(self.boot(boot))
    }

    fn fork<'a>(
        &'a self,
        boot: EnvironmentContext,
        original: CopySource<'a>,
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(self.fork_of(boot, original))
    }

    fn save<'a>(&'a self, original: CopySource<'a>) -> Work<'a, Result<Vec<u8>, Failure>> {
        Work::pending(self.saved(original))
    }

    fn restore<'a>(
        &'a self,
        boot: EnvironmentContext,
        saved: &'a [u8],
    ) -> Work<'a, Result<EnvironmentInstance, Failure>> {
        Work::pending(self.restored(boot, saved))
    }

    fn problem(&self) -> Option<String> {
        self.options.base.as_ref()?.problem()
    }

    fn server_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.server)
    }

    fn all_tools(&self) -> Arc<Toolbox> {
        Arc::clone(&self.all)
    }
}

impl MountRules {
    fn new(entry: &ToolsetEntry, rule: PrefixRule) -> Result<Self, (String, PolicyError)> {
        let policy = Policy::compile(entry.rules.clone()).map_err(|error| (entry.name.clone(), error))?;
        let (naming, prefix) = match (&entry.prefix, rule) {
            (Some(Prefix::Named(prefix)), _) => (Naming::PrefixAlways, Some(prefix.clone())),
            (Some(Prefix::Always), _) | (None, PrefixRule::Always) => (Naming::PrefixAlways, None),
            (Some(Prefix::Never), _) | (None, PrefixRule::Never) => (Naming::Refuse, None),
            (None, PrefixRule::Conflict) => (Naming::PrefixOnConflict, None),
        };
        let (policy, server_buckets) = (Arc::new(policy), Arc::default());
        let (deadline, required) = (entry.timeout, entry.required);
        Ok(MountRules { naming, prefix, policy, server_buckets, deadline, required })
    }

    fn mount(&self, toolset: Arc<dyn Toolset>) -> Mount {
        Mount {
            toolset,
            naming: self.naming,
            prefix: self.prefix.clone(),
            policy: Arc::clone(&self.policy),
            server_buckets: Arc::clone(&self.server_buckets),
            deadline: Some(self.deadline),
            required: self.required,
        }
    }
}

fn mounts(base: Vec<Mount>, toolsets: Vec<Arc<dyn Toolset>>, rules: &[MountRules]) -> Vec<Mount> {
    base.into_iter()
        .chain(toolsets.into_iter().zip(rules).map(|(toolset, rules)| rules.mount(toolset)))
        .collect()
}

/// What is wrong with a workspace: its content, the bytes to make it of, or the machine.
fn workspace_failed(error: &io::Error) -> Failure {
    match error.kind() {
        // The last one means that a tool has put something else in its place.
        io::ErrorKind::Unsupported | io::ErrorKind::QuotaExceeded | io::ErrorKind::NotADirectory => {
            Failure::unsupported(error.to_string())
        }
        io::ErrorKind::InvalidData => Failure::new(ErrorCode::SnapshotInvalid, error.to_string()),
        _ => Failure::infrastructure(error.to_string()),
    }
}

/// Refuses a session whose required toolsets do not work.
async fn require(toolbox: &Toolbox) -> Result<(), Failure> {
    for mount in toolbox.mounts().iter().filter(|mount| mount.required) {
        mount.toolset.ready().await;
        if let Some(problem) = mount.toolset.problem() {
            let name = mount.toolset.name();
            return Err(Failure::infrastructure(format!(
                "the required toolset '{name}' does not work: {problem}"
            )));
        }
    }
    Ok(())
}
