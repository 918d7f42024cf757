//! Where sessions are done again: an environment, its tape, and a record of its own in a temporary
//! folder.
//!
//! Invariant: the folder goes with it, and nothing else of the machine is touched.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::future::pending;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use oxenv_core::rubric::JudgeCache;
use oxenv_core::{EnvironmentFactory, Redact, SessionStore, StoreLimits, folders};
use oxenv_store::{
    LogOptions, LogReader, LogRecorder, StoredEntry, StoredEvent, StoredOutcome, Trajectories,
};
use serde_json::value::RawValue;

use crate::assemble::{self, ServedEnvironment, ToolArgs};
use crate::code::{self, CodeArgs, StartedEngine};
use crate::recorded_tools::{ToolTape, taped};
use crate::registry;
use crate::rubrics::{self, RubricArgs};

/// Sessions live as long as their replay takes.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// How the environment is made, with the options of `serve`.
#[derive(Default)]
pub(crate) struct ReplayOptions {
    pub(crate) environment: Option<String>,
    pub(crate) tools: ToolArgs,
    pub(crate) rubric: RubricArgs,
    pub(crate) code: CodeArgs,
    pub(crate) live: bool,
}

/// An environment that does sessions again.
pub(crate) struct ReplayEnvironment {
    pub(super) store: SessionStore,
    pub(super) tape: Arc<ToolTape>,
    /// The recorded entries of sessions that are being replayed.
    entries: HashMap<String, Vec<StoredEntry>>,
    reader: LogReader,
    served: Option<ServedEnvironment>,
    _folder: Folder,
}

impl ReplayEnvironment {
    /// Makes the environment that a record names, or that was given.
    ///
    /// # Errors
    /// When it cannot be made, or is another one.
    pub(super) async fn open(
        given: &ReplayOptions,
        recorded: &str,
        trajectories: &Trajectories,
    ) -> anyhow::Result<Self> {
        let tape = Arc::new(ToolTape::new(given.live));
        // A manifest alone is an environment of its own; one beside a bundled environment adds to it.
        let bundled = registry::bundled(recorded).is_some();
        let by_record = (bundled || given.tools.manifest.is_none()).then_some(recorded);
        let name = given.environment.as_deref().or(by_record);
        let mut served = assemble::environment_with_recorded_tools(name, &given.tools, &tape)
            .await
            .with_context(|| {
                format!(
                    "its environment '{recorded}' cannot be made (one of a manifest needs --tools FILE, one \
                     written in Python --environment DIR or --environment module:Class)"
                )
            })?;
        let found = served.factory.spec().name.clone();
        if found != recorded {
            served.close(pending()).await;
            bail!("it is of environment '{recorded}', and '{found}' is what is made here");
        }
        if given.rubric.rubric.is_some() {
            let cache = Arc::new(JudgeCache::default());
            if given.rubric.judge_url.is_some() {
                remember_sessions(&cache, trajectories, recorded)?;
            }
            served.factory = rubrics::over(Arc::clone(&served.factory), &given.rubric, &cache)?;
        }
        let engine = code::start(&given.code).await?;
        let (factory, redact) = (Arc::clone(&served.factory), served.redact.clone());
        let mut environment = ReplayEnvironment::of(factory, tape, redact, Some(served))?;
        if let Some(StartedEngine { engine, limits }) = engine {
            environment.store = environment.store.with_code_engine(engine, limits);
        }
        Ok(environment)
    }

    /// One over an environment that is there already, which its maker closes.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub(crate) fn over(factory: Arc<dyn EnvironmentFactory>, upstream: Vec<bool>) -> anyhow::Result<Self> {
        let tape = Arc::new(ToolTape::new(false));
        ReplayEnvironment::of(taped(factory, Arc::clone(&tape), upstream), tape, None, None)
    }

    fn of(
        factory: Arc<dyn EnvironmentFactory>,
        tape: Arc<ToolTape>,
        redact: Option<Redact>,
        served: Option<ServedEnvironment>,
    ) -> anyhow::Result<Self> {
        let folder = Folder::new("replay")?;
        let recorder = LogRecorder::open(folder.path(), LogOptions { redact, ..LogOptions::default() })?;
        let limits = StoreLimits {
            max_sessions: 1 << 20,
            idle: LEASE,
            queue: Duration::ZERO,
            ..StoreLimits::default()
        };
        let store = SessionStore::new(factory, limits).with_recorder(Arc::new(recorder));
        let reader = LogReader::open(folder.path())?;
        Ok(ReplayEnvironment { store, tape, entries: HashMap::new(), reader, served, _folder: folder })
    }

    pub(super) fn name(&self) -> &str {
        &self.store.spec().name
    }

    /// What was recorded of a session here; it is not kept any longer.
    ///
    /// # Errors
    /// When the record of the replay cannot be read.
    pub(super) fn recorded(&mut self, session_id: &str) -> anyhow::Result<Vec<StoredEntry>> {
        for entry in self.reader.by_ref() {
            let entry = entry?;
            self.entries.entry(entry.session_id.clone()).or_default().push(entry);
        }
        Ok(self.entries.remove(session_id).unwrap_or_default())
    }

    pub(super) async fn close(self) {
        if let Some(served) = self.served {
            served.close(pending()).await;
        }
    }
}

/// Takes over what judges answered when the sessions were recorded.
fn remember_sessions(
    cache: &JudgeCache,
    trajectories: &Trajectories,
    environment: &str,
) -> anyhow::Result<()> {
    let filter = oxenv_store::SessionFilter {
        environment: Some(environment.to_owned()),
        limit: usize::MAX,
        ..oxenv_store::SessionFilter::default()
    };
    for session in trajectories.sessions(&filter)? {
        // What cannot be read of another session is its own.
        let Ok(entries) = trajectories.entries(&session.id) else { continue };
        entries.iter().for_each(|entry| drop(remember_entry(cache, entry)));
    }
    Ok(())
}

/// Takes over what judges answered in one entry.
pub(crate) fn remember_entry(cache: &JudgeCache, entry: &StoredEntry) -> anyhow::Result<()> {
    #[derive(serde::Deserialize)]
    struct ReplyParts<'a> {
        #[serde(borrow, default)]
        metadata: Option<&'a RawValue>,
    }
    let StoredEvent::Step { outcome: StoredOutcome::Answered { reply, .. }, .. } = &entry.event else {
        return Ok(());
    };
    let text = reply.text()?;
    if let Ok(ReplyParts { metadata: Some(metadata) }) = serde_json::from_str(&text) {
        cache.remember(metadata);
    }
    Ok(())
}

/// A folder of our own, which goes with its owner.
pub(crate) struct Folder {
    path: PathBuf,
    /// Its lock marks it as in use.
    _lock: File,
}

impl Folder {
    /// Makes one, and removes those of its kind that processes have left which were killed.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn new(what: &str) -> io::Result<Self> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let (within, prefix) = (std::env::temp_dir(), format!("oxenv-{what}-"));
        loop {
            let name = format!("{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
            // It has its name when its lock is held, or another that starts at this moment would remove it.
            let (unlocked, path) =
                (within.join(format!("oxenv-new-{what}-{name}")), within.join(format!("{prefix}{name}")));
            match DirBuilder::new().mode(0o700).create(&unlocked) {
                // A process of that number left it there.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let lock = File::open(&unlocked)?;
            lock.lock()?;
            match fs::rename(&unlocked, &path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    fs::remove_dir(&unlocked)?;
                    continue;
                }
                named => named?,
            }
            sweep(&within, &prefix, lock.metadata()?.uid());
            return Ok(Folder { path, _lock: lock });
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left behind in the temporary folder does no harm.
        let _ = folders::remove(&self.path);
    }
}

/// Removes the folders of that kind that are this user's and not in use.
fn sweep(within: &Path, prefix: &str, user: u32) {
    for entry in fs::read_dir(within).into_iter().flatten().flatten() {
        // The check is of the entry, not of a link's target.
        let ours = entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == user);
        if ours && entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            let path = entry.path();
            if File::open(&path).is_ok_and(|folder| folder.try_lock().is_ok()) {
                // What stays is tried again by the next one.
                let _ = folders::remove(&path);
            }
        }
    }
}
