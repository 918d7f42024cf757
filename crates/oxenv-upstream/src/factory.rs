//! Environments with the tools of a manifest: an environment of tools alone, or any other one with
//! tools added.
//!
//! Invariant: every session has toolsets, a workspace and a toolbox of its own; what sessions share
//! (server-scoped toolsets, names, rate limits of the server) is made once.

use std::sync::Arc;

use oxenv_core::{
    Auditor, Boot, Buckets, CatalogueCache, EnvironmentFactory, EnvironmentSpec, Failure, Instance, Mount,
    Naming, Policy, PolicyError, RubricFactory, ToolEnvironment, Toolbox, Toolset, Work, Workspace,
    Workspaces,
};

use crate::manager::{SessionPlace, UpstreamManager};
use crate::manifest::{Manifest, Prefix, PrefixRule, ToolsetEntry};

/// What a factory is made of beside the manifest's toolsets.
pub struct FactoryOptions {
    /// The environment that gets the tools; absent: one of tools alone.
    pub base: Option<Arc<dyn EnvironmentFactory>>,
    /// The name of an environment of tools alone.
    pub name: String,
    /// What scores the calls of an environment of tools alone; absent: rewards are null.
    pub rubric: Option<RubricFactory>,
    /// Where sessions have their folders.
    pub workspaces: Arc<Workspaces>,
    /// Who records calls.
    pub auditor: Option<Arc<Auditor>>,
}

/// Makes environments with the tools of a manifest.
pub struct ToolFactory {
    spec: Arc<EnvironmentSpec>,
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
        let spec = match &options.base {
            Some(base) => Arc::clone(base.spec()),
            None => {
                let description = "An environment of tools, declared in a manifest";
                Arc::new(ToolEnvironment::spec(&options.name, description, options.rubric.is_some()))
            }
        };
        let base_mounts =
            options.base.as_ref().map(|base| base.all_tools().mounts().to_vec()).unwrap_or_default();
        let mounts = mounts(base_mounts, manager.server_toolsets(), &rules);
        let all = Toolbox::new(mounts).with_auditor(options.auditor.clone());
        let server = Arc::new(all.server_scoped());
        let (all, cache) = (Arc::new(all), Arc::default());
        Ok(ToolFactory { spec, options, manager, rules, cache, all, server })
    }

    async fn boot(&self, boot: Boot) -> Result<Instance, Failure> {
        let workspace = self.workspace(&boot.session_id).await?;
        let place = SessionPlace {
            session_id: boot.session_id.clone(),
            seed: boot.seed,
            workspace: workspace.path().to_owned(),
        };
        let (environment, base_mounts) = match &self.options.base {
            Some(base) => {
                let instance = base.create(boot).await?;
                (instance.environment, instance.toolbox.mounts().to_vec())
            }
            None => {
                let rubric = self.options.rubric.as_ref().map(|rubric| rubric());
                (Box::new(ToolEnvironment::new(rubric)) as Box<_>, Vec::new())
            }
        };
        let mounts = mounts(base_mounts, self.manager.open_session(place), &self.rules);
        let toolbox =
            Toolbox::sharing(mounts, Arc::clone(&self.cache)).with_auditor(self.options.auditor.clone());
        let instance = Instance { environment, toolbox: Arc::new(toolbox), workspace: Some(workspace) };
        require(&instance.toolbox).await?;
        Ok(instance)
    }

    /// Copying a folder takes as long as it takes, which is not for a thread that serves others.
    async fn workspace(&self, name: &str) -> Result<Arc<Workspace>, Failure> {
        let (workspaces, name) = (Arc::clone(&self.options.workspaces), name.to_owned());
        let opened = tokio::task::spawn_blocking(move || workspaces.open(&name)).await;
        let opened = opened.map_err(|error| Failure::infrastructure(error.to_string()))?;
        opened.map(Arc::new).map_err(|error| Failure::infrastructure(error.to_string()))
    }
}

impl EnvironmentFactory for ToolFactory {
    fn spec(&self) -> &Arc<EnvironmentSpec> {
        &self.spec
    }

    fn create(&self, boot: Boot) -> Work<'_, Result<Instance, Failure>> {
        Work::pending(self.boot(boot))
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
