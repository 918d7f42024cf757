//! What `/metrics` shows: sessions, their work and their tools in numbers, since the start.
//!
//! Invariant: reporting waits for nothing but, for microseconds, a scrape that copies its numbers: each
//! thread counts in one of several places, and a scrape adds them up. The number of series is bounded.

mod counts;
mod histogram;
mod page;
mod process;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use oxenv_core::{EndReason, Failure, ObservedCall, Observer, Operation};

use counts::Counts;
use page::{Files, Page};

pub(crate) use page::Gauges;

/// Places to count in. More threads than that share them.
const SHARD_COUNT: usize = 16;

/// Tools that have series of their own; those beyond are counted together as `other`.
const MAX_TOOLS: usize = 512;

/// The tool and toolset of those beyond.
const OTHER_TOOL: &str = "other";

/// The state of a log of steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordStatus {
    /// Bytes that are handed over and not written yet.
    pub lag_bytes: u64,
    /// Records that are handed over and not written yet.
    pub lag_records: u64,
    /// Records that could not be written, since the start.
    pub failed: u64,
}

/// The state of an audit file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuditStatus {
    /// Records that are not written yet.
    pub waiting: u64,
    /// Writes that failed and were tried again, since the start.
    pub failed: u64,
    /// Calls that were refused because they could not be audited, since the start.
    pub refused: u64,
}

/// Counts and measures the sessions of one store, and shows them as Prometheus reads them. Give it to
/// the store as its observer, and to the server in its configuration.
///
/// ```
/// use std::sync::Arc;
///
/// use oxenv_core::{SessionStore, StoreLimits};
/// use oxenv_server::{Metrics, RecordStatus, ServerConfig};
///
/// let metrics = Arc::new(Metrics::new("echo").with_record_status(RecordStatus::default));
/// let store = SessionStore::new(oxenv_envs::echo::factory(), StoreLimits::default())
///     .with_observer(metrics.clone());
/// let config = ServerConfig { metrics: Some(metrics), ..ServerConfig::default() };
/// ```
pub struct Metrics {
    environment: String,
    shards: [Shard; SHARD_COUNT],
    /// Every tool that has series of its own, in any shard.
    tools: Mutex<HashSet<(Box<str>, Box<str>)>>,
    record: Option<Box<dyn Fn() -> RecordStatus + Send + Sync>>,
    audit: Option<Box<dyn Fn() -> AuditStatus + Send + Sync>>,
}

/// Far enough apart that two threads do not pull at the same cache line.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Counts>);

impl Metrics {
    /// Nothing counted yet, for sessions of that environment.
    #[must_use]
    pub fn new(environment: impl Into<String>) -> Self {
        Metrics {
            environment: environment.into(),
            shards: Default::default(),
            tools: Mutex::default(),
            record: None,
            audit: None,
        }
    }

    /// Shows the state of a log as well; it is read at each scrape.
    #[must_use]
    pub fn with_record_status(mut self, status: impl Fn() -> RecordStatus + Send + Sync + 'static) -> Self {
        self.record = Some(Box::new(status));
        self
    }

    /// Shows the state of an audit file as well; it is read at each scrape.
    #[must_use]
    pub fn with_audit_status(mut self, status: impl Fn() -> AuditStatus + Send + Sync + 'static) -> Self {
        self.audit = Some(Box::new(status));
        self
    }

    /// Everything, in Prometheus's text format, version 0.0.4.
    pub(crate) fn page(&self, gauges: Gauges) -> String {
        let mut all = Counts::default();
        for shard in &self.shards {
            all.add(&locked(&shard.0));
        }
        let files = Files {
            record: self.record.as_ref().map(|record| record()),
            audit: self.audit.as_ref().map(|audit| audit()),
        };
        page::render(Page { environment: self.environment.clone(), counts: all, gauges, files })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        locked(&self.shards[shard_of_this_thread()].0)
    }

    /// Whether a tool that this thread has not counted yet gets series of its own.
    fn admits(&self, toolset: &str, tool: &str) -> bool {
        let mut tools = locked(&self.tools);
        let key = (Box::from(toolset), Box::from(tool));
        tools.contains(&key) || (tools.len() < MAX_TOOLS && tools.insert(key))
    }
}

impl Observer for Metrics {
    fn opened(&self, waited: Duration) {
        let mut counts = self.counts();
        counts.opened += 1;
        counts.session_wait.observe(waited);
    }

    fn refused(&self, failure: &Failure) {
        let mut counts = self.counts();
        *counts.refused.entry(failure.code).or_default() += 1;
        counts.failed(failure);
    }

    fn ended(&self, reason: &EndReason) {
        *self.counts().ended.entry(reason.name()).or_default() += 1;
    }

    fn operated(&self, operation: &Operation<'_>) {
        let mut counts = self.counts();
        let times = counts.operation(operation.kind);
        times.waited.observe(operation.waited);
        times.took.observe(operation.took);
        if let Some(failure) = operation.failure {
            counts.failed(failure);
        }
    }

    fn called(&self, call: &ObservedCall<'_>) {
        if let Some(tool) = self.counts().tool(call.toolset, call.tool) {
            return tool.called(call);
        }
        let (toolset, tool) = match self.admits(call.toolset, call.tool) {
            true => (call.toolset, call.tool),
            false => (OTHER_TOOL, OTHER_TOOL),
        };
        self.counts().new_tool(toolset, tool).called(call);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("environment", &self.environment).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads take the shards in turn.
fn shard_of_this_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARD_COUNT;
    }
    SHARD.with(|shard| *shard)
}
