//! What of a session can be forked or saved, by what its environment and its toolsets declare.
//!
//! Invariant: a refusal names what is refused, and comes before anything was made.

use std::sync::Arc;

use oxenv_core::{Capabilities, EnvironmentSpec, Failure, ForkMode, Mount, Scope, Toolset, Workspaces};

/// What an environment with toolsets can do.
pub(super) fn union(
    own: Capabilities,
    toolsets: &[Arc<dyn Toolset>],
    workspaces: &Workspaces,
) -> Capabilities {
    let forks = !workspaces.is_shared() && toolsets.iter().all(|toolset| refusal(&**toolset).is_none());
    let others = toolsets.iter().map(|toolset| toolset.fork());
    let stateless = others.clone().all(|mode| mode == ForkMode::Stateless);
    let fork = match own.fork {
        _ if !forks => ForkMode::None,
        // Its actions are repeated on a new environment, whose toolsets and workspace are then new as well.
        ForkMode::Replay if !stateless => ForkMode::None,
        ForkMode::None | ForkMode::Replay | ForkMode::Native | ForkMode::Process => own.fork,
        ForkMode::Stateless | ForkMode::Workspace if others.clone().any(copies_state) => ForkMode::Native,
        ForkMode::Stateless | ForkMode::Workspace => ForkMode::Workspace,
    };
    let saves = forks && others.clone().all(|mode| mode != ForkMode::Native);
    Capabilities { fork, snapshot: own.snapshot && saves, ..own }
}

/// Refuses the fork of a session whose environment, or one of whose toolsets, cannot be forked.
pub(super) fn refuse_unforkable(
    spec: &EnvironmentSpec,
    own: Capabilities,
    toolsets: &[Mount],
) -> Result<(), Failure> {
    let name = &spec.name;
    let own = match own.fork {
        ForkMode::None => Some(format!("environment '{name}' cannot be forked: it declares fork: none")),
        ForkMode::Replay => Some(format!(
            "environment '{name}' is forked by replay, which does not take along what its other tools have \
             done"
        )),
        ForkMode::Stateless | ForkMode::Workspace | ForkMode::Native | ForkMode::Process => None,
    };
    match own.or_else(|| toolsets.iter().find_map(|mount| refusal(&*mount.toolset))) {
        Some(why) => Err(Failure::unsupported(why)),
        None => Ok(()),
    }
}

/// Refuses to save a session whose environment, or one of whose toolsets, cannot be saved.
pub(super) fn refuse_unsavable(
    spec: &EnvironmentSpec,
    own: Capabilities,
    toolsets: &[Mount],
) -> Result<(), Failure> {
    let name = &spec.name;
    if !own.snapshot {
        return Err(Failure::unsupported(format!(
            "environment '{name}' cannot be saved: it declares no snapshot"
        )));
    }
    let native = |mount: &Mount| {
        let copies_itself = mount.toolset.fork() == ForkMode::Native;
        copies_itself
            .then(|| format!("toolset '{}' can copy itself, but cannot be saved", mount.toolset.name()))
    };
    match toolsets.iter().find_map(|mount| refusal(&*mount.toolset).or_else(|| native(mount))) {
        Some(why) => Err(Failure::unsupported(why)),
        None => Ok(()),
    }
}

/// The mode as a manifest spells it.
pub(super) fn mode_name(mode: ForkMode) -> &'static str {
    match mode {
        ForkMode::Stateless => "stateless",
        ForkMode::Workspace => "workspace",
        ForkMode::Native => "native",
        ForkMode::Process => "process",
        ForkMode::Replay => "replay",
        ForkMode::None => "none",
    }
}

fn copies_state(mode: ForkMode) -> bool {
    matches!(mode, ForkMode::Native | ForkMode::Replay)
}

/// Why a toolset keeps a session from being forked.
fn refusal(toolset: &dyn Toolset) -> Option<String> {
    let name = toolset.name();
    match toolset.fork() {
        ForkMode::None => Some(format!(
            "toolset '{name}' can be neither forked nor saved: its on_fork is none; in tools.yaml, say \
             on_fork: stateless if it keeps nothing of a session, workspace if all that it keeps is in files \
             of ${{workspace}}, or replay if calling its tools again brings its state back"
        )),
        ForkMode::Replay if toolset.scope() == Scope::Server => Some(format!(
            "toolset '{name}' cannot be forked by replay, because all sessions share it and would see its \
             calls repeated; in tools.yaml, say scope: session, or on_fork: stateless if it keeps nothing of \
             a session"
        )),
        ForkMode::Stateless
        | ForkMode::Workspace
        | ForkMode::Native
        | ForkMode::Process
        | ForkMode::Replay => None,
    }
}
