//! The index: finds sessions and their entries without reading the whole log.
//!
//! Invariant: the log is the truth and the index follows it; deleting `index.sqlite` loses nothing.
//! No SQL leaves this module.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;

use crate::error::LogError;
use crate::stored::{StoredEntry, StoredOrigin};

mod query;
mod refresh;
mod schema;

/// The recorded sessions of a folder. Its methods read files and may take a while; a server calls
/// them where blocking is allowed.
pub struct Trajectories {
    folder: Arc<Path>,
    connection: Mutex<Connection>,
}

/// What one wants to see. The default is everything, oldest first, 100 at a time.
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
    /// So many at the most.
    pub limit: usize,
    /// Those that come after that session in this order.
    pub after: Option<String>,
}

/// What the index knows of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionSummary {
    /// Its id.
    pub id: String,
    /// The environment's name.
    pub environment: String,
    /// The environment's version.
    pub version: String,
    /// Whether the environment says that the same seed and actions give the same bytes.
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
}

/// What a refresh has done.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// How many entries were new.
    pub entries: u64,
    /// Whether the index was made anew.
    pub rebuilt: bool,
    /// What could not be read, each told once.
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
    /// Opens the records of a folder, and the index, which is made if it is not there or of another
    /// version. Nothing is read yet: see [`Trajectories::refresh`].
    ///
    /// # Errors
    /// When the folder or the index cannot be used.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, LogError> {
        let folder: Arc<Path> = folder.into().into();
        let connection = schema::open(&folder)?;
        Ok(Trajectories { folder, connection: Mutex::new(connection) })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes in what was written to the log since the last time.
    ///
    /// # Errors
    /// When the log or the index cannot be used; damage within the log is told in what is returned.
    pub fn refresh(&self) -> Result<Refreshed, LogError> {
        refresh::refresh(&mut self.connection.lock(), &self.folder)
    }

    /// Sessions in the order in which they were opened.
    ///
    /// # Errors
    /// When the index cannot be used.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, LogError> {
        query::sessions(&self.connection.lock(), filter).map_err(self.index())
    }

    /// One session.
    ///
    /// # Errors
    /// When the index cannot be used.
    pub fn session(&self, id: &str) -> Result<Option<SessionSummary>, LogError> {
        query::session(&self.connection.lock(), id).map_err(self.index())
    }

    /// A session's entries in the order of their numbers; none when it is not known.
    ///
    /// # Errors
    /// When the index or the log cannot be used.
    pub fn entries(&self, id: &str) -> Result<Vec<StoredEntry>, LogError> {
        self.entries_from(id, 0, usize::MAX)
    }

    /// At most so many of a session's entries, from that number on.
    ///
    /// # Errors
    /// As [`Trajectories::entries`].
    pub fn entries_from(&self, id: &str, seq: u64, limit: usize) -> Result<Vec<StoredEntry>, LogError> {
        let places = query::places(&self.connection.lock(), id, seq, limit).map_err(self.index())?;
        query::entries(&self.folder, &places)
    }

    fn index(&self) -> impl FnOnce(rusqlite::Error) -> LogError {
        schema::fault(&self.folder)
    }
}
