//! The index: finds sessions and their entries without reading the whole log.
//!
//! Invariant: the log is the truth and the index follows it; deleting `index.sqlite` loses nothing, and
//! an index that cannot be read or written stops no caller. No SQL leaves this module.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::error::LogError;
use crate::stored::{StoredEntry, StoredOrigin};
pub use holes::{Hole, Location};

mod faults;
mod holes;
mod query;
mod refresh;
mod schema;

/// The recorded sessions of a folder. Its methods read files and may be slow; a server calls them
/// where blocking is allowed.
///
/// ```
/// use oxenv_store::Trajectories;
///
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-trajectories-{}", std::process::id()));
/// # let opened = oxenv_core::RecordEvent::Opened {
/// #     environment: "echo",
/// #     version: "1.0.0",
/// #     deterministic: true,
/// #     seed: 7,
/// #     episode_id: "e-0",
/// #     origin: None,
/// # };
/// # let entry = oxenv_core::RecordEntry { session_id: "s-1", seq: 0, epoch: 0, time_us: 0, event: opened };
/// # let recorder = oxenv_store::LogRecorder::open(&folder, oxenv_store::LogOptions::default())?;
/// # let runtime = tokio::runtime::Runtime::new()?;
/// # runtime.block_on(oxenv_core::Recorder::append(&recorder, &entry)).unwrap();
///
/// let trajectories = Trajectories::open(&folder)?;
/// assert_eq!(trajectories.refresh()?.entries, 1);
/// let session = trajectories.session("s-1")?.expect("it was recorded");
/// assert_eq!((session.environment.as_str(), session.steps), ("echo", 0));
/// assert_eq!(trajectories.entries("s-1")?.len(), 1);
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trajectories {
    folder: Arc<Path>,
    index: Mutex<Index>,
}

/// The index as it is used now.
struct Index {
    connection: Connection,
    /// Why it is in memory, and since when; none if it is the file.
    in_memory: Option<InMemory>,
}

struct InMemory {
    reason: String,
    since: Instant,
}

/// Why a question to the index has no answer.
enum Trouble {
    /// The log cannot be read.
    Log(LogError),
    /// The index cannot be used.
    Index(rusqlite::Error),
}

/// How long an index stays in memory before the file is tried again.
const IN_MEMORY_INTERVAL: Duration = Duration::from_secs(60);

/// Which recorded sessions to list. The default is all, oldest first, 100 at a time.
///
/// ```
/// use oxenv_store::{SessionFilter, Trajectories};
///
/// # let folder = std::env::temp_dir().join(format!("oxenv-example-filter-{}", std::process::id()));
/// # let opened = oxenv_core::RecordEvent::Opened {
/// #     environment: "echo",
/// #     version: "1.0.0",
/// #     deterministic: true,
/// #     seed: 7,
/// #     episode_id: "e-0",
/// #     origin: None,
/// # };
/// # let entry = oxenv_core::RecordEntry { session_id: "s-1", seq: 0, epoch: 0, time_us: 0, event: opened };
/// # let recorder = oxenv_store::LogRecorder::open(&folder, oxenv_store::LogOptions::default())?;
/// # let runtime = tokio::runtime::Runtime::new()?;
/// # runtime.block_on(oxenv_core::Recorder::append(&recorder, &entry)).unwrap();
///
/// let trajectories = Trajectories::open(&folder)?;
/// trajectories.refresh()?;
/// let filter = SessionFilter { environment: Some("connect4".to_owned()), ..SessionFilter::default() };
/// assert!(trajectories.sessions(&filter)?.is_empty());
/// assert_eq!(trajectories.sessions(&SessionFilter::default())?.len(), 1);
/// # oxenv_core::folders::remove(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct SessionFilter {
    /// Only sessions of that environment.
    pub environment: Option<String>,
    /// Only those opened at that time or later: microseconds of UTC since 1970.
    pub since_us: Option<u64>,
    /// Only those opened before that time.
    pub until_us: Option<u64>,
    /// Only those whose last episode is done, or is not.
    pub done: Option<bool>,
    /// Newest first.
    pub newest_first: bool,
    /// Maximum number of sessions to return.
    pub limit: usize,
    /// Those that come after that session in this order.
    pub after: Option<String>,
}

/// The index's data of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSummary {
    /// Its id.
    pub id: String,
    /// The environment's name.
    pub environment: String,
    /// The environment's version.
    pub version: String,
    /// Whether the environment declares that the same seed and actions give the same bytes.
    pub deterministic: bool,
    /// Its seed.
    pub seed: u64,
    /// When it was opened: microseconds of UTC since 1970.
    pub opened_us: u64,
    /// When it ended; absent while it lives, and when its server was killed.
    pub closed_us: Option<u64>,
    /// Why it ended.
    pub reason: Option<String>,
    /// Where it came from, if not from the factory alone.
    pub origin: Option<StoredOrigin>,
    /// How many episodes it has begun.
    pub epochs: u64,
    /// How many steps were answered.
    pub steps: u64,
    /// How many resets and steps failed.
    pub failures: u64,
    /// The sum of its rewards.
    pub reward: f64,
    /// Whether its last episode is done.
    pub done: bool,
    /// When it last did something.
    pub last_us: u64,
    /// How many of its entries could not be written when they happened; their callers got failures.
    pub unwritten: u64,
    /// What of it is missing from the record, or may be.
    pub holes: Vec<Hole>,
}

/// The result of a refresh.
#[derive(Debug, Default)]
pub struct RefreshReport {
    /// How many entries were new.
    pub entries: u64,
    /// Whether the index was made anew.
    pub rebuilt: bool,
    /// What cannot be read and was not known before; [`Trajectories::faults`] returns all of it.
    pub faults: Vec<LogError>,
}

impl Default for SessionFilter {
    fn default() -> Self {
        SessionFilter {
            environment: None,
            since_us: None,
            until_us: None,
            done: None,
            newest_first: false,
            limit: 100,
            after: None,
        }
    }
}

impl Trajectories {
    /// Opens the records of a folder, and the index, which is made if it is not there or cannot be used.
    /// Nothing is read yet: see [`Trajectories::refresh`].
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LogError> {
        let folder: Arc<Path> = folder.into().into();
        let index = Mutex::new(schema::open(&folder)?.into());
        Ok(Trajectories { folder, index })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Why the index is in memory, so that each process reads the whole log; none if it is kept.
    #[must_use]
    pub fn in_memory(&self) -> Option<String> {
        self.index.lock().in_memory.as_ref().map(|memory| memory.reason.clone())
    }

    /// Takes in what was written to the log since the last time.
    ///
    /// # Errors
    /// When the log cannot be used; damage within it is in what is returned.
    pub fn refresh(&self) -> Result<RefreshReport, LogError> {
        let mut index = self.index.lock();
        if index.in_memory.as_ref().is_some_and(|memory| memory.since.elapsed() > IN_MEMORY_INTERVAL) {
            match schema::connect(&self.folder) {
                Ok(connection) => *index = Index { connection, in_memory: None },
                Err(_) => index.in_memory.iter_mut().for_each(|memory| memory.since = Instant::now()),
            }
        }
        index.ask(&self.folder, |connection, _| refresh::refresh(connection, &self.folder))
    }

    /// What of the record is missing or cannot be read, without looking at sessions.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub fn faults(&self) -> Result<Vec<LogError>, LogError> {
        self.ask(|connection| Ok(faults::all(connection, &self.folder)?))
    }

    /// Sessions in the order in which they were opened.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, LogError> {
        self.ask(|connection| Ok(query::sessions(connection, &self.folder, filter)?))
    }

    /// One session.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub fn session(&self, id: &str) -> Result<Option<SessionSummary>, LogError> {
        self.ask(|connection| Ok(query::session(connection, &self.folder, id)?))
    }

    /// A session's entries in the order of their numbers; none when it is not known.
    ///
    /// # Errors
    /// When the log cannot be used.
    pub fn entries(&self, id: &str) -> Result<Vec<StoredEntry>, LogError> {
        self.entries_from(id, 0, usize::MAX)
    }

    /// At most `limit` of a session's entries, from the number `seq` on.
    ///
    /// # Errors
    /// As [`Trajectories::entries`].
    pub fn entries_from(&self, id: &str, seq: u64, limit: usize) -> Result<Vec<StoredEntry>, LogError> {
        let places = self.ask(|connection| Ok(query::entry_locations(connection, id, seq, limit)?))?;
        query::entries(&self.folder, &places)
    }

    fn ask<T>(&self, question: impl Fn(&mut Connection) -> Result<T, Trouble>) -> Result<T, LogError> {
        self.index.lock().ask(&self.folder, |connection, renewed| {
            if renewed {
                refresh::refresh(connection, &self.folder)?;
            }
            question(connection)
        })
    }
}

impl Index {
    /// Asks, of another index if this one cannot be used: one that is made anew, then one in memory. The
    /// question gets to know whether the index is another one, and so empty.
    fn ask<T>(
        &mut self,
        folder: &Path,
        question: impl Fn(&mut Connection, bool) -> Result<T, Trouble>,
    ) -> Result<T, LogError> {
        let mut asked = question(&mut self.connection, false);
        for _ in 0..2 {
            let Err(Trouble::Index(error)) = &asked else { break };
            if self.in_memory.is_some() {
                break;
            }
            *self = schema::anew(folder, error)?.into();
            asked = question(&mut self.connection, true);
        }
        asked.map_err(|trouble| match trouble {
            Trouble::Log(error) => error,
            Trouble::Index(error) => {
                LogError::Index { path: schema::path(folder), reason: error.to_string() }
            }
        })
    }
}

impl From<schema::Opened> for Index {
    fn from(opened: schema::Opened) -> Self {
        let in_memory = opened.in_memory.map(|reason| InMemory { reason, since: Instant::now() });
        Index { connection: opened.connection, in_memory }
    }
}

impl From<LogError> for Trouble {
    fn from(error: LogError) -> Self {
        Trouble::Log(error)
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Trouble::Index(error)
    }
}
