//! The manager of upstreams: it starts the servers of a manifest, keeps them, and offers each as a toolset.
//!
//! Entry point: [`UpstreamManager::new`]. Invariant: what it starts ends with it, with
//! [`UpstreamManager::close`], or with the session that it was started for; one upstream's death is
//! reported by its own toolset alone.

mod builtin;
mod episodes;
mod instance;
mod launch;
mod slot;
mod temp_folder;
mod toolset;
mod upstream;
mod watchers;
mod workspace_paths;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{EpisodeSeeds, Scope, Toolset};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::manifest::{Manifest, Startup, ToolsetEntry, Transport};
use builtin::BuiltinToolset;
use episodes::EpisodeSlots;
use launch::LaunchContext;
use oxenv_process::child::Supervisor;
use slot::{InstanceSlot, SlotPhase};
use toolset::UpstreamToolset;
use upstream::{StartLimits, Upstream};
use workspace_paths::WorkspacePaths;

/// How long [`UpstreamManager::close`] waits.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Gives a toolset that is compiled in by its name: a new one each time, with a state of its own.
pub type Builtin = Arc<dyn Fn(&str) -> Option<Arc<dyn Toolset>> + Send + Sync>;

/// The shared parts of a manager.
pub struct ManagerOptions {
    /// What runs commands.
    pub supervisor: Supervisor,
    /// The environment that every command starts from; see [`oxenv_process::child::base_environment`].
    pub base_environment: Vec<(OsString, OsString)>,
    /// How many upstreams may be starting at once, for calls and in the background each.
    pub concurrency: usize,
    /// How many instances of each upstream are kept warm for sessions to come, once it was used.
    pub warm: usize,
    /// The toolsets that are compiled in.
    pub builtin: Builtin,
    /// Whether a server over HTTP, of which the manifest does not say its scope, is asked whether it gives
    /// sessions of its own (`Mcp-Session-Id`): then each session has one. Else all share one, as in
    /// production mode.
    pub discover_scope: bool,
    /// Whether the file of a toolset with `transport: python` is imported again when it has changed.
    pub reload: bool,
}

/// What toolsets need to know of a session.
#[derive(Debug, Clone)]
pub struct SessionContext {
    /// Its id.
    pub session_id: String,
    /// The seeds of the episode that it is in and of the next: `${seed}`.
    pub seeds: EpisodeSeeds,
    /// Its folder: `${workspace}`. It must exist while the session's toolsets do.
    pub workspace: PathBuf,
    /// The path that its agents know the folder by; another one for a session that was forked or restored.
    pub known_as: PathBuf,
    /// Counts what is started for the session until it has ended with all that it started: see
    /// [`oxenv_core::Workspace::running`].
    pub running: TaskTracker,
}

/// What an upstream is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// It was not needed so far.
    Idle,
    /// It is being started for the first time.
    Starting,
    /// It works, or worked when it was last needed.
    Ready,
    /// It does not work; it is tried again, in the background or by the next session.
    Failed,
    /// It died or could not be started, and is being started again.
    Restarting,
    /// The manifest has it switched off.
    Disabled,
}

/// The status of an upstream.
#[derive(Debug, Clone, Serialize)]
pub struct UpstreamStatus {
    /// Its name in the manifest.
    pub name: String,
    /// Its present state.
    pub state: UpstreamState,
    /// How many tools it offers, as far as is known.
    pub tools: usize,
    /// Why it does not work, without secrets.
    pub error: Option<String>,
    /// Whether the server refuses to work without it.
    pub required: bool,
    /// How often the instance that all sessions share was started again.
    pub restarts: u64,
    /// The process id of that instance's supervisor.
    pub pid: Option<u32>,
}

/// The upstreams of a manifest. One per server; dropping it ends all that it started.
pub struct UpstreamManager {
    members: Vec<ManifestMember>,
    builtin: Builtin,
    launch: Arc<LaunchContext>,
    _stop: DropGuard,
}

/// An entry of the manifest.
enum ManifestMember {
    Disabled(ToolsetEntry),
    Builtin { entry: ToolsetEntry, toolset: String, shared: Arc<BuiltinToolset> },
    Upstream { upstream: Arc<Upstream>, shared: Option<Arc<InstanceSlot>> },
}

impl UpstreamManager {
    /// A manager for these toolsets. Nothing is started yet.
    #[must_use]
    pub fn new(manifest: Manifest, options: ManagerOptions) -> Arc<Self> {
        let stop = CancellationToken::new();
        let launch = Arc::new(LaunchContext {
            supervisor: options.supervisor,
            base_environment: options.base_environment,
            folder: manifest.folder.clone(),
            reload: options.reload,
            redactor: manifest.secrets(),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
        });
        let start_limits = Arc::new(StartLimits::new(options.concurrency));
        let manifest = Arc::new(manifest);
        let member = |entry: &ToolsetEntry| {
            let entry = entry.clone();
            if !entry.enabled {
                return ManifestMember::Disabled(entry);
            }
            if let Transport::Builtin { toolset } = &entry.transport {
                let toolset = toolset.clone();
                let shared = BuiltinToolset::new(entry.clone(), toolset.clone(), options.builtin.clone());
                let shared = Arc::new(shared);
                return ManifestMember::Builtin { entry, toolset, shared };
            }
            let scope = known_scope(&entry, options.discover_scope);
            let upstream = Upstream::new(
                entry,
                scope,
                manifest.clone(),
                launch.clone(),
                start_limits.clone(),
                options.warm,
            );
            let stop = launch.stop.child_token();
            let shared = (scope != Some(Scope::Session))
                .then(|| InstanceSlot::new(upstream.clone(), None, Arc::default(), stop));
            ManifestMember::Upstream { upstream, shared }
        };
        let members = manifest.toolsets.iter().map(member).collect();
        Arc::new(UpstreamManager { members, builtin: options.builtin, launch, _stop: stop.drop_guard() })
    }

    /// Begins to find out, in the background and with bounded concurrency, what each toolset offers; those
    /// that are `eager` come first. The instances that all sessions share stay and are kept alive.
    ///
    /// It must be called within a Tokio runtime.
    pub fn start(&self) {
        self.launch.sweep();
        for eager in [true, false] {
            for member in &self.members {
                let ManifestMember::Upstream { upstream, shared } = member else { continue };
                if (upstream.entry.startup == Startup::Eager) != eager {
                    continue;
                }
                match shared {
                    Some(slot) if upstream.scope() == Some(Scope::Server) => slot.begin(),
                    Some(slot) => {
                        upstream.discover();
                        begin_when_shared(upstream, slot);
                    }
                    None => upstream.discover(),
                }
            }
        }
    }

    /// One toolset per enabled entry, in the manifest's order: for lists, and for calls that belong to no
    /// session. Those of which each session has its own refuse calls.
    #[must_use]
    pub fn server_toolsets(&self) -> Vec<Arc<dyn Toolset>> {
        self.members
            .iter()
            .filter_map(|member| match member {
                ManifestMember::Disabled(_) => None,
                ManifestMember::Builtin { shared, .. } => Some(Arc::clone(shared) as Arc<dyn Toolset>),
                ManifestMember::Upstream { upstream, shared } => {
                    let slots = shared.clone().map(|slot| EpisodeSlots::shared(upstream.clone(), slot));
                    let slots = slots.map(Arc::new);
                    Some(handle(upstream, slots, Arc::default(), None))
                }
            })
            .collect()
    }

    /// The toolsets of a session, in the same order. Nothing is started but what is `eager`, and that in
    /// the background. Closing or dropping a toolset ends what it runs for the session.
    ///
    /// It must be called within a Tokio runtime.
    #[must_use]
    pub fn open_session(&self, place: SessionContext) -> Vec<Arc<dyn Toolset>> {
        let place = Arc::new(place);
        self.members
            .iter()
            .filter_map(|member| match member {
                ManifestMember::Disabled(_) => None,
                ManifestMember::Builtin { entry, toolset, .. } if entry.scope == Scope::Session => {
                    let own = BuiltinToolset::new(entry.clone(), toolset.clone(), self.builtin.clone());
                    Some(Arc::new(own) as Arc<dyn Toolset>)
                }
                ManifestMember::Builtin { shared, .. } => Some(Arc::clone(shared) as Arc<dyn Toolset>),
                ManifestMember::Upstream { upstream, shared: Some(slot) }
                    if upstream.scope() == Some(Scope::Server) =>
                {
                    let slots = EpisodeSlots::shared(upstream.clone(), slot.clone());
                    Some(handle(upstream, Some(Arc::new(slots)), Arc::default(), WorkspacePaths::of(&place)))
                }
                ManifestMember::Upstream { upstream, shared } => {
                    Some(self.open(upstream, shared.as_ref(), &place))
                }
            })
            .collect()
    }

    fn open(
        &self,
        upstream: &Arc<Upstream>,
        shared: Option<&Arc<InstanceSlot>>,
        place: &Arc<SessionContext>,
    ) -> Arc<dyn Toolset> {
        let watchers = Arc::default();
        let stop = self.launch.stop.child_token();
        let slots = EpisodeSlots::of_session(upstream.clone(), place.clone(), Arc::clone(&watchers), stop);
        let slots = Arc::new(slots.unless_shared(shared.cloned()));
        if upstream.known().is_none() {
            upstream.discover();
        }
        if upstream.entry.startup == Startup::Eager {
            slots.begin_when_known();
        }
        handle(upstream, Some(slots), watchers, WorkspacePaths::of(place))
    }

    /// What each entry of the manifest is at, in its order.
    #[must_use]
    pub fn status(&self) -> Vec<UpstreamStatus> {
        self.members.iter().map(ManifestMember::status).collect()
    }

    /// Ends everything and waits for that, for 3 seconds at most; what is left then goes on ending.
    pub async fn close(&self) {
        self.launch.stop.cancel();
        for member in &self.members {
            if let ManifestMember::Upstream { upstream, shared } = member {
                upstream.drain();
                if let Some(slot) = shared {
                    slot.close();
                }
            }
        }
        self.launch.tracker.close();
        if timeout(CLOSE_TIMEOUT, self.launch.tracker.wait()).await.is_err() {
            tracing::warn!("some toolsets do not end; their supervisors see to it");
        }
    }
}

impl ManifestMember {
    fn status(&self) -> UpstreamStatus {
        match self {
            ManifestMember::Disabled(entry) => status(entry, UpstreamState::Disabled, 0, None),
            ManifestMember::Builtin { entry, shared, .. } => {
                let error = shared.problem();
                let state = if error.is_none() { UpstreamState::Ready } else { UpstreamState::Failed };
                status(entry, state, shared.list().len(), error)
            }
            ManifestMember::Upstream { upstream, shared } => {
                let tools = upstream.known().map_or(0, |lists| lists.tools.len());
                let shared = shared.as_ref().filter(|_| upstream.scope() == Some(Scope::Server));
                let Some(slot) = shared else {
                    let error = upstream.problem();
                    let state = match &error {
                        _ if upstream.is_discovering() => UpstreamState::Starting,
                        Some(_) => UpstreamState::Failed,
                        None if upstream.known().is_some() => UpstreamState::Ready,
                        None => UpstreamState::Idle,
                    };
                    return status(&upstream.entry, state, tools, error);
                };
                let error = slot.problem();
                let state = match slot.phase() {
                    SlotPhase::Idle => UpstreamState::Idle,
                    SlotPhase::Starting if slot.restarts() == 0 && error.is_none() => UpstreamState::Starting,
                    SlotPhase::Starting => UpstreamState::Restarting,
                    SlotPhase::Ready => UpstreamState::Ready,
                    SlotPhase::Down => UpstreamState::Failed,
                };
                let pid = slot.running().and_then(|instance| instance.pid());
                let restarts = slot.restarts();
                UpstreamStatus { restarts, pid, ..status(&upstream.entry, state, tools, error) }
            }
        }
    }
}

/// Starts the instance that all sessions share, once it is known that they share it.
fn begin_when_shared(upstream: &Arc<Upstream>, slot: &Arc<InstanceSlot>) {
    let (upstream, slot) = (upstream.clone(), slot.clone());
    upstream.clone().spawn(async move {
        if upstream.scope_known().await == Some(Scope::Server) {
            slot.begin();
        }
    });
}

/// The scope of the instances of an entry; `None` where its server decides.
fn known_scope(entry: &ToolsetEntry, discover: bool) -> Option<Scope> {
    let asked = entry.may_give_sessions();
    if asked && !discover {
        tracing::info!(
            toolset = %entry.name,
            "scope: server, because none is written: all sessions share it"
        );
    }
    (!asked || !discover).then_some(entry.scope)
}

fn status(entry: &ToolsetEntry, state: UpstreamState, tools: usize, error: Option<String>) -> UpstreamStatus {
    UpstreamStatus {
        name: entry.name.clone(),
        state,
        tools,
        error,
        required: entry.required,
        restarts: 0,
        pid: None,
    }
}

fn handle(
    upstream: &Arc<Upstream>,
    slots: Option<Arc<EpisodeSlots>>,
    watchers: Arc<watchers::Watchers>,
    view: Option<WorkspacePaths>,
) -> Arc<dyn Toolset> {
    Arc::new(UpstreamToolset::new(upstream.clone(), slots, watchers, view))
}
