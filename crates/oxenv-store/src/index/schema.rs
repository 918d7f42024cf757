//! The tables of the index.
//!
//! Invariant: an index of another version, or one that cannot be read, is thrown away and made anew; one
//! that cannot be written is made in memory. The log has everything.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use crate::error::LogError;
use crate::log::is_record;

/// The version of the tables.
const INDEX_VERSION: i64 = 3;
/// How long to wait for another process that is busy with the index.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// An entry's place is where its record is in the log. Seeds are 64 bits without a sign, and stored
/// as the same bits with one.
const TABLES: &str = "
CREATE TABLE progress (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    first INTEGER NOT NULL, reading TEXT NOT NULL,
    last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, run INTEGER, bytes INTEGER NOT NULL DEFAULT 0,
    modified_ns INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE faults (
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL,
    reason TEXT NOT NULL, lasting INTEGER NOT NULL,
    PRIMARY KEY (segment, offset, kind)
) WITHOUT ROWID;
CREATE TABLE gaps (
    session INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    after_segment INTEGER NOT NULL, after_offset INTEGER NOT NULL,
    before_segment INTEGER NOT NULL, before_offset INTEGER NOT NULL,
    PRIMARY KEY (session, first)
) WITHOUT ROWID;
CREATE TABLE unwritten (
    segment INTEGER NOT NULL, id TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (id, first)
) WITHOUT ROWID;
CREATE TABLE unopened (
    id TEXT PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL, entries INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, segment INTEGER NOT NULL,
    environment TEXT NOT NULL, version TEXT NOT NULL, deterministic INTEGER NOT NULL, seed INTEGER NOT NULL,
    opened_us INTEGER NOT NULL, closed_us INTEGER, reason TEXT,
    origin_kind TEXT, origin_session TEXT, origin_seq INTEGER,
    epochs INTEGER NOT NULL DEFAULT 0, steps INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    reward REAL NOT NULL DEFAULT 0, done INTEGER NOT NULL DEFAULT 0, last_us INTEGER NOT NULL,
    last_seq INTEGER NOT NULL, last_segment INTEGER NOT NULL, last_offset INTEGER NOT NULL,
    unwritten INTEGER NOT NULL DEFAULT 0, counted INTEGER
);
CREATE INDEX sessions_by_time ON sessions (opened_us);
CREATE INDEX sessions_by_environment ON sessions (environment, number);
CREATE TABLE entries (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, event TEXT NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
CREATE TABLE epochs (
    session INTEGER NOT NULL, epoch INTEGER NOT NULL, seed INTEGER NOT NULL, episode_id TEXT NOT NULL,
    began_us INTEGER NOT NULL, steps INTEGER NOT NULL DEFAULT 0, reward REAL NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (session, epoch)
) WITHOUT ROWID;
CREATE TABLE steps (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    principal TEXT NOT NULL, reward REAL, done INTEGER, code TEXT, kind TEXT,
    duration_us INTEGER NOT NULL, time_us INTEGER NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
CREATE TABLE calls (
    session INTEGER NOT NULL, seq INTEGER NOT NULL, position INTEGER NOT NULL,
    id TEXT, tool TEXT NOT NULL, error TEXT,
    PRIMARY KEY (session, seq, position)
) WITHOUT ROWID;
";

/// The index's file.
pub(super) fn path(folder: &Path) -> PathBuf {
    folder.join("index.sqlite")
}

/// The result of opening the index.
pub(super) struct Opened {
    pub(super) connection: Connection,
    /// Why it is in memory, if it is.
    pub(super) in_memory: Option<String>,
}

/// Opens the index. One that is damaged is made anew, one that cannot be kept is made in memory.
pub(super) fn open(folder: &Path) -> Result<Opened, LogError> {
    let about = fs::metadata(folder).map_err(LogError::io(folder))?;
    if !about.is_dir() {
        let source = io::ErrorKind::NotADirectory.into();
        return Err(LogError::Io { path: folder.to_owned(), source });
    }
    if !is_record(folder)? {
        return Err(LogError::NoRecord { folder: folder.to_owned() });
    }
    match connect(folder) {
        Ok(connection) => Ok(Opened { connection, in_memory: None }),
        Err(error) => anew(folder, &error),
    }
}

/// Another index in the place of one that cannot be used.
pub(super) fn anew(folder: &Path, why: &rusqlite::Error) -> Result<Opened, LogError> {
    let mut reason = why.to_string();
    if !is_refusal(why) {
        tracing::warn!(index = %path(folder).display(), error = %why, "the index is damaged and is \
             made anew");
        match remove(folder)
            .map_err(|error| error.to_string())
            .and_then(|()| connect(folder).map_err(|error| error.to_string()))
        {
            Ok(connection) => return Ok(Opened { connection, in_memory: None }),
            Err(error) => reason = error,
        }
    }
    tracing::debug!(index = %path(folder).display(), reason, "the index is made in memory");
    let connection = in_memory();
    let connection = connection
        .map_err(|error| LogError::Index { path: path(folder), reason: format!("{reason}; {error}") })?;
    Ok(Opened { connection, in_memory: Some(reason) })
}

/// Empties the tables.
pub(super) fn clear(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "DELETE FROM progress; DELETE FROM segments; DELETE FROM faults; DELETE FROM gaps;
         DELETE FROM unwritten;
         DELETE FROM unopened; DELETE FROM sessions; DELETE FROM entries; DELETE FROM epochs;
         DELETE FROM steps;
         DELETE FROM calls; DELETE FROM sqlite_sequence;",
    )
}

/// Opens the file, and makes its tables if they are not those of this version.
pub(super) fn connect(folder: &Path) -> rusqlite::Result<Connection> {
    // SQLite makes files that every user can read; those beside it get the permissions of this one. If it
    // cannot be made, SQLite reports why.
    let _ = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path(folder));
    let connection = Connection::open(path(folder))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // What a crash of the machine removes from the index is read from the log again.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    prepare(connection)
}

fn in_memory() -> rusqlite::Result<Connection> {
    prepare(Connection::open_in_memory()?)
}

fn prepare(mut connection: Connection) -> rusqlite::Result<Connection> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != INDEX_VERSION {
        drop_tables(&transaction)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", INDEX_VERSION)?;
    }
    transaction.commit()?;
    Ok(connection)
}

fn drop_tables(connection: &Connection) -> rusqlite::Result<()> {
    const NEXT_ENTRY: &str =
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' LIMIT 1";
    while let Some(name) = connection.query_row(NEXT_ENTRY, [], |row| row.get::<_, String>(0)).optional()? {
        connection.execute_batch(&format!("DROP TABLE \"{}\"", name.replace('"', "\"\"")))?;
    }
    Ok(())
}

/// Whether the file may be good and only cannot be written, or is busy.
fn is_refusal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as E;
    matches!(
        error.sqlite_error_code(),
        Some(
            E::CannotOpen
                | E::DatabaseBusy
                | E::DatabaseLocked
                | E::DiskFull
                | E::FileLockingProtocolFailed
                | E::OutOfMemory
                | E::PermissionDenied
                | E::ReadOnly
                | E::SystemIoFailure
        )
    )
}

fn remove(folder: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let file = folder.join(format!("index.sqlite{suffix}"));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A number as SQLite keeps it, whose integers have 64 bits with a sign: the same bits.
pub(super) fn stored_number(number: u64) -> i64 {
    number.cast_signed()
}

/// A number of which SQLite keeps the bits as one with a sign.
pub(super) fn number(stored: i64) -> u64 {
    stored.cast_unsigned()
}
