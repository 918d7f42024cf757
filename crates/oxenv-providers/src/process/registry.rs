//! The registry of started processes, so that other processes find them: a file per instance in a folder of
//! the user.
//!
//! Invariant: a record is there or not, never in part, and holds no value of a variable.

use oxenv_wire::after;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::error::{ProviderCode, ProviderError};
use crate::instance::InstanceInfo;
use crate::owner::{OwnerProcess, process_start_time};
use crate::validate::invalid_spec;

/// How long an end may take beyond its grace.
const STOP_MARGIN: Duration = Duration::from_secs(3);
/// The first pause between two checks whether a process has ended; it doubles.
const INITIAL_INTERVAL: Duration = Duration::from_millis(5);
/// The longest pause between two such checks.
const MAX_INTERVAL: Duration = Duration::from_millis(50);

/// The record of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub(super) info: InstanceInfo,
    /// The process that started it.
    owner: String,
    /// Its supervisor, once there is one.
    pub(super) supervisor: Option<SupervisorId>,
    /// Whether it has been healthy.
    pub(super) ready: bool,
    grace_ms: u64,
}

/// The identity of a supervisor: its process id and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SupervisorId {
    pid: u32,
    start: u64,
}

/// The folder of records.
#[derive(Debug, Clone)]
pub(super) struct InstanceRegistry {
    folder: PathBuf,
}

/// Removes its record when it is dropped, unless that is kept.
pub(super) struct RecordGuard {
    registry: InstanceRegistry,
    pub(super) record: InstanceRecord,
    kept: bool,
}

impl InstanceRecord {
    pub(super) fn new(info: InstanceInfo, grace: Duration) -> Self {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        InstanceRecord {
            info,
            owner: OwnerProcess::current().to_string(),
            supervisor: None,
            ready: false,
            grace_ms,
        }
    }

    /// Whether it runs, or is about to.
    pub(super) fn is_alive(&self) -> bool {
        match self.supervisor {
            Some(supervisor) => supervisor.is_alive(),
            None => !self.owner_is_gone(),
        }
    }

    /// Whether no process is left that would end it.
    pub(super) fn is_orphaned(&self) -> bool {
        self.owner_is_gone() && !(self.info.detached && self.ready)
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    fn owner_is_gone(&self) -> bool {
        OwnerProcess::parse(&self.owner).is_none_or(|owner| owner.is_gone() || owner.is_other_boot())
    }
}

impl SupervisorId {
    pub(super) fn for_process(pid: u32) -> Option<Self> {
        Some(SupervisorId { pid, start: process_start_time(pid)? })
    }

    pub(super) fn is_alive(self) -> bool {
        process_start_time(self.pid) == Some(self.start)
    }

    /// Asks it to end its tree.
    pub(super) fn request_end(self) {
        if self.is_alive() {
            oxenv_process::child::begin_stop_detached(self.pid);
        }
    }

    /// Asks it to end its tree, and waits for that.
    pub(super) async fn end(self, name: &str, grace: Duration) -> Result<(), ProviderError> {
        self.request_end();
        if self.ends_within(grace.saturating_add(STOP_MARGIN)).await {
            return Ok(());
        }
        let message = format!("'{name}' does not end; look at the processes below process {}", self.pid);
        Err(ProviderError::new(ProviderCode::StopFailed, message))
    }

    async fn ends_within(self, limit: Duration) -> bool {
        let deadline = after(Instant::now(), limit);
        let mut pause = INITIAL_INTERVAL;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_INTERVAL);
        }
        true
    }
}

impl InstanceRegistry {
    /// The notes in a folder, which is made if it is not there; without one, in a folder of the user that
    /// goes with the machine's present run.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self, ProviderError> {
        let user = rustix::process::geteuid().as_raw();
        let folder = folder.map_or_else(|| default_folder(user), Path::to_owned);
        let unusable = |why: &dyn std::fmt::Display| {
            let message = format!("instances cannot be noted in '{}': {why}", folder.display());
            ProviderError::new(ProviderCode::ProviderUnavailable, message)
        };
        if let Err(error) = DirBuilder::new().mode(0o700).create(&folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(unusable(&error));
        }
        // Not through a link: another user may have been here first.
        let found = fs::symlink_metadata(&folder).map_err(|error| unusable(&error))?;
        if !found.is_dir() || found.uid() != user || found.mode() & 0o022 != 0 {
            return Err(unusable(&"it is not a folder that only this user may write; remove it"));
        }
        Ok(InstanceRegistry { folder })
    }

    /// Every note.
    pub(super) fn all(&self) -> Vec<InstanceRecord> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut registry: Vec<InstanceRecord> = paths
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
            .collect();
        registry.sort_by_key(|record| record.info.started_us);
        registry
    }

    /// Reserves the name of a record; no two running instances have the same.
    pub(super) fn reserve(&self, record: InstanceRecord) -> Result<RecordGuard, ProviderError> {
        let name = record.info.name.clone();
        let taken = || invalid_spec(format!("an instance called '{name}' runs already; choose another name"));
        if let Some(other) = self.all().into_iter().find(|other| other.info.name == name) {
            if other.is_alive() {
                return Err(taken());
            }
            self.remove(&name);
        }
        let mut guard = RecordGuard { registry: self.clone(), record, kept: true };
        match guard.write_atomically(|from, to| fs::hard_link(from, to)) {
            Ok(()) => {
                guard.kept = false;
                Ok(guard)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken()),
            Err(error) => Err(record_error(&error)),
        }
    }

    pub(super) fn remove(&self, name: &str) {
        // The log twice: its supervisor may have begun the next file meanwhile.
        for ending in ["json", "log", "log.old", "log"] {
            let _ = fs::remove_file(self.folder.join(format!("{name}.{ending}")));
        }
    }

    /// The log file of a detached instance.
    pub(super) fn log_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }
}

impl RecordGuard {
    /// Writes down what has changed.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut InstanceRecord)) -> Result<(), ProviderError> {
        change(&mut self.record);
        self.write_atomically(|from, to| fs::rename(from, to)).map_err(|error| record_error(&error))
    }

    /// Keeps the record after the drop.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }

    pub(super) fn registry(&self) -> &InstanceRegistry {
        &self.registry
    }

    /// Writes the record to a temporary file, then moves it into place.
    fn write_atomically(&self, put: impl FnOnce(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        let InstanceRecord { info, .. } = &self.record;
        let beside = self.registry.folder.join(format!("{}.{}.part", info.name, info.id));
        fs::write(&beside, serde_json::to_vec(&self.record)?)?;
        let placed = put(&beside, &self.registry.folder.join(format!("{}.json", info.name)));
        let _ = fs::remove_file(&beside);
        placed
    }
}

impl Drop for RecordGuard {
    fn drop(&mut self) {
        if !self.kept {
            self.registry.remove(&self.record.info.name);
        }
    }
}

/// `/run/user/N/oxenv` where the user has such a folder, else one among the temporary files.
fn default_folder(user: u32) -> PathBuf {
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    let own = fs::metadata(&runtime).is_ok_and(|found| found.uid() == user);
    if own { runtime.join("oxenv") } else { std::env::temp_dir().join(format!("oxenv-{user}")) }
}

fn record_error(error: &io::Error) -> ProviderError {
    ProviderError::new(ProviderCode::ProviderUnavailable, format!("the instance cannot be noted: {error}"))
}
