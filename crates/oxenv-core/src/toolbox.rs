//! The union of a session's toolsets, and the one path of a call.
//!
//! Invariant: every call, whatever the door, is found with [`Toolbox::find`] and made with
//! [`ResolvedTool::call`]. The names are immutable; a changed list replaces them as a whole.

mod audit_record;
mod call;
mod catalogue;
mod checks;
mod mount;
mod repeat;
mod request;
mod resolved;
mod resources_and_prompts;
mod unavailable;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oxenv_wire::{Tool, ToolSpelling, ToolsetProblem, panic_text};
use parking_lot::RwLock;

use crate::failure::Failure;
use crate::policy::Buckets;
use crate::principal::Principal;
use crate::seed::EpisodeSeeds;
use crate::toolset::{ChangeCounter, Scope, Toolset};
use crate::work::{CatchPanic, Work, join_all};

pub use audit_record::{Auditor, Redact};
use catalogue::Catalogue;
pub use catalogue::CatalogueCache;
pub use mount::{Mount, Naming};
pub use request::CallRequest;
pub use resolved::ResolvedTool;
pub use resources_and_prompts::Offered;

/// Maximum bytes of an error's message: people and models read it.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// The tools that a session offers.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::{CallContext, CallRequest, NativeToolset, Principal, Toolbox};
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// struct Add {
///     a: i64,
///     b: i64,
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let math = NativeToolset::new("math").tool("add", "Adds.", |add: Add| Ok(add.a + add.b));
/// let tools = Toolbox::of(vec![Arc::new(math)]).unwrap();
/// let arguments = oxenv_wire::raw(&serde_json::json!({ "a": 1, "b": 2 })).unwrap();
/// let request = CallRequest::new(CallContext::sessionless(Principal::Agent), Some(&arguments));
/// assert_eq!(tools.find("add").call(&request).await.unwrap().data(), "3");
/// # });
/// ```
pub struct Toolbox {
    mounts: Vec<Mount>,
    /// The names, and how many changes they know of.
    catalogue: RwLock<(u64, Arc<Catalogue>)>,
    cache: Option<Arc<CatalogueCache>>,
    changes: ChangeCounter,
    settled: AtomicBool,
    /// The session's share of each mount's rate limits.
    buckets: Vec<Buckets>,
    deadline: Duration,
    auditor: Option<Arc<Auditor>>,
}

impl Toolbox {
    /// The deadline of a call unless another is set.
    pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

    /// No tools.
    #[must_use]
    pub fn empty() -> Self {
        Self::new(Vec::new())
    }

    /// The union of toolsets, in their order, each with its rules.
    #[must_use]
    pub fn new(mounts: Vec<Mount>) -> Self {
        Self::build(mounts, None)
    }

    /// The union of toolsets for one of many sessions whose toolsets have the same rules and mostly the same
    /// lists.
    #[must_use]
    pub fn sharing(mounts: Vec<Mount>, cache: Arc<CatalogueCache>) -> Self {
        Self::build(mounts, Some(cache))
    }

    /// The union of toolsets without rules, whose lists are known and do not change.
    ///
    /// # Errors
    /// Names both owners when two toolsets offer the same tool.
    pub fn of(toolsets: Vec<Arc<dyn Toolset>>) -> Result<Self, String> {
        let mounts =
            toolsets.into_iter().map(|toolset| Mount { naming: Naming::Refuse, ..Mount::new(toolset) });
        let toolbox = Self::new(mounts.collect());
        let problem = toolbox.catalogue().problems().next();
        problem.map_or(Ok(toolbox), Err)
    }

    fn build(mounts: Vec<Mount>, cache: Option<Arc<CatalogueCache>>) -> Self {
        let changes = ChangeCounter::default();
        for mount in &mounts {
            mount.toolset.watch(&changes);
        }
        let seen = changes.count();
        let catalogue = match &cache {
            Some(cache) => cache.of(&mounts),
            None => Arc::new(Catalogue::of(&mounts)),
        };
        let buckets = mounts.iter().map(|_| Buckets::default()).collect();
        Toolbox {
            mounts,
            catalogue: RwLock::new((seen, catalogue)),
            cache,
            changes,
            settled: AtomicBool::new(false),
            buckets,
            deadline: Self::DEFAULT_DEADLINE,
            auditor: None,
        }
    }

    /// Changes the deadline of calls whose mount has none.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Records every call.
    #[must_use]
    pub fn with_auditor(mut self, auditor: Option<Arc<Auditor>>) -> Self {
        self.auditor = auditor;
        self
    }

    /// The toolsets with their rules, in order.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Waits until the first list of every toolset is known, or known not to come.
    pub async fn settled(&self) {
        if !self.settled.load(Ordering::Acquire) {
            join_all(self.mounts.iter().map(|mount| mount.toolset.ready()).collect()).await;
            self.settled.store(true, Ordering::Release);
        }
    }

    /// The tools that a caller may call, in order.
    #[must_use]
    pub fn tools(&self, principal: Principal) -> Arc<[Tool]> {
        Arc::clone(self.catalogue().tools(principal))
    }

    /// The tools that a caller may call as a JSON array, made once per change.
    #[must_use]
    pub fn listing(&self, principal: Principal, spelling: ToolSpelling) -> Arc<str> {
        Arc::clone(self.catalogue().listing(principal, spelling, &self.mounts))
    }

    /// Counts the changes of what is offered.
    #[must_use]
    pub fn changes(&self) -> &ChangeCounter {
        &self.changes
    }

    /// What does not work at present.
    #[must_use]
    pub fn problems(&self) -> Vec<ToolsetProblem> {
        if self.mounts.is_empty() {
            return Vec::new();
        }
        let of_union = self.catalogue();
        let of_union = of_union.problems();
        let of_union = of_union.map(|message| ToolsetProblem { toolset: None, message, required: false });
        let of_sets = self.mounts.iter().filter_map(|mount| {
            let message = shortened(mount.toolset.problem()?);
            let (toolset, required) = (Some(mount.toolset.name().to_owned()), mount.required);
            Some(ToolsetProblem { toolset, message, required })
        });
        of_sets.chain(of_union).collect()
    }

    /// The toolset of a tool, by the names as they are now. Never waits.
    #[must_use]
    pub fn find<'a>(&'a self, tool: &'a str) -> ResolvedTool<'a> {
        ResolvedTool::of(self, tool)
    }

    /// Only the tools that need no session.
    #[must_use]
    pub fn server_scoped(&self) -> Self {
        let mounts =
            self.mounts.iter().filter(|mount| mount.toolset.scope() == Scope::Server).cloned().collect();
        Self::new(mounts).with_deadline(self.deadline).with_auditor(self.auditor.clone())
    }

    /// Ends what its toolsets do not take along into the next episode, all of them together, and waits for
    /// that.
    pub async fn end_episode(&self, seeds: EpisodeSeeds) {
        let ends = self.mounts.iter().map(|mount| contained(|| mount.toolset.end_episode(seeds)));
        let ends: Vec<_> = ends.filter(|end| !matches!(end, Work::Done(Some(Ok(()))))).collect();
        for panic in join_all(ends).await.into_iter().filter_map(Result::err) {
            tracing::error!(panic, "a toolset panicked at the end of an episode");
        }
    }

    /// Makes every toolset ready for a new episode with that seed.
    ///
    /// # Errors
    /// The first toolset that could not; its state is then unknown.
    pub async fn reset(&self, seeds: EpisodeSeeds) -> Result<(), Failure> {
        let resets = self.mounts.iter().map(|mount| contained(|| mount.toolset.reset(seeds)));
        let outcomes = join_all(resets.collect()).await;
        outcomes.into_iter().zip(&self.mounts).try_for_each(|(outcome, mount)| {
            outcome.unwrap_or_else(|panic| {
                let name = mount.toolset.name();
                tracing::error!(toolset = name, panic, "toolset panicked in its reset");
                Err(Failure::infrastructure(format!("toolset '{name}' panicked while it was reset")))
            })
        })
    }

    /// Ends what its toolsets run for the session, which has ended.
    pub fn close(&self) {
        self.mounts.iter().for_each(|mount| mount.toolset.close());
    }

    /// The names as they are now.
    fn catalogue(&self) -> Arc<Catalogue> {
        let changes = self.changes.count();
        {
            let known = self.catalogue.read();
            if known.0 >= changes {
                return Arc::clone(&known.1);
            }
        }
        let made = match &self.cache {
            Some(cache) => cache.of(&self.mounts),
            None => Arc::new(Catalogue::of(&self.mounts)),
        };
        let mut known = self.catalogue.write();
        // A slower caller must not put older names back.
        if known.0 < changes {
            *known = (changes, made);
        }
        Arc::clone(&known.1)
    }
}

/// Runs work of a toolset; its panic becomes a result.
fn contained<'a, T: Send + 'a>(begin: impl FnOnce() -> Work<'a, T>) -> Work<'a, Result<T, String>> {
    match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(Work::Done(Some(value))) => Work::done(Ok(value)),
        Ok(pending) => Work::pending(CatchPanic(pending)),
        Err(panic) => Work::done(Err(panic_text(panic.as_ref()))),
    }
}

/// A message may repeat what it is about, which is as large as its sender likes.
fn shortened(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    message
}
