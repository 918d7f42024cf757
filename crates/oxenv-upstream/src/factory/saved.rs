//! A session as bytes, and a new one from them: the environment's state, the workspace, calls to make again.
//!
//! Invariant: the bytes name the toolsets they belong to and how those were forked, and only a manifest
//! with the same toolsets accepts them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oxenv_core::{
    CopySource, Environment as _, EnvironmentContext, EnvironmentInstance, Failure, Mount, ToolEnvironment,
    Toolbox,
};
use oxenv_wire::ErrorCode;
use serde::{Deserialize, Serialize};

use super::repeat::{self, Repeat};
use super::{ToolFactory, forks, modes};

/// The prefix of the bytes; the number is the format's version. A length of 8 bytes follows, then that much
/// JSON, the environment's state and the workspace.
const MAGIC: &[u8] = b"oxenv session of tools 2\n";
/// The shortest path that agents may know a folder by. Anything shorter could be in a text by chance.
const MIN_PATH_BYTES: usize = 16;

/// The description that the bytes carry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    toolsets: Vec<Declared>,
    calls: Vec<Repeat>,
    known_as: PathBuf,
    /// Bytes of the environment's state; the rest is the workspace.
    environment: usize,
}

/// How a toolset was declared.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    on_fork: String,
}

impl ToolFactory {
    /// The present state of a session.
    pub(super) async fn saved(&self, mut original: CopySource<'_>) -> Result<Vec<u8>, Failure> {
        let (base_mounts, own_mounts) = self.split_mounts(original.toolbox);
        modes::refuse_unsavable(&self.spec, self.own, own_mounts)?;
        let calls = repeat::of(&original, base_mounts.len())?;
        let toolsets = declared(own_mounts);
        let Some(workspace) = original.workspace.cloned() else {
            return Err(Failure::infrastructure("the session has no workspace to save"));
        };
        let state = match &self.options.base {
            Some(base) => {
                let toolbox = Arc::new(Toolbox::new(base_mounts.to_vec()));
                base.save(forks::without_toolbox(&mut original, &toolbox)).await?
            }
            None => original.environment.snapshot()?,
        };
        let known_as = workspace.known_as().to_owned();
        let header = Header { toolsets, calls, known_as, environment: state.len() };
        let header = serde_json::to_vec(&header).map_err(|error| {
            Failure::infrastructure(format!("the session cannot be written down: {error}"))
        })?;
        let length = (header.len() as u64).to_le_bytes();
        let begun = [MAGIC, &length, &header, &state].concat();
        drop((header, state));
        let room = original.room;
        room.holds(begun.len() as u64)?;
        self.blocking(move |_| workspace.save_onto(begun, room)).await
    }

    /// Makes what goes on from a saved state.
    pub(super) async fn restored(
        &self,
        boot: EnvironmentContext,
        saved: &[u8],
    ) -> Result<EnvironmentInstance, Failure> {
        let SavedParts { header, state, files } =
            split_parts(saved).ok_or_else(|| invalid("they were made by something else"))?;
        let (_, own_mounts) = self.split_mounts(&self.all);
        header.fits(own_mounts)?;
        let (environment, base_mounts) = match &self.options.base {
            Some(base) => {
                let instance = base.restore(boot.clone(), state).await?;
                (instance.environment, instance.toolbox.mounts().to_vec())
            }
            None => {
                let mut environment = ToolEnvironment;
                environment.restore(state)?;
                (Box::new(environment) as Box<_>, Vec::new())
            }
        };
        let (name, files) = (boot.session_id.clone(), files.to_vec());
        let known_as = header.known_as;
        let workspace = self.blocking(move |workspaces| workspaces.restore(&name, known_as, &files)).await?;
        let toolsets = self.open_toolsets(&boot, &workspace);
        let instance = self.with_mounts(environment, workspace, base_mounts, toolsets).await?;
        repeat::repeat_calls(&header.calls, &boot.session_id, &instance.toolbox).await?;
        Ok(instance)
    }
}

impl Header {
    /// Refuses what was saved under another manifest.
    fn fits(&self, mounts: &[Mount]) -> Result<(), Failure> {
        let here = declared(mounts);
        if let Some(other) = self.toolsets.iter().find(|toolset| !here.contains(toolset)) {
            let Declared { name, on_fork } = other;
            return Err(match here.iter().find(|toolset| toolset.name == *name) {
                Some(own) => invalid(&format!(
                    "they are of a session whose toolset '{name}' had on_fork: {on_fork}, and here it has {}",
                    own.on_fork
                )),
                None => invalid(&format!("they are of a session with a toolset '{name}', and here is none")),
            });
        }
        if let Some(more) = here.iter().find(|toolset| !self.toolsets.contains(toolset)) {
            let name = &more.name;
            return Err(invalid(&format!("they are of a session without the toolset '{name}' that is here")));
        }
        let by_replay = |name: &str| here.iter().any(|own| own.name == name && own.on_fork == "replay");
        if let Some(call) = self.calls.iter().find(|call| !by_replay(&call.toolset)) {
            return Err(invalid(&format!(
                "they hold a call to '{}', which is not forked by replay",
                call.toolset
            )));
        }
        if !may_stand_for_a_folder(&self.known_as) {
            return Err(invalid("they name no path that a workspace can have"));
        }
        Ok(())
    }
}

/// The parts of a saved session.
struct SavedParts<'a> {
    header: Header,
    /// The environment's state.
    state: &'a [u8],
    /// The archive of the workspace.
    files: &'a [u8],
}

/// Takes a saved session apart; `None` if it is not one.
fn split_parts(saved: &[u8]) -> Option<SavedParts<'_>> {
    let (length, rest) = saved.strip_prefix(MAGIC)?.split_first_chunk()?;
    let (header, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let (state, files) = rest.split_at_checked(header.environment)?;
    Some(SavedParts { header, state, files })
}

fn declared(mounts: &[Mount]) -> Vec<Declared> {
    let of = |mount: &Mount| Declared {
        name: mount.toolset.name().to_owned(),
        on_fork: modes::mode_name(mount.toolset.fork()).to_owned(),
    };
    mounts.iter().map(of).collect()
}

/// Agents' texts are searched for the path, so it must be one that means nothing else.
fn may_stand_for_a_folder(path: &Path) -> bool {
    let named = path.file_name().is_some_and(|name| name.len() >= MIN_PATH_BYTES);
    path.is_absolute() && named && path.to_str().is_some_and(|path| !path.contains(char::is_control))
}

fn invalid(why: &str) -> Failure {
    Failure::new(ErrorCode::SnapshotInvalid, format!("these bytes cannot be restored here: {why}"))
}
