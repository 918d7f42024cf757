//! Forks of a session: each part by what was declared for it.
//!
//! Invariant: everything is checked before anything is made, and what was made goes with a fork that fails.

use std::sync::Arc;

use oxenv_core::{
    CopySource, EnvironmentContext, EnvironmentInstance, Failure, ForkMode, Mount, Toolbox, Toolset,
};

use super::{ToolFactory, modes, repeat};

impl ToolFactory {
    /// Makes what goes on from the present state of a session.
    pub(super) async fn fork_of(
        &self,
        boot: EnvironmentContext,
        mut original: CopySource<'_>,
    ) -> Result<EnvironmentInstance, Failure> {
        let (base_mounts, own_mounts) = self.split_mounts(original.toolbox);
        modes::refuse_unforkable(&self.spec, self.own, own_mounts)?;
        let repeats = repeat::of(&original, base_mounts.len())?;
        let copies = native_copies(own_mounts)?;
        let workspace = original.workspace.cloned();
        let (environment, base_mounts) = match &self.options.base {
            Some(base) => {
                let toolbox = Arc::new(Toolbox::new(base_mounts.to_vec()));
                let instance = base.fork(boot.clone(), without_toolbox(&mut original, &toolbox)).await?;
                (instance.environment, instance.toolbox.mounts().to_vec())
            }
            None => (original.environment.fork()?, Vec::new()),
        };
        let name = boot.session_id.clone();
        let fork = self.blocking(move |workspaces| match workspace {
            Some(workspace) => workspace.fork(workspaces, &name),
            None => workspaces.open(&name),
        });
        let fork = fork.await?;
        let toolsets = self.open_toolsets(&boot, &fork).into_iter().zip(copies);
        let toolsets = toolsets.map(|(fresh, copy)| copy.unwrap_or(fresh)).collect();
        let instance = self.with_mounts(environment, fork, base_mounts, toolsets).await?;
        repeat::repeat_calls(&repeats, &boot.session_id, &instance.toolbox).await?;
        Ok(instance)
    }

    /// The toolsets of the environment itself, and those of the manifest.
    pub(super) fn split_mounts<'a>(&self, toolbox: &'a Toolbox) -> (&'a [Mount], &'a [Mount]) {
        let mounts = toolbox.mounts();
        mounts.split_at(mounts.len().saturating_sub(self.rules.len()))
    }
}

/// The session as its environment alone knows it.
pub(super) fn without_toolbox<'a>(
    original: &'a mut CopySource<'_>,
    toolbox: &'a Arc<Toolbox>,
) -> CopySource<'a> {
    let CopySource { session_id, environment, calls, room, .. } = original;
    CopySource { session_id, environment: &mut **environment, toolbox, workspace: None, calls, room: *room }
}

/// Copies of the toolsets that copy themselves; nothing in the place of the others.
fn native_copies(mounts: &[Mount]) -> Result<Vec<Option<Arc<dyn Toolset>>>, Failure> {
    let copy = |mount: &Mount| match mount.toolset.fork() {
        ForkMode::Native => mount.toolset.copied().map(Some),
        _ => Ok(None),
    };
    mounts.iter().map(copy).collect()
}
